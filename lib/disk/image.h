/* One disk image as a file: how large the guest sees it, and who has it open. Nothing here writes, opens a socket or starts a program. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"

/* Size of the disk in an image that is open for reading: of "raw" that of the file or block device, of "qcow2" what its header says (QEMU
 * docs/interop/qcow2.txt). The format is given, never guessed. -EINVAL when that is no such image. */
int image_size(int fd, const char *format, uint64_t *ret_size);

enum disk_use {
    IMAGE_ANY,    /* whoever has it open, readers too */
    IMAGE_WRITER, /* only who may write to it */
};

/* Whether a QEMU or qemu-img has the file open, by the locks they take: OFD locks (fcntl(2)) on one byte for each permission they use, from
 * 100 on, and on one for each they deny to others, from 200 on (QEMU block/file-posix.c). The kernel releases them with their owner, so a
 * crash leaves none. 1, 0 or -errno. */
int image_in_use(int fd, enum disk_use use);

/* "pid 4711 (qemu-system-x86_64)": a process with such a lock on the file, as far as /proc shows it to us. NULL: none that we may see, or
 * out of memory. malloc'ed. Looks at every process, so only for an error's text. */
char *image_user(int fd);

/* -EBUSY "in-use" naming the disk, the file and who uses it. A file that isn't there is in nobody's use. Blocks. */
int image_check_unused(const char *name, const char *path, enum disk_use use, struct err *err);
