/* What a live snapshot costs a guest, by itself: no QEMU, the guest is two threads. Prints JSON.
 *
 *   save_bench FOLDER [MIB…]     memory.raw goes to FOLDER; default 256 and 4096 MiB of RAM */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "shim/memory/save.h"
#include "tests/unit/fake_guest.h"

enum { MIB = 1024 * 1024, DIRTY_RATE = 100 * MIB };

/* How the guest writes. */
static const struct load {
    const char *name;
    uint64_t rate; /* bytes a second */
    bool whole;
} loads[] = { { "none", 0, false }, { "in order", DIRTY_RATE, true }, { "scattered", DIRTY_RATE, false } };

struct row {
    uint64_t mib, percent; /* RAM, of it touched */
    const struct load *load;
    uint64_t plain_us; /* writing the same bytes to the same disk with nothing else */
    uint64_t protect_us, freeze_us, copy_us;
    struct save_progress progress;
};

static void must(bool fine, const char *what)
{
    if (fine)
        return;
    fprintf(stderr, "save_bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_file(const char *folder)
{
    auto_fd int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    must(fd >= 0, folder);
    return steal_fd(&fd);
}

static uint64_t write_plainly(struct fake_guest *g, const char *folder, uint64_t len)
{
    auto_fd int fd = open_file(folder);
    uint64_t start = clock_mono_us();

    for (uint64_t at = 0; at < len; at += MIB)
        must(pwrite(fd, g->ram + at, MIB, (off_t)at) == MIB, "write");
    must(fdatasync(fd) == 0, "sync");
    return clock_mono_us() - start;
}

static void await(bool (*reached)(const struct save *), const struct save *s)
{
    struct err err = ERR_INIT;

    while (!reached(s) && !save_done(s))
        (void)poll(NULL, 0, 1);
    if (save_error(s, &err) < 0) {
        fprintf(stderr, "save_bench: %s\n", err.text);
        exit(1);
    }
}

static void measure(struct fake_guest *g, const char *folder, struct row *row)
{
    auto_fd int fd = open_file(folder);
    auto_memory_index struct memory_index *index = NULL;
    auto_save struct save *s = NULL;
    struct save_config config = { g->faults, g->uffd, (uintptr_t)g->ram, g->len, .ram_fd = g->ram_fd, .mem_fd = -1, .source_fd = -1 };
    uint64_t start;

    must(memory_index_new(g->len, &index) == 0, "index");
    config.out_fd = fd;
    config.index = index;
    must(save_new(&config, &s, NULL) == 0, "save");
    start = clock_mono_us();
    save_protect(s);
    await(save_protected, s);
    row->protect_us = clock_mono_us() - start;
    fake_guest_stop(g);
    start = clock_mono_us();
    must(save_freeze(s) == 0, "freeze");
    row->freeze_us = clock_mono_us() - start;
    fake_guest_cont(g);
    start = clock_mono_us();
    save_copy(s);
    await(save_done, s);
    row->copy_us = clock_mono_us() - start;
    row->progress = save_progress(s);
}

static void print(const struct row *row, bool first)
{
    printf(
        "%s\n {\"ram_mib\": %ju, \"touched_percent\": %ju, \"load\": \"%s\", \"protect_us\": %ju, \"freeze_us\": %ju, \"copy_us\": %ju,\n",
        first ? "" : ",", (uintmax_t)row->mib, (uintmax_t)row->percent, row->load->name, (uintmax_t)row->protect_us,
        (uintmax_t)row->freeze_us, (uintmax_t)row->copy_us);
    printf("  \"written_pages\": %ju, \"faults\": %ju, \"stalls\": %ju, \"copy_mib_s\": %ju, \"plain_write_mib_s\": %ju}",
           (uintmax_t)row->progress.written, (uintmax_t)row->progress.faults, (uintmax_t)row->progress.stalls,
           (uintmax_t)(row->progress.written * 1000000 / 256 / (row->copy_us + 1)),
           (uintmax_t)(row->mib * row->percent / 100 * 1000000 / (row->plain_us + 1)));
}

static void bench(const char *folder, struct row *row)
{
    struct fake_guest g;

    fake_guest_new(&g, row->mib * MIB);
    g.whole = row->load->whole;
    g.rate = row->load->rate / FAKE_PAGE / FAKE_WRITERS;
    g.area = g.pages * row->percent / 100;
    for (uint64_t page = 0; page < g.area; page++)
        fake_pattern(g.ram + page * FAKE_PAGE, page);
    row->plain_us = write_plainly(&g, folder, row->mib * MIB * row->percent / 100 / MIB * MIB);
    if (row->load->rate > 0)
        fake_guest_start(&g);
    measure(&g, folder, row);
    fake_guest_free(&g);
}

int main(int argc, char **argv)
{
    static const uint64_t percents[] = { 5, 90 };
    uint64_t sizes[8] = { 256, 4096 };
    size_t n_sizes = 2;
    bool first = true;

    if (argc < 2 || argc > 2 + (int)ARRAY_LEN(sizes)) {
        fprintf(stderr, "usage: save_bench FOLDER [MIB…]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        must(parse_u64(argv[i], 1, 1 << 20, &sizes[i - 2]) == 0, argv[i]);
    if (argc > 2)
        n_sizes = (size_t)argc - 2;
    if (fake_guest_lacking()) {
        puts(fake_guest_lacking());
        return 77;
    }
    printf("[");
    for (size_t i = 0; i < n_sizes; i++)
        for (size_t j = 0; j < ARRAY_LEN(percents) * ARRAY_LEN(loads); j++) {
            struct row row = { .mib = sizes[i], .percent = percents[j / ARRAY_LEN(loads)], .load = &loads[j % ARRAY_LEN(loads)] };

            bench(argv[1], &row);
            print(&row, first);
            (void)fflush(stdout);
            first = false;
        }
    printf("\n]\n");
    return 0;
}
