#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "shim/memory/save_parts.h"

/* ---- words ---- */

int save_say(struct err *err, int code, const char *what, int fd)
{
    char link[64], path[256];
    ssize_t n;

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = '\0';
    return err_set_errno(err, code, code == ENOSPC || code == EDQUOT ? "no-space" : "io-error", "can't %s %s", what, path);
}

/* ---- reading RAM ---- */

static void need_page(struct save *s, uint64_t page) { s->blocks[page / BLOCK_PAGES].need |= (uint16_t)(1U << page % BLOCK_PAGES); }

/* The offset of the first page at or after `at` that isn't a hole of the memfd; the end of RAM if there is none; -errno. */
static int64_t next_data(const struct save *s, uint64_t at)
{
    off_t data = s->config.ram_fd < 0 ? (off_t)at : lseek(s->config.ram_fd, (off_t)at, SEEK_DATA);

    if (data < 0 && errno != ENXIO)
        return -errno;
    return data < 0 || (uint64_t)data > s->config.len ? (int64_t)s->config.len : data;
}

/* Holes of the memfd needn't be read, and what they read as is known. One that is filled by a read only, after this, holds zeros still; one
 * that is written to comes as a fault, since the kernel protects what isn't there too (since 5.19). */
int save_find_pages(struct save *s, struct err *err)
{
    const int fd = s->config.ram_fd;
    int64_t hole = 0;

    for (int64_t data = 0; (data = next_data(s, (uint64_t)hole)) < (int64_t)s->config.len;) {
        if (data < 0)
            return save_say(err, (int)-data, "look for the pages of", fd);
        hole = fd < 0 ? (int64_t)s->config.len : lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return save_say(err, errno, "look for the pages of", fd);
        hole = hole < (int64_t)s->config.len ? hole : (int64_t)s->config.len;
        for (uint64_t page = (uint64_t)data / IMAGE_PAGE; page * IMAGE_PAGE < (uint64_t)hole; page++)
            need_page(s, page);
    }
    return 0;
}

int save_find_new_pages(struct save *s, uint64_t block, uint64_t count, struct err *err)
{
    const uint64_t last = (block + count) * BLOCK_PAGES, end = last < s->n_pages ? last : s->n_pages;

    for (uint64_t page = block * BLOCK_PAGES; page < end; page++) {
        struct block *b = &s->blocks[page / BLOCK_PAGES];
        int64_t data;

        if (b->gone)
            b->need = 0;
        b->gone = false;
        if ((b->need >> page % BLOCK_PAGES) & 1)
            continue;
        data = next_data(s, page * IMAGE_PAGE);
        if (data < 0)
            return save_say(err, (int)-data, "look for the pages of", s->config.ram_fd);
        if ((uint64_t)data < s->config.len && (uint64_t)data / IMAGE_PAGE == page)
            need_page(s, page);
    }
    return 0;
}

static int read_all(int fd, unsigned char *buffer, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pread(fd, buffer, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        buffer += n;
        len -= (size_t)n;
        offset += (size_t)n;
    }
    return 0;
}

/* Is there a hole where a page was when it was frozen? QEMU gives a page back in two steps, of which the fault thread is told the second
 * (on_removed()): so who reads between them looks for itself. */
static bool is_lost(const struct save *s, uint64_t page)
{
    off_t offset = (off_t)(page * IMAGE_PAGE);

    return s->config.faults && lseek(s->config.ram_fd, offset, SEEK_DATA) != offset;
}

int save_read_block(struct save *s, uint64_t block, unsigned char *buffer, uint16_t *ret_pages, struct err *err)
{
    const uint16_t need = s->blocks[block].need;
    const uint64_t first = block * BLOCK_PAGES;
    const int fd = s->config.ram_fd >= 0 ? s->config.ram_fd : s->config.mem_fd;
    const uint64_t base = s->config.ram_fd >= 0 ? 0 : s->config.addr;
    uint16_t pages = need;

    for (unsigned i = 0, n; i < BLOCK_PAGES; i += n) {
        int r;

        for (n = 0; i + n < BLOCK_PAGES && (need >> (i + n)) & 1; n++)
            ;
        r = n > 0 ? read_all(fd, buffer + (size_t)i * IMAGE_PAGE, (size_t)n * IMAGE_PAGE, base + (first + i) * IMAGE_PAGE) : 0;
        if (r < 0)
            return save_say(err, -r, "read the guest's memory from", fd);
        n += n == 0;
    }
    for (unsigned i = 0; i < BLOCK_PAGES; i++) {
        if (!((need >> i) & 1) || !memory_page_is_zero(buffer + (size_t)i * IMAGE_PAGE))
            continue;
        if (is_lost(s, first + i))
            return err_set(err, EBUSY, "memory-given-back",
                           "the guest gave memory back (balloon, free page reporting) before it was saved: try again, or with --stop");
        pages &= (uint16_t) ~(1U << i);
    }
    *ret_pages = pages;
    return 0;
}

/* ---- writing ---- */

static int write_all(int fd, const unsigned char *buffer, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, buffer, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        buffer += n;
        len -= (size_t)n;
        offset += (size_t)n;
    }
    return 0;
}

