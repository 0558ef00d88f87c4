/* What the tests of the pager share: a guest in the same process, and a pager for it. */
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include "lib/base/clock.h"
#include "shim/memory/pager.h"
#include "shim/memory/uffd.h"
#include "tests/unit/fixture.h"
#include "tests/unit/guest_memory.h"

enum { PAGES = 2048, ABSENT = 25 };

static struct guest guest;
static struct pager *pager;

static inline void setup(void)
{
    guest_make(&guest, PAGES, ABSENT);
    guest_map(&guest);
}

static inline void teardown(void)
{
    pager_free(pager);
    pager = NULL;
    guest_done(&guest);
}

static inline struct pager_config config(void)
{
    return (struct pager_config){ .ram_fd = guest.ram, .source_fd = guest.source, .state_fd = guest.state, .index = guest.index };
}

static inline void make(const struct pager_config *c)
{
    struct err err = ERR_INIT;

    ck_assert_msg(pager_new(c, &pager, &err) == 0, "%s", err.text);
}

static inline int attach(void) { return pager_attach(pager, guest.uffd, guest.features, guest_addr(&guest), getpid()); }

static inline void await(bool (*what)(const struct pager *))
{
    uint64_t until = clock_mono_us() + FIXTURE_DEADLINE_MS * 1000;
    struct err err = ERR_INIT;

    while (!what(pager)) {
        ck_assert_msg(pager_error(pager, &err) == 0, "%s", err.text);
        ck_assert_msg(clock_mono_us() < until, "it never came to that");
        (void)poll(NULL, 0, 1);
    }
}

static inline struct pager_stats stats(void)
{
    struct pager_stats s;

    pager_stats(pager, &s);
    return s;
}

static inline void *verify(void *arg)
{
    uint64_t from = (uint64_t)(uintptr_t)arg;

    for (uint64_t i = 0; i < PAGES; i++)
        if (!guest_page_is_right(&guest, guest_nth(&guest, (i + from) % PAGES)))
            return &guest;
    return NULL;
}

static inline void verify_by(unsigned threads)
{
    pthread_t vcpu[4];
    void *wrong;

    for (unsigned i = 0; i < threads; i++)
        ck_assert_int_eq(pthread_create(&vcpu[i], NULL, verify, (void *)(uintptr_t)(i * PAGES / threads)), 0);
    for (unsigned i = 0; i < threads; i++) {
        ck_assert_int_eq(pthread_join(vcpu[i], &wrong), 0);
        ck_assert_ptr_null(wrong);
    }
}

static inline bool is_registered(void)
{
    char line[256];
    bool in = false, found = false;
    FILE *f = fopen("/proc/self/smaps", "re");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f)) {
        if (strstr(line, "memfd:ram"))
            in = true;
        else if (in && has_prefix(line, "VmFlags:")) {
            found = found || strstr(line, " um") || strstr(line, " uw");
            in = false;
        }
    }
    (void)fclose(f);
    return found;
}
