/* userfaultfd(2) as this folder uses it: ioctl_userfaultfd(2) wrapped so that each call says how far it got. All act on QEMU's address
 * space, whoever calls them: a descriptor belongs to the process that made it.
 *
 * Addresses are QEMU's, lengths whole pages. */
#pragma once

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UFFD_PAGE = 4096 };

/* What of a call took effect before it stopped. */
struct uffd_progress {
    int r;       /* 0: all of it; -EEXIST: met a page that is there; -EAGAIN: an event is to be read first, or interrupted; -ENOENT: not one
                  * registered mapping; -ESRCH: QEMU is gone; -ENOSPC, -ENOMEM … */
    size_t done; /* bytes */
};

/* `modes`: UFFDIO_REGISTER_MODE_MISSING | …_WP. A range that is registered already changes its modes. 0 or -errno. */
int uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t modes);
int uffd_unregister(int uffd, uint64_t addr, uint64_t len); /* wakes who waits, and lifts write protection */

/* Installs pages and wakes who waits for them. The second installs them write-protected: -EINVAL where …_WP isn't registered. */
struct uffd_progress uffd_copy(int uffd, uint64_t addr, const void *from, size_t len);
struct uffd_progress uffd_copy_protected(int uffd, uint64_t addr, const void *from, size_t len);
struct uffd_progress uffd_zero(int uffd, uint64_t addr, size_t len);

/* Protects, or lifts the protection and wakes. */
int uffd_protect(int uffd, uint64_t addr, uint64_t len, bool on);

/* Whoever waits tries again, and asks again if the page is still missing: how faults that a dead handler had read come back. */
int uffd_wake(int uffd, uint64_t addr, uint64_t len);
