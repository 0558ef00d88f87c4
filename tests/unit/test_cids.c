#include "lib/manager/cids.h"

#include "tests/unit/fixture.h"

static struct cids *open_cids(char **ret_aside)
{
    struct cids *c = NULL;

    ck_assert_int_eq(cids_new(fixture.dir, &c, ret_aside, NULL), 0);
    return c;
}

static uint32_t get(struct cids *c, const char *name)
{
    uint32_t cid = 0;

    ck_assert_int_eq(cids_get(c, name, &cid), 0);
    return cid;
}

START_TEST(stable)
{
    auto_free char *aside = NULL;
    struct cids *c = open_cids(&aside);

    ck_assert_uint_eq(get(c, "a"), CID_FIRST);
    ck_assert_uint_eq(get(c, "b"), CID_FIRST + 1);
    ck_assert_uint_eq(get(c, "a"), CID_FIRST);
    cids_free(c);

    c = open_cids(&aside);
    ck_assert_uint_eq(get(c, "b"), CID_FIRST + 1);
    ck_assert_int_eq(cids_drop(c, "a"), 0);
    ck_assert_int_eq(cids_drop(c, "a"), 0);
    ck_assert_uint_eq(get(c, "b"), CID_FIRST + 1);
    ck_assert_uint_eq(get(c, "c"), CID_FIRST);
    cids_free(c);
    ck_assert_ptr_null(aside);
}
END_TEST

static const char *const bad[] = {
    "{",
    "[]",
    "{\"schema\":1}",
    "{\"schema\":2,\"cids\":{}}",
    "{\"schema\":1,\"cids\":{\"a\":2}}",
    "{\"schema\":1,\"cids\":{\"a\":\"3\"}}",
    "{\"schema\":1,\"cids\":{\"../a\":3}}",
};

START_TEST(set_aside)
{
    auto_free char *aside = NULL;
    struct cids *c;

    fixture_write("allocations.json", bad[_i]);
    c = open_cids(&aside);
    ck_assert_str_eq(aside, "allocations.json.corrupt-1");
    fixture_assert_content(aside, bad[_i]);
    ck_assert_uint_eq(get(c, "a"), CID_FIRST);
    cids_free(c);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, stable);
    tcase_add_loop_test(tc, set_aside, 0, ARRAY_LEN(bad));
}

int main(void) { return fixture_main("cids", add_tests); }
