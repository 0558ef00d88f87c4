#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"
#include "lib/spec/spec.h"
#include "proto/plan.h"

static void collect(void *arg, const struct err *err)
{
    ck_assert_str_eq(err->id, "bad-spec");
    strv_push(arg, err->text);
}

static json_t *load(const char *text)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;

    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s", err.text);
    return json;
}

/* Number of mistakes; their texts in `ret`. */
static int parse(const char *text, struct spec *spec, struct strv *ret)
{
    auto_json json_t *json = load(text);
    return spec_parse(json, collect, ret, spec);
}

#define MINIMAL "\"name\": \"x\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"/k\"}"

START_TEST(defaults)
{
    auto_spec struct spec spec = { 0 };
    auto_strv struct strv errors = { 0 };

    ck_assert_int_eq(
        parse("{" MINIMAL
              ", \"network\": [{\"forward\": [{\"host\": \"80\", \"guest\": 80}]}], \"health\": [{\"type\": \"http\", \"port\": 80}]}",
              &spec, &errors),
        0);
    ck_assert_str_eq(spec.name, "x");
    ck_assert_uint_eq(spec.memory, UINT64_C(1) << 30);
    ck_assert(spec.enabled);
    ck_assert_uint_eq(spec.cpus, 1);
    ck_assert_int_eq(spec.accel, ACCEL_AUTO);
    ck_assert_ptr_null(spec.boot.cmdline);
    ck_assert(!spec.vsock.wanted);
    ck_assert_int_eq(spec.restart.policy, RESTART_ON_FAILURE);
    ck_assert_uint_eq(spec.restart.delay_ms, 1000);
    ck_assert_uint_eq(spec.restart.max_delay_ms, 60000);
    ck_assert_uint_eq(spec.restart.max_attempts, 5);
    ck_assert_uint_eq(spec.restart.reset_after_ms, 300000);
    ck_assert_uint_eq(spec.stop.timeout_ms, 60000);
    ck_assert_uint_eq(spec.logs.max_size, 16 << 20);
    ck_assert_uint_eq(spec.logs.keep, 3);
    ck_assert_int_eq(spec.network[0].mode, NETWORK_USER);
    ck_assert_str_eq(spec.network[0].forward[0].proto, "tcp");
    ck_assert_str_eq(spec.health[0].host, "127.0.0.1");
    ck_assert_str_eq(spec.health[0].path, "/");
    ck_assert_uint_eq(spec.health[0].interval_ms, 10000);
    ck_assert_uint_eq(spec.health[0].retries, 3);
    ck_assert_int_eq(spec.health[0].action, HEALTH_ACTION_NONE);
}
END_TEST

START_TEST(mac_is_written_in_one_way)
{
    auto_spec struct spec spec = { 0 };
    auto_strv struct strv errors = { 0 };

    ck_assert_int_eq(parse("{" MINIMAL ", \"network\": [{\"mac\": \"52:54:00:AB:CD:EF\"}]}", &spec, &errors), 0);
    ck_assert_str_eq(spec.network[0].mac, "52:54:00:ab:cd:ef");
}
END_TEST

START_TEST(vsock_is_wanted_by_being_there)
{
    static const struct {
        const char *text;
        bool wanted;
        uint64_t cid;
    } cases[] = {
        { "{" MINIMAL "}", false, 0 },
        { "{" MINIMAL ", \"vsock\": null}", false, 0 },
        { "{" MINIMAL ", \"vsock\": {}}", true, 0 },
        { "{" MINIMAL ", \"vsock\": {\"cid\": \"auto\"}}", true, 0 },
        { "{" MINIMAL ", \"vsock\": {\"cid\": 3}}", true, 3 },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_spec struct spec spec = { 0 };
        auto_strv struct strv errors = { 0 };
        auto_json json_t *emitted = NULL;

        ck_assert_int_eq(parse(cases[i].text, &spec, &errors), 0);
        ck_assert_int_eq(spec.vsock.wanted, cases[i].wanted);
        ck_assert_uint_eq(spec.vsock.cid, cases[i].cid);
        ck_assert_int_eq(spec_emit(&spec, &emitted), 0);
        ck_assert_int_eq(json_object_get(emitted, "vsock") != NULL, cases[i].wanted);
    }
}
END_TEST

START_TEST(all_mistakes_at_once)
{
    struct spec spec = { .cpus = 77 };
    auto_strv struct strv errors = { 0 };
    int n = parse(
        "{\"name\": \"..\", \"memory\": \"1\", \"cpus\": 0, \"disks\": [{\"size\": 20}], \"network\": [{\"forwrd\": []}], \"stop\": 1}",
        &spec, &errors);

    ck_assert_int_eq(n, (int)errors.n);
    ck_assert_int_ge(n, 6);
    ck_assert_uint_eq(spec.cpus, 77); /* untouched */
    static const char *const places[] = {
        "/name: ", "/memory: ", "/cpus: ", "/disks/0/size: ", "/network/0/forwrd: unknown key", "/stop: "
    };
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        int found = 0;
        for (size_t k = 0; k < errors.n; k++)
            found += has_prefix(errors.items[k], places[i]);
        ck_assert_msg(found == 1, "%s reported %d times", places[i], found);
    }
}
END_TEST

START_TEST(what_cannot_be_read_is_reported_once)
{
    struct spec spec = { 0 };
    auto_strv struct strv errors = { 0 };

    ck_assert_int_eq(parse("{\"name\": \"x\", \"memory\": 5, \"disks\": 1}", &spec, &errors), 2);
    ck_assert(has_prefix(errors.items[0], "/memory: "));
    ck_assert(has_prefix(errors.items[1], "/disks: "));
}
END_TEST

