#include "lib/base/dirs.h"

#include "tests/unit/fixture.h"

static void forget_environment(void)
{
    static const char *const names[] = {
        "HOLDFAST_RUN_DIR", "HOLDFAST_STATE_DIR", "HOLDFAST_LOG_DIR", "HOLDFAST_CONFIG_DIR",
        "XDG_RUNTIME_DIR",  "XDG_STATE_HOME",     "XDG_CONFIG_HOME",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        unsetenv(names[i]);
}

/* The rest of the test as an ordinary user; the test's own process may be root's. */
static void become_user(void)
{
    const uid_t uid = 54321;
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(setegid(uid), 0);
    ck_assert_int_eq(seteuid(uid), 0);
}

static void become_root_again(void)
{
    if (getuid() == 0) {
        ck_assert_int_eq(seteuid(0), 0);
        ck_assert_int_eq(setegid(0), 0);
    }
}

START_TEST(options_win_and_become_absolute)
{
    forget_environment();
    setenv("HOLDFAST_RUN_DIR", "/env/run", 1);
    ck_assert_int_eq(chdir("/tmp"), 0);
    auto_dirs struct dirs d = { .run = strdup("rel/run"), .state = strdup("/abs/state///"), .log = strdup("/"), .config = strdup(".") };
    struct err err = ERR_INIT;
    ck_assert_int_eq(dirs_resolve(&d, &err), 0);
    ck_assert_str_eq(d.run, "/tmp/rel/run");
    ck_assert_str_eq(d.state, "/abs/state");
    ck_assert_str_eq(d.log, "/");
    ck_assert_str_eq(d.config, "/tmp/.");
}
END_TEST

START_TEST(environment_comes_second)
{
    forget_environment();
    setenv("HOLDFAST_RUN_DIR", "/env/run", 1);
    setenv("HOLDFAST_STATE_DIR", "env-state", 1);
    setenv("HOLDFAST_LOG_DIR", "/env/log/", 1);
    setenv("HOLDFAST_CONFIG_DIR", "/env/config", 1);
    ck_assert_int_eq(chdir("/"), 0);
    auto_dirs struct dirs d = { 0 };
    ck_assert_int_eq(dirs_resolve(&d, NULL), 0);
    ck_assert_str_eq(d.run, "/env/run");
    ck_assert_str_eq(d.state, "/env-state");
    ck_assert_str_eq(d.log, "/env/log");
    ck_assert_str_eq(d.config, "/env/config");
}
END_TEST

START_TEST(roots_defaults)
{
    if (geteuid() != 0) {
        fputs("not root: root's defaults can't be seen\n", stderr);
        return;
    }
    forget_environment();
    setenv("HOLDFAST_RUN_DIR", "", 1); /* says nothing */
    setenv("XDG_RUNTIME_DIR", "/run/user/0", 1);
    auto_dirs struct dirs d = { 0 };
    ck_assert_int_eq(dirs_resolve(&d, NULL), 0);
    ck_assert_str_eq(d.run, "/run/holdfast");
    ck_assert_str_eq(d.state, "/var/lib/holdfast");
    ck_assert_str_eq(d.log, "/var/log/holdfast");
    ck_assert_str_eq(d.config, "/etc/holdfast");
}
END_TEST

START_TEST(a_users_defaults)
{
    forget_environment();
    become_user();
    setenv("HOME", "/home/somebody", 1);
    setenv("XDG_RUNTIME_DIR", "/run/user/1000", 1);
    auto_dirs struct dirs d = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(dirs_resolve(&d, &err) == 0, "%s", err.text);
    ck_assert_str_eq(d.run, "/run/user/1000/holdfast");
    ck_assert_str_eq(d.state, "/home/somebody/.local/state/holdfast");
    ck_assert_str_eq(d.log, "/home/somebody/.local/state/holdfast/log");
    ck_assert_str_eq(d.config, "/home/somebody/.config/holdfast");

    setenv("XDG_STATE_HOME", "/xdg/state", 1);
    setenv("XDG_CONFIG_HOME", "relative, so to be ignored", 1);
    auto_dirs struct dirs xdg = { 0 };
    ck_assert_int_eq(dirs_resolve(&xdg, NULL), 0);
    ck_assert_str_eq(xdg.state, "/xdg/state/holdfast");
    ck_assert_str_eq(xdg.log, "/xdg/state/holdfast/log");
    ck_assert_str_eq(xdg.config, "/home/somebody/.config/holdfast");
    become_root_again();
}
END_TEST

START_TEST(a_user_without_a_runtime_folder_is_told_what_to_set)
{
    forget_environment();
    become_user();
    char folder[64];
    snprintf(folder, sizeof(folder), "/run/user/%u", (unsigned)geteuid());
    bool there = access(folder, F_OK) == 0;
    setenv("HOME", "/home/somebody", 1);
    auto_dirs struct dirs d = { 0 };
    struct err err = ERR_INIT;
    int r = dirs_resolve(&d, &err);
    if (there) {
        ck_assert_int_eq(r, 0);
        ck_assert(has_prefix(d.run, folder));
    } else {
        ck_assert_int_eq(r, -ENOENT);
        ck_assert_str_eq(err.id, "no-run-dir");
        ck_assert_ptr_nonnull(strstr(err.text, "HOLDFAST_RUN_DIR"));
        ck_assert_ptr_nonnull(strstr(err.text, folder));
    }
    become_root_again();
}
END_TEST

START_TEST(an_empty_option_is_refused)
{
    auto_dirs struct dirs d = { .run = strdup("/run/x"), .state = strdup("") };
    struct err err = ERR_INIT;
    ck_assert_int_eq(dirs_resolve(&d, &err), -EINVAL);
    ck_assert_str_eq(err.id, "bad-path");
}
END_TEST

START_TEST(clear_may_be_repeated)
{
    struct dirs d = { .run = strdup("/a") };
    dirs_clear(&d);
    ck_assert_ptr_null(d.run);
    dirs_clear(&d);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, options_win_and_become_absolute);
    tcase_add_test(tc, environment_comes_second);
    tcase_add_test(tc, roots_defaults);
    tcase_add_test(tc, a_users_defaults);
    tcase_add_test(tc, a_user_without_a_runtime_folder_is_told_what_to_set);
    tcase_add_test(tc, an_empty_option_is_refused);
    tcase_add_test(tc, clear_may_be_repeated);
}

int main(void) { return fixture_main("dirs", add_tests); }
