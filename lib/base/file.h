/* Files and folders by dirfd and name: records that are either whole or absent, locks the kernel releases. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/base/err.h"

/* Opens a folder O_PATH-free (usable for fsync and *at calls). The final component must not be a symlink. Returns the fd. */
int dir_open(int dirfd, const char *name);

/* mkdir -p of an absolute path; every folder made gets `mode` whatever the umask; existing ones are left as they are. */
int dir_make(const char *path, mode_t mode, struct err *err);

/* Removes a folder with all it holds, without following symlinks; a missing one is fine. */
int dir_remove_tree(int dirfd, const char *name);

/* Reads a regular file (not through a symlink) of at most `limit` bytes; a NUL follows the *ret_len bytes. -ENOENT, -EFBIG,
 * -ELOOP, -EISDIR… */
int file_read(int dirfd, const char *name, size_t limit, char **ret_data, size_t *ret_len);

enum file_durability {
    FILE_ATOMIC,  /* whole or absent for every reader; may be lost with the machine (records in the run folder) */
    FILE_DURABLE, /* also fsynced, file and folder, before the call returns */
};

/* Writes `name` through a temporary file and rename(2). On failure the old content is untouched and the temporary gone. */
int file_write(int dirfd, const char *name, const void *data, size_t len, mode_t mode, enum file_durability durability);

/* Renames a record that doesn't parse to NAME.corrupt-N (first free N from 1) and returns the new name. */
int file_set_aside(int dirfd, const char *name, char **ret_new_name);

/* Opens (creating, mode 0600) and flocks a lock file exclusively without waiting: the fd, or -EWOULDBLOCK when held.
 * The lock lives as long as any duplicate of the fd, also in children: flock(2). */
int lock_take(int dirfd, const char *name);

/* 1 held by somebody, 0 free or missing, -errno. Takes and drops a shared lock for an instant: a lock_take() at just this
 * instant may fail, so callers that start things retry once on -EWOULDBLOCK. */
int lock_is_held(int dirfd, const char *name);
