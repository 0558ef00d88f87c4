#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/terminal.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"

enum {
    CALL_TIMEOUT_MS = 5000,
    TO_GUEST_MAX = 16 * 1024,
    BLOCK = 16 * 1024,
    LINGER_MS = 1000, /* with --exit-on-eof: how long the guest's answer is waited for */
    NO_ESCAPE = -1,
    ESCAPE_DEFAULT = 0x1d, /* ^] */
};

/* Why the session ended. */
enum ending { GOES_ON, DETACHED, GUEST_ENDED, INPUT_ENDED, READER_GONE, SIGNALLED, BROKEN };

struct session {
    const char *name;
    int guest;   /* the console, both ways */
    int signals; /* signalfd */
    int escape;  /* the character that detaches, NO_ESCAPE: none */
    bool tty;
    bool input_open;
    bool exit_on_eof;
    uint64_t leave_at_us; /* with input ended and --exit-on-eof, else 0 */
    struct raw_mode raw;
    char to_guest[TO_GUEST_MAX];
    size_t n_to_guest;
    int signal; /* that ends us */
};

/* "^]", "^A", a single character, or "none". */
static int parse_escape(const char *s, int *ret_escape)
{
    if (streq(s, "none"))
        *ret_escape = NO_ESCAPE;
    else if (s[0] == '^' && s[1] >= '?' && s[1] <= '~' && !s[2])
        *ret_escape = s[1] == '?' ? 0x7f : s[1] & 0x1f;
    else if (s[0] && !s[1])
        *ret_escape = (unsigned char)s[0];
    else
        return -EINVAL;
    return 0;
}

static void describe_escape(int escape, char buf[32])
{
    if (escape < 0x20)
        snprintf(buf, 32, "^%c (Ctrl + %c)", escape + '@', escape + '@');
    else if (escape == 0x7f)
        snprintf(buf, 32, "^? (Delete)");
    else
        snprintf(buf, 32, "%c", escape);
}

static enum ending read_guest(struct session *s)
{
    char block[BLOCK];
    ssize_t n = read(s->guest, block, sizeof(block));

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? GOES_ON : GUEST_ENDED;
    if (n == 0)
        return GUEST_ENDED;
    int r = fd_write_all(STDOUT_FILENO, block, (size_t)n);
    return r == 0 ? GOES_ON : r == -EPIPE ? READER_GONE : BROKEN;
}

static enum ending read_input(struct session *s)
{
    char block[BLOCK];
    /* From a terminal we read even when the guest takes nothing, or the escape character could never be typed. */
    size_t room = sizeof(s->to_guest) - s->n_to_guest;
    ssize_t n = read(STDIN_FILENO, block, s->tty ? sizeof(block) : room);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return GOES_ON;
    if (n <= 0) {
        s->input_open = false;
        if (s->tty)
            return INPUT_ENDED;
        if (s->exit_on_eof)
            s->leave_at_us = clock_mono_us() + LINGER_MS * 1000;
        return GOES_ON;
    }
    char *escape = s->tty && s->escape != NO_ESCAPE ? memchr(block, s->escape, (size_t)n) : NULL;
    size_t take = escape ? (size_t)(escape - block) : (size_t)n;
    if (take > room)
        take = room;
    memcpy(s->to_guest + s->n_to_guest, block, take);
    s->n_to_guest += take;
    return escape ? DETACHED : GOES_ON;
}

static enum ending write_guest(struct session *s)
{
    ssize_t n = write(s->guest, s->to_guest, s->n_to_guest);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? GOES_ON : GUEST_ENDED;
    s->n_to_guest -= (size_t)n;
    memmove(s->to_guest, s->to_guest + n, s->n_to_guest);
    return GOES_ON;
}

/* The terminal is given back before we end or stop, and taken again when we go on. */
static enum ending read_signal(struct session *s)
{
    struct signalfd_siginfo info;

    if (read(s->signals, &info, sizeof(info)) != sizeof(info))
        return GOES_ON;
    if (info.ssi_signo == SIGTSTP) {
        raw_mode_leave(&s->raw);
        raise(SIGSTOP);
    } else if (info.ssi_signo != SIGCONT) {
        s->signal = (int)info.ssi_signo;
        return SIGNALLED;
    }
    /* Whoever had the terminal meanwhile may have left it as he liked. */
    raw_mode_leave(&s->raw);
    return raw_mode_enter(&s->raw, STDIN_FILENO) < 0 ? BROKEN : GOES_ON;
}

static int wait_ms(const struct session *s)
{
    uint64_t now = clock_mono_us();

    if (!s->leave_at_us)
        return -1;
    return s->leave_at_us > now ? (int)((s->leave_at_us - now) / 1000 + 1) : 0;
}

static enum ending session_step(struct session *s)
{
    bool listen = s->input_open && (s->tty || s->n_to_guest < sizeof(s->to_guest));
    struct pollfd fds[] = {
        { .fd = s->signals, .events = POLLIN },
        { .fd = s->guest, .events = (short)(POLLIN | (s->n_to_guest ? POLLOUT : 0)) },
        { .fd = listen ? STDIN_FILENO : -1, .events = POLLIN },
        { .fd = STDOUT_FILENO },
    };
    enum ending e = GOES_ON;

