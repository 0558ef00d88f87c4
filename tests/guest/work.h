/* What the test guest does besides counting: each function is the whole of a child of init and returns its exit status. Everything it
 * has to say is said in whole lines on the serial port. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { WORK_LINE_MAX = 512 };

/* One line, one write: what others say can come before or after it, not into it. */
__attribute__((format(printf, 2, 3))) void tell(int tty, const char *fmt, ...);

/* Decimal digits alone, up to a hundred million. */
bool number(const char *s, unsigned long *ret);

/* Fills memory with a pattern, rewrites and checks it without end. `arguments` is "SEED,MIB[,hold]", `orders` a pipe from which
 * lines are read: hold, go, touch MIB [KIB]. Ends when the pipe does. See pattern.c for what it says. */
int pattern_run(int tty, int orders, const char *arguments);

/* Writes a word to the head of each page of MIB MiB and stays until it is killed: memory that is free then, and tells whose it was.
 * `arguments` is "WORD MIB". */
int stain_run(int tty, const char *arguments);

/* Writes numbered blocks to a disk and checks all it has written against what it remembers, without end. See disk.c. */
int disk_run(int tty, const char *path);

/* Mounts the ext4 file system on a device at /mnt, read-only, through dm-verity. See verity.c for what it says. */
int verity_run(int tty, const char *device);

/* Says the machine's generation identifier ("vmgenid: 8-4-4-4-12 hex digits", or "vmgenid: none" and why). */
int vmgenid_run(int tty, const char *arguments);
