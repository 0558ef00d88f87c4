#include "lib/manager/allocations.h"

#include <errno.h>
#include <pthread.h>

#include "lib/base/failpoint.h"
#include "lib/base/json.h"
#include "lib/manager/allocate.h"
#include "lib/manager/allocations_file.h"

struct allocations {
    int state_fd; /* borrowed */
    pthread_mutex_t mutex;
    pthread_cond_t written;
    struct map *vms;         /* name → struct holding; all that follows is under the mutex, too */
    uint64_t changed, saved; /* counts of changes: made, and on disk */
    bool writing;
};

int allocations_new(int state_fd, struct allocations **ret_allocations, char **ret_aside, struct err *err)
{
    struct allocations *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return -ENOMEM;
    a->state_fd = state_fd;
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->written, NULL);
    r = map_new(&a->vms);
    if (r >= 0)
        r = allocations_file_read(state_fd, a->vms, ret_aside, err);
    if (r < 0) {
        allocations_free(a);
        return r;
    }
    *ret_allocations = a;
    return 0;
}

void allocations_free(struct allocations *a)
{
    if (!a)
        return;
    holdings_free(a->vms);
    pthread_cond_destroy(&a->written);
    pthread_mutex_destroy(&a->mutex);
    free(a);
}

/* With the mutex held, which is let go of while the disk is waited for. */
static int write_once(struct allocations *a)
{
    uint64_t writes = a->changed;
    auto_free char *text = NULL;
    size_t len = 0;
    int r = allocations_file_format(a->vms, &text, &len);

    a->writing = true;
    pthread_mutex_unlock(&a->mutex);
    FAILPOINT("manager.before-allocations-write");
    if (r >= 0)
        r = allocations_file_write(a->state_fd, text, len);
    FAILPOINT("manager.after-allocations-write");
    pthread_mutex_lock(&a->mutex);
    a->writing = false;
    if (r >= 0)
        a->saved = writes;
    pthread_cond_broadcast(&a->written);
    return r;
}

int allocations_commit(struct allocations *a)
{
    uint64_t wanted;
    int r = 0;

    pthread_mutex_lock(&a->mutex);
    wanted = a->changed;
    while (a->saved < wanted && r >= 0) {
        if (a->writing)
            pthread_cond_wait(&a->written, &a->mutex);
        else
            r = write_once(a);
    }
    pthread_mutex_unlock(&a->mutex);
    return r;
}

int allocations_give(struct allocations *a, struct spec *spec, const struct port_range *ports, struct err *err)
{
    struct holding *h;
    int r = -ENOMEM;

    pthread_mutex_lock(&a->mutex);
    h = holdings_get(a->vms, spec->name);
    if (h)
        r = allocate_fill(a->vms, h, spec, ports, &h->given, err);
    if (r != 0) /* on failure too, something may have been chosen before */
        a->changed++;
    pthread_mutex_unlock(&a->mutex);
    return r < 0 ? r : 0;
}

int allocations_try(struct allocations *a, struct spec *spec, const struct port_range *ports, struct err *err)
{
    auto_claims struct claims given = { 0 };
    const struct holding *h;
    int r;

    pthread_mutex_lock(&a->mutex);
    h = map_get(a->vms, spec->name);
    r = h ? allocate_copy_given(&h->given, &given) : 0;
    if (r >= 0)
        r = allocate_fill(a->vms, h, spec, ports, &given, err);
    pthread_mutex_unlock(&a->mutex);
    return r < 0 ? r : 0;
}

/* ---- conflicts ---- */

struct comparison {
    const struct claims *mine, *theirs;
    const char *owner;
    bool spvm, kept;
    void (*report)(void *arg, const struct err *err);
    void *arg;
};