    if (poll(fds, ARRAY_LEN(fds), wait_ms(s)) < 0)
        return errno == EINTR ? GOES_ON : BROKEN;
    if (fds[0].revents)
        e = read_signal(s);
    if (e == GOES_ON && (fds[3].revents & (POLLERR | POLLHUP | POLLNVAL)))
        e = READER_GONE;
    if (e == GOES_ON && (fds[1].revents & ~POLLOUT))
        e = read_guest(s);
    if (e == GOES_ON && fds[2].revents)
        e = read_input(s);
    if (e == GOES_ON && s->n_to_guest && (fds[1].revents & POLLOUT))
        e = write_guest(s);
    if (e == GOES_ON && s->leave_at_us && clock_mono_us() >= s->leave_at_us)
        e = INPUT_ENDED;
    return e;
}

static int session_signals(struct session *s)
{
    static const int caught[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT };
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        sigaddset(&set, caught[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? -errno : 0;
}

static void die_by(int sig)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, sig);
    signal(sig, SIG_DFL);
    raise(sig);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static enum outcome session_end(const struct invocation *in, struct session *s, enum ending ending)
{
    switch (ending) {
    case GOES_ON:
    case READER_GONE:
        return OUTCOME_DONE;
    case DETACHED:
    case INPUT_ENDED:
        if (s->tty)
            fprintf(stderr, "\r\nDetached from %s; it goes on.\n", s->name);
        return OUTCOME_DONE;
    case GUEST_ENDED:
        if (shim_is_orphan(in, s->name)) {
            complain("%s: its shim went away; the VM is not affected (attach again when a manager has adopted it)", s->name);
            return OUTCOME_FAILED;
        }
        if (s->tty)
            fprintf(stderr, "\r\nConsole of %s closed.\n", s->name);
        return OUTCOME_DONE;
    case SIGNALLED:
        die_by(s->signal);
        return OUTCOME_FAILED;
    case BROKEN:
        complain("%s: the terminal can't be used: %s", s->name, strerror(errno));
        return OUTCOME_FAILED;
    }
    return OUTCOME_FAILED;
}

static enum outcome session_run(const struct invocation *in, struct session *s)
{
    enum ending ending = GOES_ON;
    char escape[32];

    if (s->tty && !in->quiet) {
        describe_escape(s->escape, escape);
        if (s->escape == NO_ESCAPE)
            fprintf(stderr, "Connected to %s.\n", s->name);
        else
            fprintf(stderr, "Connected to %s. Escape character is %s\n", s->name, escape);
    }
    if (session_signals(s) < 0 || raw_mode_enter(&s->raw, STDIN_FILENO) < 0)
        ending = BROKEN;
    while (ending == GOES_ON)
        ending = session_step(s);
    raw_mode_leave(&s->raw);
    return session_end(in, s, ending);
}

static enum outcome attach(const struct invocation *in, struct session *s)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *rest = NULL;
    auto_json json_t *parameters = must_json(json_object());
    struct err err = ERR_INIT;
    size_t rest_len = 0;

    enum outcome outcome = shim_connect(in, s->name, &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->backlog >= 0)
        json_object_set_new(parameters, "backlog", must_json(json_integer(in->backlog)));
    int r = varlink_client_upgrade_consume(client, SHIM_INTERFACE ".Console", steal_ptr(&parameters), CALL_TIMEOUT_MS, &s->guest, &rest,
                                           &rest_len, &err);
    if (r < 0)
        return shim_complain(s->name, client, r, NULL, &err);
    r = fd_set_nonblock(s->guest, true);
    if (r == 0 && rest_len)
        r = fd_write_all(STDOUT_FILENO, rest, rest_len);
    return r < 0 && r != -EPIPE ? OUTCOME_FAILED : OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    struct session s = {
        .name = in->args[0],
        .guest = -1,
        .signals = -1,
        .escape = ESCAPE_DEFAULT,
        .tty = isatty(STDIN_FILENO),
        .input_open = true,
        .exit_on_eof = in->exit_on_eof,
        .raw = { .fd = -1 },
    };

    if (in->escape && parse_escape(in->escape, &s.escape) < 0)
        return complain_usage(in->verb, "--escape: \"%s\" is neither a character, nor like ^A, nor none", in->escape);
    enum outcome outcome = attach(in, &s);
    if (outcome == OUTCOME_DONE)
        outcome = session_run(in, &s);
    fd_close(s.guest);
    fd_close(s.signals);
    return outcome;
}

static const struct flag flags[] = {
    { "escape", 'e', FLAG_TEXT, "CHAR", "the key that detaches: ^A, a character, or none (^])", offsetof(struct invocation, escape), NULL },
    { "backlog", 0, FLAG_NUMBER, "BYTES", "how much of its past output to begin with (4096)", offsetof(struct invocation, backlog), NULL },
    { "exit-on-eof", 0, FLAG_SET, NULL, "leave a second after standard input ended", offsetof(struct invocation, exit_on_eof), NULL },
    FLAGS_END,
};

const struct verb verb_console = {
    .name = "console",
    .args = "NAME",
    .group = "look",
    .summary = "attach to a VM's serial console; Ctrl + ] detaches",
    .details = "Goes straight to the VM's shim, so it works with no manager. Several may be attached at once. When standard input is no\n"
               "terminal all of it is sent, and output goes on until the VM ends.",
    .example = "vmctl console web\necho uname -a | vmctl console web --exit-on-eof",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
