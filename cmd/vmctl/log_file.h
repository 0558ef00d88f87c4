/* A log that may be rotated, put away, removed or made anew while it is read. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "lib/base/log_reader.h"

struct log_file {
    int dirfd;        /* borrowed */
    const char *name; /* borrowed */
    struct log_reader reader;
    uint64_t position; /* read so far */
};

/* Opens `name` in the folder, at its oldest line that is kept; -ENOENT when it isn't there. */
int log_file_open(struct log_file *log, int dirfd, const char *name);
void log_file_close(struct log_file *log);

/* Goes to the beginning of the last `lines` lines. */
int log_file_seek_lines(struct log_file *log, uint64_t lines);

/* Writes what is new to `out_fd`, also of a file that took the name's place. 0, or -EPIPE or another error of `out_fd`, or of reading. */
int log_file_copy(struct log_file *log, int out_fd);

/* Copies for as long as the folder exists, or until `out_fd` is closed at its other end (-EPIPE). -ENOENT: the folder is gone. */
int log_file_follow(struct log_file *log, int out_fd);
