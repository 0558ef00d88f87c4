#include "lib/manager/compare.h"

#include <errno.h>

#include "lib/manager/launch_record.h"
#include "lib/manager/state.h"
#include "lib/qemu/changes.h"
#include "lib/spec/load.h"

static const char *const names[] = {
    [EFFECT_NONE] = "none", [EFFECT_LIVE] = "live", [EFFECT_RESTART] = "restart", [EFFECT_START] = "start", [EFFECT_CREATE] = "create",
};
const struct enum_names effect_names = { "effect", names, ARRAY_LEN(names) };

int compare_with_running(const struct plan_request *p, struct comparison *ret, struct err *err)
{
    auto_plan struct plan old = { 0 }, new = { 0 };
    auto_json json_t *old_spec = NULL;
    struct changes_input in = { .new_spec = p->native, .old = &old, .new = &new };
    bool awaited = plan_awaits_image(p); /* there is no plan of it before its image is here: the specs alone are compared */
    char digest[17];
    int r;

    if (!p->running)
        return err_set(err, EINVAL, "unreadable", "the plan that %s runs by can't be read", p->vm->name);
    r = plan_from_json(p->running, &old, err);
    if (r >= 0 && !awaited)
        r = plan_from_json(p->next, &new, err);
    if (r >= 0)
        r = plan_digest(&old, digest);
    if (r < 0)
        return r;
    in.old_spec = old_spec = launch_record_native(p->vm->manager->run_vms_fd, p->vm->name, digest);
    if (awaited)
        in.old = in.new = NULL;
    r = changes_list(&in, &ret->differences);
    if (r < 0)
        return r;
    ret->effect = awaited                                  ? EFFECT_RESTART
                  : streq(digest, p->digest)               ? EFFECT_NONE
                  : changes_need_restart(ret->differences) ? EFFECT_RESTART
                                                           : EFFECT_LIVE;
    return 0;
}

int compare_with_file(const struct plan_request *p, const json_t *file, struct comparison *ret)
{
    const struct spec_reader nobody = { .arg = NULL };
    auto_json json_t *native = NULL;
    auto_spec struct spec spec = { 0 };
    int r = file ? spec_load(file, &nobody, &spec) : 1;

    if (r == 0)
        r = spec_emit(&spec, &native);
    if (r < 0)
        return r;
    ret->effect = EFFECT_START;
    /* Of a file that is wrong there is nothing to say but that it is another. */
    return changes_list(&(struct changes_input){ .old_spec = native, .new_spec = p->native }, &ret->differences);
}
