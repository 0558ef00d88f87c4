/* allocations.json: what is given is on disk, whatever happens to the disk, from however many threads, by whichever manager. */
#include <pthread.h>
#include <sys/stat.h>

#include "tests/unit/allocations_fixture.h"

/* A write that fails: nobody hears of what isn't on disk, and nothing is given twice for it. */
START_TEST(no_disk)
{
    auto_free char *aside = NULL;
    auto_spec struct spec one = { 0 }, two = { 0 };
    struct allocations *a = open_allocations(&aside);

    ck_assert_int_eq(mkdirat(fixture.dir, "allocations.json", 0700), 0); /* in the way of the rename, for root as well */
    load("a", "\"vsock\": {}", &one);
    ck_assert_int_eq(allocations_give(a, &one, &range, NULL), 0);
    ck_assert_int_lt(allocations_commit(a), 0);
    ck_assert_int_lt(allocations_commit(a), 0);
    load("b", "\"vsock\": {}", &two);
    ck_assert_int_eq(allocations_give(a, &two, &range, NULL), 0);
    ck_assert_uint_ne(one.vsock.cid, two.vsock.cid);
    ck_assert_int_eq(unlinkat(fixture.dir, "allocations.json", AT_REMOVEDIR), 0);
    ck_assert_int_eq(allocations_commit(a), 0);
    allocations_free(a);
    a = open_allocations(&aside);
    ck_assert_uint_eq(cid_of(a, "a"), one.vsock.cid);
    ck_assert_uint_eq(cid_of(a, "b"), two.vsock.cid);
    allocations_free(a);
}
END_TEST

enum { THREADS = 8, PER_THREAD = 25 };

struct crowd {
    struct allocations *allocations;
    int first;
    uint64_t cids[PER_THREAD];
};

static void *take_many(void *arg)
{
    struct crowd *c = arg;

    for (int i = 0; i < PER_THREAD; i++) {
        struct spec spec = { .vsock.wanted = true };

        if (str_format(&spec.name, "vm%d", c->first + i) < 0 || allocations_give(c->allocations, &spec, &range, NULL) < 0 ||
            allocations_commit(c->allocations) < 0)
            return arg;
        c->cids[i] = spec.vsock.cid;
        spec_clear(&spec);
    }
    return NULL;
}

/* From many threads at once, and each on disk when its commit returns. */
START_TEST(a_crowd)
{
    auto_free char *aside = NULL;
    struct allocations *a = open_allocations(&aside);
    struct crowd crowd[THREADS];
    bool seen[THREADS * PER_THREAD] = { false };
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        crowd[i] = (struct crowd){ .allocations = a, .first = i * PER_THREAD };
        ck_assert_int_eq(pthread_create(&threads[i], NULL, take_many, &crowd[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed = NULL;

        ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
        ck_assert_ptr_null(failed);
    }
    allocations_free(a);
    a = open_allocations(&aside);
    for (int i = 0; i < THREADS * PER_THREAD; i++) {
        uint64_t cid = crowd[i / PER_THREAD].cids[i % PER_THREAD];
        char name[16];

        ck_assert_uint_lt(cid - CID_FIRST, ARRAY_LEN(seen));
        ck_assert(!seen[cid - CID_FIRST]);
        seen[cid - CID_FIRST] = true;
        snprintf(name, sizeof name, "vm%d", i);
        ck_assert_uint_eq(cid_of(a, name), cid);
    }
    allocations_free(a);
}
END_TEST

/* As a manager of 0.1 wrote it; and what it knows of is where it looks for it. */
START_TEST(of_an_older_manager)
{
    auto_free char *aside = NULL, *text = NULL;
    auto_json json_t *json = NULL;
    struct allocations *a;
    size_t len;

    fixture_write("allocations.json", "{\"schema\":1,\"cids\":{\"a\":7,\"b\":3}}");
    a = open_allocations(&aside);
    ck_assert_uint_eq(cid_of(a, "a"), 7);
    ck_assert_uint_eq(cid_of(a, "c"), 4);
    started(a, "b", "\"vsock\": {}, " PORT("23008"));
    allocations_free(a);
    ck_assert_int_eq(file_read(fixture.dir, "allocations.json", 1 << 20, &text, &len), 0);
    ck_assert_int_eq(json_parse(text, len, &json, NULL), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "schema")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(json, "cids"), "a")), 7);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(json, "cids"), "b")), 3);
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
    "{\"schema\":1,\"cids\":{},\"vms\":[]}",
    "{\"schema\":1,\"cids\":{\"a\":9},\"vms\":{\"a\":1}}",
    "{\"schema\":1,\"cids\":{\"a\":9},\"vms\":{\"a\":{\"held\":3}}}",
    "{\"schema\":1,\"cids\":{},\"vms\":{\"../a\":{}}}",
    "{\"schema\":1,\"cids\":{},\"vms\":{\"a\":{\"given\":{\"ports\":[{\"host\":\"x\",\"proto\":\"tcp\"}]}}}}",
    "{\"schema\":1,\"cids\":{},\"vms\":{\"a\":{\"given\":{\"ports\":[{\"host\":\"1.2.3.4:5\",\"proto\":\"sctp\"}]}}}}",
};

START_TEST(set_aside)
{
    auto_free char *aside = NULL;
    struct allocations *a;

    fixture_write("allocations.json", bad[_i]);
    a = open_allocations(&aside);
    ck_assert_str_eq(aside, "allocations.json.corrupt-1");
    fixture_assert_content(aside, bad[_i]);
    ck_assert_uint_eq(cid_of(a, "a"), CID_FIRST);
    allocations_free(a);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, no_disk);
    tcase_add_test(tc, a_crowd);
    tcase_add_test(tc, of_an_older_manager);
    tcase_add_loop_test(tc, set_aside, 0, ARRAY_LEN(bad));
}

int main(void) { return fixture_main("allocations_file", add_tests); }
