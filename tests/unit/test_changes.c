/* Differences of specs and plans in an operator's words. */
#include <check.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/changes.h"
#include "lib/qemu/resolve.h"
#include "proto/plan_diff.h"

/* A VM as an operator may have written it, and the plan that comes of it. */
struct made {
    struct spec spec;
    json_t *native;
    struct plan plan;
};

static char machine_7[] = "pc-q35-7.2", machine_8[] = "pc-q35-8.2", version_7[] = "7.2.0", version_8[] = "8.2.0";

static void make_on(struct made *m, const char *text, const char *qemu, const struct qemu_capabilities *capabilities,
                    const struct qemu_user *user)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    const struct resolve_input in = {
        .spec = &m->spec,
        .capabilities = capabilities,
        .qemu_path = qemu,
        .qemu_img_path = "/usr/bin/qemu-img",
        .run_dir = "/run/v",
        .state_dir = "/state/v",
        .log_dir = "/log/v",
        .user = user,
        .vsock_cid = 7,
    };

    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s", err.text);
    ck_assert_int_eq(spec_parse(json, NULL, NULL, &m->spec), 0);
    ck_assert_int_eq(spec_emit(&m->spec, &m->native), 0);
    ck_assert_msg(plan_resolve(&in, &m->plan, &err) == 0, "%s", err.text);
}

static void make(struct made *m, const char *text)
{
    const struct qemu_capabilities capabilities = { .version = version_7, .machine = machine_7 };

    make_on(m, text, "/usr/bin/qemu", &capabilities, NULL);
}

static void made_clear(struct made *m)
{
    spec_clear(&m->spec);
    json_decref(m->native);
    plan_clear(&m->plan);
}
#define auto_made auto_cleanup(made_clear)

/* "live /logs/keep: 3 -> 5", each on a line. */
static char *list(const json_t *old_spec, const struct made *old, const struct made *new)
{
    auto_json json_t *differences = NULL;
    const struct changes_input in = { .old_spec = old_spec, .new_spec = new->native, .old = &old->plan, .new = &new->plan };
    char *text = strdup("");
    const json_t *one;
    size_t i;

    ck_assert_int_eq(changes_list(&in, &differences), 0);
    json_array_foreach (differences, i, one) {
        auto_free char *before = text;
        const char *from = json_string_value(json_object_get(one, "old")), *to = json_string_value(json_object_get(one, "new"));

        ck_assert_int_eq(str_format(&text, "%s%s %s: %s -> %s\n", before, json_is_true(json_object_get(one, "live")) ? "live" : "restart",
                                    json_string_value(json_object_get(one, "what")), from ? from : "-", to ? to : "-"),
                         0);
    }
    return text;
}

#define SPEC(more) "{\"name\": \"v\", \"memory\": \"128M\", \"boot\": {\"kernel\": \"/k\"}" more "}"
#define FORWARD(host) "{\"host\": \"" host "\", \"guest\": 80, \"proto\": \"tcp\"}"
#define NETWORK(forwards) ", \"network\": [{\"mode\": \"user\", \"forward\": [" forwards "]}]"
#define TEXT(host) "{\"host\":\"" host "\",\"guest\":80,\"proto\":\"tcp\"}"

