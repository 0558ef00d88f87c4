#include "lib/manager/snapshot_verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"

enum { CHUNK_PAGES = 256 }; /* read at a time: 1 MiB */

static int open_file(int folder_fd, const char *file, struct err *err)
{
    int fd = openat(folder_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return err_set_errno(err, errno, "bad-snapshot", "%s", file);
    return fd;
}

/* Exactly `len` bytes. */
static int read_at(int fd, const char *file, void *data, size_t len, uint64_t offset, struct err *err)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = pread(fd, (char *)data + have, len - have, (off_t)(offset + have));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, errno, "unreadable", "%s: offset 0x%" PRIx64, file, offset + have);
        if (n == 0)
            return err_set(err, EINVAL, "bad-snapshot", "%s ends at 0x%" PRIx64, file, offset + have);
        have += (size_t)n;
    }
    return 0;
}

static int read_whole(int folder_fd, const char *file, uint64_t limit, char **ret_data, size_t *ret_len, struct err *err)
{
    int r = file_read(folder_fd, file, limit, ret_data, ret_len);

    if (r == -ENOMEM || r >= 0)
        return r;
    err_set_errno(err, -r, "bad-snapshot", "%s", file);
    return r;
}

int snapshot_read_index(int folder_fd, const struct snapshot *snapshot, bool with_sums, struct memory_index **ret, struct err *err)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_free char *data = NULL;
    size_t len;
    int r;

    r = read_whole(folder_fd, FILE_MEMORY_INDEX, memory_index_file_max(snapshot->ram_size), &data, &len, err);
    if (r >= 0)
        r = memory_index_decode(data, len, with_sums, &index, err);
    if (r >= 0 && (memory_index_ram_size(index) != snapshot->ram_size || memory_index_present(index) != snapshot->present_pages))
        r = err_set(err, EINVAL, "bad-image", "it is of other memory than %s says", FILE_SNAPSHOT);
    if (r < 0) {
        if (r != -ENOMEM && !has_prefix(err->text, FILE_MEMORY_INDEX))
            err_prefix(err, "%s", FILE_MEMORY_INDEX);
        return r;
    }
    *ret = steal_ptr(&index);
    return 0;
}

int snapshot_read_working_set(int folder_fd, const struct snapshot *snapshot, struct working_set *ret, struct err *err)
{
    auto_working_set struct working_set set = { 0 };
    auto_free char *data = NULL;
    size_t len;
    int r;

    r = read_whole(folder_fd, FILE_WORKING_SET, working_set_file_max(snapshot->ram_size), &data, &len, err);
    if (r < 0)
        return r;
    r = working_set_decode(data, len, &set, err);
    if (r >= 0 && (set.ram_size != snapshot->ram_size || !streq(set.snapshot_id, snapshot->id)))
        r = err_set(err, EINVAL, "bad-working-set", "it was learned from another snapshot");
    if (r < 0) {
        err_prefix(err, "%s", FILE_WORKING_SET);
        return r;
    }
    *ret = set;
    set = (struct working_set){ 0 };
    return 0;
}

static bool advance(struct verify_progress *progress, uint64_t bytes)
{
    atomic_fetch_add(&progress->done, bytes);
    return !atomic_load(&progress->cancelled);
}

static int verify_state(int folder_fd, const struct snapshot *snapshot, void *buffer, struct verify_progress *progress, struct err *err)
{
    auto_stream_sum struct stream_sum *sum = NULL;
    auto_fd int fd = open_file(folder_fd, FILE_DEVICE_STATE, err);
    char text[STREAM_SUM_TEXT_MAX];
    int r = fd < 0 ? fd : stream_sum_new(&sum);

    for (uint64_t at = 0; r >= 0 && at < snapshot->state_size;) {
        uint64_t left = snapshot->state_size - at, len = left < CHUNK_PAGES * IMAGE_PAGE ? left : CHUNK_PAGES * IMAGE_PAGE;

        r = read_at(fd, FILE_DEVICE_STATE, buffer, len, at, err);
        if (r >= 0)
            stream_sum_add(sum, buffer, len);
        at += len;
        if (!advance(progress, len))
            return -ECANCELED;
    }
    if (r < 0)
        return r;
    if (!streq_opt(stream_sum_text(sum, text), snapshot->state_sum))
        return err_set(err, EINVAL, "bad-snapshot", "%s is damaged: its checksum is %s, expected %s", FILE_DEVICE_STATE, text,
                       snapshot->state_sum);
    return 0;
}

