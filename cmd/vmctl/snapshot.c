#include "cmd/vmctl/snapshot.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/terminal.h"
#include "cmd/vmctl/text.h"
#include "lib/base/clock.h"
#include "lib/base/json.h"
#include "proto/states.h"

enum { TICK_MS = 1000, GAUGE_COLUMNS = 20 };

enum outcome snapshot_name_read(const struct invocation *in, const char *text, const char *vm, struct snapshot_name *ret)
{
    const char *slash = strchr(text, '/');
    const char *snapshot = slash ? slash + 1 : text;

    if (!slash && !vm)
        return complain_usage(in->verb, "\"%s\": a snapshot is named VM/NAME", text);
    if (slash && (size_t)(slash - text) > NAME_MAX_LEN)
        return complain_usage(in->verb, "\"%s\" begins with no VM name (%s)", text, NAME_RULE);
    snprintf(ret->vm, sizeof(ret->vm), "%.*s", slash ? (int)(slash - text) : NAME_MAX_LEN, slash ? text : vm);
    if (!name_is_valid(ret->vm))
        return complain_usage(in->verb, "\"%s\" begins with no VM name (%s)", text, NAME_RULE);
    if (!name_is_valid(snapshot))
        return complain_usage(in->verb, "\"%s\" is no name of a snapshot (%s)", snapshot, NAME_RULE);
    ret->snapshot = snapshot;
    return OUTCOME_DONE;
}

enum outcome snapshot_mode_check(const struct invocation *in)
{
    if (!in->mode || enum_from_string(&restore_mode_names, in->mode) >= 0)
        return OUTCOME_DONE;
    return complain_usage(in->verb, "--mode: \"%s\" is neither lazy nor mapped nor eager", in->mode);
}

json_t *snapshot_parameters(const struct snapshot_name *name)
{
    return must_json(json_pack("{s:s, s:s}", "vm", name->vm, "snapshot", name->snapshot));
}

/* ---- calls ---- */

struct waiting {
    const struct invocation *in;
    const char *doing, *of;
    uint64_t begun_us;
    bool shown;
    json_t *progress; /* the last */
};

/* "[#######.............]" */
static void draw_gauge(char buf[GAUGE_COLUMNS + 3], uint64_t done, uint64_t total)
{
    uint64_t full = done >= total ? GAUGE_COLUMNS : done * GAUGE_COLUMNS / total;

    buf[0] = '[';
    for (uint64_t i = 0; i < GAUGE_COLUMNS; i++)
        buf[1 + i] = i < full ? '#' : '.';
    buf[GAUGE_COLUMNS + 1] = ']';
    buf[GAUGE_COLUMNS + 2] = '\0';
}

static void draw(const struct waiting *w)
{
    uint64_t done = (uint64_t)member_int(w->progress, "done"), total = (uint64_t)member_int(w->progress, "total");
    char elapsed[ELAPSED_MAX], done_text[BYTES_MAX], total_text[BYTES_MAX], gauge[GAUGE_COLUMNS + 3];
    /* Of a clone it is words alone. */
    const char *phase = json_is_string(w->progress) ? json_string_value(w->progress) : member_text(w->progress, "phase");
    auto_free char *line = NULL, *clean = NULL;
    int r;

    if (!w->shown)
        return;
    text_elapsed((clock_mono_us() - w->begun_us) / 1000 / 1000 * 1000, elapsed);
    if (total > 0) {
        draw_gauge(gauge, done, total);
        r = str_format(&line, "%s %s: %s %s %llu %% (%s of %s), %s", w->doing, w->of, phase, gauge,
                       done >= total ? 100ULL : (unsigned long long)(done * 100 / total), text_bytes(done, done_text),
                       text_bytes(total, total_text), elapsed);
    } else {
        r = str_format(&line, "%s %s: %s, %s", w->doing, w->of, *phase ? phase : "waiting", elapsed);
    }
    if (r < 0)
        must(NULL);
    clean = text_one_line(line);
    terminal_status_line(clean);
}

static int follow(struct waiting *w, struct varlink_client *client, json_t **ret_reply, struct err *err)
{
    for (;;) {
        auto_json json_t *reply = NULL;
        int r = varlink_client_next(client, w->shown ? TICK_MS : -1, &reply, err);

        if (r == 1) {
            json_decref(w->progress);
            w->progress = json_incref(json_object_get(reply, "progress"));
        }
        if (r != 1 && r != -ETIMEDOUT) {
            *ret_reply = steal_ptr(&reply);
            return r;
        }
        draw(w);
    }
}

enum outcome snapshot_call_consume(const struct invocation *in, const char *method, const char *doing, const char *of, json_t *parameters,
                                   json_t **ret_reply)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *owned = parameters, *reply = NULL;
    auto_free char *full = NULL;
    struct err err = ERR_INIT;
    struct waiting w = { .in = in, .doing = doing, .of = of, .begun_us = clock_mono_us(), .shown = !in->quiet && isatty(STDERR_FILENO) };
    enum outcome outcome = manager_connect(in, &client);

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (str_format(&full, MANAGER_INTERFACE ".%s", method) < 0)
        must(NULL);
    int r = varlink_client_more_consume(client, full, steal_ptr(&owned), &err);
    if (r >= 0)
        r = follow(&w, client, &reply, &err);
    json_decref(w.progress);
    terminal_status_line(NULL);
    if (r < 0) {
        complain_call(in, NULL, r, varlink_client_error(client), reply, &err);
        return outcome_of_call(r, varlink_client_error(client));
    }
    *ret_reply = steal_ptr(&reply);
    return OUTCOME_DONE;
}

/* ---- showing ---- */

void snapshot_complete(json_t *snapshot)
{
    static const char *const keys[] = { "created", "damaged" };

    for (size_t i = 0; json_is_object(snapshot) && i < ARRAY_LEN(keys); i++)
        if (!json_object_get(snapshot, keys[i]))
            json_object_set_new(snapshot, keys[i], json_null());
}

static bool shows_blocks(void)
{
    const char *charset;
    locale_t locale = newlocale(LC_CTYPE_MASK, "", (locale_t)0);

    if (locale == (locale_t)0)
        return false;
    charset = nl_langinfo_l(CODESET, locale);
    bool utf8 = streq(charset, "UTF-8");
    freelocale(locale);
    return utf8;
}

char *snapshot_bar(const json_t *percents)
{
    static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
    static const char *const letters[] = { " ", ".", ":", "-", "=", "+", "*", "%", "#" };
    const char *const *steps = shows_blocks() ? blocks : letters;
    char *line = must(calloc(json_array_size(percents) + 1, sizeof("█"))), *end = line;
    const json_t *percent;
    size_t i;

    json_array_foreach (percents, i, percent) {
        json_int_t p = json_integer_value(percent);
        /* The least there is shows, and only the whole is a full block. */
        size_t step = p <= 0 ? 0 : p >= 100 ? ARRAY_LEN(blocks) - 1 : 1 + (size_t)p * (ARRAY_LEN(blocks) - 2) / 100;

        size_t len = strlen(steps[step]);
        memcpy(end, steps[step], len);
        end += len;
    }
    return line;
}
