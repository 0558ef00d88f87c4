#include "proto/memory_image.h"

#include <endian.h>
#include <errno.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#if XXH_VERSION_NUMBER < 800
#error "XXH3 has its final form since xxHash 0.8.0"
#endif

enum {
    VERSION = 1,
    INDEX_HEADER = 64,
    SET_HEADER = 80,
    WORD_PAGES = 64,
};

static const char index_magic[8] = { 'H', 'F', 'M', 'E', 'M', 'I', 'D', 'X' };
static const char set_magic[8] = { 'H', 'F', 'W', 'R', 'K', 'S', 'E', 'T' };

struct memory_index {
    uint64_t pages;
    uint64_t *words;
    uint32_t *sums; /* NULL: not decoded */
};

static uint64_t n_words(uint64_t pages) { return (pages + WORD_PAGES - 1) / WORD_PAGES; }

bool image_ram_size_is_valid(uint64_t ram_size) { return ram_size > 0 && ram_size <= IMAGE_RAM_MAX && ram_size % IMAGE_PAGE == 0; }

/* ---- numbers in a buffer, at any alignment ---- */

static void put_u32(unsigned char *at, uint32_t n)
{
    n = htole32(n);
    memcpy(at, &n, sizeof(n));
}

static void put_u64(unsigned char *at, uint64_t n)
{
    n = htole64(n);
    memcpy(at, &n, sizeof(n));
}

static uint32_t get_u32(const unsigned char *at)
{
    uint32_t n;
    memcpy(&n, at, sizeof(n));
    return le32toh(n);
}

static uint64_t get_u64(const unsigned char *at)
{
    uint64_t n;
    memcpy(&n, at, sizeof(n));
    return le64toh(n);
}

/* What both files begin with. */
static void put_start(unsigned char *file, const char magic[8], uint64_t ram_size)
{
    memcpy(file, magic, 8);
    put_u32(file + 8, VERSION);
    put_u32(file + 12, IMAGE_PAGE);
    put_u64(file + 16, ram_size);
}

/* The header's sum is looked at after magic and version: a later version may have it elsewhere. */
static int check_start(const unsigned char *file, size_t len, size_t header, const char magic[8], const char **ret_problem)
{
    if (len < 12 || memcmp(file, magic, 8) != 0)
        *ret_problem = "it doesn't begin as such a file does";
    else if (get_u32(file + 8) != VERSION)
        *ret_problem = "its version isn't 1, the one this build knows";
    else if (len < header)
        *ret_problem = "it is cut short";
    else if (get_u64(file + header - 8) != XXH3_64bits(file, header - 8))
        *ret_problem = "its header is damaged";
    else if (get_u32(file + 12) != IMAGE_PAGE)
        *ret_problem = "its pages aren't of 4096 bytes";
    else if (!image_ram_size_is_valid(get_u64(file + 16)))
        *ret_problem = "no guest has RAM of the size it gives";
    else
        return 0;
    return -EINVAL;
}

/* ---- one page ---- */

uint32_t memory_page_sum(const void *page) { return (uint32_t)XXH3_64bits(page, IMAGE_PAGE); }

/* All bytes are zero when the first eight are and each equals the one eight further on: libc's memcmp is as fast as the processor can. */
bool memory_page_is_zero(const void *page) { return get_u64(page) == 0 && memcmp(page, (const char *)page + 8, IMAGE_PAGE - 8) == 0; }

/* ---- which pages are present ---- */

static int index_new(uint64_t ram_size, bool with_sums, struct memory_index **ret)
{
    if (!image_ram_size_is_valid(ram_size))
        return -EINVAL;
    struct memory_index auto_memory_index *index = calloc(1, sizeof(*index));
    if (!index)
        return -ENOMEM;
    index->pages = ram_size / IMAGE_PAGE;
    index->words = calloc(n_words(index->pages), sizeof(*index->words));
    index->sums = with_sums ? calloc(index->pages, sizeof(*index->sums)) : NULL;
    if (!index->words || (with_sums && !index->sums))
        return -ENOMEM;
    *ret = steal_ptr(&index);
    return 0;
}

int memory_index_new(uint64_t ram_size, struct memory_index **ret) { return index_new(ram_size, true, ret); }

