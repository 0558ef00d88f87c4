/* The -fake options: which faults this QEMU shows. Given several times, as "-fake KEY" or "-fake KEY=VALUE".
 *
 *   die-before-greeting[=CODE]   a few lines on stderr, then exit CODE (1)
 *   hang-greeting                never answers a QMP client
 *   delay-greeting=MS            answers it late
 *   garbage-qmp[=reply]          garbage in place of the greeting (of every reply)
 *   half-qmp-line[=reply]        half a greeting (reply) and nothing more
 *   slow-qmp[=MS]                QMP one byte every MS (50)
 *   ignore-powerdown  ignore-quit  ignore-term
 *   refuse-cont                  cont is answered with an error
 *   exit-after=MS:CODE  crash-after=MS:SIGNAL     after its start
 *   panic-after=MS  shutdown-after=MS  reset-after=MS   the guest does, after its first cont
 *   heartbeat=MS                 "tick N" on the console while the guest runs
 *   console-flood=KIB            so much console output, beginning with the first cont
 *   double-fork-helper           leaves a helper that is no child of anybody's and keeps every inherited fd (it ends after 10 minutes)
 */
#include <stdio.h>
#include <string.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "tests/fake/fake.h"

enum { MS_MAX = 24 * 60 * 60 * 1000, KIB_MAX = 1024 * 1024 };

/* What a value is for: those that are set, in the order time:number. */
struct option {
    const char *key;
    bool *flag;
    enum bad_at *place;
    int64_t *time;
    uint64_t *number;
    uint64_t max;         /* of number */
    const char *fallback; /* value when none is given, NULL: one must be */
};

static int set_place(const struct option *o, const char *value)
{
    if (value && !streq(value, "reply"))
        return -1;
    *o->place = value ? BAD_REPLY : BAD_GREETING;
    return 0;
}

static int set_value(const struct option *o, const char *value)
{
    uint64_t time = 0, number = 0;
    auto_free char *first = NULL;
    if (o->time) {
        size_t len = strcspn(value, ":");
        first = strndup(value, len);
        if (!first || parse_u64(first, 0, MS_MAX, &time) < 0 || (value[len] == ':') != (o->number != NULL))
            return -1;
        value += len + (o->number ? 1 : 0);
    }
    if (o->number && parse_u64(value, 0, o->max, &number) < 0)
        return -1;
    if (o->time)
        *o->time = (int64_t)time;
    if (o->number)
        *o->number = number;
    return 0;
}

static int set(const struct option *o, const char *value)
{
    if (o->place)
        return set_place(o, value);
    if (o->flag)
        *o->flag = true;
    if (!o->time && !o->number)
        return value ? -1 : 0;
    value = value ? value : o->fallback;
    return value ? set_value(o, value) : -1;
}

int behaviour_set(struct behaviour *b, const char *option)
{
    const struct option options[] = {
        { "die-before-greeting", .flag = &b->die, .number = &b->die_code, .max = 255, .fallback = "1" },
        { "hang-greeting", .flag = &b->hang_greeting },
        { "delay-greeting", .number = &b->delay_greeting_ms, .max = MS_MAX },
        { "garbage-qmp", .place = &b->garbage_qmp },
        { "half-qmp-line", .place = &b->half_qmp },
        { "slow-qmp", .number = &b->slow_qmp_ms, .max = MS_MAX, .fallback = "50" },
        { "ignore-powerdown", .flag = &b->ignore_powerdown },
        { "ignore-quit", .flag = &b->ignore_quit },
        { "ignore-term", .flag = &b->ignore_term },
        { "refuse-cont", .flag = &b->refuse_cont },
        { "exit-after", .time = &b->exit_after_ms, .number = &b->exit_code, .max = 255 },
        { "crash-after", .time = &b->crash_after_ms, .number = &b->crash_signal, .max = 64 },
        { "panic-after", .time = &b->panic_after_ms },
        { "shutdown-after", .time = &b->shutdown_after_ms },
        { "reset-after", .time = &b->reset_after_ms },
        { "heartbeat", .number = &b->heartbeat_ms, .max = MS_MAX },
        { "console-flood", .number = &b->flood_kib, .max = KIB_MAX },
        { "double-fork-helper", .flag = &b->helper },
    };
    size_t len = strcspn(option, "=");
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (strlen(options[i].key) != len || memcmp(options[i].key, option, len) != 0)
            continue;
        if (set(&options[i], option[len] ? option + len + 1 : NULL) == 0)
            return 0;
        fprintf(stderr, "fake_qemu: bad value: -fake %s\n", option);
        return -1;
    }
    fprintf(stderr, "fake_qemu: unknown option: -fake %s\n", option);
    return -1;
}
