/* What each QEMU binary can do, asked once and known by path, device, inode, size and mtime. Safe on any thread. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/util.h"
#include "lib/qemu/capabilities.h"

struct qemu_cache;

int qemu_cache_new(struct qemu_cache **ret_cache);
void qemu_cache_free(struct qemu_cache *c);

/* `features`: what QEMU offers to confidential guests and passed-through devices is wanted too, which takes three more questions.
 *
 * A copy of what is known of this binary as it is on disk now; -EAGAIN: it must be asked first; else -errno with words (it is missing, or
 * when last asked it gave no answer to go by). */
int qemu_cache_get(struct qemu_cache *c, const char *path, bool features, struct qemu_capabilities *ret_capabilities, struct err *err);

/* Runs the binary unless what it says is known by now. Blocks: for the prober's thread. A failure is remembered until the binary changes or
 * QEMU_RETRY_MS have passed. */
int qemu_cache_ask(struct qemu_cache *c, const char *path, bool features, struct err *err);

enum {
    QEMU_ASK_TIMEOUT_MS = 10 * 1000,
    QEMU_RETRY_MS = 10 * 1000,
    QEMU_RETRY_SOON_MS = 500, /* when no process or fd could be had for the question */
};
