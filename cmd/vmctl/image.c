#include "cmd/vmctl/image.h"

#include <errno.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/terminal.h"
#include "cmd/vmctl/text.h"
#include "lib/base/clock.h"
#include "lib/base/json.h"

#define IMAGES_INTERFACE "io.holdfast.Images"
#define IMAGES_SOCKET "images.sock"

enum { ANSWER_MS = 30 * 1000, TICK_MS = 1000, GAUGE_COLUMNS = 20 };

enum outcome image_word_read(const struct invocation *in, const char *text, bool need_version, struct image_word *ret)
{
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);

    if (len == 0 || len > IMAGE_WORD_MAX || (slash && (!slash[1] || strchr(slash + 1, '/'))))
        return complain_usage(in->verb, "\"%s\": an image is named NAME/VERSION%s", text, need_version ? "" : ", or NAME");
    if (!slash && need_version)
        return complain_usage(in->verb, "\"%s\": which release of it? An image is named NAME/VERSION here", text);
    memcpy(ret->name, text, len);
    ret->name[len] = '\0';
    ret->version = slash ? slash + 1 : "auto";
    return OUTCOME_DONE;
}

json_t *image_parameters(const struct image_word *image)
{
    return must_json(json_pack("{s:s, s:s}", "name", image->name, "version", image->version));
}

/* ---- calls ---- */

static char *socket_path(const struct invocation *in)
{
    char *path = NULL;

    if (str_format(&path, "%s/" IMAGES_SOCKET, in->dirs.run) < 0)
        must(NULL);
    return path;
}

static enum outcome connect_service(const struct invocation *in, struct varlink_client **ret_client)
{
    auto_free char *path = socket_path(in);
    struct err err = ERR_INIT;
    int r = varlink_client_connect(path, ret_client, &err);

    if (r >= 0)
        return OUTCOME_DONE;
    if (r == -EACCES || r == -EPERM) {
        complain("%s: permission denied (members of the group holdfast may manage images: usermod -aG holdfast USER, or run this as root)",
                 path);
        return OUTCOME_REFUSED;
    }
    if (manager_is_away(r))
        complain("no image service answers on %s (start it: systemctl start holdfast-imaged, or run holdfast-imaged); VMs are not affected",
                 path);
    else
        complain("%s", err.text);
    return OUTCOME_UNREACHABLE;
}

static enum outcome failed(int r, const struct varlink_client *client, const json_t *reply, const struct err *err)
{
    const char *reason = member_text(reply, "reason");

    if (r == -EREMOTEIO)
        complain("%s", *reason ? reason : err->text);
    else if (r == -ETIMEDOUT)
        complain("the image service doesn't answer (%d s); VMs are not affected", ANSWER_MS / 1000);
    else if (manager_is_away(r))
        complain("the image service went away before it answered; a pull goes on when it is back, and VMs are not affected");
    else
        complain("%s", *err->text ? err->text : strerror(-r));
    return r == -ETIMEDOUT ? OUTCOME_UNREACHABLE : outcome_of_call(r, varlink_client_error(client));
}

static char *full_name(const char *method)
{
    char *full = NULL;

    if (str_format(&full, IMAGES_INTERFACE ".%s", method) < 0)
        must(NULL);
    return full;
}

enum outcome image_call_consume(const struct invocation *in, const char *method, json_t *parameters, json_t **ret_reply)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *owned = parameters, *reply = NULL;
    auto_free char *full = full_name(method);
    struct err err = ERR_INIT;
    enum outcome outcome = connect_service(in, &client);

    if (outcome != OUTCOME_DONE)
        return outcome;
    int r = varlink_client_call_consume(client, full, steal_ptr(&owned), ANSWER_MS, &reply, &err);
    if (r < 0)
        return failed(r, client, reply, &err);
    *ret_reply = steal_ptr(&reply);
    return OUTCOME_DONE;
}

struct waiting {
    const char *doing, *of;
    uint64_t begun_us;
    bool shown;
    json_t *progress; /* the last */
};

