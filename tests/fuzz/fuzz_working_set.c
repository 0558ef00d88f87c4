/* A working set from disk: refused with its words, or whole, then the same when written again, and of the same pages when compacted. */
#include "tests/fuzz/image_target.h"

enum { HEADER = 80 };

static bool covers(const struct page_run *runs, size_t n, uint64_t page)
{
    for (size_t i = 0; i < n; i++)
        if (page >= runs[i].page && page < (uint64_t)runs[i].page + runs[i].count)
            return true;
    return false;
}

static void compact(const struct working_set *set, uint32_t gap)
{
    auto_free struct page_run *runs = NULL;
    size_t n = 0;

    require(working_set_compact(set, gap, &runs, &n) == 0 && n <= set->n_runs);
    for (size_t i = 1; i < n; i++)
        require((uint64_t)runs[i - 1].page + runs[i - 1].count <= runs[i].page);
    for (size_t i = 0; i < set->n_runs && i < 64; i++) {
        uint64_t last = (uint64_t)set->runs[i].page + set->runs[i].count - 1;
        require(covers(runs, n, set->runs[i].page) && covers(runs, n, last));
        require(gap > 0 || last + 1 > UINT32_MAX || covers(runs, n, last + 1) == covers(set->runs, set->n_runs, last + 1));
    }
}

static void try_set(const uint8_t *data, size_t size)
{
    auto_working_set struct working_set set = { 0 };
    auto_free void *again = NULL;
    struct err err = ERR_INIT;
    size_t len = 0;

    if (working_set_decode(data, size, &set, &err) < 0) {
        require(err_is_set(&err));
        return;
    }
    require(size <= working_set_file_max(set.ram_size));
    require(working_set_encode(&set, &again, &len) == 0);
    require(len == size && memcmp(again, data, len) == 0);
    compact(&set, 0);
    compact(&set, 32);
}

static void mend(uint8_t *data, size_t size)
{
    if (size < HEADER)
        return;
    put_sum(data + 64, data + HEADER, size - HEADER);
    put_sum(data + 72, data, 72);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_both(data, size, try_set, mend);
    return 0;
}
