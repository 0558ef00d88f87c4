/* Reading a log that is rotated in place while its writer has it open (shim/rotate.c).
 *
 * A log is one stream of bytes in several files: pieces NAME.START, START being the position in the stream of a piece's first byte in
 * 15 digits (so that `cat NAME.[0-9]* NAME` is the whole), and then NAME itself. While a cut is under way its piece is NAME.START.END
 * and what NAME holds below offset END is a copy; NAME may begin with a hole, which is no part of the stream. Positions never change:
 * a reader that remembers one neither loses nor repeats a byte, however often the log is cut. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "lib/base/util.h"

enum { LOG_NAME_MAX = 96 };
#define LOG_PIECE_DIGITS "15"

struct log_piece {
    uint64_t start, size;
    off_t end; /* a cut under way: the live file's data begins here; else 0 */
    char name[LOG_NAME_MAX];
};

/* The pieces of the log `name`, oldest first, malloc'ed. 0 or -errno. */
int log_pieces_list(int dirfd, const char *name, struct log_piece **ret_pieces, size_t *ret_n);
/* Where the stream goes on in the live file after these pieces. */
uint64_t log_pieces_end(const struct log_piece *pieces, size_t n);
/* The offset of the first data in the file: block-aligned, 0 as a rule. */
off_t log_leading_hole(int fd);

struct log_reader {
    int dirfd; /* borrowed */
    char name[LOG_NAME_MAX];
    int fd; /* the live file, -1: not there */
    struct log_piece *pieces;
    size_t n;
    off_t data;     /* the live file's data begins here … */
    uint64_t joint; /* … at this position */
};
#define LOG_READER_NONE \
    (struct log_reader) { .dirfd = -1, .fd = -1 }

/* -ENOENT when the file isn't there: log_reader_read() then has what is left in pieces. The reader is usable after any failure. */
int log_reader_open(struct log_reader *r, int dirfd, const char *name);
void log_reader_close(struct log_reader *r);
/* -1: another file has the name now (it follows, from position 0), 0: the same. A log put away under another name is still this one,
 * and is read to its end. */
int log_reader_replaced(struct log_reader *r);

/* The positions it has now: [*ret_start, *ret_end). */
int log_reader_range(struct log_reader *r, uint64_t *ret_start, uint64_t *ret_end);
/* Reads at a position: the number of bytes, 0: nothing there yet. -ERANGE: no longer kept (see log_reader_next()). */
ssize_t log_reader_read(struct log_reader *r, uint64_t position, void *buf, size_t size);
/* The first kept position > `position`. */
uint64_t log_reader_next(const struct log_reader *r, uint64_t position);
