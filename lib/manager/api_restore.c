/* Restore and Clone. */
#include <errno.h>

#include "lib/manager/api.h"
#include "lib/manager/plan_restore.h"
#include "lib/manager/restore.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"

enum { NUMBER_TEXT_MAX = 16 };

static const char *text_of(const json_t *parameters, const char *key) { return json_string_value(json_object_get(parameters, key)); }

/* The mode asked for or configured; -EINVAL: answered. */
static int mode_of(struct manager *m, struct varlink_call *call, const json_t *parameters)
{
    const char *given = text_of(parameters, "mode");
    int mode = given ? enum_from_string(&restore_mode_names, given) : m->config.restore.mode;

    if (mode < 0)
        api_refuse(call, NULL, "\"%s\" is no mode of restoring: lazy, mapped or eager", given);
    return mode;
}

/* What a restore that couldn't be begun tells its client. */
static void fail(const struct restore *r, struct varlink_call *call)
{
    const char *name = r->targets[0].name;

    if (r->unresponsive)
        api_unresponsive(call, r->targets[0].vm);
    else if (streq(r->err.id, "no-snapshot"))
        api_no_such_snapshot(call, r->from.vm, r->from.snapshot);
    else if (r->r == -ENOMEM)
        api_fail_memory(call);
    else if (streq(r->err.id, "refused"))
        api_refuse(call, name, "%s", r->err.text);
    else if (json_array_size(r->problems) > 0)
        api_bad_spec_consume(call, json_incref(r->problems));
    else
        api_fail(call, name, r->err.id, NULL, "%s", r->err.text);
}

/* ---- one ---- */

static void restored(struct restore *r)
{
    struct answer *a = r->arg;
    const struct restore_target *t = &r->targets[0];

    if (a->call && r->r < 0)
        fail(r, a->call);
    else if (a->call)
        wait_begin_consume(t->vm, a->call,
                           &(struct wait_for){ .kind = WAIT_STARTED,
                                               .target = t->target,
                                               .written = true,
                                               .write = t->write,
                                               .restored = true,
                                               .reply = json_pack("{s:O}", "notes", r->notes) });
    free(a);
    restore_free(r);
}

void api_restore(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    const char *name = text_of(parameters, "name"), *vm = text_of(parameters, "snapshot_vm"), *snapshot = text_of(parameters, "snapshot");
    int mode = mode_of(m, call, parameters);
    struct restore *r;
    struct answer *a;

    if (mode < 0)
        return;
    if (!name_is_valid(name)) {
        api_refuse(call, NULL, "\"%s\" is no name of a VM (" NAME_RULE ")", name);
        return;
    }
    r = restore_new(m, vm, snapshot, mode);
    a = calloc(1, sizeof(*a));
    if (!r || !a || restore_add(r, name) < 0) {
        restore_free(r);
        free(a);
        api_fail_memory(call);
        return;
    }
    answer_bind(a, call);
    r->force = json_is_true(json_object_get(parameters, "force"));
    r->done = restored;
    r->arg = a;
    restore_begin(r);
}

/* ---- several ---- */

struct clones {
    struct answer answer;
    struct restore *restore;
    size_t outstanding, failed;
    json_t *results; /* in the order of their numbers */
    struct clone {
        struct clones *all;
        size_t i;
    } each[];
};

static void clones_free(struct clones *c)
{
    restore_free(c->restore);
    json_decref(c->results);
    free(c);
}

static void tell_clones(struct clones *c)
{
    auto_free char *text = NULL;
    size_t n = c->restore->n_targets, left = c->outstanding;

    if (left == 0) {
        if (c->answer.call)
            varlink_call_reply_consume(c->answer.call, json_pack("{s:O, s:O}", "clones", c->results, "notes", c->restore->notes));
        clones_free(c);
        return;
    }
    if (c->answer.call && varlink_call_wants_more(c->answer.call) && str_format(&text, "%zu of %zu run", n - left - c->failed, n) >= 0)
        varlink_call_continue_consume(c->answer.call, json_pack("{s:o}", "progress", json_text(text)));
}

