#include "lib/base/failpoint.h"

#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"

/* The wait status of a child that passes the points "a" and "b" and exits 7 if it comes that far. */
static int pass(const char *setting)
{
    if (setting)
        setenv("HOLDFAST_FAILPOINT", setting, 1);
    else
        unsetenv("HOLDFAST_FAILPOINT");
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        FAILPOINT("a");
        FAILPOINT("b");
        _exit(7);
    }
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, WUNTRACED), pid);
    if (WIFSTOPPED(wstatus)) {
        kill(pid, SIGCONT);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    }
    return wstatus;
}

enum { PASSED = 7 << 8 };

#ifdef HOLDFAST_FAILPOINTS
START_TEST(actions)
{
    ck_assert_int_eq(pass(NULL), PASSED);
    ck_assert_int_eq(pass(""), PASSED);
    ck_assert_int_eq(pass("c=kill"), PASSED);
    ck_assert_int_eq(pass("a=kill"), SIGKILL);
    ck_assert_int_eq(pass("c=stop,b=kill"), SIGKILL);
    ck_assert_int_eq(pass("b=exit"), 1 << 8);
    int wstatus = pass("a=stop");
    ck_assert(WIFSTOPPED(wstatus));
    ck_assert_int_eq(WSTOPSIG(wstatus), SIGSTOP);
    ck_assert_int_eq(pass("a=explode"), SIGABRT);
}
END_TEST

START_TEST(with_a_file_it_fires_once)
{
    auto_free char *setting = NULL;
    ck_assert_int_eq(str_format(&setting, "a=kill@%s/fuse", fixture.path), 0);
    ck_assert_int_eq(pass(setting), PASSED);
    fixture_write("fuse", "");
    ck_assert_int_eq(pass(setting), SIGKILL);
    ck_assert(!fixture_exists("fuse"));
    ck_assert_int_eq(pass(setting), PASSED);
}
END_TEST
#else
START_TEST(without_the_option_nothing_remains) { ck_assert_int_eq(pass("a=kill"), PASSED); }
END_TEST
#endif

static void add_tests(TCase *tc)
{
#ifdef HOLDFAST_FAILPOINTS
    tcase_add_test(tc, actions);
    tcase_add_test(tc, with_a_file_it_fires_once);
#else
    tcase_add_test(tc, without_the_option_nothing_remains);
#endif
}

int main(void) { return fixture_main("failpoint", add_tests); }