void memory_index_free(struct memory_index *index)
{
    if (!index)
        return;
    free(index->words);
    free(index->sums);
    free(index);
}

uint64_t memory_index_ram_size(const struct memory_index *index) { return index->pages * IMAGE_PAGE; }
uint64_t memory_index_pages(const struct memory_index *index) { return index->pages; }

uint64_t memory_index_present(const struct memory_index *index)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < n_words(index->pages); i++)
        n += (uint64_t)__builtin_popcountll(index->words[i]);
    return n;
}

bool memory_index_has(const struct memory_index *index, uint64_t page)
{
    return index->words[page / WORD_PAGES] >> (page % WORD_PAGES) & 1;
}

void memory_index_set(struct memory_index *index, uint64_t page, uint32_t sum)
{
    index->words[page / WORD_PAGES] |= UINT64_C(1) << (page % WORD_PAGES);
    if (index->sums)
        index->sums[page] = sum;
}

void memory_index_set_absent(struct memory_index *index, uint64_t page)
{
    index->words[page / WORD_PAGES] &= ~(UINT64_C(1) << (page % WORD_PAGES));
    if (index->sums)
        index->sums[page] = 0;
}

uint32_t memory_index_sum(const struct memory_index *index, uint64_t page) { return index->sums ? index->sums[page] : 0; }

/* The first page at or after `from` that is present or isn't, or the number of pages. */
static uint64_t find(const struct memory_index *index, uint64_t from, bool present)
{
    uint64_t flip = present ? 0 : ~UINT64_C(0), skip = from % WORD_PAGES;
    for (uint64_t i = from / WORD_PAGES; i < n_words(index->pages); i++, skip = 0) {
        uint64_t word = (index->words[i] ^ flip) >> skip << skip;
        if (word) {
            uint64_t page = i * WORD_PAGES + (uint64_t)__builtin_ctzll(word);
            return page < index->pages ? page : index->pages; /* behind the last page none is present */
        }
    }
    return index->pages;
}

bool memory_index_run(const struct memory_index *index, uint64_t from, bool present, uint64_t *ret_first, uint64_t *ret_count)
{
    uint64_t first = from < index->pages ? find(index, from, present) : index->pages;
    if (first == index->pages)
        return false;
    *ret_first = first;
    *ret_count = find(index, first, !present) - first;
    return true;
}

static uint64_t bitmap_size(uint64_t pages) { return n_words(pages) * sizeof(uint64_t); }

uint64_t memory_index_head_size(uint64_t ram_size)
{
    return image_ram_size_is_valid(ram_size) ? INDEX_HEADER + bitmap_size(ram_size / IMAGE_PAGE) : 0;
}

uint64_t memory_index_file_max(uint64_t ram_size)
{
    return image_ram_size_is_valid(ram_size) ? memory_index_head_size(ram_size) + ram_size / IMAGE_PAGE * sizeof(uint32_t) : 0;
}

int memory_index_encode(const struct memory_index *index, void **ret, size_t *ret_len)
{
    if (!index->sums)
        return -EINVAL;
    uint64_t ram_size = memory_index_ram_size(index), head = INDEX_HEADER + bitmap_size(index->pages);
    uint64_t len = head + index->pages * sizeof(uint32_t);
    unsigned char *file = malloc(len);
    if (!file)
        return -ENOMEM;
    for (uint64_t i = 0; i < n_words(index->pages); i++)
        put_u64(file + INDEX_HEADER + i * sizeof(uint64_t), index->words[i]);
    for (uint64_t i = 0; i < index->pages; i++)
        put_u32(file + head + i * sizeof(uint32_t), index->sums[i]);
    put_start(file, index_magic, ram_size);
    put_u64(file + 24, index->pages);
    put_u64(file + 32, memory_index_present(index));
    put_u64(file + 40, XXH3_64bits(file + INDEX_HEADER, head - INDEX_HEADER));
    put_u64(file + 48, XXH3_64bits(file + head, len - head));
    put_u64(file + 56, XXH3_64bits(file, 56));
    *ret = file;
    *ret_len = len;
    return 0;
}

