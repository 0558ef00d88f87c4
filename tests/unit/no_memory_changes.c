/* A case of test_no_memory.c: the differences between two plans. */
#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/changes.h"

int use_changes(const json_t *json);

static void drop_forward(struct plan *plan)
{
    static const char without[] = "{\"type\":\"user\",\"id\":\"net0\"}";

    for (size_t i = 0; plan->qemu.argv[i]; i++)
        if (strstr(plan->qemu.argv[i], "hostfwd"))
            memcpy(plan->qemu.argv[i], without, sizeof(without)); /* which is shorter */
}

/* The plan against one with other memory and without its forward, by the plans alone and by specs. */
int use_changes(const json_t *json)
{
    auto_plan struct plan old = { 0 }, new = { 0 };
    auto_json json_t *list = NULL, *by_spec = NULL, *old_spec = NULL, *new_spec = NULL;
    int r = plan_from_json(json, &old, NULL);

    if (r >= 0)
        r = plan_from_json(json, &new, NULL);
    if (r < 0)
        return r;
    new.ram.size *= 2;
    new.logs.keep++;
    drop_forward(&new);
    old_spec = json_pack("{s:s, s:[{s:s}], s:[s]}", "memory", "1G", "network", "mode", "user", "x", "a");
    new_spec = json_pack("{s:s, s:[], s:[s]}", "memory", "2G", "network", "x", "b");
    if (!old_spec || !new_spec)
        return -ENOMEM;
    r = changes_list(&(struct changes_input){ .old = &old, .new = &new }, &list);
    return r < 0 ? r
                 : changes_list(&(struct changes_input){ .old = &old, .new = &new, .old_spec = old_spec, .new_spec = new_spec }, &by_spec);
}
