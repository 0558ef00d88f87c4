/* Words for people: durations, typing errors, text that can't play tricks on a terminal. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ELAPSED_MAX = 32 };

/* "0.9 s", "12 s", "3 min 4 s", "2 h 5 min", "5 d 3 h". Returns buf. */
const char *text_elapsed(uint64_t ms, char buf[ELAPSED_MAX]);
/* The same without spaces, for table cells: "12s", "3m4s", "2h5m", "5d3h". Returns buf. */
const char *text_uptime(uint64_t ms, char buf[ELAPSED_MAX]);

enum { BYTES_MAX = 24 };
/* "412 MiB", "1.5 GiB", "0": rounded to what a person reads. Returns buf. */
const char *text_bytes(uint64_t bytes, char buf[BYTES_MAX]);

/* Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`; words over 63 bytes count as far apart. */
unsigned text_distance(const char *a, const char *b);
/* How many edits still look like a typing error of a word this long. */
unsigned text_typo_limit(const char *word);

/* A copy in one line: line ends become "; ", other control characters '?'. Never NULL: runs out of memory by ending the program. */
char *text_one_line(const char *s);

/* "KILL", "SIGKILL" or "9". -EINVAL. */
int text_parse_signal(const char *s, int *ret_signal);
