/* A program that behaves towards a shim as qemu-system-x86_64 does, and misbehaves when told: see behaviour.c for its -fake options.
 * Small and idle, so that a thousand of them run on one machine. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FAKE_FD_QMP = 3, /* as in proto/plan.h; written out here because the fake is not told by the project what it must find */
    FAKE_FD_CONSOLE = 4,
};

/* Where a bad greeting or reply begins. */
enum bad_at { BAD_NEVER, BAD_GREETING, BAD_REPLY };

struct behaviour {
    bool die;
    uint64_t die_code;
    bool hang_greeting;
    uint64_t delay_greeting_ms;
    bool ignore_powerdown, ignore_quit, ignore_term;
    bool refuse_cont;
    enum bad_at garbage_qmp, half_qmp;
    uint64_t slow_qmp_ms; /* 0: not slow */
    uint64_t heartbeat_ms, flood_kib;
    bool helper;
    /* From the start of the process; -1: never. */
    int64_t exit_after_ms, crash_after_ms;
    uint64_t exit_code, crash_signal;
    /* From the first cont; -1: never. */
    int64_t panic_after_ms, shutdown_after_ms, reset_after_ms;
};

/* 0, or -1 after saying on stderr what is wrong. */
int behaviour_set(struct behaviour *b, const char *option);

/* A listener that, like a chardev of QEMU's, serves one client at a time. */
struct channel {
    int listener, client; /* -1: none */
    bool keeps_line;      /* what a client began goes on with the next one's: a terminal knows nothing of clients */
    char *out;
    size_t out_len, out_cap;
    char *in; /* the line that is arriving */
    size_t in_len, in_cap;
    uint64_t byte_ms; /* one byte so often, 0: as fast as it goes */
    uint64_t next_byte;
};

void channel_init(struct channel *c, int listener);
bool channel_accept(struct channel *c); /* true when a client has come */
void channel_drop(struct channel *c);
/* Queues for the client; nothing happens without one. */
void channel_put(struct channel *c, const char *data, size_t len);
void channel_flush(struct channel *c, uint64_t now);
void channel_drain(struct channel *c); /* before exit: writes what the client takes within a second */
/* Reads what is there and calls `line` for each complete line, NUL in place of its newline. */
void channel_read(struct channel *c, void (*line)(void *arg, char *line, size_t len), void *arg);

struct fake {
    struct behaviour behaviour;
    struct channel qmp, console;
    int log; /* the chardev's logfile=, -1: none */
    bool capabilities_done;
    bool running, ever_ran, no_reboot;
    bool powerdown_pending;
    uint64_t greet_at;           /* 0: greeted, or nobody to greet */
    uint64_t started, first_run; /* monotonic ms */
    uint64_t next_tick, tick;
    uint64_t flood_left;   /* lines */
    uint64_t guest_off_at; /* the guest is shutting down, gone then; 0: it isn't */
};

uint64_t now_ms(void);
/* Says why to the QMP client, as QEMU does, and exits. */
_Noreturn void fake_shutdown(struct fake *f, const char *reason, bool guest, int code);

/* qmp.c */
void qmp_greet(struct fake *f);
void qmp_line(void *arg, char *line, size_t len);
void qmp_event(struct fake *f, const char *name, json_t *data_take);

/* guest.c: what the machine and its guest do by themselves */
void guest_cont(struct fake *f);
void guest_powerdown(struct fake *f);
void guest_line(void *arg, char *line, size_t len);
/* Does what is due. Returns the ms until the next thing is, -1: nothing ever will. */
int64_t guest_run(struct fake *f, uint64_t now);