/* What is wrong with an index, or NULL. */
static const char *index_problem(const unsigned char *file, size_t len, bool with_sums)
{
    const char *problem = NULL;
    if (check_start(file, len, INDEX_HEADER, index_magic, &problem) < 0)
        return problem;
    uint64_t ram_size = get_u64(file + 16), head = memory_index_head_size(ram_size), whole = memory_index_file_max(ram_size);
    if (get_u64(file + 24) != ram_size / IMAGE_PAGE)
        return "its number of pages isn't that of its RAM size";
    if (len > whole)
        return "it is longer than its RAM size makes it";
    if (len != whole && (with_sums || len != head))
        return "it is cut short";
    if (get_u64(file + 40) != XXH3_64bits(file + INDEX_HEADER, head - INDEX_HEADER))
        return "its bitmap is damaged";
    if (with_sums && get_u64(file + 48) != XXH3_64bits(file + head, whole - head))
        return "its sums are damaged";
    return NULL;
}

static int bad_index(struct err *err, const char *problem) { return err_set(err, EINVAL, "bad-image", "bad memory index: %s", problem); }

int memory_index_decode(const void *data, size_t len, bool with_sums, struct memory_index **ret, struct err *err)
{
    const unsigned char *file = data;
    const char *problem = index_problem(file, len, with_sums);
    if (problem)
        return bad_index(err, problem);
    uint64_t ram_size = get_u64(file + 16);
    struct memory_index auto_memory_index *index = NULL;
    int r = index_new(ram_size, with_sums, &index);
    if (r < 0)
        return err_from(err, r, "reading a memory index");
    for (uint64_t i = 0; i < n_words(index->pages); i++)
        index->words[i] = get_u64(file + INDEX_HEADER + i * sizeof(uint64_t));
    if (index->pages % WORD_PAGES && index->words[index->pages / WORD_PAGES] >> (index->pages % WORD_PAGES))
        return bad_index(err, "its bitmap has pages behind the end of RAM");
    if (memory_index_present(index) != get_u64(file + 32))
        return bad_index(err, "its bitmap has another number of pages than its header");
    for (uint64_t i = 0; with_sums && i < index->pages; i++)
        index->sums[i] = get_u32(file + memory_index_head_size(ram_size) + i * sizeof(uint32_t));
    *ret = steal_ptr(&index);
    return 0;
}

/* ---- which are needed first ---- */

uint64_t working_set_file_max(uint64_t ram_size)
{
    return image_ram_size_is_valid(ram_size) ? SET_HEADER + ram_size / IMAGE_PAGE * sizeof(struct page_run) : 0;
}

/* What is wrong with a set, or NULL. */
static const char *set_problem(const struct working_set *set)
{
    uint64_t pages = set->ram_size / IMAGE_PAGE;
    if (!image_ram_size_is_valid(set->ram_size))
        return "no guest has RAM of the size it gives";
    if (strspn(set->snapshot_id, "0123456789abcdef") != SNAPSHOT_ID_LEN || set->snapshot_id[SNAPSHOT_ID_LEN])
        return "its snapshot's id isn't 32 hex digits";
    if (set->n_runs > pages)
        return "it has more runs than there are pages";
    for (size_t i = 0; i < set->n_runs; i++)
        if (set->runs[i].count == 0 || (uint64_t)set->runs[i].page + set->runs[i].count > pages)
            return "it has pages behind the end of RAM, or a run of none";
    return NULL;
}

int working_set_encode(const struct working_set *set, void **ret, size_t *ret_len)
{
    if (set_problem(set))
        return -EINVAL;
    size_t len = SET_HEADER + set->n_runs * sizeof(struct page_run);
    unsigned char *file = malloc(len);
    if (!file)
        return -ENOMEM;
    for (size_t i = 0; i < set->n_runs; i++) {
        put_u32(file + SET_HEADER + i * sizeof(struct page_run), set->runs[i].page);
        put_u32(file + SET_HEADER + i * sizeof(struct page_run) + 4, set->runs[i].count);
    }
    put_start(file, set_magic, set->ram_size);
    memcpy(file + 24, set->snapshot_id, SNAPSHOT_ID_LEN);
    put_u64(file + 56, set->n_runs);
    put_u64(file + 64, XXH3_64bits(file + SET_HEADER, len - SET_HEADER));
    put_u64(file + 72, XXH3_64bits(file, 72));
    *ret = file;
    *ret_len = len;
    return 0;
}

