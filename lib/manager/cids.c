#include "lib/manager/cids.h"

#include <errno.h>
#include <pthread.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/record.h"

#define FILE_ALLOCATIONS "allocations.json"
enum { ALLOCATIONS_SCHEMA = 1, ALLOCATIONS_MAX = 4 * 1024 * 1024, ALLOCATIONS_MODE = 0640 };

struct cids {
    int state_fd; /* borrowed */
    pthread_mutex_t mutex;
    json_t *by_name; /* object: name → id; under mutex */
};

static int parse(const json_t *json, json_t **ret_cids, struct err *err)
{
    json_t *cids = json_object_get(json, "cids");
    const char *name;
    json_t *cid;

    if (json_integer_value(json_object_get(json, "schema")) != ALLOCATIONS_SCHEMA)
        return err_set(err, EINVAL, "bad-record", "/schema: expected %d", ALLOCATIONS_SCHEMA);
    if (!json_is_object(cids))
        return err_set(err, EINVAL, "bad-record", "/cids: expected an object");
    json_object_foreach (cids, name, cid) {
        json_int_t n = json_integer_value(cid);

        if (!name_is_valid(name) || n < CID_FIRST || n >= UINT32_MAX)
            return err_set(err, EINVAL, "bad-record", "/cids/%s: expected a context id", name);
    }
    *ret_cids = json_incref(cids);
    return 0;
}

static int read_file(int state_fd, json_t **ret_cids, char **ret_aside, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(state_fd, FILE_ALLOCATIONS, ALLOCATIONS_MAX, &text, &len);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_set_errno(err, -r, "unreadable", "can't read %s", FILE_ALLOCATIONS);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = parse(json, ret_cids, err);
    if (r == -EINVAL)
        r = file_set_aside(state_fd, FILE_ALLOCATIONS, ret_aside);
    return r;
}

int cids_new(int state_fd, struct cids **ret_cids, char **ret_aside, struct err *err)
{
    struct cids *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->state_fd = state_fd;
    pthread_mutex_init(&c->mutex, NULL);
    r = read_file(state_fd, &c->by_name, ret_aside, err);
    if (r >= 0 && !c->by_name) {
        c->by_name = json_object();
        r = c->by_name ? 0 : -ENOMEM;
    }
    if (r < 0) {
        cids_free(c);
        return r;
    }
    *ret_cids = c;
    return 0;
}

void cids_free(struct cids *c)
{
    if (!c)
        return;
    json_decref(c->by_name);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

static bool is_taken(const struct cids *c, json_int_t n)
{
    const char *name;
    json_t *cid;

    json_object_foreach (c->by_name, name, cid) {
        if (json_integer_value(cid) == n)
            return true;
    }
    return false;
}

/* With the mutex held: an id is on disk before anybody hears of it. */
static int save(struct cids *c)
{
    auto_json json_t *json = json_pack("{s:i, s:O}", "schema", ALLOCATIONS_SCHEMA, "cids", c->by_name);
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = json ? json_format(json, &text, &len) : -ENOMEM;
    if (r >= 0)
        r = file_write(c->state_fd, FILE_ALLOCATIONS, text, len, ALLOCATIONS_MODE, FILE_DURABLE);
    return r;
}

static int allocate(struct cids *c, const char *name, uint32_t *ret_cid)
{
    json_int_t n = CID_FIRST;
    int r;

    while (n < UINT32_MAX && is_taken(c, n))
        n++;
    if (n >= UINT32_MAX)
        return -ENOSPC;
    if (json_object_set_new(c->by_name, name, json_integer(n)) < 0)
        return -ENOMEM;
    r = save(c);
    if (r < 0) {
        json_object_del(c->by_name, name);
        return r;
    }
    *ret_cid = (uint32_t)n;
    return 0;
}

int cids_get(struct cids *c, const char *name, uint32_t *ret_cid)
{
    json_int_t n;
    int r = 0;

    pthread_mutex_lock(&c->mutex);
    n = json_integer_value(json_object_get(c->by_name, name));
    if (n > 0)
        *ret_cid = (uint32_t)n;
    else
        r = allocate(c, name, ret_cid);
    pthread_mutex_unlock(&c->mutex);
    return r;
}

int cids_drop(struct cids *c, const char *name)
{
    int r = 0;

    pthread_mutex_lock(&c->mutex);
    if (json_object_del(c->by_name, name) == 0)
        r = save(c);
    pthread_mutex_unlock(&c->mutex);
    return r;
}
