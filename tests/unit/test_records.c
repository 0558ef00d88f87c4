#include "lib/base/json.h"
#include "proto/exit.h"
#include "proto/interfaces.h"
#include "proto/plan.h"
#include "proto/status.h"
#include "proto/wanted.h"
#include "tests/unit/fixture.h"

static json_t *json_of(const char *text)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;
    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s: %s", text, err.text);
    return json;
}

static const char plan_text[] =
    "{\"schema\":1,\"name\":\"web\",\"run_dir\":\"/run/holdfast/vms/web\",\"state_dir\":\"/var/lib/holdfast/vms/web\","
    "\"log_dir\":\"/var/log/holdfast/web\",\"prepare\":[{\"what\":\"create disk data\",\"argv\":[\"/usr/bin/qemu-img\",\"create\"],"
    "\"creates\":\"/var/lib/x.qcow2\"},{\"what\":\"other\",\"argv\":[\"/bin/true\"]}],"
    "\"qemu\":{\"path\":\"/usr/bin/qemu-system-x86_64\",\"argv\":[\"qemu-system-x86_64\",\"-S\"],\"env\":[\"A=1\"],\"user\":\"holdfast\",\"uid\":990,\"gid\":980},"
    "\"ram\":{\"size\":\"256M\",\"shared\":true},"
    "\"restart\":{\"policy\":\"on-failure\",\"delay\":\"1s\",\"max_delay\":\"1m\",\"max_attempts\":5,\"reset_after\":\"5m\"},"
    "\"health\":[{\"kind\":\"http\",\"host\":\"127.0.0.1\",\"port\":8080,\"path\":\"/\",\"status\":204,\"match\":\"ok\",\"interval\":\"10s\","
    "\"timeout\":\"2s\",\"start_period\":\"1m\",\"retries\":3,\"action\":\"restart\"},{\"kind\":\"exec\",\"argv\":[\"/bin/true\"],"
    "\"interval\":\"1s\",\"timeout\":\"1s\",\"start_period\":\"0\",\"retries\":0,\"action\":\"none\"}],"
    "\"stop\":[{\"kind\":\"acpi\",\"wait\":\"1m\",\"repeat\":\"5s\"},{\"kind\":\"quit\",\"wait\":\"5s\"},{\"kind\":\"kill\"}],"
    "\"logs\":{\"max_size\":\"16M\",\"keep\":3}}";

