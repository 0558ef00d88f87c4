#include "lib/base/log.h"

#include <signal.h>
#include <sys/stat.h>

#include "tests/unit/fixture.h"

/* stderr as a pipe for the length of a test. */
static int saved_stderr = -1, reader = -1;

static void redirect(void)
{
    int fds[2];
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    ck_assert_int_ge(dup2(fds[1], STDERR_FILENO), 0);
    fd_close(fds[1]);
    reader = fds[0];
    ck_assert_int_eq(fd_set_nonblock(reader, true), 0);
}

static void restore(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    saved_stderr = fd_close(saved_stderr);
    reader = fd_close(reader);
}

/* What is in the pipe right now. */
static const char *logged(void)
{
    static char buf[8192];
    ssize_t n = read(reader, buf, sizeof(buf) - 1);
    buf[n > 0 ? n : 0] = '\0';
    return buf;
}

/* What follows the time stamp. */
static const char *after_stamp(const char *line)
{
    const char *blank = strchr(line, ' ');
    ck_assert_ptr_nonnull(blank);
    ck_assert_int_eq(blank - line, 24);
    ck_assert_int_eq(blank[-1], 'Z');
    return blank + 1;
}

START_TEST(a_line_says_when_who_and_how_bad)
{
    unsetenv("HOLDFAST_LOG_LEVEL");
    unsetenv("JOURNAL_STREAM");
    redirect();
    log_open("holdfastd", LOG_LEVEL_INFO);
    errno = ENOENT;
    log_warning("disk %d: %m", 3);
    ck_assert_int_eq(errno, ENOENT);
    char expected[128];
    snprintf(expected, sizeof(expected), "holdfastd[%d] warning: disk 3: No such file or directory\n", (int)getpid());
    ck_assert_str_eq(after_stamp(logged()), expected);
    log_vm_error("web", "gone");
    snprintf(expected, sizeof(expected), "holdfastd[%d] error: vm=web gone\n", (int)getpid());
    ck_assert_str_eq(after_stamp(logged()), expected);
    restore();
}
END_TEST

START_TEST(levels)
{
    unsetenv("JOURNAL_STREAM");
    redirect();
    setenv("HOLDFAST_LOG_LEVEL", "warning", 1);
    log_open("x", LOG_LEVEL_DEBUG);
    log_info("not this");
    ck_assert_str_eq(logged(), "");
    log_warning("this");
    ck_assert_str_ne(logged(), "");
    setenv("HOLDFAST_LOG_LEVEL", "loud", 1); /* not valid: the program's own */
    log_open("x", LOG_LEVEL_INFO);
    log_info("this");
    ck_assert_str_ne(logged(), "");
    log_debug("not this");
    ck_assert_str_eq(logged(), "");
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("this");
    ck_assert_str_ne(logged(), "");
    restore();

    static const char *const names[] = { "error", "warning", "info", "debug" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        enum log_level level = LOG_LEVEL_DEBUG;
        ck_assert_int_eq(log_level_from_string(names[i], &level), 0);
        ck_assert_int_eq(level, (int)i);
    }
    enum log_level level = LOG_LEVEL_INFO;
    ck_assert_int_eq(log_level_from_string("verbose", &level), -EINVAL);
    ck_assert_int_eq(log_level_from_string(NULL, &level), -EINVAL);
    ck_assert_int_eq(level, LOG_LEVEL_INFO);
}
END_TEST

START_TEST(journal_gets_priorities)
{
    unsetenv("HOLDFAST_LOG_LEVEL");
    redirect();
    struct stat st;
    ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
    char stream[64];
    snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_open("x", LOG_LEVEL_DEBUG);
    log_error("a");
    ck_assert_str_eq(logged(), "<3>a\n");
    log_vm_info("web", "b");
    ck_assert_str_eq(logged(), "<6>vm=web b\n");
    setenv("JOURNAL_STREAM", "1:1", 1); /* somebody else's */
    log_open("x", LOG_LEVEL_DEBUG);
    log_error("a");
    ck_assert_int_ne(logged()[0], '<');
    restore();
}
END_TEST

START_TEST(one_message_is_one_line)
{
    redirect();
    log_open("x", LOG_LEVEL_INFO);
    log_error("a\nfake line\x1b[31m");
    const char *line = logged();
    ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
    ck_assert_ptr_null(strchr(line, '\x1b'));
    char big[10000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_error("%s", big);
    line = logged();
    ck_assert_uint_le(strlen(line), 4096); /* what a pipe takes in one piece */
    ck_assert_uint_gt(strlen(line), 4000);
    ck_assert_str_eq(line + strlen(line) - 4, "…\n");
    log_vm_error(big, "text");
    line = logged();
    ck_assert_uint_le(strlen(line), 4096);
    ck_assert_str_eq(line + strlen(line) - 4, "…\n");
    restore();
}
END_TEST

START_TEST(a_full_pipe_does_not_stop_us)
{
    redirect();
    log_open("x", LOG_LEVEL_INFO);
    for (int i = 0; i < 20000; i++)
        log_error("line %d", i);
    size_t bytes = 0;
    for (const char *text = logged(); *text; text = logged())
        bytes += strlen(text);
    ck_assert_uint_gt(bytes, 4096);
    log_error("again");
    ck_assert_ptr_nonnull(strstr(logged(), "again"));
    restore();
}
END_TEST

START_TEST(a_reader_that_is_gone_does_not_kill_us)
{
    signal(SIGPIPE, SIG_DFL);
    redirect();
    log_open("x", LOG_LEVEL_INFO);
    reader = fd_close(reader);
    log_error("to nobody");
    restore();
    sigset_t pending;
    sigpending(&pending);
    ck_assert(!sigismember(&pending, SIGPIPE));
}
END_TEST

START_TEST(no_stderr_at_all)
{
    redirect();
    log_open("x", LOG_LEVEL_INFO);
    close(STDERR_FILENO);
    errno = 0;
    log_error("to nowhere");
    ck_assert_int_eq(errno, 0);
    restore();
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_line_says_when_who_and_how_bad);
    tcase_add_test(tc, levels);
    tcase_add_test(tc, journal_gets_priorities);
    tcase_add_test(tc, one_message_is_one_line);
    tcase_add_test(tc, a_full_pipe_does_not_stop_us);
    tcase_add_test(tc, a_reader_that_is_gone_does_not_kill_us);
    tcase_add_test(tc, no_stderr_at_all);
}

int main(void) { return fixture_main("log", add_tests); }
