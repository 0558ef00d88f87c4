/* What differs between two plans, and what of it a running QEMU can be told. */
#include <check.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "proto/plan_diff.h"

#define NETDEV(id, rules) "{\"type\":\"user\",\"id\":\"" id "\"" rules "}"
#define RULES(list) ",\"hostfwd\":[" list "]"
#define RULE(text) "{\"str\":\"" text "\"}"

/* A plan whose argv has these netdevs (NULL-ended), with `change` merged into its JSON. */
static void make(struct plan *ret, const char *change, const char *const *netdevs)
{
    auto_json json_t *json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:{s:s, s:[s,s,s], s:[s]}, s:{s:s}, s:{s:s, s:s}, s:{s:s, s:i}}",
                                       "schema", 1, "name", "v", "run_dir", "/run/v", "state_dir", "/state/v", "log_dir", "/log/v", "qemu",
                                       "path", "/usr/bin/qemu", "argv", "/usr/bin/qemu", "-m", "128M", "env", "A=1", "ram", "size", "128M",
                                       "restart", "policy", "always", "delay", "1s", "logs", "max_size", "1M", "keep", 3);
    auto_json json_t *changed = NULL;
    struct err err = ERR_INIT;

    for (size_t i = 0; netdevs && netdevs[i]; i++) {
        json_t *argv = json_object_get(json_object_get(json, "qemu"), "argv");

        json_array_append_new(argv, json_string("-netdev"));
        json_array_append_new(argv, json_string(netdevs[i]));
    }
    if (change) {
        ck_assert_msg(json_parse(change, strlen(change), &changed, &err) == 0, "%s", err.text);
        ck_assert_int_eq(json_object_update_recursive(json, changed), 0);
    }
    ck_assert_msg(plan_from_json(json, ret, &err) == 0, "%s", err.text);
}

static void compare(const char *old, const char *const *old_netdevs, const char *new, const char *const *new_netdevs, struct plan_diff *ret)
{
    auto_plan struct plan from = { 0 }, to = { 0 };

    make(&from, old, old_netdevs);
    make(&to, new, new_netdevs);
    ck_assert_int_eq(plan_compare(&from, &to, ret), 0);
}

/* "-net0 tcp:…", "+net0 tcp:…" */
static void assert_step(const struct plan_diff *d, size_t i, const char *expected)
{
    char text[128];

    ck_assert_uint_lt(i, d->n_steps);
    snprintf(text, sizeof(text), "%c%s %s", d->steps[i].add ? '+' : '-', d->steps[i].netdev, d->steps[i].rule);
    ck_assert_str_eq(text, expected);
}

START_TEST(equal_plans)
{
    const char *const netdevs[] = { NETDEV("net0", RULES(RULE("tcp::80-:80"))), NULL };
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, netdevs, NULL, netdevs, &d);
    ck_assert_uint_eq(d.n_changes, 0);
    ck_assert_uint_eq(d.n_steps, 0);
    ck_assert_ptr_null(plan_diff_obstacle(&d));
}
END_TEST

/* How the next start begins is nobody's difference. */
START_TEST(restore_is_not_compared)
{
    auto_plan_diff struct plan_diff d = { 0 };

    compare("{\"restore\": {\"folder\": \"/s\", \"mode\": \"lazy\"}}", NULL, NULL, NULL, &d);
    ck_assert_uint_eq(d.n_changes, 0);
}
END_TEST

static const struct {
    const char *old, *new, *what;
    bool live;
} rows[] = {
    { NULL, "{\"restart\": {\"delay\": \"2s\"}}", "/restart", true },
    { NULL, "{\"logs\": {\"keep\": 5}}", "/logs", true },
    { NULL, "{\"health\": [{\"kind\": \"tcp\", \"port\": 80}]}", "/health", true },
    { "{\"health\": [{\"kind\": \"tcp\", \"port\": 80}]}", NULL, "/health", true },
    { NULL, "{\"stop\": [{\"kind\": \"acpi\", \"wait\": \"5s\"}]}", "/stop", true },
    { NULL, "{\"ram\": {\"size\": \"256M\"}}", "/ram", false },
    { NULL, "{\"log_dir\": \"/elsewhere\"}", "/log_dir", false },
    { NULL, "{\"qemu\": {\"env\": [\"A=2\"]}}", "/qemu/env", false },
    { NULL, "{\"qemu\": {\"path\": \"/opt/qemu\"}}", "/qemu/path", false },
    { NULL, "{\"qemu\": {\"agent\": true}}", "/qemu/agent", false },
    { NULL, "{\"qemu\": {\"user\": \"q\", \"uid\": 5, \"gid\": 5}}", "/qemu/user", false },
    { NULL, "{\"qemu\": {\"files\": [{\"fd\": 32, \"kind\": \"read\", \"path\": \"/d\"}]}}", "/qemu/files", false },
    { NULL, "{\"prepare\": [{\"what\": \"make\", \"argv\": [\"/bin/true\"]}]}", "/prepare", false },
    { NULL, "{\"qemu\": {\"capabilities\": [\"cap_net_bind_service\"]}}", "/qemu/capabilities", false },
    /* QEMU keeps what it was given. */
    { "{\"qemu\": {\"capabilities\": [\"cap_net_bind_service\"]}}", NULL, "/qemu/capabilities", true },
};