static void found(void *arg, const struct conflict *conflict)
{
    const struct comparison *c = arg;
    char pointer[CLAIM_TEXT_MAX], mine[CLAIM_TEXT_MAX], theirs[CLAIM_TEXT_MAX];
    struct err err = ERR_INIT;
    bool same;

    if (!c->report)
        return;
    claim_pointer(c->mine, conflict->kind, conflict->mine, c->spvm, pointer);
    claim_text(c->mine, conflict->kind, conflict->mine, mine);
    claim_text(c->theirs, conflict->kind, conflict->theirs, theirs);
    same = streq(mine, theirs);
    err_set(&err, EBUSY, "taken", "%s: %s is %s VM %s%s%s%s", pointer, mine, c->kept ? "kept for" : "taken by", c->owner, same ? "" : " (",
            same ? "" : theirs, same ? "" : ")");
    c->report(c->arg, &err);
}

static int compare(const struct allocations *a, const char *name, struct comparison *c)
{
    int n = 0;

    map_foreach (a->vms, e) {
        const struct holding *h = map_value(e);
        int with_held = 0;

        if (streq(map_key(e), name))
            continue;
        c->owner = map_key(e);
        if (h->holds && h->active) {
            c->theirs = &h->held;
            c->kept = false;
            with_held = claims_compare(c->mine, c->theirs, found, c);
        }
        if (with_held == 0) {
            c->theirs = &h->given;
            c->kept = true;
            n += claims_compare(c->mine, c->theirs, found, c);
        }
        n += with_held;
    }
    return n;
}

int allocations_check(struct allocations *a, const char *name, const struct claims *claims, bool spvm,
                      void (*report)(void *arg, const struct err *err), void *arg)
{
    struct comparison c = { .mine = claims, .spvm = spvm, .report = report, .arg = arg };
    int n;

    pthread_mutex_lock(&a->mutex);
    n = compare(a, name, &c);
    pthread_mutex_unlock(&a->mutex);
    return n;
}

/* ---- holding ---- */

static int admit(const struct allocations *a, const char *name, const struct claims *claims, struct admission *admission, struct err *err)
{
    auto_free struct tenant *tenants = calloc(map_len(a->vms) + 1, sizeof(*tenants));
    int r;

    if (!tenants)
        return -ENOMEM;
    admission->tenants = tenants;
    admission->n_tenants = 0;
    admission->own = NULL;
    map_foreach (a->vms, e) {
        const struct holding *h = map_value(e);

        if (!h->holds || !h->active)
            continue;
        if (streq(map_key(e), name))
            admission->own = &h->held;
        else
            tenants[admission->n_tenants++] = (struct tenant){ map_key(e), &h->held };
    }
    r = admission_check(admission, claims, err);
    admission->tenants = NULL;
    admission->n_tenants = 0;
    admission->own = NULL;
    return r;
}

int allocations_admit(struct allocations *a, const char *name, const struct claims *claims, struct admission *admission, struct err *err)
{
    int r;

    pthread_mutex_lock(&a->mutex);
    r = admit(a, name, claims, admission, err);
    pthread_mutex_unlock(&a->mutex);
    return r;
}

static void hold(struct allocations *a, struct holding *h, struct claims *claims)
{
    claims_clear(&h->held);
    h->held = *claims;
    *claims = (struct claims){ 0 };
    h->holds = h->active = h->noted = true;
    a->changed++;
}

static void copy_first(void *arg, const struct err *err)
{
    struct err *first = arg;

    if (first && !err_is_set(first))
        *first = *err;
}

int allocations_take(struct allocations *a, const char *name, struct claims *claims, struct admission *admission, bool *ret_freed,
                     struct err *err)
{
    struct comparison c = { .mine = claims, .report = copy_first, .arg = err };
    struct holding *h;
    int r = -ENOMEM;

    pthread_mutex_lock(&a->mutex);
    h = holdings_get(a->vms, name);
    if (h && compare(a, name, &c) > 0)
        r = -EBUSY;
    else if (h)
        r = admit(a, name, claims, admission, err);
    if (r >= 0) {
        *ret_freed = h->holds;
        (void)allocate_prune(&h->given, claims);
        hold(a, h, claims);
    }
    pthread_mutex_unlock(&a->mutex);
    return r;
}

