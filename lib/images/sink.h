/* A file while it comes in: written, hashed and, where it is packed, unpacked in one pass, so that nothing is read twice but what a pull
 * that was cut off had already.
 *
 * In the folder of an unfinished pull, SHA256-NAME.part is what came in so far, under the checksum it is to have, so that it can't be
 * continued with another file's bytes; and under its name, since two files may be the same. A packed file is unpacked beside it, into its own
 * name, with holes where it has zeros. SHA256-NAME.validator is what the server said by which it knows this version of the file again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/images/manifest.h"
#include "lib/images/task.h"

struct sink;

/* Opens the file for going on, and reads what of it is there. `folder_fd` stays the caller's, and must outlive the sink as `file` and `task`
 * must. -ENOSPC, -ECANCELED… */
int sink_open(struct image_task *task, int folder_fd, const struct manifest_file *file, struct sink **ret_sink, struct err *err);
void sink_free(struct sink *s);
DEFINE_CLEANUP(struct sink *, sink, sink_free)
#define auto_sink auto_cleanup(sink_cleanup)

/* Where the next byte belongs. */
uint64_t sink_offset(const struct sink *s);
/* Whether there is nothing more to come: it has its size, or where that isn't known, its checksum. */
bool sink_is_complete(const struct sink *s);
/* What the server said with the bytes that are here, or NULL. */
const char *sink_validator(const struct sink *s);
int sink_set_validator(struct sink *s, const char *validator);
/* The file's size is now known, or said again: another one than the manifest's is -EBADMSG; so little room on the disk that it
 * can't be held is -ENOSPC. */
int sink_set_size(struct sink *s, uint64_t size, struct err *err);
/* Whether the folder's disk has room for that many bytes more, with `margin` to spare. -ENOSPC with id "no-space". */
int sink_check_space(int folder_fd, uint64_t bytes, uint64_t margin, struct err *err);
/* Begins anew: what was there was of another file, or damaged. */
int sink_restart(struct sink *s, struct err *err);
/* -EBADMSG: it becomes more than it may be, or can't be unpacked; -ENOSPC; -ECANCELED. */
int sink_write(struct sink *s, const void *data, size_t len, struct err *err);
/* All of it is here: -EBADMSG when it isn't what the manifest says. Else it is on the disk, and *ret_sha256 (64 digits) is that of the file to
 * be published, malloc'ed. */
int sink_finish(struct sink *s, char **ret_sha256, struct err *err);

/* The name of the .part, malloc'ed; NULL: out of memory. */
char *sink_part_name(const struct manifest_file *file);
/* As sink_finish() has left it, under its own name. */
int sink_publish(int folder_fd, const struct manifest_file *file);
/* What sink_publish() did, undone, for a publication that was cut off. */
int sink_unpublish(int folder_fd, const struct manifest_file *file);
