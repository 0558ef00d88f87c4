/* What a disk that is made of files holds: looked up on the host, digested, copied. Every use reads the files anew. */
#pragma once

#include <stddef.h>

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/util.h"
#include "proto/made_image.h"

struct content_item {
    char *path;    /* on the disk: relative, without "." and ".." */
    char *source;  /* on the host; NULL: a folder, or `text` */
    char *text;    /* instead of a source */
    unsigned mode; /* permissions: as on the host, 0755 of folders that only the destinations name */
    bool folder;
};

/* In the order of the paths, so that a folder comes before what is in it. */
struct content {
    struct content_item *items;
    size_t n;
};
void content_clear(struct content *c);
#define auto_content auto_cleanup(content_clear)

/* Adds a file; its folders come with it. Adds all of a folder on the host: links are followed, and anything but files and folders is refused.
 * -EINVAL "bad-content" with a line for the operator: not there, not readable, too many or too large (lib/spec/limits.h). Block. */
int content_add_file(struct content *c, const char *path, const char *source, struct err *err);
int content_add_text(struct content *c, const char *path, const char *text);
int content_add_folder(struct content *c, const char *source, struct err *err);

/* Sorts it and adds the folders. -EINVAL "bad-content" when two things have the same path, or a file lies in a file. */
int content_finish(struct content *c, struct err *err);

/* Digest of all paths, permissions and bytes, and of `what`, for what else the disk depends on. With copy_fd that of an empty folder, all is also
 * copied there, files with mode 0600 and folders with 0700; else -1. *ret_size: of the files, bytes; may be NULL. Blocks. */
int content_digest(const struct content *c, const char *what, int copy_fd, char ret_digest[MADE_DIGEST_LEN + 1], uint64_t *ret_size,
                   struct err *err);
