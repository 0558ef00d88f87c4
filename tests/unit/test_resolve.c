/* What golden files can't show: errors, determinism, and that no value reaches QEMU as anything but itself. */
#include <check.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"
#include "lib/qemu/resolve.h"

static char machine[] = "pc-q35-7.2", version[] = "7.2.22";
static const struct qemu_capabilities capabilities = { .version = version, .machine = machine };

static void parse(const char *text, struct spec *ret)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;

    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s", err.text);
    ck_assert_int_eq(spec_parse(json, NULL, NULL, ret), 0);
}

static struct resolve_input input(const struct spec *spec)
{
    return (struct resolve_input){
        .spec = spec,
        .capabilities = &capabilities,
        .qemu_path = "/usr/bin/qemu-system-x86_64",
        .qemu_img_path = "/usr/bin/qemu-img",
        .run_dir = "/run/v",
        .state_dir = "/state/v",
        .log_dir = "/log/v",
    };
}

/* The word after the n-th `option`, NULL when there are fewer. */
static const char *value_of(const struct plan *plan, const char *option, size_t n)
{
    for (size_t i = 0; plan->qemu.argv[i]; i++)
        if (streq(plan->qemu.argv[i], option) && n-- == 0)
            return plan->qemu.argv[i + 1];
    return NULL;
}

/* A string inside the JSON after the n-th `option`. */
static char *json_value_of(const struct plan *plan, const char *option, size_t n, const char *outer, const char *key)
{
    const char *text = value_of(plan, option, n);
    auto_json json_t *json = NULL;

    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(json_parse(text, strlen(text), &json, NULL), 0);
    const json_t *object = outer ? json_object_get(json, outer) : json;
    const char *value = json_string_value(json_object_get(object, key));
    return value ? strdup(value) : NULL;
}

/* What is opened as `fd`. */
static const char *file_of(const struct plan *plan, uint64_t fd)
{
    for (size_t i = 0; i < plan->qemu.n_files; i++)
        if (plan->qemu.files[i].fd == fd)
            return plan->qemu.files[i].path;
    return "(none)";
}

#define MINIMAL "\"name\": \"v\", \"memory\": \"256M\", \"boot\": {\"kernel\": \"/k\"}"

static void expect_error(const struct resolve_input *in, int code, const char *id)
{
    struct plan plan = { .schema = 99 };
    struct err err = ERR_INIT;

    ck_assert_int_eq(plan_resolve(in, &plan, &err), -code);
    ck_assert_str_eq(err.id, id);
    ck_assert_uint_eq(plan.schema, 99); /* untouched */
}

START_TEST(errors)
{
    auto_spec struct spec kvm = { 0 }, disk = { 0 }, vsock = { 0 }, forward = { 0 };
    parse("{" MINIMAL ", \"accel\": \"kvm\"}", &kvm);
    parse("{" MINIMAL ", \"disks\": [{\"name\": \"d\", \"size\": \"1G\"}]}", &disk);
    parse("{" MINIMAL ", \"vsock\": {}}", &vsock);
    parse("{" MINIMAL ", \"network\": [{\"forward\": [{\"host\": \"auto\", \"guest\": 80}]}]}", &forward);
    struct resolve_input in = input(&kvm);

    expect_error(&in, ENODEV, "no-kvm");
    in = input(&forward);
    expect_error(&in, EINVAL, "no-port");
    in = input(&disk);
    in.qemu_img_path = NULL;
    expect_error(&in, ENOENT, "no-qemu-img");
    in.qemu_img_path = "qemu-img";
    expect_error(&in, EINVAL, "bad-path");
    in = input(&vsock);
    expect_error(&in, EINVAL, "no-cid");
    in = input(&disk);
    in.qemu_path = NULL;
    expect_error(&in, EINVAL, "bad-path");
    in = input(&disk);
    in.state_dir = "relative";
    expect_error(&in, EINVAL, "bad-path");
    in.state_dir = "/not\xffutf8";
    expect_error(&in, EINVAL, "bad-path");
}
END_TEST

