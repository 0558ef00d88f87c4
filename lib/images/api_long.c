/* The methods that take their time, and how their calls end. */
#include <errno.h>

#include "lib/base/log.h"
#include "lib/images/api.h"
#include "lib/images/pull.h"
#include "lib/images/wire.h"

static const char *text_of(const json_t *parameters, const char *key) { return json_string_value(json_object_get(parameters, key)); }

/* ---- Pull ---- */

/* Joins or begins the pull of a release. */
static void pull_named(struct images_service *s, struct varlink_call *call, const char *name, const char *version)
{
    struct activity *a = activity_find(s, ACTIVITY_PULL, name, version);
    struct err err = ERR_INIT;
    int r = 0;

    if (a && image_task_is_cancelled(&a->task))
        r = err_set(&err, EBUSY, "refused", "the pull of image %s/%s is just being cancelled", name, version);
    else if (!a)
        r = activity_begin(s, ACTIVITY_PULL, name, version, NULL, &a, &err);
    if (r < 0)
        api_fail(call, name, version, r, &err);
    else
        activity_watch(a, call, WISH_RESULT);
}

void api_pull(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct images_service *s = userdata;
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version");
    struct activity *check;
    struct err err = ERR_INIT;
    int r = 0;

    if (!api_check_names(call, name, version, true))
        return;
    if (!streq(version, IMAGE_AUTO)) {
        pull_named(s, call, name, version);
        return;
    }
    check = activity_find(s, ACTIVITY_CHECK, name, NULL);
    if (!check)
        r = activity_begin(s, ACTIVITY_CHECK, name, NULL, NULL, &check, &err);
    if (r < 0)
        api_fail(call, name, version, r, &err);
    else
        activity_watch(check, call, WISH_PULL);
}

/* The source is down: the newest one here does as well, if there is one. */
static void run_fallback(struct look *l)
{
    const struct err why = l->err;
    auto_free char *note = NULL;
    json_t *release = NULL;
    int r = release_find_to_wire(&l->service->store, l->service->dirs.state, l->name, IMAGE_AUTO, &release, &l->err);

    if (r < 0) {
        /* The source's failure is what the caller has to hear of. */
        l->err = why;
        l->r = -why.code;
        return;
    }
    l->r = str_format(&note, "%s; this is the newest verified release here", why.text);
    l->result = json_pack("{s:o, s:b, s:o*}", "release", release, "already", 1, "note", text_or_none(note));
}

static void reply_result(struct look *l) { (void)varlink_call_reply_consume(l->call, steal_ptr(&l->result)); }

static void answer_fallback(const struct activity *check, struct varlink_call *call)
{
    look_begin_after(check->service, call, check->name, &check->err, run_fallback, reply_result);
}

static void answer_pull(struct activity *a, struct varlink_call *call)
{
    if (a->r < 0)
        api_fail(call, a->name, a->version, a->r, &a->err);
    else
        (void)varlink_call_reply_consume(call, json_pack("{s:O, s:b}", "release", a->release, "already", (int)a->already));
}

static void answer_release(struct activity *a, struct varlink_call *call)
{
    if (a->r < 0)
        api_fail(call, a->name, a->version, a->r, &a->err);
    else
        (void)varlink_call_reply_consume(call, json_pack("{s:O}", "release", a->release));
}

void activity_answer(struct activity *a, struct varlink_call *call, enum watcher_wish wish)
{
    switch (wish) {
    case WISH_RESOLVE:
        if (a->r == -ENOENT && streq(a->err.id, "no-source"))
            api_fail(call, a->name, NULL, a->r, &a->err);
        else
            resolve_begin(a->service, call, a->name, false);
        return;
    case WISH_PULL:
        if (a->r < 0)
            answer_fallback(a, call);
        else
            pull_named(a->service, call, a->name, a->found);
        return;
    case WISH_RESULT:
        if (a->kind == ACTIVITY_PULL)
            answer_pull(a, call);
        else
            answer_release(a, call);
        return;
    }
}

/* ---- Cancel ---- */

static void run_discard(struct look *l)
{
    auto_image_partials struct image_partials partials = { 0 };
    bool found = false;

    l->r = image_partials_list(&l->service->store, l->name, &partials);
    for (size_t i = 0; i < partials.n; i++)
        found = found || streq(partials.items[i].version, l->version);
    if (l->r >= 0 && !found)
        l->r = err_set(&l->err, ENOENT, "no-such-image", "no pull of image %s/%s is under way", l->name, l->version);
    if (l->r >= 0)
        l->r = image_partial_discard(&l->service->store, l->name, l->version);
}

void api_cancel(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct images_service *s = userdata;
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version");
    struct activity *a;

    if (!api_check_names(call, name, version, false))
        return;
    a = activity_find(s, ACTIVITY_PULL, name, version);
    if (!a)
        a = activity_find(s, ACTIVITY_IMPORT, name, version);
    if (!a) {
        look_begin(s, call, name, version, false, run_discard, reply_result);
        return;
    }
    log_info("image %s/%s: cancelled", name, version);
    atomic_store(&a->discard, true);
    image_task_cancel(&a->task);
    (void)varlink_call_reply_consume(call, NULL);
}

/* ---- Import, Verify ---- */

void api_import(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version"), *folder = text_of(parameters, "folder");
    struct activity *a;
    struct err err = ERR_INIT;
    int r = 0;

    if (!api_check_names(call, name, version, false))
        return;
    if (folder[0] != '/')
        r = err_set(&err, EINVAL, "refused", "\"%s\" is no absolute path", folder);
    if (r >= 0)
        r = activity_begin(userdata, ACTIVITY_IMPORT, name, version, folder, &a, &err);
    if (r < 0)
        api_fail(call, name, version, r, &err);
    else
        activity_watch(a, call, WISH_RESULT);
}

void api_verify(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct images_service *s = userdata;
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version");
    struct activity *a;
    struct err err = ERR_INIT;
    int r = 0;

    if (!api_check_names(call, name, version, false))
        return;
    a = activity_find(s, ACTIVITY_VERIFY, name, version);
    if (!a)
        r = activity_begin(s, ACTIVITY_VERIFY, name, version, NULL, &a, &err);
    if (r < 0)
        api_fail(call, name, version, r, &err);
    else
        activity_watch(a, call, WISH_RESULT);
}