static const struct {
    const char *old, *new, *expected;
} rows[] = {
    { SPEC(""), SPEC(""), "" },
    { SPEC(""), SPEC(", \"cpus\": 1, \"accel\": \"auto\""), "" }, /* what is the default anyway */
    { SPEC(""), SPEC(", \"enabled\": false"), "" },               /* a wish */
    { SPEC(""), SPEC(", \"restart\": {\"policy\": \"always\"}"), "live /restart/policy: on-failure -> always\n" },
    { SPEC(""), SPEC(", \"stop\": {\"timeout\": \"5s\"}"), "live /stop/timeout: 1m -> 5s\n" },
    { SPEC(""), SPEC(", \"logs\": {\"max_size\": \"1M\", \"keep\": 5}"), "live /logs/max_size: 16M -> 1M\nlive /logs/keep: 3 -> 5\n" },
    { SPEC(", \"health\": [{\"type\": \"tcp\", \"port\": 80}]"),
      SPEC(", \"health\": [{\"type\": \"tcp\", \"port\": 80, \"interval\": \"1s\"}]"), "live /health/0/interval: 10s -> 1s\n" },
    { SPEC(NETWORK(FORWARD("127.0.0.1:8080"))), SPEC(NETWORK(FORWARD("127.0.0.1:8080") "," FORWARD("127.0.0.1:8081"))),
      "live /network/0/forward/1: - -> " TEXT("127.0.0.1:8081") "\n" },
    /* one line of what went, though all behind it moved */
    { SPEC(NETWORK(FORWARD("127.0.0.1:8080") "," FORWARD("127.0.0.1:8081"))), SPEC(NETWORK(FORWARD("127.0.0.1:8081"))),
      "live /network/0/forward/0: " TEXT("127.0.0.1:8080") " -> -\n" },
    { SPEC(NETWORK(FORWARD("127.0.0.1:8080"))), SPEC(NETWORK(FORWARD("127.0.0.1:8081"))),
      "live /network/0/forward/0: " TEXT("127.0.0.1:8080") " -> " TEXT("127.0.0.1:8081") "\n" },
    /* the right to bind it can't be given later … */
    { SPEC(NETWORK("")), SPEC(NETWORK(FORWARD("127.0.0.1:80"))), "restart /network/0/forward/0: - -> " TEXT("127.0.0.1:80") "\n" },
    /* … and is kept when it isn't needed any more, or needed again */
    { SPEC(NETWORK(FORWARD("127.0.0.1:80"))), SPEC(NETWORK("")), "live /network/0/forward/0: " TEXT("127.0.0.1:80") " -> -\n" },
    { SPEC(NETWORK(FORWARD("127.0.0.1:80"))), SPEC(NETWORK(FORWARD("127.0.0.1:81"))),
      "live /network/0/forward/0: " TEXT("127.0.0.1:80") " -> " TEXT("127.0.0.1:81") "\n" },
    { SPEC(""), "{\"name\": \"v\", \"memory\": \"256M\", \"boot\": {\"kernel\": \"/k\"}}", "restart /memory: 128M -> 256M\n" },
    { SPEC(""), SPEC(", \"cpus\": 4"), "restart /cpus: 1 -> 4\n" },
    { SPEC(", \"disks\": [{\"name\": \"a\", \"size\": \"1G\"}, {\"name\": \"b\", \"size\": \"1G\"}]"),
      SPEC(", \"disks\": [{\"name\": \"a\", \"size\": \"1G\"}, {\"name\": \"b\", \"size\": \"2G\"}]"),
      "restart /disks/1/size: 1G -> 2G\n" },
    { SPEC(", \"qemu\": {\"extra_args\": [\"-x\"]}"), SPEC(", \"qemu\": {\"extra_args\": [\"-x\", \"-y\"]}"),
      "restart /qemu/extra_args: [\"-x\"] -> [\"-x\",\"-y\"]\n" },
    { SPEC(""), SPEC(", \"vsock\": {\"cid\": 7}"), "restart /vsock: - -> {\"cid\":7}\n" },
    /* a probe that needs a channel: both are told, each as it is */
    { SPEC(""), SPEC(", \"health\": [{\"type\": \"agent\"}], \"agent\": true"),
      "restart /agent: false -> true\nlive /health/0: - -> {\"type\":\"agent\",\"interval\":\"10s\",\"timeout\":\"2s\",\"start_period\":\"1m\","
      "\"retries\":3,\"action\":\"none\"}\n" },
    { SPEC(", \"logs\": {\"keep\": 5}"), SPEC(", \"cpus\": 2, \"logs\": {\"keep\": 6}"),
      "restart /cpus: 1 -> 2\nlive /logs/keep: 5 -> 6\n" },
};

START_TEST(words_of_the_spec)
{
    auto_made struct made old = { 0 }, new = { 0 };
    auto_free char *text = NULL;

    make(&old, rows[_i].old);
    make(&new, rows[_i].new);
    text = list(old.native, &old, &new);
    ck_assert_str_eq(text, rows[_i].expected);
}
END_TEST

/* With no spec on record the plan's words are used; what is live stays so. */
START_TEST(words_of_the_plan)
{
    auto_made struct made old = { 0 }, new = { 0 };
    auto_free char *live = NULL, *memory = NULL;

    make(&old, SPEC(NETWORK("")));
    make(&new, SPEC(NETWORK(FORWARD("127.0.0.1:8080")) ", \"logs\": {\"keep\": 4}"));
    live = list(NULL, &old, &new);
    ck_assert_str_eq(live, "live /logs: {\"max_size\":\"16M\",\"keep\":3} -> {\"max_size\":\"16M\",\"keep\":4}\n"
                           "live /network/0/forward: - -> tcp:127.0.0.1:8080-:80\n");
    made_clear(&new);
    new = (struct made){ 0 };
    make(&new, "{\"name\": \"v\", \"memory\": \"256M\", \"boot\": {\"kernel\": \"/k\"}" NETWORK("") "}");
    memory = list(NULL, &old, &new);
    ck_assert_ptr_nonnull(strstr(memory, "restart holdfast's own plan: /ram: {\"size\":\"128M\""));
    ck_assert_ptr_nonnull(strstr(memory, "restart holdfast's own command line: 128M "));
}
END_TEST