START_TEST(machine_that_is_not_known)
{
    auto_spec struct spec spec = { 0 };
    char isapc[] = "isapc";
    struct qemu_capabilities other = { .version = version, .machine = isapc };
    parse("{" MINIMAL "}", &spec);
    struct resolve_input in = input(&spec);

    in.capabilities = &other;
    expect_error(&in, EINVAL, "no-machine");
    other.machine = NULL;
    expect_error(&in, EINVAL, "no-machine");
}
END_TEST

START_TEST(spec_nobody_checked)
{
    struct spec empty = { 0 };
    struct resolve_input in = input(&empty);

    expect_error(&in, EINVAL, "bad-spec");
}
END_TEST

START_TEST(accel_follows_the_host)
{
    auto_spec struct spec spec = { 0 };
    parse("{" MINIMAL "}", &spec);
    struct resolve_input in = input(&spec);

    for (int kvm = 0; kvm <= 1; kvm++) {
        auto_plan struct plan plan = { 0 };

        in.kvm_usable = kvm;
        ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
        ck_assert_str_eq(value_of(&plan, "-accel", 0), kvm ? "kvm" : "tcg");
        ck_assert_str_eq(value_of(&plan, "-cpu", 0), kvm ? "host" : "Nehalem-v1");
    }
}
END_TEST