static int bad_set(struct err *err, const char *problem) { return err_set(err, EINVAL, "bad-working-set", "bad working set: %s", problem); }

int working_set_decode(const void *data, size_t len, struct working_set *ret, struct err *err)
{
    const unsigned char *file = data;
    const char *problem = NULL;
    if (check_start(file, len, SET_HEADER, set_magic, &problem) < 0)
        return bad_set(err, problem);
    auto_working_set struct working_set set = { .ram_size = get_u64(file + 16) };
    uint64_t n = get_u64(file + 56), room = len - SET_HEADER;
    if (room % sizeof(struct page_run) || n != room / sizeof(struct page_run))
        return bad_set(err, "it has another length than its header says");
    if (get_u64(file + 64) != XXH3_64bits(file + SET_HEADER, room))
        return bad_set(err, "its runs are damaged");
    memcpy(set.snapshot_id, file + 24, SNAPSHOT_ID_LEN);
    set.runs = n ? calloc(n, sizeof(*set.runs)) : NULL;
    if (n && !set.runs)
        return err_from(err, -ENOMEM, "reading a working set");
    set.n_runs = n;
    for (size_t i = 0; i < n; i++) {
        set.runs[i].page = get_u32(file + SET_HEADER + i * sizeof(struct page_run));
        set.runs[i].count = get_u32(file + SET_HEADER + i * sizeof(struct page_run) + 4);
    }
    problem = set_problem(&set);
    if (problem)
        return bad_set(err, problem);
    *ret = set;
    set = (struct working_set){ 0 };
    return 0;
}

static int by_page(const void *a, const void *b)
{
    const struct page_run *x = a, *y = b;
    return (x->page > y->page) - (x->page < y->page);
}

int working_set_compact(const struct working_set *set, uint32_t gap, struct page_run **ret, size_t *ret_n)
{
    struct page_run *runs = set->n_runs ? calloc(set->n_runs, sizeof(*runs)) : NULL;
    size_t n = 0;
    if (set->n_runs && !runs)
        return -ENOMEM;
    if (runs) {
        memcpy(runs, set->runs, set->n_runs * sizeof(*runs));
        qsort(runs, set->n_runs, sizeof(*runs), by_page);
    }
    for (size_t i = 0; i < set->n_runs; i++) {
        uint64_t end = n ? (uint64_t)runs[n - 1].page + runs[n - 1].count : 0, its_end = (uint64_t)runs[i].page + runs[i].count;
        if (!n || runs[i].page > end + gap) {
            runs[n++] = runs[i];
            continue;
        }
        uint64_t pages = (its_end > end ? its_end : end) - runs[n - 1].page;
        if (pages > UINT32_MAX) {
            /* All 2^32 of the largest RAM, one more than a run can count; so there is nothing to add. */
            runs[0] = (struct page_run){ 0, UINT32_MAX };
            runs[1] = (struct page_run){ UINT32_MAX, 1 };
            n = 2;
            break;
        }
        runs[n - 1].count = (uint32_t)pages;
    }
    *ret = runs;
    *ret_n = n;
    return 0;
}

void working_set_clear(struct working_set *set)
{
    free(set->runs);
    *set = (struct working_set){ 0 };
}

/* ---- the sum of a file that comes in pieces ---- */

/* Its state is wider aligned than what malloc gives. */
struct stream_sum {
    XXH3_state_t *state;
};

int stream_sum_new(struct stream_sum **ret)
{
    struct stream_sum auto_stream_sum *sum = calloc(1, sizeof(*sum));
    if (sum)
        sum->state = XXH3_createState();
    if (!sum || !sum->state)
        return -ENOMEM;
    XXH3_64bits_reset(sum->state);
    *ret = steal_ptr(&sum);
    return 0;
}

void stream_sum_free(struct stream_sum *sum)
{
    if (!sum)
        return;
    XXH3_freeState(sum->state);
    free(sum);
}

void stream_sum_add(struct stream_sum *sum, const void *data, size_t len) { XXH3_64bits_update(sum->state, data, len); }

const char *stream_sum_text(const struct stream_sum *sum, char buf[STREAM_SUM_TEXT_MAX])
{
    snprintf(buf, STREAM_SUM_TEXT_MAX, "%016" PRIx64, (uint64_t)XXH3_64bits_digest(sum->state));
    return buf;
}
