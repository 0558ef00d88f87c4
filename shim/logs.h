/* The VM's log files: NAME.log is this boot's, NAME-INCARNATION.log an earlier one's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Renames console.log and qemu.log of incarnation `previous` away, each with its pieces (log_cut.h), and removes the oldest so that
 * `keep` earlier boots remain. A log that doesn't exist is fine. */
int logs_begin_boot(int log_fd, uint64_t previous, uint64_t keep);

/* Opens (creating, appending, 0640) a log for writing. Returns the fd. */
int log_file_open(int log_fd, const char *name);
/* Its size now; 0 when missing. */
uint64_t log_file_size(int log_fd, const char *name);

/* The last `lines` lines written since `offset`, joined by " | " into one line for an error message, control characters left out.
 * malloc'ed; NULL when there are none. */
char *log_file_tail(int log_fd, const char *name, uint64_t offset, size_t lines);
