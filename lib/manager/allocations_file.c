#include "lib/manager/allocations_file.h"

#include <errno.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/manager/allocations.h"

#define FILE_ALLOCATIONS "allocations.json"
enum { ALLOCATIONS_SCHEMA = 1, ALLOCATIONS_MAX = 16 * 1024 * 1024, ALLOCATIONS_MODE = 0640 };

void holding_free(struct holding *h)
{
    if (!h)
        return;
    claims_clear(&h->given);
    claims_clear(&h->held);
    free(h);
}

struct holding *holdings_get(struct map *vms, const char *name)
{
    auto_holding struct holding *h = map_get(vms, name);

    if (h)
        return steal_ptr(&h);
    h = calloc(1, sizeof(*h));
    return h && map_put(vms, name, h) >= 0 ? steal_ptr(&h) : NULL;
}

void holdings_free(struct map *vms)
{
    if (!vms)
        return;
    map_foreach (vms, e)
        holding_free(map_value(e));
    map_free(vms);
}

/* ---- reading ---- */

static int parse_cids(const json_t *cids, struct map *vms, struct err *err)
{
    const char *name;
    json_t *cid;

    if (!json_is_object(cids))
        return err_set(err, EINVAL, "bad-record", "/cids: expected an object");
    json_object_foreach ((json_t *)(uintptr_t)cids, name, cid) {
        json_int_t n = json_integer_value(cid);
        struct holding *h;

        if (!name_is_valid(name) || n < CID_FIRST || n >= UINT32_MAX)
            return err_set(err, EINVAL, "bad-record", "/cids/%s: expected a context id", name);
        h = holdings_get(vms, name);
        if (!h)
            return -ENOMEM;
        h->given.cid = (uint64_t)n;
    }
    return 0;
}

static int parse_vm(const json_t *vm, struct holding *h, struct err *err)
{
    const json_t *given = json_object_get(vm, "given"), *held = json_object_get(vm, "held");
    uint64_t cid = h->given.cid;
    int r = 0;

    if (!json_is_object(vm))
        return err_set(err, EINVAL, "bad-record", "expected an object");
    if (given)
        r = record_parse(&claims_type, given, 0, &h->given, err);
    h->given.cid = cid; /* that is said in "cids" alone */
    if (r >= 0 && held) {
        h->holds = h->active = true;
        r = record_parse(&claims_type, held, 0, &h->held, err);
    }
    return r;
}

static int parse(const json_t *json, struct map *vms, struct err *err)
{
    json_t *list = json_object_get(json, "vms"), *vm;
    const char *name;
    int r;

    if (json_integer_value(json_object_get(json, "schema")) != ALLOCATIONS_SCHEMA)
        return err_set(err, EINVAL, "bad-record", "/schema: expected %d", ALLOCATIONS_SCHEMA);
    r = parse_cids(json_object_get(json, "cids"), vms, err);
    if (r < 0)
        return r;
    if (list && !json_is_object(list))
        return err_set(err, EINVAL, "bad-record", "/vms: expected an object");
    json_object_foreach (list, name, vm) {
        struct holding *h;

        if (!name_is_valid(name))
            return err_set(err, EINVAL, "bad-record", "/vms/%s: expected a name", name);
        h = holdings_get(vms, name);
        r = h ? parse_vm(vm, h, err) : -ENOMEM;
        if (r < 0) {
            err_prefix(err, "/vms/%s", name);
            return r;
        }
    }
    return 0;
}

static void empty(struct map *vms)
{
    map_foreach (vms, e) {
        struct holding *h = map_value(e);

        (void)map_remove(vms, map_key(e));
        holding_free(h);
    }
}

int allocations_file_read(int state_fd, struct map *vms, char **ret_aside, struct err *err)
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
        r = parse(json, vms, err);
    if (r == -EINVAL) {
        empty(vms);
        r = file_set_aside(state_fd, FILE_ALLOCATIONS, ret_aside);
    }
    return r;
}

/* ---- writing ---- */

static int emit_into(json_t *to, const char *key, const struct claims *claims)
{
    json_t *json = NULL;
    int r = record_emit(&claims_type, claims, &json);

    if (r < 0)
        return r;
    if (json_object_size(json) == 0) {
        json_decref(json);
        return 0;
    }
    return json_object_set_new(to, key, json) < 0 ? -ENOMEM : 0;
}

static int emit_vm(const struct holding *h, const char *name, json_t *cids, json_t *vms)
{
    auto_json json_t *vm = json_object();
    struct claims given = h->given; /* without the id, which is said in "cids" */
    int r;

    given.cid = 0;
    if (!vm || (h->given.cid && json_object_set_new(cids, name, json_integer((json_int_t)h->given.cid)) < 0))
        return -ENOMEM;
    r = emit_into(vm, "given", &given);
    if (r >= 0 && h->holds)
        r = emit_into(vm, "held", &h->held);
    if (r < 0 || json_object_size(vm) == 0)
        return r;
    return json_object_set(vms, name, vm) < 0 ? -ENOMEM : 0;
}

int allocations_file_format(const struct map *vms, char **ret_text, size_t *ret_len)
{
    auto_json json_t *cids = json_object(), *list = json_object(), *json = NULL;
    int r = cids && list ? 0 : -ENOMEM;

    map_foreach (vms, e) {
        if (r >= 0)
            r = emit_vm(map_value(e), map_key(e), cids, list);
    }
    if (r < 0)
        return r;
    json = json_pack("{s:i, s:O, s:O}", "schema", ALLOCATIONS_SCHEMA, "cids", cids, "vms", list);
    return json ? json_format(json, ret_text, ret_len) : -ENOMEM;
}

int allocations_file_write(int state_fd, const char *text, size_t len)
{
    return file_write(state_fd, FILE_ALLOCATIONS, text, len, ALLOCATIONS_MODE, FILE_DURABLE);
}
