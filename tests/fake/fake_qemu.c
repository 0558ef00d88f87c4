#include "tests/fake/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

enum { HELPER_LIFE_S = 600 };

static const char version_text[] = "QEMU emulator version 7.2.22 (fake)\n"
                                   "Copyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers\n";

static const char machine_text[] = "Supported machines are:\n"
                                   "microvm              microvm (i386)\n"
                                   "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)\n"
                                   "pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)\n"
                                   "pc-i440fx-7.1        Standard PC (i440FX + PIIX, 1996)\n"
                                   "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)\n"
                                   "pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)\n"
                                   "pc-q35-7.1           Standard PC (Q35 + ICH9, 2009)\n"
                                   "isapc                ISA-only PC\n"
                                   "none                 empty machine\n";

/* As a QEMU built with all that confidential guests and passed-through devices need. */
static const char object_text[] = "List of user creatable objects:\n"
                                  "  iommufd\n"
                                  "  memory-backend-ram\n"
                                  "  sev-snp-guest\n"
                                  "  tdx-guest\n";

static const char device_text[] = "Misc devices:\n"
                                  "name \"vfio-pci\", bus PCI, desc \"VFIO-based PCI device assignment\"\n"
                                  "name \"vhost-vsock-pci\", bus PCI\n";

static const char cpu_text[] = "Available CPUs:\n"
                               "  EPYC-v3\n"
                               "  EPYC-v4\n";

static const struct {
    const char *option, *text;
} help_texts[] = {
    { "-machine", machine_text }, { "-M", machine_text }, { "-object", object_text }, { "-device", device_text }, { "-cpu", cpu_text }
};

static void answer_help(const char *option, const char *value)
{
    for (size_t i = 0; streq(value, "help") && i < ARRAY_LEN(help_texts); i++)
        if (streq(option, help_texts[i].option)) {
            fputs(help_texts[i].text, stdout);
            exit(0);
        }
}

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

_Noreturn void fake_shutdown(struct fake *f, const char *reason, bool guest, int code)
{
    qmp_event(f, "SHUTDOWN", json_pack("{sbss}", "guest", guest, "reason", reason));
    channel_drain(&f->qmp);
    channel_drain(&f->console);
    exit(code);
}

