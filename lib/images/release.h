/* STATE/images/NAME/VERSION/image.json: what a release in the store is made of, and by what it is known that its files are still those
 * whose checksums were compared. Written once all of them were; the folder gets its name after that, so a release that can be seen is
 * whole. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "lib/base/util.h"

enum { IMAGE_SCHEMA = 1, IMAGE_FILES_MAX = 64 };

#define FILE_IMAGE "image.json"
/* The manifest as it came, and its signature. */
#define FILE_MANIFEST "vm.json"
#define FILE_SIGNATURE "vm.json.minisig"

struct image_file {
    char *role, *filename; /* several roles may have one file */
    uint64_t size;
    char *sha256;        /* of the file as it is here */
    char *packed_sha256; /* of what was fetched, where that was unpacked; NULL: the same */
    /* When its checksum was compared. A file with another size, time or inode counts as not verified. */
    uint64_t mtime_ns, inode;
};

struct image_record {
    uint64_t schema;
    char *name, *version;
    char *source;        /* the kind of where it came from, for people */
    uint64_t fetched_us; /* real time */
    struct image_file *files;
    size_t n_files;
};
extern const struct record_type image_record_type;

/* Names in it are checked: they become paths. -EINVAL, -EPROTONOSUPPORT (a newer schema), -ENOMEM. */
int image_record_from_json(const json_t *json, struct image_record *ret_record, struct err *err);
void image_record_clear(struct image_record *record);
#define auto_image_record auto_cleanup(image_record_clear)

/* Reads it from a release's folder. Also -ENOENT… */
int image_record_read(int folder_fd, struct image_record *ret_record, struct err *err);
/* Durably. */
int image_record_write(int folder_fd, const struct image_record *record);

/* Fills size, time and inode from the file in the folder. */
int image_file_note(int folder_fd, struct image_file *file);
/* Whether the file is there as noted: 0, or -EINVAL (err says what is different), -ENOENT. Reads nothing of it. */
int image_file_check(int folder_fd, const struct image_file *file, struct err *err);