/* ", 50 MiB/s, 2 min 3 s left" */
static void put_pace(FILE *f, const json_t *progress)
{
    uint64_t rate = (uint64_t)member_int(progress, "rate"), left = (uint64_t)member_int(progress, "seconds_left");
    char bytes[BYTES_MAX], elapsed[ELAPSED_MAX];

    if (rate)
        fprintf(f, ", %s/s", text_bytes(rate, bytes));
    if (json_is_integer(json_object_get(progress, "seconds_left")))
        fprintf(f, ", %s left", text_elapsed(left * 1000, elapsed));
}

static void put_gauge(FILE *f, uint64_t done, uint64_t total)
{
    uint64_t full = done >= total ? GAUGE_COLUMNS : done / (total / GAUGE_COLUMNS + 1);
    char done_text[BYTES_MAX], total_text[BYTES_MAX];

    fputs(" [", f);
    for (uint64_t i = 0; i < GAUGE_COLUMNS; i++)
        fputc(i < full ? '#' : '.', f);
    fprintf(f, "] %d %% (%s of %s)", done >= total ? 100 : (int)((double)done * 100 / (double)total), text_bytes(done, done_text),
            text_bytes(total, total_text));
}

static void draw(const struct waiting *w)
{
    uint64_t done = (uint64_t)member_int(w->progress, "done"), total = (uint64_t)member_int(w->progress, "total");
    const char *phase = member_text(w->progress, "phase");
    auto_free char *line = NULL, *clean = NULL;
    char elapsed[ELAPSED_MAX];
    size_t len;

    if (!w->shown)
        return;
    FILE *f = must(open_memstream(&line, &len));
    fprintf(f, "%s %s: %s", w->doing, w->of, *phase ? phase : "waiting");
    if (total > 0)
        put_gauge(f, done, total);
    put_pace(f, w->progress);
    if (total == 0)
        fprintf(f, ", %s", text_elapsed((clock_mono_us() - w->begun_us) / 1000 / 1000 * 1000, elapsed));
    if (fclose(f) != 0)
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

enum outcome image_follow_consume(const struct invocation *in, const char *method, const char *doing, const char *of, json_t *parameters,
                                  json_t **ret_reply)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *owned = parameters, *reply = NULL;
    auto_free char *full = full_name(method);
    struct err err = ERR_INIT;
    struct waiting w = { .doing = doing, .of = of, .begun_us = clock_mono_us(), .shown = !in->quiet && isatty(STDERR_FILENO) };
    enum outcome outcome = connect_service(in, &client);

    if (outcome != OUTCOME_DONE)
        return outcome;
    int r = varlink_client_more_consume(client, full, steal_ptr(&owned), &err);
    if (r >= 0)
        r = follow(&w, client, &reply, &err);
    json_decref(w.progress);
    terminal_status_line(NULL);
    if (r < 0)
        return failed(r, client, reply, &err);
    *ret_reply = steal_ptr(&reply);
    return OUTCOME_DONE;
}

/* ---- showing ---- */

void image_complete(json_t *image)
{
    static const struct {
        const char *of; /* a member that only this kind has */
        const char *keys[4];
    } kinds[] = {
        { "files", { "source", "fetched_at", "problem", NULL } },
        { "progress", { "begun_at", "problem", NULL } },
        { "kind", { "newest", "checked_at", "problem", NULL } },
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        for (const char *const *key = kinds[i].keys; json_object_get(image, kinds[i].of) && *key; key++)
            if (!json_object_get(image, *key))
                json_object_set_new(image, *key, json_null());
}

char *image_users(const json_t *release)
{
    auto_free char *text = NULL;
    const json_t *user;
    size_t i, len;
    FILE *f = must(open_memstream(&text, &len));

    json_array_foreach (json_object_get(release, "in_use_by"), i, user)
        fprintf(f, "%s%s", i ? ", " : "", json_string_value(user));
    if (fclose(f) != 0)
        must(NULL);
    return steal_ptr(&text);
}