/* "/dev/fdset/M" is the descriptor that "-add-fd fd=N,set=M" named, if the access it was opened for is the one wanted. */
static int open_fdset(int argc, char **argv, const char *set)
{
    for (int i = 1; i + 1 < argc; i++) {
        const char *comma = strchr(argv[i + 1], ',');
        uint64_t fd;
        if (!streq(argv[i], "-add-fd") || !comma || !has_prefix(argv[i + 1], "fd=") || !has_prefix(comma, ",set=") ||
            !streq(comma + strlen(",set="), set))
            continue;
        char number[16] = { 0 };
        size_t len = (size_t)(comma - argv[i + 1]) - strlen("fd=");
        memcpy(number, argv[i + 1] + strlen("fd="), len < sizeof(number) ? len : sizeof(number) - 1);
        if (parse_u64(number, 3, 1 << 20, &fd) >= 0 && (fcntl((int)fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
            return fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
    }
    errno = ENOENT;
    return -1;
}

/* "logfile=PATH" in a chardev's options, where a comma in a path is written twice. */
static int open_log(int argc, char **argv, const char *chardev)
{
    const char *from = strstr(chardev, ",logfile=");
    char path[4096];
    size_t len = 0;
    if (!from)
        return -1;
    for (from += strlen(",logfile="); *from && len < sizeof(path) - 1; from++) {
        if (*from == ',' && *++from != ',')
            break;
        path[len++] = *from;
    }
    path[len] = '\0';
    int how = strstr(chardev, "logappend=on") ? O_APPEND : O_TRUNC;
    static const char fdset[] = "/dev/fdset/";
    int fd =
        has_prefix(path, fdset) ? open_fdset(argc, argv, path + strlen(fdset)) : open(path, O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);
    if (fd < 0) {
        fprintf(stderr, "qemu-system-x86_64: Unable to open logfile %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return fd;
}

static void parse_arguments(struct fake *f, int argc, char **argv)
{
    f->running = true;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        answer_help(argv[i], value);
        if (streq(argv[i], "-version") || streq(argv[i], "--version")) {
            fputs(version_text, stdout);
            exit(0);
        } else if (streq(argv[i], "-S")) {
            f->running = false;
        } else if (streq(argv[i], "-no-reboot") || (streq(argv[i], "-action") && strstr(value, "reboot=shutdown"))) {
            f->no_reboot = true;
        } else if (streq(argv[i], "-chardev") && f->log < 0) {
            f->log = open_log(argc, argv, value);
        } else if (streq(argv[i], "-fake")) {
            if (behaviour_set(&f->behaviour, value) < 0)
                exit(2);
            i++;
        }
    }
}

/* A helper as some devices start them, and as hard to find as can be: no child, no session, no group in common with us. */
static void start_helper(void)
{
    pid_t pid = fork();
    if (pid < 0) {
        perror("fake_qemu: fork");
        exit(1);
    }
    if (pid > 0)
        return;
    setsid();
    pid = fork();
    if (pid != 0)
        _exit(pid < 0 ? 1 : 0);
    prctl(PR_SET_NAME, "fake_helper");
    fprintf(stderr, "fake_qemu: helper %d\n", (int)getpid());
    alarm(HELPER_LIFE_S);
    for (;;)
        pause();
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void on_signal(struct fake *f, int fd)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (f->behaviour.ignore_term)
        return;
    fprintf(stderr, "qemu-system-x86_64: terminating on signal %u from pid %u (fake)\n", info.ssi_signo, info.ssi_pid);
    fake_shutdown(f, "host-signal", false, 0);
}

/* What to poll a channel for: its listener while it has no client. */
static struct pollfd channel_poll(const struct channel *c, uint64_t now)
{
    if (c->client < 0)
        return (struct pollfd){ .fd = c->listener, .events = POLLIN };
    short out = c->out_len && now >= c->next_byte ? POLLOUT : 0;
    return (struct pollfd){ .fd = c->client, .events = (short)(POLLIN | out) };
}

static void serve(struct fake *f, struct channel *c, short revents, void (*line)(void *arg, char *line, size_t len))
{
    if (c->client < 0) {
        if (channel_accept(c) && c == &f->qmp)
            f->greet_at = now_ms() + f->behaviour.delay_greeting_ms;
        return;
    }
    if (revents & POLLOUT)
        channel_flush(c, now_ms());
    if (c->client >= 0 && revents & (POLLIN | POLLHUP | POLLERR))
        channel_read(c, line, f);
}

static int sooner(int64_t a, uint64_t at, uint64_t now)
{
    int64_t b = at > now ? (int64_t)(at - now) : 0;
    return (int)(a < 0 || b < a ? b : a);
}

static _Noreturn void run(struct fake *f, int signals)
{
    for (;;) {
        uint64_t now = now_ms();
        int64_t left = guest_run(f, now);
        if (f->greet_at && now >= f->greet_at) {
            f->greet_at = 0;
            qmp_greet(f);
        }
        if (f->greet_at)
            left = sooner(left, f->greet_at, now);
        if (f->qmp.out_len && f->qmp.next_byte > now)
            left = sooner(left, f->qmp.next_byte, now);
        struct pollfd fds[] = {
            { .fd = signals, .events = POLLIN },
            channel_poll(&f->qmp, now),
            channel_poll(&f->console, now),
        };
        if (poll(fds, ARRAY_LEN(fds), (int)left) <= 0)
            continue;
        if (fds[0].revents)
            on_signal(f, signals);
        if (fds[1].revents)
            serve(f, &f->qmp, fds[1].revents, qmp_line);
        if (fds[2].revents)
            serve(f, &f->console, fds[2].revents, guest_line);
    }
}

static bool is_listener(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

int main(int argc, char **argv)
{
    struct fake f = {
        .behaviour = { .exit_after_ms = -1, .crash_after_ms = -1, .panic_after_ms = -1, .shutdown_after_ms = -1, .reset_after_ms = -1 },
        .log = -1,
        .started = now_ms(),
    };
    /* Before anything opens an fd that could be taken for one of them. */
    bool has_qmp = is_listener(FAKE_FD_QMP), has_console = is_listener(FAKE_FD_CONSOLE);
    parse_arguments(&f, argc, argv);
    if (f.behaviour.die) {
        fputs("qemu-system-x86_64: -device nonsense: told to die before the greeting\n"
              "qemu-system-x86_64: this is the last line\n",
              stderr);
        return (int)f.behaviour.die_code;
    }
    if (f.behaviour.helper)
        start_helper();
    int signals = open_signals();
    channel_init(&f.qmp, has_qmp && !f.behaviour.hang_greeting ? FAKE_FD_QMP : -1);
    channel_init(&f.console, has_console ? FAKE_FD_CONSOLE : -1);
    f.console.keeps_line = true;
    f.qmp.byte_ms = f.behaviour.slow_qmp_ms;
    if (f.running)
        guest_cont(&f);
    run(&f, signals);
}