START_TEST(what_every_plan_has)
{
    auto_spec struct spec spec = { 0 };
    auto_plan struct plan plan = { 0 };
    parse("{" MINIMAL "}", &spec);
    struct resolve_input in = input(&spec);

    ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
    ck_assert_uint_eq(plan.ram.size, UINT64_C(256) << 20);
    ck_assert(plan.ram.shared);
    ck_assert_ptr_nonnull(value_of(&plan, "-nodefaults", 0));
    ck_assert_ptr_nonnull(value_of(&plan, "-no-user-config", 0));
    ck_assert_ptr_nonnull(value_of(&plan, "-S", 0));
    ck_assert(has_prefix(value_of(&plan, "-machine", 0), "pc-q35-7.2,memory-backend=ram,"));
    ck_assert_str_eq(value_of(&plan, "-chardev", 0), "socket,id=qmp,fd=3,server=on,wait=off");
    ck_assert_str_eq(value_of(&plan, "-chardev", 1), "socket,id=console,fd=4,server=on,wait=off,logfile=/dev/fdset/10,logappend=on");
    ck_assert_str_eq(value_of(&plan, "-add-fd", 0), "fd=10,set=10");
    ck_assert_uint_eq(plan.qemu.n_files, 2);
    ck_assert_int_eq(plan.qemu.files[0].kind, FILE_APPEND);
    ck_assert_str_eq(plan.qemu.files[0].path, "/log/v/console.log");
    ck_assert_str_eq(value_of(&plan, "-kernel", 0), "/proc/self/fd/11");
    ck_assert_uint_eq(plan.qemu.files[1].fd, PLAN_FD_KERNEL);
    ck_assert_int_eq(plan.qemu.files[1].kind, FILE_REOPENED);
    ck_assert_str_eq(plan.qemu.files[1].path, "/k");
    auto_free char *ram = json_value_of(&plan, "-object", 0, NULL, "mem-path");
    ck_assert_str_eq(ram, "/proc/self/fd/5");
    ck_assert_str_eq(plan.qemu.env[0], "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    ck_assert_str_eq(plan.qemu.env[1], "LANG=C.UTF-8");
    ck_assert_ptr_null(plan.qemu.env[2]);
    ck_assert_ptr_null(plan.qemu.user);
}
END_TEST

START_TEST(stop_ladder)
{
    auto_spec struct spec spec = { 0 }, impatient = { 0 };
    auto_plan struct plan plan = { 0 }, short_plan = { 0 };
    parse("{" MINIMAL ", \"stop\": {\"timeout\": \"7s\"}}", &spec);
    parse("{" MINIMAL ", \"stop\": {\"timeout\": \"0\"}}", &impatient);
    struct resolve_input in = input(&spec);

    ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
    ck_assert_uint_eq(plan.n_stop, 5);
    ck_assert_int_eq(plan.stop[0].kind, RUNG_ACPI);
    ck_assert_uint_eq(plan.stop[0].wait_ms, 7000);
    ck_assert_uint_eq(plan.stop[0].repeat_ms, 5000);
    ck_assert_int_eq(plan.stop[3].kind, RUNG_KILL);
    ck_assert_int_eq(plan.stop[4].kind, RUNG_CGROUP);
    in = input(&impatient);
    ck_assert_int_eq(plan_resolve(&in, &short_plan, NULL), 0);
    ck_assert_uint_eq(short_plan.n_stop, 4);
    ck_assert_int_eq(short_plan.stop[0].kind, RUNG_QUIT);
}
END_TEST

START_TEST(own_disks_are_made_foreign_ones_are_not)
{
    auto_spec struct spec spec = { 0 };
    auto_plan struct plan plan = { 0 };
    parse("{" MINIMAL ", \"disks\": [{\"path\": \"/p\"}, {\"name\": \"d\", \"size\": \"20G\"}]}", &spec);
    struct resolve_input in = input(&spec);

    ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
    ck_assert_uint_eq(plan.n_prepare, 1);
    ck_assert_str_eq(plan.prepare[0].creates, "/state/v/d.qcow2");
    ck_assert_str_eq(plan.prepare[0].what, "create disk d (20G)");
    auto_free char *command = strv_to_shell(plan.prepare[0].argv);
    ck_assert_str_eq(command, "/usr/bin/qemu-img create -q -f qcow2 -- /state/v/d.qcow2.new 20G");
    ck_assert_str_eq(plan.prepare[0].writes, "/state/v/d.qcow2.new");
    ck_assert_uint_eq(plan.n_disks, 1);
    ck_assert_str_eq(plan.disks[0].path, "/state/v/d.qcow2");
    ck_assert_uint_eq(plan.disks[0].size, UINT64_C(20) << 30);
    ck_assert(!plan.disks[0].fresh);
}
END_TEST

START_TEST(macs_are_stable_and_differ)
{
    static const char *const names[] = { "a", "b", "ab", "ba", "web-1", "web-2" };
    auto_strv struct strv seen = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_spec struct spec spec = { 0 };
        auto_free char *text = NULL;
        ck_assert_int_eq(
            str_format(&text, "{\"name\": \"%s\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"/k\"}, \"network\": [{}, {}]}", names[i]),
            0);
        parse(text, &spec);
        struct resolve_input in = input(&spec);
        for (size_t nic = 0; nic < 2; nic++) {
            auto_plan struct plan plan = { 0 }, again = { 0 };
            char canonical[MAC_TEXT_MAX];

            ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
            ck_assert_int_eq(plan_resolve(&in, &again, NULL), 0);
            /* random numbers, panic notification and the generation id come first */
            auto_free char *mac = json_value_of(&plan, "-device", 3 + nic, NULL, "mac");
            auto_free char *same = json_value_of(&again, "-device", 3 + nic, NULL, "mac");
            ck_assert_str_eq(mac, same);
            ck_assert_int_eq(parse_mac(mac, canonical), 0);
            ck_assert_str_eq(mac, canonical);
            ck_assert(has_prefix(mac, "52:54:00:"));
            for (size_t k = 0; k < seen.n; k++)
                ck_assert_str_ne(mac, seen.items[k]);
            strv_push(&seen, mac);
        }
    }
}
END_TEST