/* The spec on record may be older than the plan: what the plans don't differ in isn't told. */
START_TEST(stale_spec)
{
    auto_made struct made stale = { 0 }, old = { 0 }, new = { 0 };
    auto_free char *text = NULL;

    make(&stale, SPEC(", \"cpus\": 4, \"logs\": {\"keep\": 9}"));
    make(&old, SPEC(""));
    make(&new, SPEC(", \"restart\": {\"policy\": \"never\"}"));
    text = list(stale.native, &old, &new);
    ck_assert_str_eq(text, "live /restart/policy: on-failure -> never\n");
}
END_TEST

START_TEST(another_qemu)
{
    static char name[] = "nobody", other[] = "somebody";
    const struct qemu_capabilities newer = { .version = version_8, .machine = machine_8 };
    const struct qemu_capabilities same = { .version = version_7, .machine = machine_7 };
    const struct qemu_user user = { .name = name, .uid = 7, .gid = 7 }, user_2 = { .name = other, .uid = 8, .gid = 7 };
    auto_made struct made old = { 0 }, upgraded = { 0 }, moved = { 0 };
    auto_free char *text = NULL, *user_text = NULL;

    make_on(&old, SPEC(""), "/usr/bin/qemu", &same, &user);
    make_on(&upgraded, SPEC(""), "/opt/qemu", &newer, &user);
    make_on(&moved, SPEC(""), "/usr/bin/qemu", &same, &user_2);
    text = list(old.native, &old, &upgraded);
    ck_assert_ptr_nonnull(strstr(text, "restart QEMU's machine type: pc-q35-7.2 -> pc-q35-8.2\n"));
    ck_assert_ptr_nonnull(strstr(text, "restart QEMU: \"/usr/bin/qemu\" -> \"/opt/qemu\"\n"));
    user_text = list(old.native, &old, &moved);
    ck_assert_str_eq(user_text, "restart QEMU's user: \"nobody\" -> \"somebody\"\nrestart QEMU's user: 7 -> 8\n");
}
END_TEST

/* A newer QEMU in the same place: its machine type is all that is told. */
START_TEST(qemu_upgraded_in_place)
{
    const struct qemu_capabilities newer = { .version = version_8, .machine = machine_8 };
    auto_made struct made old = { 0 }, new = { 0 };
    auto_free char *text = NULL;

    make(&old, SPEC(""));
    make_on(&new, SPEC(""), "/usr/bin/qemu", &newer, NULL);
    text = list(old.native, &old, &new);
    ck_assert_str_eq(text, "restart QEMU's machine type: pc-q35-7.2 -> pc-q35-8.2\n");
}
END_TEST

/* A right that QEMU lacks and no forward explains must not pass for nothing. */
START_TEST(unexplained_capability)
{
    auto_made struct made old = { 0 }, new = { 0 };
    auto_json json_t *json = NULL, *capabilities = json_pack("[s]", "cap_net_raw");
    auto_free char *text = NULL;

    make(&old, SPEC(""));
    make(&new, SPEC(""));
    ck_assert_int_eq(plan_to_json(&new.plan, &json), 0);
    json_object_set(json_object_get(json, "qemu"), "capabilities", capabilities);
    plan_clear(&new.plan);
    ck_assert_int_eq(plan_from_json(json, &new.plan, NULL), 0);
    text = list(old.native, &old, &new);
    ck_assert_str_eq(text, "restart holdfast's own plan: /qemu/capabilities: - -> [\"cap_net_raw\"]\n");
}
END_TEST

START_TEST(nothing_runs)
{
    auto_made struct made old = { 0 }, new = { 0 };
    auto_json json_t *differences = NULL;

    make(&old, SPEC(""));
    make(&new, SPEC(", \"cpus\": 2"));
    ck_assert_int_eq(changes_list(&(struct changes_input){ .old_spec = old.native, .new_spec = new.native }, &differences), 0);
    ck_assert_uint_eq(json_array_size(differences), 1);
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(differences, 0), "what")), "/cpus");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("changes");
    TCase *tc = tcase_create("changes");

    tcase_add_loop_test(tc, words_of_the_spec, 0, ARRAY_LEN(rows));
    tcase_add_test(tc, words_of_the_plan);
    tcase_add_test(tc, stale_spec);
    tcase_add_test(tc, another_qemu);
    tcase_add_test(tc, qemu_upgraded_in_place);
    tcase_add_test(tc, unexplained_capability);
    tcase_add_test(tc, nothing_runs);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
