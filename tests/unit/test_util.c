#include "lib/base/util.h"

#include <check.h>
#include <jansson.h>

static const struct {
    const char *in, *out;
} texts[] = {
    { "", "" },
    { "plain", "plain" },
    { "Gr\xc3\xbc\xc3\x9f", "Gr\xc3\xbc\xc3\x9f" },
    { "\xe2\x82\xac \xf0\x9f\x90\x8b", "\xe2\x82\xac \xf0\x9f\x90\x8b" },
    { "cut \xc3", "cut ?" },
    { "cut \xe2\x82", "cut ??" },
    { "cut \xf0\x9f\x90", "cut ???" },
    { "lone \x80 and \xbf", "lone ? and ?" },
    { "overlong \xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf", "overlong ?? ??? ????" },
    { "surrogate \xed\xa0\x80", "surrogate ???" },
    { "beyond \xf4\x90\x80\x80 \xf5\x80\x80\x80", "beyond ???? ????" },
    { "latin \xe4\xf6\xfc.", "latin ???." },
};

START_TEST(utf8_is_clean_and_json_takes_it)
{
    char *s = strdup(texts[_i].in);
    json_t *json;

    utf8_clean(s);
    ck_assert_str_eq(s, texts[_i].out);
    json = json_string(s);
    ck_assert_ptr_nonnull(json);
    json_decref(json);
    free(s);
}
END_TEST

START_TEST(every_pair_of_bytes_becomes_json)
{
    for (int a = 1; a < 256; a++) {
        for (int b = 1; b < 256; b++) {
            char s[] = { (char)a, (char)b, (char)0xbf, '\0' };
            json_t *json;

            utf8_clean(s);
            json = json_string(s);
            ck_assert_ptr_nonnull(json);
            json_decref(json);
        }
    }
}
END_TEST

START_TEST(hash_of_pieces_is_hash_of_the_whole)
{
    uint64_t whole = hash_bytes(HASH_BEGIN, "holdfast", 8);

    ck_assert(whole == hash_bytes(hash_bytes(HASH_BEGIN, "hold", 4), "fast", 4));
    ck_assert(whole != hash_bytes(HASH_BEGIN, "holdfasu", 8));
    ck_assert(hash_bytes(HASH_BEGIN, "", 0) == HASH_BEGIN);
    ck_assert(hash_bytes(HASH_BEGIN, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c)); /* from the reference vectors */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("util");
    TCase *t = tcase_create("util");
    SRunner *r;
    int failed;

    tcase_add_loop_test(t, utf8_is_clean_and_json_takes_it, 0, (int)ARRAY_LEN(texts));
    tcase_add_test(t, every_pair_of_bytes_becomes_json);
    tcase_add_test(t, hash_of_pieces_is_hash_of_the_whole);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