START_TEST(each_part)
{
    auto_plan_diff struct plan_diff d = { 0 };
    const struct plan_change *change;

    compare(rows[_i].old, NULL, rows[_i].new, NULL, &d);
    change = plan_diff_find(&d, rows[_i].what);
    ck_assert_msg(change != NULL, "%s is no change", rows[_i].what);
    ck_assert_int_eq(change->live, rows[_i].live);
    ck_assert_int_eq(plan_diff_obstacle(&d) == NULL, rows[_i].live);
    ck_assert(!change->old || !change->new || !streq(change->old, change->new));
}
END_TEST

START_TEST(one_obstacle_among_others)
{
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, NULL, "{\"restart\": {\"delay\": \"2s\"}, \"logs\": {\"keep\": 5}, \"ram\": {\"size\": \"256M\"}}", NULL, &d);
    ck_assert_uint_eq(d.n_changes, 3);
    ck_assert_str_eq(plan_diff_obstacle(&d)->what, "/ram");
}
END_TEST

/* What goes goes first, so that a port can change hands. */
START_TEST(forwards)
{
    const char *const old[] = { NETDEV("net0", RULES(RULE("tcp::80-:80") "," RULE("udp::53-:53"))), NETDEV("net1", ""), NULL };
    const char *const new[] = { NETDEV("net0", RULES(RULE("udp::53-:53"))), NETDEV("net1", RULES(RULE("tcp::80-:81"))), NULL };
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, old, NULL, new, &d);
    ck_assert_uint_eq(d.n_changes, 1);
    ck_assert_str_eq(d.changes[0].what, PLAN_CHANGE_FORWARDS);
    ck_assert(d.changes[0].live);
    ck_assert_uint_eq(d.n_steps, 2);
    assert_step(&d, 0, "-net0 tcp::80-:80");
    assert_step(&d, 1, "+net1 tcp::80-:81");
}
END_TEST

/* The digest tells the order, so it is a change, but QEMU has nothing to do. */
START_TEST(order_of_forwards)
{
    const char *const old[] = { NETDEV("net0", RULES(RULE("tcp::80-:80") "," RULE("tcp::81-:81"))), NULL };
    const char *const new[] = { NETDEV("net0", RULES(RULE("tcp::81-:81") "," RULE("tcp::80-:80"))), NULL };
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, old, NULL, new, &d);
    ck_assert_uint_eq(d.n_changes, 1);
    ck_assert_uint_eq(d.n_steps, 0);
    ck_assert_ptr_null(plan_diff_obstacle(&d));
}
END_TEST

static const char *const other_netdevs[][2] = {
    { NETDEV("net0", ",\"restrict\":true"), NULL },                             /* something else of a user network */
    { "{\"type\":\"tap\",\"id\":\"net0\",\"fd\":\"16\"}", NULL },               /* another kind */
    { NETDEV("net1", ""), NULL },                                               /* another id */
    { NETDEV("net0", ",\"hostfwd\":[{\"str\":\"tcp::1-:1\",\"x\":1}]"), NULL }, /* a rule that isn't just one */
    { "user,id=net0,hostfwd=tcp::80-:80", NULL },                               /* not JSON: an extra argument */
};

START_TEST(what_is_no_forward)
{
    const char *const old[] = { NETDEV("net0", ""), NULL };
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, old, NULL, other_netdevs[_i], &d);
    ck_assert_uint_eq(d.n_steps, 0);
    ck_assert_ptr_nonnull(plan_diff_obstacle(&d));
    ck_assert_str_eq(plan_diff_obstacle(&d)->what, PLAN_CHANGE_ARGV);
    ck_assert_str_eq(d.changes[0].old, "'{\"type\":\"user\",\"id\":\"net0\"}'");
}
END_TEST

/* A network more is hardware, its forwards or not. */
START_TEST(another_network)
{
    const char *const old[] = { NETDEV("net0", ""), NULL };
    const char *const new[] = { NETDEV("net0", ""), NETDEV("net1", RULES(RULE("tcp::80-:80"))), NULL };
    auto_plan_diff struct plan_diff d = { 0 };

    compare(NULL, old, NULL, new, &d);
    ck_assert_str_eq(plan_diff_obstacle(&d)->what, PLAN_CHANGE_ARGV);
}
END_TEST

/* Just the order of words: all of them are told, rather than none. */
START_TEST(order_of_words)
{
    auto_plan_diff struct plan_diff d = { 0 };

    compare("{\"qemu\": {\"argv\": [\"q\", \"-a\", \"-b\"]}}", NULL, "{\"qemu\": {\"argv\": [\"q\", \"-b\", \"-a\"]}}", NULL, &d);
    ck_assert_str_eq(plan_diff_obstacle(&d)->old, "q -a -b");
    ck_assert_str_eq(plan_diff_obstacle(&d)->new, "q -b -a");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan_diff");
    TCase *tc = tcase_create("plan_diff");

    tcase_add_test(tc, equal_plans);
    tcase_add_test(tc, restore_is_not_compared);
    tcase_add_loop_test(tc, each_part, 0, ARRAY_LEN(rows));
    tcase_add_test(tc, one_obstacle_among_others);
    tcase_add_test(tc, forwards);
    tcase_add_test(tc, order_of_forwards);
    tcase_add_loop_test(tc, what_is_no_forward, 0, ARRAY_LEN(other_netdevs));
    tcase_add_test(tc, another_network);
    tcase_add_test(tc, order_of_words);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