/* The disk begins at once, so that the sync at the end is short. */
static void hurry(struct save *s, uint64_t page, uint64_t count)
{
    (void)sync_file_range(s->config.out_fd, (off_t)(page * IMAGE_PAGE), (off_t)(count * IMAGE_PAGE), SYNC_FILE_RANGE_WRITE);
}

/* `count` pages that are all present. */
static int write_run(struct save *s, uint64_t page, const unsigned char *buffer, size_t count, struct err *err)
{
    int r = write_all(s->config.out_fd, buffer, count * IMAGE_PAGE, page * IMAGE_PAGE);

    if (r < 0)
        return save_say(err, -r, "write", s->config.out_fd);
    hurry(s, page, count);
    return 0;
}

int save_write_blocks(struct save *s, uint64_t block, const unsigned char *buffer, const uint16_t *pages, size_t count, struct err *err)
{
    const uint64_t first = block * BLOCK_PAGES;

    for (size_t i = 0, n; i < count * BLOCK_PAGES; i += n) {
        int r;

        for (n = 0; i + n < count * BLOCK_PAGES && (pages[(i + n) / BLOCK_PAGES] >> (i + n) % BLOCK_PAGES) & 1; n++)
            memory_index_set(s->config.index, first + i + n, memory_page_sum(buffer + (i + n) * IMAGE_PAGE));
        r = n > 0 ? write_run(s, first + i, buffer + i * IMAGE_PAGE, n, err) : 0;
        if (r < 0)
            return r;
        n += n == 0;
    }
    return 0;
}

/* ---- from the source ---- */

/* How much of a run the kernel copied by itself, or shared: on file systems that can, no byte is moved. 0: it is to be done by hand. */
static uint64_t copy_in_kernel(struct save *s, uint64_t page, uint64_t count)
{
    off_t from = (off_t)(page * IMAGE_PAGE), to = from;
    ssize_t n = copy_file_range(s->config.source_fd, &from, s->config.out_fd, &to, count * IMAGE_PAGE, 0);

    if (n < IMAGE_PAGE)
        return 0; /* what fails for a reason fails by hand too, and with the words for it */
    hurry(s, page, (uint64_t)n / IMAGE_PAGE);
    return (uint64_t)n / IMAGE_PAGE;
}

static int copy_by_hand(struct save *s, uint64_t page, uint64_t count, struct err *err)
{
    int r = read_all(s->config.source_fd, s->batch, count * IMAGE_PAGE, page * IMAGE_PAGE);

    return r < 0 ? save_say(err, -r, "read", s->config.source_fd) : write_run(s, page, s->batch, count, err);
}

/* Sums are taken over, not made anew: what has become damaged in the source since stays detectable. */
static int take_sums(struct save *s, uint64_t page, uint64_t count, struct err *err)
{
    for (uint64_t i = page; i < page + count; i++) {
        uint32_t sum = memory_index_sum(s->config.source_index, i);
        int r;

        if (sum == 0) {
            r = read_all(s->config.source_fd, s->batch, IMAGE_PAGE, i * IMAGE_PAGE);
            if (r < 0)
                return save_say(err, -r, "read", s->config.source_fd);
            sum = memory_page_sum(s->batch);
        }
        memory_index_set(s->config.index, i, sum);
    }
    return 0;
}

static int copy_run(struct save *s, uint64_t page, uint64_t count, struct err *err)
{
    while (count > 0) {
        const uint64_t most = BATCH_SIZE / IMAGE_PAGE, n = count < most ? count : most;
        uint64_t copied = copy_in_kernel(s, page, n);
        int r = copied > 0 ? 0 : copy_by_hand(s, page, copied = n, err);

        r = r < 0 ? r : take_sums(s, page, copied, err);
        if (r < 0)
            return r;
        page += copied;
        count -= copied;
    }
    return 0;
}

static bool is_source(const struct save *s, uint64_t page) { return (s->config.from_source[page / 64] >> page % 64) & 1; }

static void settle_source(struct save *s, uint64_t count, bool present)
{
    pthread_mutex_lock(&s->lock);
    s->progress.done += count;
    if (present)
        s->progress.from_source += count;
    else
        s->progress.zero += count;
    pthread_mutex_unlock(&s->lock);
}

int save_copy_source(struct save *s, struct err *err)
{
    const uint64_t most = BATCH_SIZE / IMAGE_PAGE;

    for (uint64_t page = 0, n; s->config.from_source && page < s->n_pages && !save_ended(s); page += n) {
        bool present = is_source(s, page) && memory_index_has(s->config.source_index, page);
        int r;

        for (n = 0;
             n < most && page + n < s->n_pages && is_source(s, page + n) && memory_index_has(s->config.source_index, page + n) == present;
             n++)
            ;
        r = n > 0 && present ? copy_run(s, page, n, err) : 0;
        if (r < 0)
            return r;
        if (n > 0)
            settle_source(s, n, present);
        for (; n == 0 || (page + n < s->n_pages && s->config.from_source[(page + n) / 64] == 0); n++)
            ;
        save_tell(s);
    }
    return 0;
}
