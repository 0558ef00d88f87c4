#include "lib/base/err.h"

#include "tests/unit/fixture.h"

START_TEST(set_fills_and_returns_minus_code)
{
    struct err err = ERR_INIT;
    ck_assert(!err_is_set(&err));
    ck_assert_int_eq(err_set(&err, ENOENT, "no-kernel", "disk %d: %s", 3, "gone"), -ENOENT);
    ck_assert(err_is_set(&err));
    ck_assert_int_eq(err.code, ENOENT);
    ck_assert_str_eq(err.id, "no-kernel");
    ck_assert_str_eq(err.text, "disk 3: gone");
}
END_TEST

START_TEST(null_is_allowed)
{
    ck_assert_int_eq(err_set(NULL, EIO, "x", "text"), -EIO);
    ck_assert_int_eq(err_set_errno(NULL, EIO, "x", "text"), -EIO);
    err_prefix(NULL, "prefix");
    ck_assert_int_eq(err_from(NULL, -EIO, "what"), -EIO);
    ck_assert(!err_is_set(NULL));
}
END_TEST

START_TEST(set_errno_adds_words)
{
    struct err err = ERR_INIT;
    ck_assert_int_eq(err_set_errno(&err, EACCES, "folder", "cannot open %s", "/x"), -EACCES);
    ck_assert_str_eq(err.text, "cannot open /x: Permission denied");
}
END_TEST

START_TEST(prefix_goes_in_front)
{
    struct err err = ERR_INIT;
    err_prefix(&err, "nothing to prefix");
    ck_assert_str_eq(err.text, "");
    err_set(&err, EINVAL, "bad-spec", "no memory");
    err_prefix(&err, "vm %s", "web");
    ck_assert_str_eq(err.text, "vm web: no memory");
    ck_assert_str_eq(err.id, "bad-spec");
    ck_assert_int_eq(err.code, EINVAL);
}
END_TEST

START_TEST(own_text_may_be_an_argument)
{
    struct err err = ERR_INIT;
    err_set(&err, EINVAL, "first", "inner");
    err_set(&err, EIO, err.id, "outer (%s)", err.text);
    ck_assert_str_eq(err.text, "outer (inner)");
    ck_assert_str_eq(err.id, "first");
}
END_TEST

START_TEST(long_text_is_cut_visibly_and_stays_utf8)
{
    struct err err = ERR_INIT;
    for (int shift = 0; shift < 3; shift++) {
        char text[2 * ERR_TEXT_MAX] = "";
        size_t len = 0;
        for (int i = 0; i < shift; i++)
            text[len++] = 'a';
        while (len + 2 < sizeof(text)) {
            text[len++] = '\xc3'; /* ü */
            text[len++] = '\xbc';
        }
        err_set(&err, EINVAL, "long", "%s", text);
        size_t got = strlen(err.text);
        ck_assert_uint_lt(got, ERR_TEXT_MAX);
        ck_assert_uint_gt(got, ERR_TEXT_MAX - 8);
        ck_assert_str_eq(err.text + got - 3, "…");
        /* What is left of the text before the mark is whole characters. */
        ck_assert_uint_eq((got - 3 - (size_t)shift) % 2, 0);
    }
    err_prefix(&err, "%0600d", 0);
    ck_assert_uint_lt(strlen(err.text), ERR_TEXT_MAX);
}
END_TEST

START_TEST(text_is_one_line)
{
    struct err err = ERR_INIT;
    err_set(&err, EINVAL, "x", "a\nb\tc\x1b[0m");
    ck_assert_str_eq(err.text, "a b c [0m");
}
END_TEST

START_TEST(nonsense_code_is_still_a_failure)
{
    struct err err = ERR_INIT;
    ck_assert_int_lt(err_set(&err, 0, "x", "text"), 0);
    ck_assert(err_is_set(&err));
    ck_assert_int_lt(err_set(&err, -EIO, NULL, "text"), 0);
    ck_assert_int_gt(err.code, 0);
}
END_TEST

START_TEST(from_keeps_what_is_set)
{
    struct err err = ERR_INIT;
    ck_assert_int_eq(err_from(&err, 7, "what"), 7);
    ck_assert(!err_is_set(&err));
    ck_assert_int_eq(err_from(&err, -ENOSPC, "cannot save"), -ENOSPC);
    ck_assert_str_eq(err.text, "cannot save: No space left on device");
    ck_assert_int_eq(err_from(&err, -EIO, "other"), -EIO);
    ck_assert_str_eq(err.text, "cannot save: No space left on device");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, set_fills_and_returns_minus_code);
    tcase_add_test(tc, null_is_allowed);
    tcase_add_test(tc, set_errno_adds_words);
    tcase_add_test(tc, prefix_goes_in_front);
    tcase_add_test(tc, own_text_may_be_an_argument);
    tcase_add_test(tc, long_text_is_cut_visibly_and_stays_utf8);
    tcase_add_test(tc, text_is_one_line);
    tcase_add_test(tc, nonsense_code_is_still_a_failure);
    tcase_add_test(tc, from_keeps_what_is_set);
}

int main(void) { return fixture_main("err", add_tests); }
