#include "proto/memory_image.h"

#include "tests/unit/fixture.h"

#define ID "0123456789abcdef0123456789abcdef"

static struct memory_index *index_of(uint64_t pages)
{
    struct memory_index *index = NULL;
    ck_assert_int_eq(memory_index_new(pages * IMAGE_PAGE, &index), 0);
    return index;
}

/* Its file in a block of just that size, so that a sanitizer sees a byte read too far. */
static unsigned char *file_of(const struct memory_index *index, size_t *ret_len)
{
    void *file = NULL;
    ck_assert_int_eq(memory_index_encode(index, &file, ret_len), 0);
    ck_assert_uint_eq(*ret_len, memory_index_file_max(memory_index_ram_size(index)));
    return file;
}

/* Deterministic, and different for each call. */
static uint32_t next_random(uint32_t *state) { return *state = *state * 1664525 + 1013904223; }

START_TEST(ram_sizes)
{
    static const struct {
        uint64_t size;
        bool valid;
    } cases[] = {
        { 0, false },
        { 1, false },
        { IMAGE_PAGE - 1, false },
        { IMAGE_PAGE, true },
        { IMAGE_PAGE + 1, false },
        { IMAGE_RAM_MAX, true },
        { IMAGE_RAM_MAX + IMAGE_PAGE, false },
        { UINT64_MAX - IMAGE_PAGE + 1, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ck_assert(image_ram_size_is_valid(cases[i].size) == cases[i].valid);
        ck_assert((memory_index_head_size(cases[i].size) > 0) == cases[i].valid);
        ck_assert((memory_index_file_max(cases[i].size) > 0) == cases[i].valid);
        ck_assert((working_set_file_max(cases[i].size) > 0) == cases[i].valid);
        struct memory_index *index = NULL;
        if (!cases[i].valid)
            ck_assert_int_eq(memory_index_new(cases[i].size, &index), -EINVAL);
        ck_assert_ptr_null(index);
    }
    ck_assert_uint_eq(memory_index_file_max(IMAGE_PAGE), 64 + 8 + 4);
    ck_assert_uint_eq(memory_index_file_max(65 * IMAGE_PAGE), 64 + 16 + 65 * 4);
}
END_TEST

START_TEST(zero_pages)
{
    /* At an odd address, too: nobody promises alignment. */
    unsigned char block[IMAGE_PAGE + 8] = { 0 };
    for (size_t shift = 0; shift < 8; shift++) {
        unsigned char *page = block + shift;
        ck_assert(memory_page_is_zero(page));
        for (size_t at = 0; at < IMAGE_PAGE; at++) {
            page[at] = 1;
            ck_assert_msg(!memory_page_is_zero(page), "byte %zu isn't seen", at);
            page[at] = 0;
        }
    }
    memset(block, 0xff, sizeof(block));
    memset(block + 4, 0, IMAGE_PAGE);
    ck_assert(memory_page_is_zero(block + 4));
}
END_TEST

/* XXH3's own values: a file outlives the library it was made with. */
START_TEST(sums_are_those_of_xxh3)
{
    unsigned char page[IMAGE_PAGE] = { 0 };
    char text[STREAM_SUM_TEXT_MAX];
    struct stream_sum auto_stream_sum *sum = NULL;
    ck_assert_int_eq(stream_sum_new(&sum), 0);
    ck_assert_str_eq(stream_sum_text(sum, text), "2d06800538d394c2"); /* of nothing */
    uint32_t zero = memory_page_sum(page);
    stream_sum_add(sum, page, 1000);
    stream_sum_add(sum, page, 0);
    stream_sum_add(sum, page, IMAGE_PAGE - 1000);
    stream_sum_text(sum, text);
    char low[9];
    snprintf(low, sizeof(low), "%08" PRIx32, zero);
    ck_assert_str_eq(text + 8, low);
    for (size_t at = 0; at < IMAGE_PAGE; at += 61) {
        page[at] ^= 0x10;
        ck_assert_uint_ne(memory_page_sum(page), zero);
        page[at] ^= 0x10;
    }
    ck_assert_uint_eq(memory_page_sum(page), zero);
}
END_TEST

START_TEST(index_holds_what_was_set)
{
    struct memory_index auto_memory_index *index = index_of(130);
    ck_assert_uint_eq(memory_index_pages(index), 130);
    ck_assert_uint_eq(memory_index_ram_size(index), 130 * IMAGE_PAGE);
    ck_assert_uint_eq(memory_index_present(index), 0);
    static const uint64_t pages[] = { 0, 1, 63, 64, 127, 128, 129 };
    for (size_t i = 0; i < ARRAY_LEN(pages); i++)
        memory_index_set(index, pages[i], (uint32_t)pages[i] * 7);
    memory_index_set(index, 1, 8); /* anew */
    ck_assert_uint_eq(memory_index_present(index), ARRAY_LEN(pages));
    ck_assert(memory_index_has(index, 129) && !memory_index_has(index, 2) && !memory_index_has(index, 65));
    ck_assert_uint_eq(memory_index_sum(index, 129), 129 * 7);
    ck_assert_uint_eq(memory_index_sum(index, 1), 8);
    memory_index_set_absent(index, 129);
    memory_index_set_absent(index, 2);
    ck_assert(!memory_index_has(index, 129));
    ck_assert_uint_eq(memory_index_sum(index, 129), 0);
    ck_assert_uint_eq(memory_index_present(index), ARRAY_LEN(pages) - 1);
}
END_TEST

/* Against the plainest way to say it. */
static void expect_run(const struct memory_index *index, uint64_t from, bool present)
{
    uint64_t pages = memory_index_pages(index), first = from, end, got_first = 4711, got_count = 4712;
    while (first < pages && memory_index_has(index, first) != present)
        first++;
    for (end = first; end < pages && memory_index_has(index, end) == present;)
        end++;
    bool found = memory_index_run(index, from, present, &got_first, &got_count);
    ck_assert(found == (first < pages));
    ck_assert_uint_eq(got_first, found ? first : 4711);
    ck_assert_uint_eq(got_count, found ? end - first : 4712);
}

START_TEST(index_runs)
{
    static const uint64_t sizes[] = { 1, 63, 64, 65, 128, 200, 1000 };
    uint32_t random = 1;
    for (size_t i = 0; i < ARRAY_LEN(sizes) * 4; i++) {
        uint64_t pages = sizes[i % ARRAY_LEN(sizes)];
        struct memory_index auto_memory_index *index = index_of(pages);
        /* Empty, full, long runs, short runs. */
        for (uint64_t page = 0; page < pages; page++)
            if (i / ARRAY_LEN(sizes) == 1 || (i / ARRAY_LEN(sizes) == 2 && page / 70 % 2) ||
                (i / ARRAY_LEN(sizes) == 3 && next_random(&random) >> 30))
                memory_index_set(index, page, 1);
        for (uint64_t from = 0; from < pages + 3; from++) {
            expect_run(index, from, true);
            expect_run(index, from, false);
        }
        ck_assert(!memory_index_run(index, UINT64_MAX, true, NULL, NULL));
    }
}
END_TEST

static struct memory_index *random_index(uint64_t pages)
{
    struct memory_index *index = index_of(pages);
    uint32_t random = (uint32_t)pages;
    for (uint64_t page = 0; page < pages; page++)
        if (next_random(&random) >> 31)
            memory_index_set(index, page, next_random(&random));
    return index;
}

START_TEST(index_is_read_back)
{
    static const uint64_t sizes[] = { 1, 64, 65, 1000 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct memory_index auto_memory_index *index = random_index(sizes[i]), *back = NULL, *quick = NULL, *head = NULL;
        size_t len = 0, head_len = memory_index_head_size(memory_index_ram_size(index));
        auto_free unsigned char *file = file_of(index, &len), *start = malloc(head_len);
        ck_assert_ptr_nonnull(start);
        memcpy(start, file, head_len);
        ck_assert_int_eq(memory_index_decode(file, len, true, &back, NULL), 0);
        ck_assert_int_eq(memory_index_decode(file, len, false, &quick, NULL), 0);
        ck_assert_int_eq(memory_index_decode(start, head_len, false, &head, NULL), 0);
        ck_assert_uint_eq(memory_index_present(back), memory_index_present(index));
        for (uint64_t page = 0; page < sizes[i]; page++) {
            ck_assert(memory_index_has(back, page) == memory_index_has(index, page));
            ck_assert(memory_index_has(quick, page) == memory_index_has(index, page));
            ck_assert(memory_index_has(head, page) == memory_index_has(index, page));
            ck_assert_uint_eq(memory_index_sum(back, page), memory_index_sum(index, page));
            ck_assert_uint_eq(memory_index_sum(quick, page), 0);
        }
        void *none = NULL;
        ck_assert_int_eq(memory_index_encode(quick, &none, &len), -EINVAL);
        memory_index_set(quick, 0, 9); /* without sums there is still the bitmap */
        ck_assert(memory_index_has(quick, 0));
        memory_index_set_absent(quick, 0);
        ck_assert(!memory_index_has(quick, 0));
    }
}
END_TEST

/* The layout is a promise: these bytes are what proto/memory_image.h describes. */
START_TEST(index_looks_as_documented)
{
    struct memory_index auto_memory_index *index = index_of(65);
    memory_index_set(index, 1, 0x01020304);
    memory_index_set(index, 64, 5);
    size_t len = 0;
    auto_free unsigned char *file = file_of(index, &len);
    static const unsigned char start[40] = { 'H', 'F', 'M', 'E', 'M', 'I', 'D', 'X', 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0x04, 0,
                                             0,   0,   0,   0,   65,  0,   0,   0,   0, 0, 0, 0, 2, 0,    0, 0, 0, 0,    0,    0 };
    static const unsigned char bitmap[16] = { 2, 0, 0, 0, 0, 0, 0, 0, 1 }, sums[12] = { 0, 0, 0, 0, 4, 3, 2, 1 };
    ck_assert_mem_eq(file, start, sizeof(start));
    ck_assert_mem_eq(file + 64, bitmap, sizeof(bitmap));
    ck_assert_mem_eq(file + 80, sums, sizeof(sums));
    ck_assert_uint_eq(file[80 + 64 * 4], 5);
}
END_TEST

static void expect_bad(const unsigned char *file, size_t len, bool with_sums, const char *words)
{
    struct memory_index *index = NULL;
    struct err err = ERR_INIT;
    /* A copy of just that length. */
    auto_free unsigned char *exact = malloc(len ? len : 1);
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, file, len);
    ck_assert_int_eq(memory_index_decode(exact, len, with_sums, &index, &err), -EINVAL);
    ck_assert_ptr_null(index);
    ck_assert_str_eq(err.id, "bad-image");
    ck_assert_msg(has_prefix(err.text, "bad memory index: ") && (!words || strstr(err.text, words)), "%s", err.text);
}