struct wrong_pages {
    uint64_t first, n;
};

static void compare(const struct memory_index *index, uint64_t page, uint64_t count, const char *data, struct wrong_pages *wrong)
{
    for (uint64_t i = 0; i < count; i++) {
        if (memory_page_sum(data + i * IMAGE_PAGE) == memory_index_sum(index, page + i))
            continue;
        if (wrong->n++ == 0)
            wrong->first = page + i;
    }
}

static int verify_pages(int folder_fd, const struct memory_index *index, void *buffer, struct verify_progress *progress, struct err *err)
{
    auto_fd int fd = open_file(folder_fd, FILE_MEMORY, err);
    struct wrong_pages wrong = { 0 };
    unsigned long long offset;
    uint64_t first = 0, run = 0, from = 0;

    if (fd < 0)
        return fd;
    while (from < memory_index_pages(index) && memory_index_run(index, from, true, &first, &run)) {
        for (uint64_t page = first; page < first + run;) {
            uint64_t left = first + run - page, count = left < CHUNK_PAGES ? left : CHUNK_PAGES;
            int r = read_at(fd, FILE_MEMORY, buffer, count * IMAGE_PAGE, page * IMAGE_PAGE, err);

            if (r < 0)
                return r;
            compare(index, page, count, buffer, &wrong);
            page += count;
            if (!advance(progress, count * IMAGE_PAGE))
                return -ECANCELED;
        }
        from = first + run;
    }
    if (wrong.n == 0)
        return 0;
    offset = wrong.first * IMAGE_PAGE;
    return err_set(err, EINVAL, "bad-snapshot",
                   "%s is damaged: %llu of %llu pages don't have their checksum, the first is page %llu at offset 0x%llx", FILE_MEMORY,
                   (unsigned long long)wrong.n, (unsigned long long)memory_index_present(index), (unsigned long long)wrong.first, offset);
}

/* They have no checksums, since they may be larger than all the rest by far: that they are there. */
static int verify_disks(const struct snapshot *snapshot, struct err *err)
{
    for (size_t d = 0; d < snapshot->n_disks; d++)
        for (size_t k = 0; k < snapshot->disks[d].n_layers; k++)
            if (access(snapshot->disks[d].layers[k].path, F_OK) < 0)
                return err_set_errno(err, errno, "bad-snapshot", "%s: %s", snapshot->disks[d].node, snapshot->disks[d].layers[k].path);
    return 0;
}

int snapshot_verify(int folder_fd, const struct snapshot *snapshot, struct verify_progress *progress, uint64_t *ret_pages, struct err *err)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_working_set struct working_set set = { 0 };
    auto_free void *buffer = malloc((size_t)CHUNK_PAGES * IMAGE_PAGE);
    int r;

    if (!buffer)
        return -ENOMEM;
    atomic_store(&progress->total, snapshot->state_size + snapshot->present_pages * IMAGE_PAGE);
    r = snapshot_read_index(folder_fd, snapshot, true, &index, err);
    if (r >= 0)
        r = verify_state(folder_fd, snapshot, buffer, progress, err);
    if (r >= 0)
        r = verify_pages(folder_fd, index, buffer, progress, err);
    if (r >= 0)
        r = verify_disks(snapshot, err);
    if (r < 0)
        return r;
    r = snapshot_read_working_set(folder_fd, snapshot, &set, err);
    if (r < 0 && r != -ENOENT) /* it need not have one */
        return r;
    *ret_pages = memory_index_present(index);
    return 0;
}
