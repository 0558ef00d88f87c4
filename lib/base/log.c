#include "lib/base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "lib/base/clock.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

/* PIPE_BUF: the longest write that a pipe takes whole or not at all. */
enum { LINE_MAX_LEN = 4096 };

static struct {
    const char *program;
    enum log_level level;
    bool journal;
} sink = { .program = "holdfast", .level = LOG_LEVEL_INFO };

static const struct {
    const char *name;
    int priority; /* of syslog(3), for the "<N>" of sd-daemon(3) */
} levels[] = {
    [LOG_LEVEL_ERROR] = { "error", 3 },
    [LOG_LEVEL_WARNING] = { "warning", 4 },
    [LOG_LEVEL_INFO] = { "info", 6 },
    [LOG_LEVEL_DEBUG] = { "debug", 7 },
};

int log_level_from_string(const char *s, enum log_level *ret_level)
{
    for (size_t i = 0; s && i < ARRAY_LEN(levels); i++)
        if (streq(levels[i].name, s)) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    return -EINVAL;
}

/* JOURNAL_STREAM is "device:inode" of what systemd gave us; we may have been redirected since. See systemd.exec(5). */
static bool stderr_is_journal(void)
{
    struct stat st;
    const char *stream = getenv("JOURNAL_STREAM");
    if (!stream || fstat(STDERR_FILENO, &st) < 0)
        return false;
    char mine[64];
    snprintf(mine, sizeof(mine), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return streq(stream, mine);
}

void log_open(const char *program, enum log_level level)
{
    sink.program = program;
    sink.level = level;
    log_level_from_string(getenv("HOLDFAST_LOG_LEVEL"), &sink.level);
    sink.journal = stderr_is_journal();
}

void log_set_level(enum log_level level) { sink.level = level; }

/* One message is one line, whatever it quotes. */
static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = ' ';
}

/* Writes if that can be done at once. poll(2) says whether a pipe or terminal has room; a pipe whose reader is gone would raise SIGPIPE,
 * which is kept from the process whatever it does with that signal. */
static void put_line(const char *line, size_t len)
{
    struct pollfd pollfd = { .fd = STDERR_FILENO, .events = POLLOUT };
    if (poll(&pollfd, 1, 0) != 1 || !(pollfd.revents & POLLOUT) || (pollfd.revents & (POLLERR | POLLNVAL)))
        return;
    sigset_t pipe_only, old, pending;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
    if (write(STDERR_FILENO, line, len) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe_only, NULL, &(struct timespec){ 0 });
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void log_write(enum log_level level, const char *vm, const char *fmt, ...)
{
    if (level > sink.level)
        return;
    int saved = errno;
    char line[LINE_MAX_LEN], stamp[CLOCK_TEXT_MAX];
    int n;
    if (sink.journal)
        n = snprintf(line, sizeof(line), "<%d>", levels[level].priority);
    else
        n = snprintf(line, sizeof(line), "%s %s[%d] %s: ", clock_format(clock_real_us(), stamp), sink.program, (int)getpid(),
                     levels[level].name);
    size_t len = n < 0 ? 0 : (size_t)n;
    if (vm && len < sizeof(line)) {
        n = snprintf(line + len, sizeof(line) - len, "vm=%s ", vm);
        len += n < 0 ? 0 : (size_t)n;
    }
    if (len < sizeof(line)) {
        va_list ap;
        va_start(ap, fmt);
        errno = saved; /* for %m */
        n = vsnprintf(line + len, sizeof(line) - len, fmt, ap);
        va_end(ap);
        len += n < 0 ? 0 : (size_t)n;
    }
    static const char cut[] = "…";
    if (len > sizeof(line) - 2) {
        len = sizeof(line) - 1 - sizeof(cut);
        while (len > 0 && ((unsigned char)line[len] & 0xc0) == 0x80)
            len--;
        memcpy(line + len, cut, sizeof(cut));
        len += sizeof(cut) - 1;
    }
    line[len] = '\0';
    one_line(line);
    line[len++] = '\n';
    put_line(line, len);
    errno = saved;
}