START_TEST(every_bit_of_an_index_counts)
{
    struct memory_index auto_memory_index *index = random_index(70);
    size_t len = 0, head = memory_index_head_size(memory_index_ram_size(index));
    auto_free unsigned char *file = file_of(index, &len);
    for (size_t bit = 0; bit < len * 8; bit++) {
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        expect_bad(file, len, true, NULL);
        if (bit / 8 < head)
            expect_bad(file, len, false, NULL);
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        expect_bad(file, cut, true, NULL);
        if (cut != head)
            expect_bad(file, cut, false, NULL);
    }
    auto_free unsigned char *longer = calloc(1, len + 1);
    ck_assert_ptr_nonnull(longer);
    memcpy(longer, file, len);
    expect_bad(longer, len + 1, true, "longer");
    expect_bad(longer, len + 1, false, "longer");
    expect_bad(longer, 0, true, "doesn't begin");
}
END_TEST

/* Files that are whole by their sums, and yet say what can't be. */
START_TEST(sound_sums_of_nonsense)
{
    static const struct {
        const char *words;
        size_t at;
        unsigned char value;
    } cases[] = {
        { "its version", 8, 2 },
        { "4096 bytes", 13, 0x20 },
        { "RAM of the size", 16, 1 },
        { "RAM of the size", 23, 0x80 },
        { "number of pages isn't", 24, 71 },
        { "another number of pages than", 32, 0 },
        { "behind the end", 64 + 15, 0x80 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct memory_index auto_memory_index *index = index_of(70);
        memory_index_set(index, 3, 1);
        size_t len = 0;
        auto_free unsigned char *file = file_of(index, &len);
        file[cases[i].at] = cases[i].value;
        /* As whoever wrote it would have it: the sums anew, by the same function in pieces. */
        for (size_t part = 0; part < 2; part++) {
            struct stream_sum auto_stream_sum *sum = NULL;
            char text[STREAM_SUM_TEXT_MAX];
            ck_assert_int_eq(stream_sum_new(&sum), 0);
            stream_sum_add(sum, part ? file : file + 64, part ? 56 : 16);
            stream_sum_text(sum, text);
            for (size_t byte = 0; byte < 8; byte++) {
                const char hex[] = "0123456789abcdef", *two = text + 14 - 2 * byte;
                size_t value = (size_t)(strchr(hex, two[0]) - hex) * 16 + (size_t)(strchr(hex, two[1]) - hex);
                file[(part ? 56 : 40) + byte] = (unsigned char)value;
            }
        }
        expect_bad(file, len, true, cases[i].words);
    }
}
END_TEST

static struct page_run some_runs[] = { { 50, 10 }, { 0, 1 }, { 55, 20 }, { 2, 1 }, { 99, 1 } };

static struct working_set some_set(void)
{
    return (struct working_set){ .snapshot_id = ID, .ram_size = 100 * IMAGE_PAGE, .runs = some_runs, .n_runs = ARRAY_LEN(some_runs) };
}

static unsigned char *set_file(const struct working_set *set, size_t *ret_len)
{
    void *file = NULL;
    ck_assert_int_eq(working_set_encode(set, &file, ret_len), 0);
    ck_assert_uint_le(*ret_len, working_set_file_max(set->ram_size));
    return file;
}

START_TEST(working_set_is_read_back)
{
    struct working_set set = some_set();
    for (set.n_runs = 0; set.n_runs <= ARRAY_LEN(some_runs); set.n_runs++) {
        auto_working_set struct working_set back = { 0 };
        size_t len = 0;
        auto_free unsigned char *file = set_file(&set, &len);
        ck_assert_uint_eq(len, 80 + 8 * set.n_runs);
        ck_assert_int_eq(working_set_decode(file, len, &back, NULL), 0);
        ck_assert_str_eq(back.snapshot_id, ID);
        ck_assert_uint_eq(back.ram_size, set.ram_size);
        ck_assert_uint_eq(back.n_runs, set.n_runs);
        for (size_t i = 0; i < set.n_runs; i++)
            ck_assert(back.runs[i].page == some_runs[i].page && back.runs[i].count == some_runs[i].count);
    }
}
END_TEST

START_TEST(every_bit_of_a_working_set_counts)
{
    struct working_set set = some_set(), back = { .n_runs = 4711 };
    size_t len = 0;
    auto_free unsigned char *file = set_file(&set, &len);
    static const unsigned char start[24] = {
        'H', 'F', 'W', 'R', 'K', 'S', 'E', 'T', 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x40, 0x06, 0, 0, 0, 0, 0
    };
    static const unsigned char first[8] = { 50, 0, 0, 0, 10, 0, 0, 0 };
    ck_assert_mem_eq(file, start, sizeof(start));
    ck_assert_mem_eq(file + 24, ID, 32);
    ck_assert_mem_eq(file + 80, first, sizeof(first));
    for (size_t bit = 0; bit < len * 8; bit++) {
        struct err err = ERR_INIT;
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert_int_eq(working_set_decode(file, len, &back, &err), -EINVAL);
        ck_assert_str_eq(err.id, "bad-working-set");
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        auto_free unsigned char *exact = malloc(cut ? cut : 1);
        ck_assert_ptr_nonnull(exact);
        memcpy(exact, file, cut);
        ck_assert_int_eq(working_set_decode(exact, cut, &back, NULL), -EINVAL);
    }
    ck_assert_uint_eq(back.n_runs, 4711); /* untouched */
}
END_TEST

START_TEST(working_set_refuses)
{
    struct page_run runs[] = { { 0, 1 }, { 0, 1 } };
    struct working_set good = { .snapshot_id = ID, .ram_size = 2 * IMAGE_PAGE, .runs = runs, .n_runs = 2 };
    void *file = NULL;
    size_t len;
    for (size_t i = 0; i < 8; i++) {
        struct working_set set = good;
        runs[1] = (struct page_run){ 0, 1 };
        if (i == 0)
            set.ram_size++;
        else if (i == 1)
            set.snapshot_id[31] = '\0';
        else if (i == 2)
            set.snapshot_id[0] = 'A';
        else if (i == 3)
            set.ram_size = IMAGE_PAGE; /* one page, two runs */
        else if (i == 4)
            runs[1].count = 0;
        else if (i == 5)
            runs[1].count = 3;
        else if (i == 6)
            runs[1] = (struct page_run){ UINT32_MAX, UINT32_MAX };
        else
            set.ram_size = 0;
        ck_assert_msg(working_set_encode(&set, &file, &len) == -EINVAL, "case %zu", i);
    }
    ck_assert_ptr_null(file);
}
END_TEST

static void expect_compact(struct page_run *runs, size_t n, uint32_t gap, const struct page_run *expected, size_t n_expected)
{
    struct working_set set = { .ram_size = IMAGE_RAM_MAX, .runs = runs, .n_runs = n };
    auto_free struct page_run *got = NULL;
    size_t n_got = 4711;
    ck_assert_int_eq(working_set_compact(&set, gap, &got, &n_got), 0);
    ck_assert_uint_eq(n_got, n_expected);
    for (size_t i = 0; i < n_expected; i++)
        ck_assert_msg(got[i].page == expected[i].page && got[i].count == expected[i].count, "%zu: %u+%u", i, (unsigned)got[i].page,
                      (unsigned)got[i].count);
}

START_TEST(compact)
{
    static const struct page_run touching[] = { { 0, 1 }, { 2, 1 }, { 50, 25 }, { 99, 1 } };
    static const struct page_run near[] = { { 0, 3 }, { 50, 25 }, { 99, 1 } };
    static const struct page_run all[] = { { 0, 100 } };
    expect_compact(some_runs, ARRAY_LEN(some_runs), 0, touching, ARRAY_LEN(touching));
    expect_compact(some_runs, ARRAY_LEN(some_runs), 1, near, ARRAY_LEN(near));
    expect_compact(some_runs, ARRAY_LEN(some_runs), 23, near, ARRAY_LEN(near));
    expect_compact(some_runs, ARRAY_LEN(some_runs), 46, (struct page_run[]){ { 0, 3 }, { 50, 50 } }, 2);
    expect_compact(some_runs, ARRAY_LEN(some_runs), 47, all, 1);
    expect_compact(some_runs, ARRAY_LEN(some_runs), UINT32_MAX, all, 1);
    expect_compact(NULL, 0, 32, NULL, 0);
    /* One inside the other, and the same twice. */
    expect_compact((struct page_run[]){ { 5, 2 }, { 0, 100 }, { 5, 2 } }, 3, 0, all, 1);
    /* The largest RAM's last page, and all of its pages, which no count can hold. */
    expect_compact((struct page_run[]){ { UINT32_MAX, 1 }, { 0, UINT32_MAX } }, 2, 0,
                   (struct page_run[]){ { 0, UINT32_MAX }, { UINT32_MAX, 1 } }, 2);
    expect_compact((struct page_run[]){ { 9, 1 }, { 1 << 24, UINT32_MAX - (1 << 24) + 1 }, { 1 << 25, 7 }, { 0, UINT32_MAX } }, 4, 0,
                   (struct page_run[]){ { 0, UINT32_MAX }, { UINT32_MAX, 1 } }, 2);
}
END_TEST

START_TEST(nothing_to_release_is_fine)
{
    struct working_set set = { 0 };
    working_set_clear(&set);
    memory_index_free(NULL);
    stream_sum_free(NULL);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, ram_sizes);
    tcase_add_test(tc, zero_pages);
    tcase_add_test(tc, sums_are_those_of_xxh3);
    tcase_add_test(tc, index_holds_what_was_set);
    tcase_add_test(tc, index_runs);
    tcase_add_test(tc, index_is_read_back);
    tcase_add_test(tc, index_looks_as_documented);
    tcase_add_test(tc, every_bit_of_an_index_counts);
    tcase_add_test(tc, sound_sums_of_nonsense);
    tcase_add_test(tc, working_set_is_read_back);
    tcase_add_test(tc, every_bit_of_a_working_set_counts);
    tcase_add_test(tc, working_set_refuses);
    tcase_add_test(tc, compact);
    tcase_add_test(tc, nothing_to_release_is_fine);
}

int main(void) { return fixture_main("memory_image", add_tests); }
