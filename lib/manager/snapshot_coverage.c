#include "lib/manager/snapshot_coverage.h"

static uint64_t part_begin(const struct coverage *c, uint64_t part) { return part * c->pages / COVERAGE_PARTS; }

void coverage_add(struct coverage *c, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    if (c->pages == 0)
        return;
    c->covered += count;
    for (uint64_t part = first * COVERAGE_PARTS / c->pages; part < COVERAGE_PARTS && first < end; part++) {
        uint64_t next = part_begin(c, part + 1), stop = end < next ? end : next;

        if (stop <= first)
            continue;
        c->counts[part] += stop - first;
        first = stop;
    }
}

void coverage_of_index(const struct memory_index *index, struct coverage *ret)
{
    uint64_t first = 0, count = 0, from = 0;

    *ret = (struct coverage){ .pages = memory_index_pages(index) };
    while (from < ret->pages && memory_index_run(index, from, true, &first, &count)) {
        coverage_add(ret, first, count);
        from = first + count;
    }
}

int coverage_of_working_set(const struct working_set *set, struct coverage *ret)
{
    struct coverage c = { .pages = set->ram_size / IMAGE_PAGE };
    auto_free struct page_run *runs = NULL;
    size_t n = 0;
    int r = working_set_compact(set, 0, &runs, &n);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        coverage_add(&c, runs[i].page, runs[i].count);
    *ret = c;
    return 0;
}

unsigned coverage_percent(const struct coverage *c, unsigned part)
{
    uint64_t size = part_begin(c, part + 1) - part_begin(c, part), percent;

    if (size == 0 || c->counts[part] == 0)
        return 0;
    percent = c->counts[part] * 100 / size;
    return percent == 0 ? 1 : (unsigned)percent;
}

json_t *coverage_to_wire(const struct coverage *c)
{
    json_t *array = json_array();

    for (unsigned part = 0; array && part < COVERAGE_PARTS; part++)
        (void)json_array_append_new(array, json_integer(coverage_percent(c, part)));
    return array;
}