START_TEST(errors_are_one_line_without_control_characters)
{
    struct spec spec = { 0 };
    auto_strv struct strv errors = { 0 };

    ck_assert_int_eq(
        parse("{\"name\": \"a\\n\\u001b[31m\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"/k\"}, \"k\\ney\": 1}", &spec, &errors), 2);
    for (size_t i = 0; i < errors.n; i++)
        ck_assert_ptr_null(strpbrk(errors.items[i], "\n\033"));
}
END_TEST

START_TEST(nobody_need_listen)
{
    struct spec spec = { 0 };
    auto_json json_t *empty = json_object(), *number = json_integer(1);

    ck_assert_int_eq(spec_parse(empty, NULL, NULL, &spec), 3); /* name, memory, something to boot */
    ck_assert_int_eq(spec_parse(number, NULL, NULL, &spec), 1);
    ck_assert_int_lt(spec_parse(NULL, NULL, NULL, &spec), 0);
}
END_TEST

START_TEST(parsing_leaves_the_json_alone)
{
    auto_json json_t *json = load("{" MINIMAL ", \"confidential\": \"none\"}");
    auto_json json_t *before = json_deep_copy(json);
    auto_spec struct spec spec = { 0 };

    ck_assert_int_eq(spec_parse(json, NULL, NULL, &spec), 0);
    ck_assert(json_equal(json, before));
}
END_TEST

START_TEST(emit_is_stable)
{
    auto_spec struct spec spec = { 0 }, again = { 0 };
    auto_strv struct strv errors = { 0 };
    auto_json json_t *first = NULL, *second = NULL;

    ck_assert_int_eq(
        parse("{" MINIMAL
              ", \"disks\": [{\"name\": \"a\", \"size\": \"1G\"}, {\"path\": \"/d\"}], \"qemu\": {\"extra_args\": [\"-no-reboot\"]}}",
              &spec, &errors),
        0);
    ck_assert_int_eq(spec_emit(&spec, &first), 0);
    ck_assert_int_eq(spec_parse(first, collect, &errors, &again), 0);
    ck_assert_int_eq(spec_emit(&again, &second), 0);
    ck_assert(json_equal(first, second));
    ck_assert_str_eq(json_string_value(json_object_get(first, "memory")), "1G");
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(first, "restart"), "max_delay")), "1m");
}
END_TEST

static char folder[] = "/tmp/test_spec.XXXXXX";

static void make_folder(void) { ck_assert_ptr_nonnull(mkdtemp(folder)); }

static void remove_folder(void) { dir_remove_tree(AT_FDCWD, folder); }

static int check_host(const char *boot, const char *rest, struct strv *errors)
{
    auto_spec struct spec spec = { 0 };
    auto_free char *text = NULL;

    ck_assert_int_eq(str_format(&text, "{\"name\": \"x\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"%s/%s\"}%s}", folder, boot, rest),
                     0);
    ck_assert_int_eq(parse(text, &spec, errors), 0);
    return spec_check_host(&spec, collect, errors);
}

START_TEST(host_has_what_is_named)
{
    auto_strv struct strv errors = { 0 };

    auto_fd int dirfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(file_write(dirfd, "kernel", "k", 1, 0600, FILE_ATOMIC), 0);
    ck_assert_int_eq(
        check_host("kernel", ", \"network\": [{\"mode\": \"tap\", \"ifname\": \"lo\"}], \"qemu\": {\"path\": \"/bin/sh\"}", &errors), 0);
    ck_assert_uint_eq(errors.n, 0);
}
END_TEST

START_TEST(host_lacks_what_is_named)
{
    auto_strv struct strv errors = { 0 };
    int n = check_host(
        "missing",
        ", \"disks\": [{\"path\": \"/nowhere/d\"}, {\"path\": \"/proc\", \"readonly\": true}, {\"name\": \"own\", \"size\": \"1G\"}],"
        " \"network\": [{}, {\"mode\": \"tap\", \"ifname\": \"no-such-tap\"}], \"qemu\": {\"path\": \"/etc/passwd\"}",
        &errors);

    ck_assert_int_eq(n, 5);
    ck_assert(has_prefix(errors.items[0], "/boot/kernel: '/tmp/test_spec."));
    ck_assert(has_prefix(errors.items[1], "/qemu/path: '/etc/passwd' can't be executed"));
    ck_assert(has_prefix(errors.items[2], "/disks/0/path: '/nowhere/d' can't be found"));
    ck_assert(has_prefix(errors.items[3], "/disks/1/path: '/proc' is a folder"));
    ck_assert(has_prefix(errors.items[4], "/network/1/ifname: "));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spec");
    TCase *tc = tcase_create("parse"), *host = tcase_create("host");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tc, defaults);
    tcase_add_test(tc, mac_is_written_in_one_way);
    tcase_add_test(tc, vsock_is_wanted_by_being_there);
    tcase_add_test(tc, all_mistakes_at_once);
    tcase_add_test(tc, what_cannot_be_read_is_reported_once);
    tcase_add_test(tc, errors_are_one_line_without_control_characters);
    tcase_add_test(tc, nobody_need_listen);
    tcase_add_test(tc, parsing_leaves_the_json_alone);
    tcase_add_test(tc, emit_is_stable);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(host, make_folder, remove_folder);
    tcase_add_test(host, host_has_what_is_named);
    tcase_add_test(host, host_lacks_what_is_named);
    suite_add_tcase(suite, host);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
