/* The proof that a disk and the memory belong to the same instant: numbered blocks are written to the disk's beginning, and what was
 * written last into each is remembered. A disk that is older or newer than the memory differs.
 *
 *   disk filled
 *   disk pass N ok, S writes
 *   disk WRONG block B: got SEQUENCE expected SEQUENCE       at most WRONG_MAX of them
 *   disk: what failed: why */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/guest/work.h"

enum {
    BLOCK = 4096,
    WORDS = BLOCK / sizeof(uint64_t),
    BLOCKS = 128,
    WRITES = 16, /* between two passes */
    WRONG_MAX = 8,
    PAUSE_NS = 2 * 1000 * 1000, /* between writes: the disk is not the guest's only work */
};

struct disk {
    int tty, fd;
    uint64_t *buffer;          /* O_DIRECT: aligned, and no page cache between */
    uint64_t sequence[BLOCKS]; /* written last into each block */
    uint64_t next;
    unsigned told;
};

/* Every word of a block is its sequence number times an odd number plus the block's number: a torn block shows as well. */
static uint64_t word_of(uint64_t sequence, unsigned block, unsigned word) { return sequence * 0x9e3779b97f4a7c15 + block + word; }

static bool write_block(struct disk *d, unsigned block)
{
    d->buffer[0] = d->next;
    for (unsigned i = 1; i < WORDS; i++)
        d->buffer[i] = word_of(d->next, block, i);
    if (pwrite(d->fd, d->buffer, BLOCK, (off_t)block * BLOCK) != BLOCK)
        return false;
    d->sequence[block] = d->next++;
    return true;
}

static bool check_block(struct disk *d, unsigned block)
{
    uint64_t expected = d->sequence[block];
    bool right = true;

    if (pread(d->fd, d->buffer, BLOCK, (off_t)block * BLOCK) != BLOCK)
        return false;
    for (unsigned i = 1; i < WORDS; i++)
        right = right && d->buffer[i] == word_of(expected, block, i);
    if ((!right || d->buffer[0] != expected) && d->told++ < WRONG_MAX)
        tell(d->tty, "disk WRONG block %u: got %llu expected %llu", block, (unsigned long long)d->buffer[0], (unsigned long long)expected);
    return true;
}

static bool pass(struct disk *d)
{
    static const struct timespec pause = { .tv_nsec = PAUSE_NS };

    for (unsigned i = 0; i < WRITES; i++) {
        if (!write_block(d, (unsigned)(d->next * 0x9e3779b9 >> 8) % BLOCKS))
            return false;
        nanosleep(&pause, NULL);
    }
    for (unsigned block = 0; block < BLOCKS; block++)
        if (!check_block(d, block))
            return false;
    return true;
}

int disk_run(int tty, const char *path)
{
    static struct disk d;

    d = (struct disk){ .tty = tty, .fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC), .next = 1 };
    if (d.fd < 0 || posix_memalign((void **)&d.buffer, BLOCK, BLOCK) != 0) {
        tell(tty, "disk: %s: %s", path, strerror(errno));
        return 1;
    }
    for (unsigned block = 0; block < BLOCKS; block++)
        if (!write_block(&d, block)) {
            tell(tty, "disk: write: %s", strerror(errno));
            return 1;
        }
    tell(tty, "disk filled");
    for (unsigned long long n = 1; pass(&d); n++)
        if (d.told == 0)
            tell(tty, "disk pass %llu ok, %llu writes", n, (unsigned long long)d.next - 1);
    tell(tty, "disk: %s", strerror(errno));
    return 1;
}
