/* QEMU's command line, built option by option. Used by resolve.c only.
 *
 * Whatever holds a name or path an operator chose is given as JSON where QEMU takes JSON (-blockdev, -device, -netdev, -object), and with
 * commas doubled in the one option that doesn't (-chardev), so that no value can end and begin another option. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/base/strv.h"
#include "lib/qemu/resolve.h"

enum machine_family { MACHINE_Q35, MACHINE_VIRT };

struct argv {
    struct strv words;
    const struct resolve_input *in;
    enum machine_family family;
    bool kvm;
    struct plan_file *files; /* what the words name by number */
    size_t n_files;
};

/* Has `path` opened as `fd` for QEMU. argv_push_fdset() also says so to QEMU, which then finds it as /dev/fdset/FD: the way for whatever
 * QEMU opens with its own qemu_open(); what it opens with libc's open() is named /proc/self/fd/FD. */
void argv_push_file(struct argv *a, enum file_kind kind, int fd, const char *path);
void argv_push_fdset(struct argv *a, enum file_kind kind, int fd, const char *path);

/* `option`, then `json` in one line. Consumes `json`; NULL, as json_pack() returns it, counts as out of memory. */
void argv_push_json(struct argv *a, const char *option, json_t *json);

/* PCI address "SLOT.FUNCTION" on the root bus. Each kind of device has slots of its own (argv_devices.c), so that adding one moves no
 * other. */
void argv_push_disks(struct argv *a);
void argv_push_networks(struct argv *a);
void argv_push_extras(struct argv *a); /* vsock, random numbers, panic notification */

/* Path of a disk of ours. 0 or -ENOMEM. */
int disk_path(const struct resolve_input *in, const struct spec_disk *disk, char **ret_path);

/* The whole command line, program first. 0, or -ENOMEM. */
int argv_build(struct argv *a);
