/* The methods that are a moment's work on the disk. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/images/api.h"
#include "lib/images/newest.h"
#include "lib/images/pull.h"
#include "lib/images/remove.h"
#include "lib/images/wire.h"

static const char *text_of(const json_t *parameters, const char *key) { return json_string_value(json_object_get(parameters, key)); }

static void reply_result(struct look *l) { (void)varlink_call_reply_consume(l->call, steal_ptr(&l->result)); }

/* ---- List ---- */

static json_t *releases(struct look *l)
{
    const struct images_service *s = l->service;
    auto_image_list struct image_list list = { 0 };
    json_t *all = json_array();
    auto_fd int vms = -1;
    const char *newest = NULL;

    l->r = image_store_list(&s->store, l->name, &list);
    if (l->r >= 0)
        l->r = state_vms_open(s->dirs.state, &vms);
    for (size_t i = 0; i < list.n && l->r >= 0; i++) {
        if (i == 0 || !streq(list.items[i].name, list.items[i - 1].name))
            newest = NULL;
        /* They come with the newest first. */
        if (!newest && !list.items[i].problem)
            newest = list.items[i].version;
        (void)json_array_append_new(all, release_to_wire(&s->store, vms, &list.items[i], newest ? newest : ""));
    }
    return all;
}

static json_t *given_up(struct look *l)
{
    auto_image_partials struct image_partials partials = { 0 };
    json_t *all = json_array();

    if (image_partials_list(&l->service->store, l->name, &partials) < 0)
        return all;
    for (size_t i = 0; i < partials.n; i++) {
        const struct image_partial *p = &partials.items[i];

        (void)json_array_append_new(all, json_pack("{s:s, s:s, s:o*, s:{s:s, s:i, s:i, s:i}, s:o*}", "name", p->name, "version", p->version,
                                                   "begun_at", time_or_none(p->begun_us), "progress", "phase",
                                                   p->problem ? "given up" : "waiting", "done", 0, "total", 0, "rate", 0, "problem",
                                                   text_or_none(p->problem)));
    }
    return all;
}

static json_t *sources(struct look *l)
{
    auto_images_config struct images_config config = { 0 };
    json_t *all = json_array();
    struct err err = ERR_INIT;

    /* What is here can be told without it. */
    if (images_config_read(l->service->dirs.config, &config, NULL, &err) < 0) {
        log_warning("%s", err.text);
        return all;
    }
    for (size_t i = 0; i < config.sources.n; i++) {
        const struct image_source *source = &config.sources.items[i];
        auto_image_newest struct image_newest newest = { 0 };

        if ((l->name && !streq(l->name, source->name)) || image_newest_read(l->service->store.fd, source->name, &newest) < 0)
            continue;
        (void)json_array_append_new(all, json_pack("{s:s, s:s, s:o*, s:o*, s:o*}", "name", source->name, "kind",
                                                   enum_to_string(&image_source_kind_names, source->kind), "newest",
                                                   text_or_none(image_newest_version(&newest)), "checked_at",
                                                   time_or_none(newest.checked_us), "problem", text_or_none(newest.problem)));
    }
    return all;
}

static void run_list(struct look *l)
{
    l->result = json_pack("{s:o, s:o, s:o}", "releases", releases(l), "pulls", given_up(l), "sources", sources(l));
    if (l->r >= 0 && !l->result)
        l->r = -ENOMEM;
}

/* Those under way are known to the loop alone. */
static void reply_list(struct look *l)
{
    json_t *pulls = json_object_get(l->result, "pulls"), *pull;
    size_t i;

    for (const struct activity *a = l->service->activities; a; a = a->next) {
        if ((a->kind != ACTIVITY_PULL && a->kind != ACTIVITY_IMPORT) || (l->name && !streq(l->name, a->name)))
            continue;
        json_array_foreach (pulls, i, pull)
            if (streq(text_of(pull, "name"), a->name) && streq(text_of(pull, "version"), a->version))
                break;
        if (i < json_array_size(pulls))
            (void)json_array_remove(pulls, i);
        (void)json_array_append_new(pulls, json_pack("{s:s, s:s, s:o*, s:o}", "name", a->name, "version", a->version, "begun_at",
                                                     time_or_none(a->begun_us), "progress", activity_progress(a)));
    }
    reply_result(l);
}

void api_list(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = text_of(parameters, "name");

    if (api_check_names(call, name, NULL, false))
        look_begin(userdata, call, name, NULL, false, run_list, reply_list);
}

/* ---- GetRelease ---- */

static void run_get(struct look *l)
{
    json_t *release = NULL;

    l->r = release_find_to_wire(&l->service->store, l->service->dirs.state, l->name, l->version, &release, &l->err);
    if (l->r >= 0)
        l->result = json_pack("{s:o}", "release", release);
}

void api_get_release(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version");

    if (api_check_names(call, name, version, true))
        look_begin(userdata, call, name, version, false, run_get, reply_result);
}

/* ---- Resolve ---- */

static bool is_due(const struct image_newest *newest, uint64_t interval_ms)
{
    uint64_t now = clock_real_us();

    /* A clock that was set back counts as well. */
    return newest->tried_us > now || now - newest->tried_us >= interval_ms * 1000;
}

