#include "lib/base/map.h"

#include "tests/unit/fixture.h"

START_TEST(put_get_remove)
{
    auto_map struct map *m = NULL;
    ck_assert_int_eq(map_new(&m), 0);
    int one = 1, two = 2;
    char key[] = "web";
    ck_assert_int_eq(map_put(m, key, &one), 0);
    key[0] = 'x'; /* the map has its own copy */
    ck_assert_ptr_eq(map_get(m, "web"), &one);
    ck_assert_ptr_null(map_get(m, "xeb"));
    ck_assert_int_eq(map_put(m, "web", &two), -EEXIST);
    ck_assert_ptr_eq(map_get(m, "web"), &one);
    ck_assert_int_eq(map_put(m, "null", NULL), -EINVAL);
    ck_assert_int_eq(map_put(m, "", &two), 0);
    ck_assert_uint_eq(map_len(m), 2);
    ck_assert_ptr_eq(map_remove(m, "web"), &one);
    ck_assert_ptr_null(map_remove(m, "web"));
    ck_assert_ptr_eq(map_get(m, ""), &two);
    ck_assert_uint_eq(map_len(m), 1);
}
END_TEST

START_TEST(iterates_in_order_of_insertion)
{
    auto_map struct map *m = NULL;
    ck_assert_int_eq(map_new(&m), 0);
    static int values[500];
    for (int i = 0; i < 500; i++) {
        char key[16];
        snprintf(key, sizeof(key), "vm-%d", (i * 7) % 500);
        ck_assert_int_eq(map_put(m, key, &values[i]), 0);
    }
    int i = 0;
    map_foreach (m, e) {
        char key[16];
        snprintf(key, sizeof(key), "vm-%d", (i * 7) % 500);
        ck_assert_str_eq(map_key(e), key);
        ck_assert_ptr_eq(map_value(e), &values[i]);
        i++;
    }
    ck_assert_int_eq(i, 500);
}
END_TEST

START_TEST(current_entry_may_be_removed)
{
    auto_map struct map *m = NULL;
    ck_assert_int_eq(map_new(&m), 0);
    int value = 0, seen = 0;
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%d", i);
        ck_assert_int_eq(map_put(m, key, &value), 0);
    }
    map_foreach (m, e) {
        if (seen++ % 2 == 0)
            map_remove(m, map_key(e));
    }
    ck_assert_int_eq(seen, 100);
    ck_assert_uint_eq(map_len(m), 50);
    ck_assert_ptr_null(map_get(m, "0"));
    ck_assert_ptr_eq(map_get(m, "99"), &value);
    map_foreach (m, e)
        map_remove(m, map_key(e));
    ck_assert_uint_eq(map_len(m), 0);
    ck_assert_ptr_null(map_first(m));
    map_foreach (m, e)
        ck_abort_msg("an empty map has no entries");
}
END_TEST

START_TEST(free_takes_null) { map_free(NULL); }
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, put_get_remove);
    tcase_add_test(tc, iterates_in_order_of_insertion);
    tcase_add_test(tc, current_entry_may_be_removed);
    tcase_add_test(tc, free_takes_null);
}

int main(void) { return fixture_main("map", add_tests); }
