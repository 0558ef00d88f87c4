#include "lib/images/api.h"

#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/images/names.h"
#include "lib/images/wire.h"

enum { SOCKET_MODE = 0660, BACKLOG = 128 };

static const struct varlink_method methods[] = {
    { .name = "List", .run = api_list },     { .name = "GetRelease", .run = api_get_release }, { .name = "Resolve", .run = api_resolve },
    { .name = "Pull", .run = api_pull },     { .name = "Cancel", .run = api_cancel },          { .name = "Import", .run = api_import },
    { .name = "Verify", .run = api_verify }, { .name = "Delete", .run = api_delete },          { .name = "Prune", .run = api_prune },
};

int api_start(struct images_service *s, struct err *err)
{
    static const struct varlink_service_config plain = {
        .vendor = "Holdfast", .product = "holdfast-imaged", .version = HOLDFAST_VERSION, .url = "https://varlink.org"
    };
    struct varlink_service_config config = plain;
    auto_fd int fd = -1;
    int r;

    config.group = s->group;
    r = varlink_service_new(s->loop, &config, &s->service);
    if (r < 0)
        return err_set_errno(err, -r, "no-service", "can't make the service");
    r = varlink_service_add(s->service, s->interface, methods, ARRAY_LEN(methods), s, err);
    if (r < 0)
        return r;
    /* The lock makes the name ours: what is there is a dead service's. */
    fd = socket_listen(s->run_fd, FILE_IMAGES_SOCKET, SOCKET_MODE, BACKLOG);
    if (fd < 0)
        return err_set_errno(err, -fd, "no-socket", "can't listen on %s/%s", s->dirs.run, FILE_IMAGES_SOCKET);
    if (s->group != (gid_t)-1 && fchownat(s->run_fd, FILE_IMAGES_SOCKET, (uid_t)-1, s->group, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set_errno(err, errno, "no-socket", "can't give %s/%s to its group", s->dirs.run, FILE_IMAGES_SOCKET);
    r = varlink_service_listen_take(s->service, fd);
    if (r < 0)
        return err_set_errno(err, -r, "no-service", "can't listen on %s/%s", s->dirs.run, FILE_IMAGES_SOCKET);
    steal_fd(&fd);
    return 0;
}

/* ---- errors ---- */

static const char *error_of(int r, const struct err *err)
{
    static const char *const of_the_source[] = { "source", "tls", "redirect", "bad-url" };

    /* What a source that is there doesn't have, isn't there either. */
    if (r == -ENOENT)
        return IMAGES_INTERFACE ".NoSuchImage";
    if (r == -EBUSY || streq(err->id, "refused"))
        return IMAGES_INTERFACE ".Refused";
    for (size_t i = 0; i < ARRAY_LEN(of_the_source); i++)
        if (streq(err->id, of_the_source[i]))
            return IMAGES_INTERFACE ".SourceFailed";
    return IMAGES_INTERFACE ".Failed";
}

void api_fail(struct varlink_call *call, const char *name, const char *version, int r, const struct err *err)
{
    const char *error = error_of(r, err), *text = err->text[0] ? err->text : strerror(-r);
    auto_json json_t *parameters = json_pack("{s:o, s:o*}", "reason", text_or_none(text), "name", text_or_none(name));

    if (version && !streq(error, IMAGES_INTERFACE ".Refused"))
        (void)json_object_set_new(parameters, "version", text_or_none(version));
    if (streq(error, IMAGES_INTERFACE ".Failed"))
        (void)json_object_set_new(parameters, "id", json_string(r == -ENOMEM ? "no-memory" : err->id[0] ? err->id : "failed"));
    (void)varlink_call_error_consume(call, error, steal_ptr(&parameters));
}

bool api_check_names(struct varlink_call *call, const char *name, const char *version, bool any_version)
{
    struct err err = ERR_INIT;
    int r = 0;

    if (name && !image_name_is_valid(name))
        r = err_set(&err, EINVAL, "refused", "\"%s\" is no name of an image (" IMAGE_NAME_RULE ")", name);
    else if (version && !image_version_is_valid(version) && !(any_version && streq(version, IMAGE_AUTO)))
        r = err_set(&err, EINVAL, "refused", "\"%s\" is no release's name (" IMAGE_NAME_RULE ")", version);
    if (r < 0)
        api_fail(call, name, version, r, &err);
    return r >= 0;
}

/* ---- work of a moment ---- */

static void look_free(struct look *l)
{
    json_decref(l->result);
    free(l->name);
    free(l->version);
    free(l);
}

static void look_run(struct job *job)
{
    struct look *l = container_of(job, struct look, job);

    l->run(l);
}

static void look_done(struct job *job)
{
    struct look *l = container_of(job, struct look, job);

    if (l->call) {
        struct varlink_call *call = l->call;

        varlink_call_on_gone(call, NULL, NULL);
        if (l->r < 0)
            api_fail(call, l->name, l->version, l->r, &l->err);
        else
            l->reply(l);
    }
    look_free(l);
}

static void look_gone(void *arg)
{
    struct look *l = arg;

    l->call = NULL;
}

static struct look *look_new(struct images_service *s, struct varlink_call *call, const char *name, const char *version)
{
    struct look *l = calloc(1, sizeof(*l));
    const struct err none = ERR_INIT;

    if (!l || str_set(&l->name, name) < 0 || str_set(&l->version, version) < 0) {
        if (l)
            look_free(l);
        api_fail(call, NULL, NULL, -ENOMEM, &none);
        return NULL;
    }
    l->service = s;
    l->call = call;
    l->job.run = look_run;
    l->job.done = look_done;
    varlink_call_on_gone(call, look_gone, l);
    return l;
}

void look_begin(struct images_service *s, struct varlink_call *call, const char *name, const char *version, bool flag,
                void (*run)(struct look *l), void (*reply)(struct look *l))
{
    struct look *l = look_new(s, call, name, version);

    if (!l)
        return;
    l->flag = flag;
    l->run = run;
    l->reply = reply;
    worker_add(s->worker, &l->job);
}

void look_begin_after(struct images_service *s, struct varlink_call *call, const char *name, const struct err *before,
                      void (*run)(struct look *l), void (*reply)(struct look *l))
{
    struct look *l = look_new(s, call, name, NULL);

    if (!l)
        return;
    l->err = *before;
    l->run = run;
    l->reply = reply;
    worker_add(s->worker, &l->job);
}
