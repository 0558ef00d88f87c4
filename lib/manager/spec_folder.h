/* What is in the folder of specs at one moment. Knows files, not VMs: no manager, no loop. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/json.h"

#define SPEC_SUFFIX ".json"

struct spec_entry {
    char *file;
    char *name;      /* the VM's: as it says, or when it can't be read as it said before; NULL: never known */
    char *error;     /* why it can't be read, NULL: it could */
    char digest[17]; /* json_digest(); "" with an error */
    bool enabled;
    uint8_t policy; /* enum restart_policy */
    json_t *json;   /* NULL: as in the scan before, not read again */
    /* Whose content that is: read again when any of it is another, or when it was changed so shortly before that a further change need
     * not show in its times. */
    struct stat st;
    bool settled;
    bool link;
};

struct spec_folder {
    dev_t dev;
    ino_t ino;
    struct spec_entry *items; /* by file name */
    size_t n;
};

/* Whether it is the name of a spec: *.json, and not hidden. Backups and swap files of editors aren't. */
bool spec_file_is(const char *file);

/* Reads the folder; what `before` (may be NULL) has and didn't change isn't read again. Files that can't be read or parsed are entries
 * with an error; -errno when the folder itself can't be read. Blocks; safe on any thread. */
int spec_folder_scan(int fd, const struct spec_folder *before, struct spec_folder *ret_folder, struct err *err);
void spec_folder_clear(struct spec_folder *folder);
#define auto_spec_folder __attribute__((cleanup(spec_folder_clear)))

const struct spec_entry *spec_folder_find(const struct spec_folder *folder, const char *file);

/* One file as JSON. -ENOENT, -EINVAL with line and column… Blocks; safe on any thread. */
int specs_read(int specs_fd, const char *file, json_t **ret_json, struct err *err);

/* Of a spec of either form that parses as JSON: these are where they are in both. */
bool spec_json_enabled(const json_t *spec);
uint8_t spec_json_policy(const json_t *spec); /* enum restart_policy */