START_TEST(hostile_values_stay_values)
{
    static const char path[] = "/a,b=c,,\"},{\\ \n%s'$(x)";
    auto_json json_t *json =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:s}, s:[{s:s}], s:[{s:s, s:s}]}", "name", "v", "memory", "256M", "boot", "kernel", path,
                  "firmware", path, "cmdline", path, "disks", "path", path, "network", "mode", "tap", "ifname", "t,a=b");
    auto_spec struct spec spec = { 0 };
    auto_plan struct plan plan = { 0 };

    ck_assert_int_eq(spec_parse(json, NULL, NULL, &spec), 0);
    struct resolve_input in = input(&spec);
    in.log_dir = path;
    ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
    ck_assert_str_eq(value_of(&plan, "-append", 0), path);
    /* The others QEMU isn't even told. */
    ck_assert_str_eq(file_of(&plan, PLAN_FD_KERNEL), path);
    ck_assert_str_eq(file_of(&plan, PLAN_FD_FIRMWARE), path);
    ck_assert_str_eq(file_of(&plan, PLAN_FD_DISK), path);
    ck_assert_str_eq(file_of(&plan, PLAN_FD_NETWORK), "t,a=b");
    ck_assert(has_prefix(file_of(&plan, PLAN_FD_CONSOLE_LOG), path));
    for (size_t i = 0; plan.qemu.argv[i]; i++)
        ck_assert(!strstr(plan.qemu.argv[i], "b=c") || streq(plan.qemu.argv[i], path));
}
END_TEST

START_TEST(formats_come_from_names_alone)
{
    static const struct {
        const char *disk, *driver;
    } cases[] = {
        { "{\"path\": \"/x.qcow2\"}", "qcow2" },
        { "{\"path\": \"/x.img\"}", "raw" },
        { "{\"path\": \"/.qcow2/x\"}", "raw" },
        { "{\"path\": \"/qcow2\"}", "raw" },
        { "{\"path\": \"/x.qcow2\", \"format\": \"raw\"}", "raw" },
        { "{\"path\": \"/x\", \"format\": \"qcow2\"}", "qcow2" },
        { "{\"name\": \"x\", \"size\": \"1G\"}", "qcow2" },
        { "{\"name\": \"x\", \"size\": \"1G\", \"format\": \"raw\"}", "raw" },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_spec struct spec spec = { 0 };
        auto_plan struct plan plan = { 0 };
        auto_free char *text = NULL;

        ck_assert_int_eq(str_format(&text, "{" MINIMAL ", \"disks\": [%s]}", cases[i].disk), 0);
        parse(text, &spec);
        struct resolve_input in = input(&spec);
        ck_assert_int_eq(plan_resolve(&in, &plan, NULL), 0);
        auto_free char *driver = json_value_of(&plan, "-blockdev", 0, NULL, "driver");
        ck_assert_str_eq(driver, cases[i].driver);
    }
}
END_TEST

START_TEST(a_device_more_moves_no_other)
{
    auto_spec struct spec few = { 0 }, many = { 0 };
    auto_plan struct plan few_plan = { 0 }, many_plan = { 0 };
    parse("{" MINIMAL ", \"disks\": [{\"path\": \"/a\"}], \"network\": [{}]}", &few);
    parse("{" MINIMAL ", \"disks\": [{\"path\": \"/a\"}, {\"path\": \"/b\"}], \"network\": [{}, {}], \"vsock\": {\"cid\": 3}}", &many);
    struct resolve_input in = input(&few);

    ck_assert_int_eq(plan_resolve(&in, &few_plan, NULL), 0);
    in = input(&many);
    in.vsock_cid = 3;
    ck_assert_int_eq(plan_resolve(&in, &many_plan, NULL), 0);
    for (size_t i = 0; value_of(&few_plan, "-device", i); i++) {
        bool same = false;
        for (size_t k = 0; value_of(&many_plan, "-device", k); k++)
            same = same || streq(value_of(&few_plan, "-device", i), value_of(&many_plan, "-device", k));
        ck_assert_msg(same, "%s", value_of(&few_plan, "-device", i));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("resolve");
    TCase *tc = tcase_create("plan");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tc, errors);
    tcase_add_test(tc, machine_that_is_not_known);
    tcase_add_test(tc, spec_nobody_checked);
    tcase_add_test(tc, accel_follows_the_host);
    tcase_add_test(tc, what_every_plan_has);
    tcase_add_test(tc, stop_ladder);
    tcase_add_test(tc, own_disks_are_made_foreign_ones_are_not);
    tcase_add_test(tc, macs_are_stable_and_differ);
    tcase_add_test(tc, hostile_values_stay_values);
    tcase_add_test(tc, formats_come_from_names_alone);
    tcase_add_test(tc, a_device_more_moves_no_other);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
