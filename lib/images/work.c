/* What the threads of activities do. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/images/activity.h"
#include "lib/images/newest.h"
#include "lib/images/pull.h"
#include "lib/images/remove.h"
#include "lib/images/wire.h"

static const struct image_source *source_of(struct activity *a)
{
    const struct image_source *source = images_config_source(&a->config, a->name);

    if (!source)
        a->r = err_set(&a->err, ENOENT, "no-source", "the host config has no source for image \"%s\" (\"images\" in %s/holdfast.json)",
                       a->name, a->service->dirs.config);
    return source;
}

/* Changes what is remembered of an image's newest release. */
static void remember(struct activity *a, const char *version, bool was_asked, const char *problem)
{
    struct images_service *s = a->service;
    auto_image_newest struct image_newest newest = { 0 };
    int r;

    pthread_mutex_lock(&s->newest_mutex);
    r = image_newest_read(s->store.fd, a->name, &newest);
    if (r >= 0 && version && !streq_opt(image_newest_version(&newest), version))
        r = image_newest_add(&newest, version);
    if (r >= 0 && was_asked) {
        newest.tried_us = clock_real_us();
        newest.checked_us = problem ? newest.checked_us : newest.tried_us;
        r = str_set(&newest.problem, problem);
    }
    newest.schema = NEWEST_SCHEMA;
    if (r >= 0)
        r = image_newest_write(s->store.fd, a->name, &newest);
    pthread_mutex_unlock(&s->newest_mutex);
    if (r < 0)
        log_warning("can't remember the newest release of %s: %s", a->name, strerror(-r));
}

static void check(struct activity *a)
{
    const struct image_source *source = source_of(a);

    if (!source)
        return;
    atomic_store(&a->task.phase, "asking the source");
    a->r = source_newest(&a->task, source, &a->found, &a->err);
    if (a->r == -ECANCELED)
        return;
    if (a->r < 0)
        log_warning("the source of %s: %s", a->name, a->err.text);
    remember(a, a->r < 0 ? NULL : a->found, true, a->r < 0 ? a->err.text : NULL);
}

/* Those that are beyond the config's number, now that there is one more. */
static void prune(struct activity *a, int vms_fd)
{
    auto_prune_list struct prune_list list = { 0 };
    struct err err = ERR_INIT;
    auto_fd int held = -1;

    /* Somebody has just asked for it, be it one of the oldest. */
    (void)image_release_lock(&a->service->store, a->name, a->version, &held, NULL);
    if (image_prune(&a->service->store, vms_fd, a->name, a->config.keep_versions, false, &list, &err) < 0) {
        log_warning("pruning %s: %s", a->name, err.text);
        return;
    }
    for (size_t i = 0; i < list.n; i++)
        if (!list.items[i].reason)
            log_info("image %s/%s was pruned (keep_versions)", list.items[i].name, list.items[i].version);
}

static void get(struct activity *a, const struct image_source *source)
{
    struct images_service *s = a->service;
    auto_fd int vms_fd = -1;
    struct image_pull pull = { .store = &s->store, .name = a->name, .version = a->version, .source = source, .discard = &a->discard };

    a->r = state_vms_open(s->dirs.state, &vms_fd);
    if (a->r < 0) {
        err_set_errno(&a->err, -a->r, "unreadable", "%s/vms", s->dirs.state);
        return;
    }
    pull.state_vms_fd = vms_fd;
    log_info("image %s/%s: %s begins", a->name, a->version, enum_to_string(&activity_kind_names, (int)a->kind));
    a->r = image_pull(&a->task, &pull, &a->already, &a->err);
    if (a->r < 0) {
        log_warning("image %s/%s: %s", a->name, a->version, a->err.text);
        return;
    }
    if (!a->already) {
        log_info("image %s/%s is here, %llu bytes", a->name, a->version, (unsigned long long)atomic_load(&a->task.done));
        prune(a, vms_fd);
    }
}

static void pull(struct activity *a)
{
    const struct image_source *source = source_of(a);

    if (source)
        get(a, source);
}

/* An imported release that has the higher name is the newest from now on, until the source says something else. */
static void remember_import(struct activity *a)
{
    auto_image_newest struct image_newest newest = { 0 };
    const char *version;

    if (image_newest_read(a->service->store.fd, a->name, &newest) < 0)
        return;
    version = image_newest_version(&newest);
    if (version && strverscmp(a->version, version) > 0)
        remember(a, a->version, false, NULL);
}

static void import(struct activity *a)
{
    const struct image_source *known = images_config_source(&a->config, a->name);
    /* The strings are borrowed. */
    struct image_source folder = { .name = a->name, .kind = IMAGE_SOURCE_FOLDER, .path = a->folder, .flat = true };

    folder.public_key = known ? known->public_key : NULL;
    get(a, &folder);
    if (a->r >= 0 && a->already)
        a->r = err_set(&a->err, EBUSY, "refused", "image %s/%s is here already: delete it first, or give another version", a->name,
                       a->version);
    if (a->r >= 0)
        remember_import(a);
}

static void verify(struct activity *a)
{
    struct images_service *s = a->service;
    auto_fd int held = -1;

    a->r = image_release_lock(&s->store, a->name, a->version, &held, &a->err);
    if (a->r == -ENOENT)
        err_set(&a->err, ENOENT, "no-such-image", "there is no image \"%s/%s\" here", a->name, a->version);
    if (a->r >= 0)
        a->r = image_verify(&a->task, &s->store, a->name, a->version, &a->err);
    if (a->r == -EBADMSG)
        log_error("image %s/%s is damaged: %s", a->name, a->version, a->err.text);
}

void activity_work(struct activity *a)
{
    static void (*const works[])(struct activity * a) = {
        [ACTIVITY_CHECK] = check,
        [ACTIVITY_PULL] = pull,
        [ACTIVITY_IMPORT] = import,
        [ACTIVITY_VERIFY] = verify,
    };
    struct images_service *s = a->service;

    a->r = images_config_read(s->dirs.config, &a->config, NULL, &a->err);
    if (a->r >= 0) {
        a->task.config = &a->config;
        works[a->kind](a);
    }
    if (a->r >= 0 && a->kind != ACTIVITY_CHECK)
        a->r = release_find_to_wire(&s->store, s->dirs.state, a->name, a->version, &a->release, &a->err);
    if (a->r < 0 && a->r != -ENOMEM && !a->err.text[0])
        err_set_errno(&a->err, -a->r, "failed", "image %s", a->name);
}
