#include "lib/base/strv.h"

#include "tests/unit/fixture.h"

START_TEST(grows_and_stays_ended)
{
    auto_strv struct strv v = { 0 };
    ck_assert_ptr_nonnull(strv_argv(&v));
    ck_assert_ptr_null(strv_argv(&v)[0]);
    for (int i = 0; i < 1000; i++) {
        strv_pushf(&v, "item-%d", i);
        ck_assert_uint_eq(v.n, (size_t)i + 1);
        ck_assert_ptr_null(v.items[v.n]);
    }
    strv_push(&v, "last");
    ck_assert(!v.failed);
    ck_assert_str_eq(v.items[0], "item-0");
    ck_assert_str_eq(v.items[999], "item-999");
    ck_assert_str_eq(strv_argv(&v)[1000], "last");
    strv_clear(&v);
    ck_assert_ptr_null(v.items);
    ck_assert_uint_eq(v.n, 0);
}
END_TEST

START_TEST(a_failed_push_is_remembered)
{
    auto_strv struct strv v = { 0 };
    strv_push(&v, "a");
    strv_push(&v, NULL);
    ck_assert(v.failed);
    strv_push(&v, "b");
    ck_assert_uint_eq(v.n, 1);
    ck_assert(v.failed);
    strv_clear(&v);
    ck_assert(!v.failed);
}
END_TEST

START_TEST(shell_words)
{
    char *const argv[] = {
        (char[]){ "/usr/bin/qemu" }, (char[]){ "" }, (char[]){ "a b" }, (char[]){ "it's" }, (char[]){ "$HOME" },
        (char[]){ "x=1,y:2" },       NULL,
    };
    auto_free char *text = strv_to_shell(argv);
    ck_assert_str_eq(text, "/usr/bin/qemu '' 'a b' 'it'\\''s' '$HOME' x=1,y:2");
    char *const control[] = { (char[]){ "a\nb\\'" }, (char[]){ "ü" }, NULL };
    auto_free char *line = strv_to_shell(control);
    ck_assert_str_eq(line, "$'a\\012b\\\\\\'' 'ü'");
    char *const none[] = { NULL };
    auto_free char *empty = strv_to_shell(none);
    ck_assert_str_eq(empty, "");
    auto_free char *null = strv_to_shell(NULL);
    ck_assert_str_eq(null, "");
}
END_TEST

START_TEST(strings)
{
    char *s = NULL;
    ck_assert_int_eq(str_set(&s, "one"), 0);
    ck_assert_str_eq(s, "one");
    ck_assert_int_eq(str_set(&s, s), 0); /* its own value */
    ck_assert_str_eq(s, "one");
    ck_assert_int_eq(str_set(&s, NULL), 0);
    ck_assert_ptr_null(s);
    ck_assert_int_eq(str_format(&s, "%s-%d", "x", 7), 0);
    ck_assert_str_eq(s, "x-7");
    char *moved = steal_ptr(&s);
    ck_assert_ptr_null(s);
    free(moved);
    ck_assert(streq_opt(NULL, NULL) && !streq_opt("a", NULL) && !streq_opt(NULL, "a") && streq_opt("a", "a"));
    ck_assert(has_prefix("abc", "ab") && has_prefix("abc", "") && !has_prefix("a", "ab"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, grows_and_stays_ended);
    tcase_add_test(tc, a_failed_push_is_remembered);
    tcase_add_test(tc, shell_words);
    tcase_add_test(tc, strings);
}

int main(void) { return fixture_main("strv", add_tests); }
