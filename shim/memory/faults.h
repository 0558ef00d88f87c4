/* The thread that reads a userfaultfd's events: what happens to the guest's RAM, told to whoever has to do something about it. One
 * per QEMU, running only while somebody (pager.h, save.h) has a use for it. linux/Documentation/admin-guide/mm/userfaultfd.rst. */
#pragma once

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { FAULTS_BATCH = 32 }; /* events read at a time */

struct faults;

/* All run on the thread, none may block on I/O longer than it must: a vCPU waits. Addresses are QEMU's, of the page's begin.
 * `missing` and `protected` return 0: served; -EAGAIN: ask again in a moment (an event is to be read first); -ESRCH: QEMU is gone;
 * anything else: can't be served, `failed` is told. */
struct fault_handler {
    int (*missing)(void *arg, uint64_t addr, bool write);
    int (*protected)(void *arg, uint64_t addr);
    /* QEMU gave the pages back (balloon, free-page reporting); it goes on when the event was read, see `lock`. */
    void (*removed)(void *arg, uint64_t start, uint64_t end);
    /* Nothing is queued: does a piece of what can wait (some ten microseconds of it). True: there is more. May be NULL. */
    bool (*later)(void *arg);
    /* Once: a fault couldn't be served within 2 s or at all. The guest waits at it and must not go on. */
    void (*failed)(void *arg, int error, uint64_t addr);
    void *arg;
};

struct faults_config {
    int uffd; /* borrowed; nonblocking */
    uint64_t addr, len;
    uint64_t features; /* that were granted to it, agent.h */
    pid_t pid;         /* QEMU's */
    /* FAULTS_BATCH of them in memory that outlives us, or NULL. Events are read straight into it and zeroed once they are handled: what a
     * predecessor had read and not handled when it was killed is there to be handled by its successor. */
    struct uffd_msg *batch;
};

/* Counters, read from any thread. */
struct fault_counters {
    atomic_ulong missing, protected, removed, parked;
};

int faults_new(const struct faults_config *config, struct faults **ret_faults);
/* Ends the thread first. The range stays registered, so who faults from now on waits. */
void faults_free(struct faults *f);

/* Each handler covers its kinds of events; NULL takes it away. Waits for the batch under way, so that after it returns the old one isn't
 * running and won't be called. Not from a handler. */
void faults_set_missing(struct faults *f, const struct fault_handler *handler);   /* missing, removed, later, failed */
void faults_set_protected(struct faults *f, const struct fault_handler *handler); /* protected, removed, failed */

/* Two may watch the same range, for different kinds of faults, and neither may take the other's away: so registering goes through here.
 * `modes`: UFFDIO_REGISTER_MODE_MISSING and _WP, one or both.
 *
 * Watching sets the handler first. It registers, and starts the thread. No page is being installed at the instant it changes, and
 * who installs pages asks faults_modes() and, where _WP is watched, installs them protected: so a page that comes while a snapshot is
 * taken is no hole in the snapshot's protection.
 *
 * No longer watching _WP lifts all protection. Watching nothing unregisters the range (also when it was a predecessor that had registered
 * it), ends the thread, and reads the events that are still to come: QEMU sleeps in madvise(2) until its removal was read. _MISSING
 * can't be given up while _WP is watched, for the kernel can't take a single mode away: -EBUSY, try again when that is over.
 *
 * 0 or -errno; QEMU being gone is no error. Not from a handler. */
int faults_watch(struct faults *f, uint64_t modes);
int faults_unwatch(struct faults *f, uint64_t modes);
uint64_t faults_modes(const struct faults *f); /* from any thread */

/* Starts the thread for who registers the range himself: handles first what `batch` holds, its removals before it returns. 0 or -errno. */
int faults_start(struct faults *f);
bool faults_running(const struct faults *f);
const struct fault_counters *faults_counters(const struct faults *f);
/* The thread runs where the vCPU runs whose fault it serves (placement.h). */
bool faults_share_cpu(const struct faults *f);
/* When the batch under way was read, monotonic us. For handlers. */
uint64_t faults_read_time(const struct faults *f);

/* Held by the thread from before it reads events until every removal among them was told. Who installs pages on another thread holds it
 * between looking whether they were removed and the ioctl; and lets go of it often: a fault may be waiting (faults_waiting()). */
pthread_mutex_t *faults_lock(struct faults *f);
/* The thread wants the lock now. */
bool faults_waiting(const struct faults *f);
