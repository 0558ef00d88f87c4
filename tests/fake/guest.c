/* What the machine and the guest in it do by themselves. The guest's console understands the words of tests/guest/init.c that make
 * sense without a Linux: poweroff, reboot, panic, noacpi, echo TEXT. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "tests/fake/fake.h"

enum {
    FLOOD_LINE = 64,
    CONSOLE_ROOM = 64 * 1024, /* like a guest's: the guest waits when its console isn't read */
    SHUTDOWN_MS = 20,         /* how long the guest takes to shut down */
};

static void print(struct fake *f, const char *line)
{
    size_t len = strlen(line);
    if (f->log >= 0)
        fd_write_all(f->log, line, len);
    channel_put(&f->console, line, len);
}

void guest_cont(struct fake *f)
{
    if (!f->ever_ran) {
        f->ever_ran = true;
        f->first_run = now_ms();
        f->next_tick = f->first_run;
        f->flood_left = f->behaviour.flood_kib * (1024 / FLOOD_LINE);
        print(f, "holdfast-guest: ready\r\n");
    }
    if (f->powerdown_pending)
        guest_powerdown(f);
}

/* A paused guest finds the button pressed when it goes on. */
void guest_powerdown(struct fake *f)
{
    if (f->behaviour.ignore_powerdown || f->guest_off_at)
        return;
    f->powerdown_pending = !f->running;
    if (f->running) {
        print(f, "holdfast-guest: power button\r\n");
        f->guest_off_at = now_ms() + SHUTDOWN_MS;
    }
}

static void guest_panic(struct fake *f)
{
    print(f, "Kernel panic - not syncing: told to\r\n");
    qmp_event(f, "GUEST_PANICKED", json_pack("{ss}", "action", "poweroff"));
    fake_shutdown(f, "guest-panic", true, 0);
}

static void guest_reset(struct fake *f)
{
    if (f->no_reboot)
        fake_shutdown(f, "guest-reset", true, 0);
    qmp_event(f, "RESET", json_pack("{sbss}", "guest", 1, "reason", "guest-reset"));
}

void guest_line(void *arg, char *line, size_t len)
{
    struct fake *f = arg;
    (void)len;
    if (!f->running)
        return;
    if (streq(line, "poweroff")) {
        fake_shutdown(f, "guest-shutdown", true, 0);
    } else if (streq(line, "reboot")) {
        guest_reset(f);
    } else if (streq(line, "panic")) {
        guest_panic(f);
    } else if (streq(line, "noacpi")) {
        f->behaviour.ignore_powerdown = true;
        print(f, "holdfast-guest: power button off\r\n");
    } else if (has_prefix(line, "echo ")) {
        print(f, line + strlen("echo "));
        print(f, "\r\n");
    }
}

static _Noreturn void crash(int signal_number)
{
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    signal(signal_number, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(signal_number);
    abort(); /* told to crash by a signal that doesn't kill */
}

/* Whether `after` ms since `start` are over; else `*next` is brought forward to the moment they are. */
static bool due(uint64_t start, int64_t after, uint64_t now, uint64_t *next)
{
    if (after < 0)
        return false;
    uint64_t at = start + (uint64_t)after;
    if (now < at && at < *next)
        *next = at;
    return now >= at;
}

/* At most `CONSOLE_ROOM` is kept for a client that doesn't read; then the guest stands still, as a real one does. */
static void talk(struct fake *f, uint64_t now, uint64_t *next)
{
    if (f->console.client >= 0 && f->console.out_len >= CONSOLE_ROOM)
        return;
    for (int i = 0; f->flood_left && i < CONSOLE_ROOM / FLOOD_LINE; i++) {
        char line[FLOOD_LINE + 1];
        snprintf(line, sizeof(line), "flood %-56llu\r\n", (unsigned long long)f->flood_left--);
        print(f, line);
    }
    if (f->flood_left)
        *next = now;
    if (f->behaviour.heartbeat_ms && due(f->next_tick, 0, now, next)) {
        char line[32];
        snprintf(line, sizeof(line), "tick %llu\r\n", (unsigned long long)++f->tick);
        print(f, line);
        f->next_tick = now + f->behaviour.heartbeat_ms;
        due(f->next_tick, 0, now, next);
    }
}

int64_t guest_run(struct fake *f, uint64_t now)
{
    const struct behaviour *b = &f->behaviour;
    uint64_t next = UINT64_MAX;
    if (due(f->started, b->exit_after_ms, now, &next))
        exit((int)b->exit_code);
    if (due(f->started, b->crash_after_ms, now, &next))
        crash((int)b->crash_signal);
    if (f->running) {
        if (due(f->first_run, b->panic_after_ms, now, &next))
            guest_panic(f);
        if (due(f->first_run, b->shutdown_after_ms, now, &next))
            fake_shutdown(f, "guest-shutdown", true, 0);
        if (f->behaviour.reset_after_ms >= 0 && due(f->first_run, b->reset_after_ms, now, &next)) {
            f->behaviour.reset_after_ms = -1;
            guest_reset(f);
        }
        if (f->guest_off_at && due(f->guest_off_at, 0, now, &next))
            fake_shutdown(f, "guest-shutdown", true, 0);
        talk(f, now, &next);
    }
    return next == UINT64_MAX ? -1 : next > now ? (int64_t)(next - now) : 0;
}
