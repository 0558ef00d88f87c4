#include "lib/manager/event_log.h"

#include <sys/stat.h>

#include "lib/base/json.h"
#include "proto/launch.h"
#include "tests/unit/fixture.h"

static void append(uint64_t seq, const char *text)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "{\"seq\":%llu,\"text\":\"%s\"}", (unsigned long long)seq, text);

    ck_assert_int_eq(event_log_append(fixture.dir, line, (size_t)n), 0);
}

static uint64_t newest(void)
{
    uint64_t seq = 77;

    ck_assert_int_eq(event_log_newest(fixture.dir, FILE_EVENTS, &seq), 0);
    return seq;
}

struct seen {
    uint64_t first, last;
    size_t n;
};

static void each(void *arg, json_t *event)
{
    struct seen *seen = arg;

    seen->last = (uint64_t)json_integer_value(json_object_get(event, "seq"));
    if (seen->n++ == 0)
        seen->first = seen->last;
}

static struct seen read_since(uint64_t since)
{
    struct seen seen = { 0 };

    ck_assert_int_eq(event_log_read(fixture.dir, FILE_EVENTS, since, each, &seen), 0);
    return seen;
}

START_TEST(empty_and_missing)
{
    ck_assert_uint_eq(newest(), 0);
    ck_assert_uint_eq(read_since(0).n, 0);
    fixture_write(FILE_EVENTS, "");
    ck_assert_uint_eq(newest(), 0);
    ck_assert_uint_eq(read_since(0).n, 0);
}
END_TEST

START_TEST(append_and_read)
{
    append(1, "a");
    append(2, "b");
    append(5, "c");
    fixture_assert_content(FILE_EVENTS, "{\"seq\":1,\"text\":\"a\"}\n{\"seq\":2,\"text\":\"b\"}\n{\"seq\":5,\"text\":\"c\"}\n");
    ck_assert_uint_eq(newest(), 5);
    ck_assert_uint_eq(read_since(0).n, 3);
    ck_assert_uint_eq(read_since(1).first, 2);
    ck_assert_uint_eq(read_since(2).n, 1);
    ck_assert_uint_eq(read_since(5).n, 0);
}
END_TEST

/* A crash in the middle of a line: the line is passed over, and the next one isn't glued to it. */
START_TEST(unfinished_line)
{
    fixture_write(FILE_EVENTS, "{\"seq\":1}\n{\"seq\":2,\"tex");
    ck_assert_uint_eq(newest(), 1);
    ck_assert_uint_eq(read_since(0).n, 1);
    append(3, "x");
    ck_assert_uint_eq(newest(), 3);
    ck_assert_uint_eq(read_since(0).n, 2);
}
END_TEST

START_TEST(garbage)
{
    fixture_write(FILE_EVENTS, "\n\nnot json\n{\"seq\":\"7\"}\n{\"seq\":-3}\n[1]\n{\"seq\":4}\n{\"text\":\"no number\"}\n{]\n");
    ck_assert_uint_eq(newest(), 4);
    ck_assert_uint_eq(read_since(0).n, 1);
}
END_TEST

/* The last line is longer than what is looked at first. */
START_TEST(long_last_line)
{
    size_t len = 100 * 1024;
    auto_free char *line = malloc(len + 64);
    int n = snprintf(line, 64, "{\"seq\":9,\"text\":\"");

    append(8, "short");
    memset(line + n, 'x', len);
    memcpy(line + n + len, "\"}", 2);
    ck_assert_int_eq(event_log_append(fixture.dir, line, (size_t)n + len + 2), 0);
    ck_assert_uint_eq(newest(), 9);
}
END_TEST

/* It never grows beyond its limit, loses the older half at a time, and what stays is whole and without a hole. */
START_TEST(capped)
{
    char text[201];
    uint64_t seq = 0, cuts = 0;
    off_t before = 0;
    struct stat st;
    struct seen seen;

    memset(text, 'x', 200);
    text[200] = '\0';
    while (cuts < 2) {
        append(++seq, text);
        ck_assert_int_eq(fstatat(fixture.dir, FILE_EVENTS, &st, 0), 0);
        ck_assert_int_le(st.st_size, EVENT_LOG_MAX);
        cuts += st.st_size < before;
        before = st.st_size;
    }
    seen = read_since(0);
    ck_assert_uint_eq(seen.last, seq);
    ck_assert_uint_eq(seen.last - seen.first + 1, seen.n);
    ck_assert_uint_gt(seen.n, 1000);
    ck_assert_uint_eq(newest(), seq);
}
END_TEST

START_TEST(not_a_file)
{
    uint64_t seq;

    ck_assert_int_eq(mkdirat(fixture.dir, FILE_EVENTS, 0700), 0);
    ck_assert_int_lt(event_log_append(fixture.dir, "{}", 2), 0);
    ck_assert_int_lt(event_log_newest(fixture.dir, FILE_EVENTS, &seq), 0);
    ck_assert_int_eq(unlinkat(fixture.dir, FILE_EVENTS, AT_REMOVEDIR), 0);
    ck_assert_int_eq(symlinkat("elsewhere", fixture.dir, FILE_EVENTS), 0);
    ck_assert_int_lt(event_log_append(fixture.dir, "{}", 2), 0);
    ck_assert(!fixture_exists("elsewhere"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, empty_and_missing);
    tcase_add_test(tc, append_and_read);
    tcase_add_test(tc, unfinished_line);
    tcase_add_test(tc, garbage);
    tcase_add_test(tc, long_last_line);
    tcase_add_test(tc, capped);
    tcase_add_test(tc, not_a_file);
}

int main(void) { return fixture_main("event_log", add_tests); }