START_TEST(plan_round_trip)
{
    auto_json json_t *json = json_of(plan_text);
    auto_plan struct plan plan = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(plan_from_json(json, &plan, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(plan.n_prepare, 2);
    ck_assert_str_eq(plan.prepare[0].creates, "/var/lib/x.qcow2");
    ck_assert_ptr_null(plan.prepare[1].creates);
    ck_assert_str_eq(plan.qemu.argv[1], "-S");
    ck_assert_str_eq(plan.qemu.user, "holdfast");
    ck_assert_uint_eq(plan.ram.size, UINT64_C(256) << 20);
    ck_assert(plan.ram.shared);
    ck_assert_int_eq(plan.restart.policy, RESTART_ON_FAILURE);
    ck_assert_uint_eq(plan.restart.max_delay_ms, 60000);
    ck_assert_uint_eq(plan.n_health, 2);
    ck_assert_int_eq(plan.health[0].action, HEALTH_ACTION_RESTART);
    ck_assert_uint_eq(plan.health[0].start_period_ms, 60000);
    ck_assert_uint_eq(plan.n_stop, 3);
    ck_assert_int_eq(plan.stop[2].kind, RUNG_KILL);
    ck_assert_uint_eq(plan.stop[0].repeat_ms, 5000);
    ck_assert_uint_eq(plan.logs.keep, 3);
    auto_json json_t *again = NULL;
    ck_assert_int_eq(plan_to_json(&plan, &again), 0);
    ck_assert(json_equal(json, again));
}
END_TEST

START_TEST(plan_digest_tells_change)
{
    auto_json json_t *json = json_of(plan_text);
    auto_plan struct plan one = { 0 };
    auto_plan struct plan two = { 0 };
    ck_assert_int_eq(plan_from_json(json, &one, NULL), 0);
    ck_assert_int_eq(plan_from_json(json, &two, NULL), 0);
    char a[17], b[17];
    ck_assert_int_eq(plan_digest(&one, a), 0);
    ck_assert_int_eq(plan_digest(&two, b), 0);
    ck_assert_str_eq(a, b);
    two.logs.keep++;
    ck_assert_int_eq(plan_digest(&two, b), 0);
    ck_assert_str_ne(a, b);
}
END_TEST

static void with_restore(struct plan *plan, int mode)
{
    plan->restore.mode = mode;
    plan->restore.prefetch = true;
    plan->restore.ephemeral = true;
}

START_TEST(plan_restore_is_read_back)
{
    for (size_t mode = 0; mode < restore_mode_names.n; mode++) {
        auto_json json_t *json = json_of(plan_text), *with = NULL;
        auto_plan struct plan plan = { 0 }, back = { 0 };
        ck_assert_int_eq(plan_from_json(json, &plan, NULL), 0);
        ck_assert_ptr_null(plan.restore.folder);
        ck_assert_int_eq(str_set(&plan.restore.folder, "/var/lib/holdfast/snapshots/web/one"), 0);
        with_restore(&plan, (int)mode);
        ck_assert_int_eq(plan_to_json(&plan, &with), 0);
        ck_assert_int_eq(plan_from_json(with, &back, NULL), 0);
        ck_assert_str_eq(back.restore.folder, plan.restore.folder);
        ck_assert_int_eq(back.restore.mode, (int)mode);
        ck_assert(back.restore.prefetch && !back.restore.record && back.restore.ephemeral);
    }
}
END_TEST

START_TEST(plan_without_a_folder_has_no_restore)
{
    auto_json json_t *json = json_of(plan_text), *without = NULL;
    auto_plan struct plan plan = { 0 };
    ck_assert_int_eq(plan_from_json(json, &plan, NULL), 0);
    with_restore(&plan, RESTORE_EAGER);
    ck_assert_int_eq(plan_to_json(&plan, &without), 0);
    ck_assert(json_equal(json, without));
}
END_TEST

/* A VM that was restored is what its spec says, and isn't shown as changed. */
START_TEST(plan_digest_leaves_the_restore_out)
{
    auto_json json_t *json = json_of(plan_text);
    auto_plan struct plan plan = { 0 };
    char before[17], after[17];
    ck_assert_int_eq(plan_from_json(json, &plan, NULL), 0);
    ck_assert_int_eq(plan_digest(&plan, before), 0);
    ck_assert_int_eq(str_set(&plan.restore.folder, "/s"), 0);
    with_restore(&plan, RESTORE_MAPPED);
    ck_assert_int_eq(plan_digest(&plan, after), 0);
    ck_assert_str_eq(before, after);
}
END_TEST

/* Sets what the JSON Pointer-like path of two keys names; NULL value: removes it. */
static json_t *plan_with(const char *object, const char *key, const char *value)
{
    json_t *json = json_of(plan_text);
    json_t *at = object ? json_object_get(json, object) : json;
    if (value)
        json_object_set_new(at, key, json_of(value));
    else
        json_object_del(at, key);
    return json;
}

START_TEST(plan_refuses)
{
    static const struct {
        const char *object, *key, *value, *message;
    } cases[] = {
        { NULL, "schema", NULL, "/schema: " },
        { NULL, "schema", "\"1\"", "/schema: " },
        { NULL, "schema", "0", "/schema: " },
        { NULL, "schema", "2", "/schema: this plan has schema 2, this build knows up to 1" },
        { NULL, "name", NULL, "/name: required" },
        { NULL, "name", "\"../x\"", "/name: expected 1 to 64" },
        { NULL, "run_dir", "\"run\"", "/run_dir: expected an absolute path, got \"run\"" },
        { NULL, "qemu", NULL, "/qemu: required" },
        { "qemu", "path", "\"qemu\"", "/qemu/path: expected an absolute path" },
        { "qemu", "argv", "[]", "/qemu/argv: expected a program" },
        { "qemu", "argv", NULL, "/qemu/argv: required" },
        { "qemu", "uid", NULL, "/qemu/uid: expected the uid and gid of holdfast" },
        { "qemu", "gid", "0", "/qemu/uid: expected the uid and gid of holdfast" },
        { "qemu", "uid", "4294967295", "/qemu/uid: " },
        { "qemu", "groups", "[\"kvm\"]", "/qemu/groups/0: expected at most 64 decimal numbers, got \"kvm\"" },
        { "qemu", "files", "[{\"fd\":9,\"kind\":\"read\",\"path\":\"/x\"}]", "/qemu/files/0/fd: " },
        { "qemu", "files", "[{\"fd\":10,\"kind\":\"exec\",\"path\":\"/x\"}]", "/qemu/files/0/kind: expected one of read write" },
        { "qemu", "files", "[{\"fd\":10,\"kind\":\"read\",\"path\":\"x\"}]", "/qemu/files/0/path: expected an absolute path" },
        { "qemu", "files", "[{\"fd\":10,\"kind\":\"tap\",\"path\":\"x\"},{\"fd\":10,\"kind\":\"tap\",\"path\":\"y\"}]",
          "/qemu/files/1/fd: 10 is also the number of /qemu/files/0" },
        { "ram", "size", "\"0\"", "/ram/size: " },
        { "ram", "size", NULL, "/ram/size: required" },
        { NULL, "prepare", "[{\"what\":\"x\",\"argv\":[]}]", "/prepare/0/argv: expected a program" },
        { NULL, "prepare", "[{\"what\":\"x\",\"argv\":[\"true\"]}]", "/prepare/0/argv: expected an absolute path" },
        { NULL, "prepare", "[{\"what\":\"x\",\"argv\":[\"/bin/true\"],\"creates\":\"x\"}]",
          "/prepare/0/creates: expected an absolute path" },
        { NULL, "restore", "{}", "/restore/folder: required" },
        { NULL, "restore", "{\"folder\":\"s\"}", "/restore/folder: expected an absolute path, got \"s\"" },
        { NULL, "restore", "{\"folder\":\"/s\",\"mode\":\"quick\"}", "/restore/mode: expected one of lazy mapped eager" },
        { NULL, "stop", "[{\"kind\":\"magic\"}]", "/stop/0/kind: expected one of agent acpi quit term kill" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_json json_t *json = plan_with(cases[i].object, cases[i].key, cases[i].value);
        struct plan plan = { .n_stop = 4711 };
        struct err err = ERR_INIT;
        ck_assert_msg(plan_from_json(json, &plan, &err) < 0, "%s", cases[i].message);
        ck_assert_msg(has_prefix(err.text, cases[i].message), "%s", err.text);
        ck_assert_uint_eq(plan.n_stop, 4711); /* untouched */
    }
    struct plan plan;
    struct err err = ERR_INIT;
    auto_json json_t *newer = plan_with(NULL, "schema", "2");
    ck_assert_int_eq(plan_from_json(newer, &plan, &err), -EPROTONOSUPPORT);
    ck_assert_str_eq(err.id, "newer-schema");
    auto_json json_t *array = json_array();
    ck_assert_int_eq(plan_from_json(array, &plan, NULL), -EINVAL);
    ck_assert_int_eq(plan_from_json(NULL, &plan, NULL), -EINVAL);
}
END_TEST

START_TEST(plan_of_a_later_build_is_read)
{
    auto_json json_t *json = plan_with("qemu", "added_later", "{\"x\":1}");
    auto_plan struct plan plan = { 0 };
    ck_assert_int_eq(plan_from_json(json, &plan, NULL), 0);
}
END_TEST

static const char status_text[] =
    "{\"schema\":1,\"name\":\"web\",\"incarnation\":3,\"state\":\"running\",\"since\":\"2026-11-21T09:14:03.123Z\",\"detail\":\"d\","
    "\"health\":\"healthy\",\"restarts\":2,\"started\":\"2026-11-21T09:14:02.000Z\",\"boot_id\":\"b\",\"shim\":{\"pid\":10,\"start_time\":20},"
    "\"qemu\":{\"pid\":30,\"start_time\":40},\"plan_digest\":\"x\",\"version\":\"0.1.0\",\"event_seq\":9}";

START_TEST(status_round_trip)
{
    auto_json json_t *json = json_of(status_text);
    auto_status struct status status = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(status_from_json(json, &status, &err) == 0, "%s", err.text);
    ck_assert_int_eq(status.state, STATE_RUNNING);
    ck_assert_uint_eq(status.since, UINT64_C(1795252443123000));
    ck_assert_uint_eq(status.qemu.pid, 30);
    ck_assert_uint_eq(status.qemu.start_time, 40);
    auto_json json_t *again = NULL;
    ck_assert_int_eq(record_emit(&status_type, &status, &again), 0);
    ck_assert(json_equal(json, again));
}
END_TEST

START_TEST(status_without_qemu)
{
    auto_json json_t *json = json_of(status_text);
    json_object_del(json, "qemu");
    json_object_del(json, "started");
    auto_status struct status status = { 0 };
    ck_assert_int_eq(status_from_json(json, &status, NULL), 0);
    ck_assert_uint_eq(status.qemu.pid, 0);
    ck_assert_uint_eq(status.started, 0);
    auto_json json_t *again = NULL;
    ck_assert_int_eq(record_emit(&status_type, &status, &again), 0);
    ck_assert(json_equal(json, again));
}
END_TEST

START_TEST(status_refuses_half_an_identity)
{
    struct status status;
    struct err err = ERR_INIT;
    auto_json json_t *half = json_of(status_text);
    json_object_set_new(half, "qemu", json_of("{\"pid\":30}"));
    ck_assert_int_eq(status_from_json(half, &status, &err), -EINVAL);
    ck_assert_str_eq(err.text, "/qemu/start_time: required, but missing");
    auto_json json_t *unknown = json_of(status_text);
    json_object_set_new(unknown, "state", json_string("floating"));
    ck_assert_int_eq(status_from_json(unknown, &status, &err), -EINVAL);
    auto_json json_t *no_boot = json_of(status_text);
    json_object_del(no_boot, "boot_id");
    ck_assert_int_eq(status_from_json(no_boot, &status, &err), -EINVAL);
    auto_json json_t *name = json_of(status_text);
    json_object_set_new(name, "name", json_string(".."));
    ck_assert_int_eq(status_from_json(name, &status, &err), -EINVAL);
}
END_TEST

START_TEST(exit_round_trip)
{
    auto_json json_t *json =
        json_of("{\"schema\":1,\"name\":\"web\",\"incarnation\":3,\"boot_id\":\"b\",\"kind\":\"signal\",\"code\":-1,\"signal\":9,"
                "\"at\":\"2026-11-21T09:14:03.123Z\",\"final\":true,\"detail\":\"d\",\"event_seq\":5}");
    auto_exit struct exit_record record = { 0 };
    ck_assert_int_eq(exit_from_json(json, &record, NULL), 0);
    ck_assert_int_eq(record.kind, EXIT_SIGNAL);
    ck_assert_int_eq(record.signal, 9);
    auto_json json_t *again = NULL;
    ck_assert_int_eq(record_emit(&exit_type, &record, &again), 0);
    ck_assert(json_equal(json, again));
    /* Absent isn't 0: 0 would be a clean exit. */
    auto_json json_t *bare = json_of("{\"schema\":1,\"name\":\"web\",\"incarnation\":3,\"kind\":\"unknown\"}");
    auto_exit struct exit_record unknown = { 0 };
    ck_assert_int_eq(exit_from_json(bare, &unknown, NULL), 0);
    ck_assert_int_eq(unknown.code, -1);
}
END_TEST

START_TEST(exit_on_the_wire)
{
    struct exit_record record = {
        .schema = 1,
        .name = (char[]){ "web" },
        .incarnation = 3,
        .boot_id = (char[]){ "b" },
        .kind = EXIT_CODE,
        .code = 0,
        .at = UINT64_C(1795252443123000),
        .event_seq = 5,
    };
    auto_json json_t *json = exit_to_wire(&record);
    auto_json json_t *expected =
        json_of("{\"incarnation\":3,\"kind\":\"code\",\"code\":0,\"at\":\"2026-11-21T09:14:03.123Z\",\"final\":false}");
    ck_assert(json_equal(json, expected));
    auto_exit struct exit_record back = { 0 };
    ck_assert_int_eq(exit_from_wire(json, &back), 0);
    ck_assert_int_eq(back.kind, EXIT_CODE);
    ck_assert_int_eq(back.code, 0);
    ck_assert_uint_eq(back.at, record.at);

    record =
        (struct exit_record){ .incarnation = 1, .kind = EXIT_SIGNAL, .code = -1, .signal = 11, .final = true, .detail = (char[]){ "x" } };
    auto_json json_t *by_signal = exit_to_wire(&record);
    auto_json json_t *by_signal_expected = json_of(
        "{\"incarnation\":1,\"kind\":\"signal\",\"signal\":11,\"at\":\"1970-01-01T00:00:00.000Z\",\"final\":true,\"detail\":\"x\"}");
    ck_assert(json_equal(by_signal, by_signal_expected));
    auto_exit struct exit_record signal_back = { 0 };
    ck_assert_int_eq(exit_from_wire(by_signal, &signal_back), 0);
    ck_assert_int_eq(signal_back.code, -1);
    ck_assert_uint_eq(signal_back.at, 0);
}
END_TEST

START_TEST(exit_from_a_newer_shim)
{
    auto_json json_t *json = json_of("{\"kind\":\"struck-by-lightning\",\"code\":\"later a string\",\"incarnation\":2,\"more\":[]}");
    auto_exit struct exit_record record = { 0 };
    ck_assert_int_eq(exit_from_wire(json, &record), 0);
    ck_assert_int_eq(record.kind, EXIT_UNKNOWN);
    ck_assert_int_eq(record.code, -1);
    ck_assert_uint_eq(record.incarnation, 2);
    struct exit_record untouched = { .code = 4711 };
    ck_assert_int_eq(exit_from_wire(NULL, &untouched), -EINVAL);
    ck_assert_int_eq(untouched.code, 4711);
}
END_TEST

START_TEST(exit_in_words)
{
    static const struct {
        struct exit_record record;
        const char *words;
    } cases[] = {
        { { .kind = EXIT_CODE, .code = 1 }, "exited with code 1" },
        { { .kind = EXIT_CODE, .code = -1 }, "exited, code not known" },
        { { .kind = EXIT_SIGNAL, .code = -1, .signal = 9 }, "killed by signal 9 (SIGKILL)" },
        { { .kind = EXIT_SIGNAL, .code = -1, .signal = 40 }, "killed by signal 40" },
        { { .kind = EXIT_SIGNAL, .code = -1, .signal = 1000000 }, "killed by signal 1000000" },
        { { .kind = EXIT_SIGNAL, .code = -1 }, "killed by a signal" },
        { { .kind = EXIT_GUEST_SHUTDOWN }, "guest shut down" },
        { { .kind = EXIT_GUEST_RESET }, "guest reset itself" },
        { { .kind = EXIT_GUEST_PANIC }, "guest panicked" },
        { { .kind = EXIT_STOPPED }, "stopped on request" },
        { { .kind = EXIT_OOM }, "killed by the kernel, out of memory" },
        { { .kind = EXIT_UNKNOWN }, "ended, reason unknown" },
        { { .kind = 99 }, "ended, reason unknown" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_free char *words = exit_describe(&cases[i].record);
        ck_assert_str_eq(words, cases[i].words);
    }
}
END_TEST

START_TEST(wanted_round_trip)
{
    auto_json json_t *json = json_of(
        "{\"schema\":1,\"wish\":\"running\",\"from\":4,\"seen\":3,\"seen_boot\":\"b\",\"force\":true,\"timeout\":\"30s\","
        "\"deleting\":true,\"purge\":true,\"by_spec\":true,\"restore\":{\"vm\":\"web\",\"snapshot\":\"before\",\"mode\":\"eager\",\"from\":4}}");
    auto_wanted struct wanted wanted = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(wanted_from_json(json, &wanted, &err) == 0, "%s", err.text);
    ck_assert_int_eq(wanted.wish, WANTED_RUNNING);
    ck_assert_uint_eq(wanted.from, 4);
    ck_assert_uint_eq(wanted.timeout_ms, 30000);
    ck_assert(wanted.force && wanted.deleting && wanted.purge && wanted.by_spec);
    ck_assert_str_eq(wanted.restore.vm, "web");
    ck_assert_str_eq(wanted.restore.snapshot, "before");
    ck_assert_int_eq(wanted.restore.mode, RESTORE_EAGER);
    ck_assert_uint_eq(wanted.restore.from, 4);
    auto_json json_t *again = NULL;
    ck_assert_int_eq(record_emit(&wanted_type, &wanted, &again), 0);
    ck_assert(json_equal(json, again));
    auto_json json_t *bare = json_of("{\"schema\":1,\"wish\":\"stopped\"}");
    auto_wanted struct wanted stopped = { 0 };
    ck_assert_int_eq(wanted_from_json(bare, &stopped, NULL), 0);
    auto_json json_t *no_wish = json_of("{\"schema\":1}");
    ck_assert_int_eq(wanted_from_json(no_wish, &stopped, NULL), -EINVAL);

    /* A copy is one of its own; without one there is none; and none leads out of its folder. */
    auto_wanted_restore struct wanted_restore copy = { 0 };
    ck_assert_int_eq(wanted_restore_set(&copy, &wanted.restore), 0);
    ck_assert(streq(copy.vm, "web") && copy.vm != wanted.restore.vm && copy.from == 4);
    ck_assert_int_eq(wanted_restore_set(&copy, NULL), 0);
    ck_assert_ptr_null(copy.vm);
    static const char *const bad[] = { "{\"vm\":\"..\",\"snapshot\":\"x\"}", "{\"vm\":\"web\",\"snapshot\":\"a/b\"}", "{\"vm\":\"web\"}",
                                       "{\"snapshot\":\"x\"}", "{\"vm\":\"w\",\"snapshot\":\"x\",\"mode\":\"y\"}" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[128];
        snprintf(text, sizeof(text), "{\"schema\":1,\"wish\":\"running\",\"restore\":%s}", bad[i]);
        auto_json json_t *wrong = json_of(text);
        ck_assert_int_eq(wanted_from_json(wrong, &stopped, NULL), -EINVAL);
    }
}
END_TEST

START_TEST(interfaces_are_embedded_whole)
{
    ck_assert_ptr_nonnull(strstr(manager_interface_text, "\ninterface io.holdfast.Manager\n"));
    ck_assert_ptr_nonnull(strstr(shim_interface_text, "\ninterface io.holdfast.Shim\n"));
    ck_assert_int_eq(manager_interface_text[0], '#');
    ck_assert_int_eq(manager_interface_text[strlen(manager_interface_text) - 1], '\n');
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, plan_round_trip);
    tcase_add_test(tc, plan_digest_tells_change);
    tcase_add_test(tc, plan_restore_is_read_back);
    tcase_add_test(tc, plan_without_a_folder_has_no_restore);
    tcase_add_test(tc, plan_digest_leaves_the_restore_out);
    tcase_add_test(tc, plan_refuses);
    tcase_add_test(tc, plan_of_a_later_build_is_read);
    tcase_add_test(tc, status_round_trip);
    tcase_add_test(tc, status_without_qemu);
    tcase_add_test(tc, status_refuses_half_an_identity);
    tcase_add_test(tc, exit_round_trip);
    tcase_add_test(tc, exit_on_the_wire);
    tcase_add_test(tc, exit_from_a_newer_shim);
    tcase_add_test(tc, exit_in_words);
    tcase_add_test(tc, wanted_round_trip);
    tcase_add_test(tc, interfaces_are_embedded_whole);
}

int main(void) { return fixture_main("records", add_tests); }