static void run_resolve(struct look *l)
{
    const struct images_service *s = l->service;
    auto_images_config struct images_config config = { 0 };
    auto_image_newest struct image_newest newest = { 0 };
    auto_image_release struct image_release release = { 0 }, fallback = { 0 };
    const char *version;
    bool local, known;

    l->r = images_config_read(s->dirs.config, &config, NULL, &l->err);
    if (l->r >= 0)
        l->r = image_newest_read(s->store.fd, l->name, &newest);
    if (l->r < 0)
        return;
    known = images_config_source(&config, l->name);
    version = image_newest_version(&newest);
    local = version && image_release_find(&s->store, l->name, version, &release, NULL) >= 0;
    (void)image_release_find(&s->store, l->name, IMAGE_AUTO, &fallback, NULL);
    if (!known && !version && !fallback.version) {
        l->r = err_set(&l->err, ENOENT, "no-source",
                       "the host config has no source for image \"%s\" (\"images\" in %s/holdfast.json), and none is here", l->name,
                       s->dirs.config);
        return;
    }
    l->flag = l->flag && known && is_due(&newest, config.check_interval_ms);
    l->result =
        json_pack("{s:o*, s:b, s:o*, s:o*, s:o*}", "version", text_or_none(version), "local", (int)local, "fallback",
                  text_or_none(fallback.version), "checked_at", time_or_none(newest.checked_us), "problem", text_or_none(newest.problem));
    if (!l->result)
        l->r = -ENOMEM;
}

static void reply_resolve(struct look *l)
{
    struct activity *check = activity_find(l->service, ACTIVITY_CHECK, l->name, NULL);
    struct err err = ERR_INIT;

    if (l->flag && !check && activity_begin(l->service, ACTIVITY_CHECK, l->name, NULL, NULL, &check, &err) < 0)
        log_warning("can't ask for the newest release of %s: %s", l->name, err.text);
    (void)json_object_set_new(l->result, "checking", json_boolean(check));
    reply_result(l);
}

void resolve_begin(struct images_service *s, struct varlink_call *call, const char *name, bool due)
{
    look_begin(s, call, name, NULL, due, run_resolve, reply_resolve);
}

void api_resolve(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct images_service *s = userdata;
    const char *name = text_of(parameters, "name");
    struct activity *check;
    struct err err = ERR_INIT;
    int r = 0;

    if (!api_check_names(call, name, NULL, false))
        return;
    if (!json_is_true(json_object_get(parameters, "refresh"))) {
        resolve_begin(s, call, name, true);
        return;
    }
    check = activity_find(s, ACTIVITY_CHECK, name, NULL);
    if (!check)
        r = activity_begin(s, ACTIVITY_CHECK, name, NULL, NULL, &check, &err);
    if (r < 0)
        api_fail(call, name, NULL, r, &err);
    else
        activity_watch(check, call, WISH_RESOLVE);
}

/* ---- Delete ---- */

static void run_delete(struct look *l)
{
    const struct images_service *s = l->service;
    auto_fd int vms = -1;
    uint64_t freed;

    l->r = state_vms_open(s->dirs.state, &vms);
    if (l->r >= 0)
        l->r = image_remove(&s->store, vms, l->name, l->version, &freed, &l->err);
    if (l->r >= 0) {
        log_info("image %s/%s was deleted", l->name, l->version);
        l->result = json_pack("{s:I}", "freed", (json_int_t)freed);
    }
}

void api_delete(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = text_of(parameters, "name"), *version = text_of(parameters, "version");

    if (api_check_names(call, name, version, false))
        look_begin(userdata, call, name, version, false, run_delete, reply_result);
}

/* ---- Prune ---- */

static void prune_partials(const struct look *l)
{
    auto_image_partials struct image_partials partials = { 0 };

    if (image_partials_list(&l->service->store, l->name, &partials) < 0)
        return;
    for (size_t i = 0; i < partials.n; i++)
        if (partials.items[i].problem)
            (void)image_partial_discard(&l->service->store, partials.items[i].name, partials.items[i].version);
}

static void run_prune(struct look *l)
{
    const struct images_service *s = l->service;
    auto_images_config struct images_config config = { 0 };
    auto_prune_list struct prune_list list = { 0 };
    json_t *deleted = json_array(), *kept = json_array();
    uint64_t freed = 0;
    auto_fd int vms = -1;

    l->r = images_config_read(s->dirs.config, &config, NULL, &l->err);
    if (l->r >= 0)
        l->r = state_vms_open(s->dirs.state, &vms);
    if (l->r >= 0)
        l->r = image_prune(&s->store, vms, l->name, config.keep_versions, l->flag, &list, &l->err);
    for (size_t i = 0; i < list.n; i++) {
        const struct prune_item *item = &list.items[i];

        freed += item->reason ? 0 : item->size;
        if (item->reason)
            (void)json_array_append_new(
                kept, json_pack("{s:s, s:s, s:o}", "name", item->name, "version", item->version, "reason", text_or_none(item->reason)));
        else
            (void)json_array_append_new(
                deleted, json_pack("{s:s, s:s, s:I}", "name", item->name, "version", item->version, "size", (json_int_t)item->size));
    }
    if (l->r >= 0 && !l->flag)
        prune_partials(l);
    l->result = json_pack("{s:o, s:o, s:I}", "deleted", deleted, "kept", kept, "freed", (json_int_t)freed);
}

void api_prune(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = text_of(parameters, "name");

    if (api_check_names(call, name, NULL, false))
        look_begin(userdata, call, name, NULL, json_is_true(json_object_get(parameters, "dry_run")), run_prune, reply_result);
}
