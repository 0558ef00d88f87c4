/* One way in for every form a spec can be written in: native, or the sp-vm watchdog's. */
#pragma once

#include "lib/spec/spec.h"

/* Who hears of it. Both texts begin with the JSON Pointer of the place, in the terms of the file that was given. */
struct spec_reader {
    void (*problem)(void *arg, const struct err *err); /* id "bad-spec"; may be NULL */
    void (*warning)(void *arg, const struct err *err); /* id "spec-warning": read, but not followed; may be NULL */
    void *arg;
    const char *sysfs_root; /* put in front of /sys and /proc in its place, where it is set */
    /* Of the host config: put on the config disk of an sp-vm VM with "debug". NULL: none. */
    const char *authorized_keys;
    const char *root; /* put in front of every path that is looked at, for tests; NULL: the host's own root */
};

const char *spec_reader_sysfs(const struct spec_reader *reader);

/* Whether the object is in the sp-vm format: one with "run_configuration" or "qemu_configuration". */
bool spec_is_spvm(const json_t *json);

/* Just the warnings. Looks at no host. 0 or -ENOMEM. */
int spec_warnings(const json_t *json, const struct spec_reader *reader);

/* As spec_parse(), of either form, with the warnings first. Of an sp-vm file that names a "build_dir" that folder is read: blocks. */
int spec_load(const json_t *json, const struct spec_reader *reader, struct spec *ret_spec);

/* For who finds more in the spec that `json` became: hands an error on to the reader's `problem`, its place in the terms of the file. The
 * argument of spec_found() is one of these. */
struct spec_finding {
    const json_t *json;
    const struct spec_reader *reader;
};
void spec_found(void *finding, const struct err *err);

/* What only this host can say of what spec_load() made of `json`. The number of problems, or -ENOMEM. */
int spec_load_host(const json_t *json, const struct spec *spec, const struct spec_reader *reader);