static void clone_ended(void *arg, struct vm *vm, const struct err *err)
{
    struct clone *one = arg;
    struct clones *c = one->all;

    (void)json_array_set_new(
        c->results, one->i,
        json_pack("{s:s, s:o*, s:o*}", "name", vm->name, "vm", err ? NULL : vm_to_wire(vm), "reason", json_text(err ? err->text : NULL)));
    c->outstanding--;
    c->failed += err != NULL;
    tell_clones(c);
}

static void cloned(struct restore *r)
{
    struct clones *c = r->arg;
    size_t n = r->n_targets;

    if (r->r < 0) {
        if (c->answer.call)
            fail(r, c->answer.call);
        clones_free(c);
        return;
    }
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(c->results, json_null());
    c->outstanding = n + 1; /* so that the last of them doesn't free it all under this loop */
    for (size_t i = 0; i < n; i++) {
        const struct restore_target *t = &r->targets[i];

        c->each[i] = (struct clone){ .all = c, .i = i };
        wait_begin_told(
            t->vm, &(struct wait_for){ .kind = WAIT_STARTED, .target = t->target, .written = true, .write = t->write, .restored = true },
            clone_ended, &c->each[i]);
    }
    c->outstanding--;
    tell_clones(c);
}

/* "web-%d" and 3: "web-3". False: the pattern is none. `buf` is as long as a name may be, and one more so that a longer one is noticed. */
static bool clone_name(const char *pattern, size_t number, char buf[NAME_MAX_LEN + 2])
{
    const char *place = strstr(pattern, "%d");
    char text[NUMBER_TEXT_MAX];

    if (!place || strchr(place + 2, '%') || strchr(pattern, '%') != place)
        return false;
    snprintf(text, sizeof(text), "%zu", number);
    snprintf(buf, NAME_MAX_LEN + 2, "%.*s%s%s", (int)(place - pattern), pattern, text, place + 2);
    return name_is_valid(buf);
}

static bool check_pattern(struct varlink_call *call, const char *pattern, json_int_t count)
{
    char name[NAME_MAX_LEN + 2];

    if (count < 1 || count > RESTORE_TARGETS_MAX)
        api_refuse(call, NULL, "%lld clones: expected 1 to %d", (long long)count, RESTORE_TARGETS_MAX);
    else if (!clone_name(pattern, (size_t)count, name))
        api_refuse(call, NULL, "\"%s\" makes no names: expected one %%d in what is otherwise a name (" NAME_RULE ")", pattern);
    else
        return true;
    return false;
}

void api_clone(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    const char *pattern = text_of(parameters, "name");
    json_int_t count = json_integer_value(json_object_get(parameters, "count"));
    int mode = mode_of(m, call, parameters), r = 0;
    struct clones *c;

    if (mode < 0 || !check_pattern(call, pattern, count))
        return;
    c = calloc(1, sizeof(*c) + (size_t)count * sizeof(c->each[0]));
    if (c) {
        c->restore = restore_new(m, text_of(parameters, "vm"), text_of(parameters, "snapshot"), mode);
        c->results = json_array();
    }
    if (!c || !c->restore || !c->results)
        r = -ENOMEM;
    for (size_t i = 1; i <= (size_t)count && r >= 0; i++) {
        char name[NAME_MAX_LEN + 2];

        r = clone_name(pattern, i, name) ? restore_add(c->restore, name) : -EINVAL;
    }
    if (r < 0) {
        if (c)
            clones_free(c);
        api_fail_memory(call);
        return;
    }
    answer_bind(&c->answer, call);
    c->restore->fresh = true;
    c->restore->done = cloned;
    c->restore->arg = c;
    restore_begin(c->restore);
}