void allocations_adopt_take(struct allocations *a, const char *name, struct claims *claims)
{
    struct holding *h;

    pthread_mutex_lock(&a->mutex);
    h = holdings_get(a->vms, name);
    if (h && !h->holds)
        hold(a, h, claims);
    pthread_mutex_unlock(&a->mutex);
}

void allocations_change_take(struct allocations *a, const char *name, struct claims *claims)
{
    struct holding *h;

    pthread_mutex_lock(&a->mutex);
    h = holdings_get(a->vms, name);
    if (h) {
        (void)allocate_prune(&h->given, claims);
        hold(a, h, claims);
    }
    pthread_mutex_unlock(&a->mutex);
}

bool allocations_holds(struct allocations *a, const char *name)
{
    const struct holding *h;
    bool holds;

    pthread_mutex_lock(&a->mutex);
    h = map_get(a->vms, name);
    holds = h && h->holds;
    pthread_mutex_unlock(&a->mutex);
    return holds;
}

bool allocations_holds_port(struct allocations *a, const char *name, const struct port_claim *port)
{
    const struct holding *h;
    bool holds = false;

    pthread_mutex_lock(&a->mutex);
    h = map_get(a->vms, name);
    for (size_t i = 0; h && h->holds && i < h->held.n_ports && !holds; i++)
        holds = port_claims_collide(&h->held.ports[i], port);
    pthread_mutex_unlock(&a->mutex);
    return holds;
}

/* With the mutex held. Nobody waits for this to be on disk: a manager that finds it there asks who runs before it believes it. */
static bool release(struct allocations *a, struct holding *h)
{
    bool held = h->holds;

    claims_clear(&h->held);
    h->holds = false;
    if (held)
        a->changed++;
    return held;
}

bool allocations_set_active(struct allocations *a, const char *name, bool active)
{
    struct holding *h;
    bool freed = false;

    pthread_mutex_lock(&a->mutex);
    h = map_get(a->vms, name);
    if (h) {
        h->active = active;
        h->noted = true;
        freed = !active && release(a, h);
    }
    pthread_mutex_unlock(&a->mutex);
    return freed;
}

void allocations_settle(struct allocations *a)
{
    pthread_mutex_lock(&a->mutex);
    map_foreach (a->vms, e) {
        struct holding *h = map_value(e);

        if (!h->noted)
            (void)release(a, h);
    }
    pthread_mutex_unlock(&a->mutex);
}

void allocations_drop(struct allocations *a, const char *name)
{
    struct holding *h;

    pthread_mutex_lock(&a->mutex);
    h = map_remove(a->vms, name);
    if (h)
        a->changed++;
    holding_free(h);
    pthread_mutex_unlock(&a->mutex);
}

/* ---- showing ---- */

static json_t *show_forwards(const struct claims *claims)
{
    auto_json json_t *forwards = json_array();

    for (size_t i = 0; forwards && i < claims->n_ports; i++) {
        json_t *one = NULL;

        if (record_emit(&port_claim_type, &claims->ports[i], &one) < 0)
            return NULL;
        (void)json_object_del(one, "network");
        (void)json_array_append_new(forwards, one);
    }
    return steal_ptr(&forwards);
}

static json_t *show_macs(const struct claims *claims)
{
    json_t *macs = json_array();

    for (size_t i = 0; macs && claims->macs && claims->macs[i]; i++)
        if (*claims->macs[i])
            (void)json_array_append_new(macs, json_string(claims->macs[i]));
    return macs;
}

json_t *allocations_show(struct allocations *a, const char *name)
{
    const struct holding *h;
    json_t *json = NULL;

    pthread_mutex_lock(&a->mutex);
    h = map_get(a->vms, name);
    if (h) {
        const struct claims *claims = h->holds ? &h->held : &h->given;

        json = json_pack("{s:o*, s:o, s:o}", "cid", claims->cid ? json_integer((json_int_t)claims->cid) : NULL, "macs", show_macs(claims),
                         "forwards", show_forwards(claims));
    }
    pthread_mutex_unlock(&a->mutex);
    return json;
}
