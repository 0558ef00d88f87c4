#include "cmd/vmctl/names.h"

#include <errno.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "lib/base/json.h"
#include "lib/base/map.h"
#include "lib/base/parse.h"

enum outcome outcome_merge(enum outcome so_far, enum outcome next)
{
    if (so_far == OUTCOME_DONE || so_far == next)
        return next;
    return next == OUTCOME_DONE ? so_far : OUTCOME_FAILED;
}

enum outcome each_argument(const struct invocation *in, enum outcome (*one)(const struct invocation *in, const char *text, json_t *results))
{
    auto_json json_t *results = must_json(json_array());
    enum outcome outcome = OUTCOME_DONE;

    for (size_t i = 0; i < in->n_args; i++) {
        enum outcome next = one(in, in->args[i], results);

        outcome = outcome_merge(outcome, next);
        if (next == OUTCOME_UNREACHABLE)
            break;
    }
    if (in->json && outcome != OUTCOME_USAGE)
        put_json(results);
    return outcome;
}

enum outcome name_check(const struct invocation *in, const char *name)
{
    if (name_is_valid(name))
        return OUTCOME_DONE;
    return complain_usage(in->verb, "\"%s\" is no VM name (%s)", name, NAME_RULE);
}

static enum outcome every_name(const struct invocation *in, struct strv *names)
{
    auto_json json_t *reply = NULL;
    size_t i;
    json_t *vm;

    enum outcome outcome = manager_call_consume(in, "List", NULL, NULL, &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_array_foreach (json_object_get(reply, "vms"), i, vm)
        strv_push(names, member_text(vm, "name"));
    return OUTCOME_DONE;
}

enum outcome names_resolve(const struct invocation *in, struct strv *ret_names)
{
    auto_strv struct strv names = { 0 };
    auto_map struct map *seen = NULL;
    enum outcome outcome = OUTCOME_DONE;

    if (in->all && in->n_args)
        return complain_usage(in->verb, "%s: names and --all don't go together", in->verb->name);
    if (!in->all && !in->n_args)
        return complain_usage(in->verb, "%s needs the name of a VM, or --all", in->verb->name);
    if (map_new(&seen) < 0)
        must(NULL);
    for (size_t i = 0; i < in->n_args; i++) {
        outcome = name_check(in, in->args[i]);
        if (outcome != OUTCOME_DONE)
            return outcome;
        int r = map_put(seen, in->args[i], in->args[i]);
        if (r == 0)
            strv_push(&names, in->args[i]);
        else if (r != -EEXIST)
            must(NULL);
    }
    if (in->all)
        outcome = every_name(in, &names);
    if (names.failed)
        must(NULL);
    if (outcome == OUTCOME_DONE) {
        *ret_names = names;
        names = (struct strv){ 0 };
    }
    return outcome;
}
