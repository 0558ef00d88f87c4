/* Cutting the head off a log that its writer holds open and appends to (O_APPEND), with no help of the writer's and no byte lost.
 * What readers see meanwhile: lib/base/log_reader.h. */
#pragma once

#include <stdint.h>

/* When the log has grown over `max_size`, its whole blocks but the last become a piece of their own, and the oldest pieces beyond
 * `keep` are removed. 1: cut, 0: nothing to do, -EOPNOTSUPP: this file system can't free the head of a file, or another -errno; the log
 * is whole in any case. Blocks for as long as the disk takes. */
int log_cut(int log_fd, const char *name, uint64_t max_size, uint64_t keep);

/* Completes a cut that a crash interrupted. A missing log is fine. */
int log_cut_recover(int log_fd, const char *name, uint64_t keep);
