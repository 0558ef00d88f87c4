#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

enum { VERSION_TIMEOUT_MS = 1000 };

/* A manager that isn't there is no failure: then there is no version. */
static json_t *manager_info(const struct invocation *in)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *path = manager_socket(in);
    json_t *info = NULL;

    if (varlink_client_connect(path, &client, NULL) < 0)
        return NULL;
    if (varlink_client_call_consume(client, "org.varlink.service.GetInfo", NULL, VERSION_TIMEOUT_MS, &info, NULL) < 0) {
        json_decref(info);
        return NULL;
    }
    return info;
}

static json_t *shim_versions(const struct invocation *in)
{
    auto_json json_t *survey = NULL;
    json_t *versions = must_json(json_array()), *shim;
    size_t i;

    if (shim_survey_all(in, &survey) != OUTCOME_DONE)
        return versions;
    json_array_foreach (survey, i, shim) {
        const char *version = member_text(json_object_get(shim, "status"), "version");
        json_array_append_new(versions,
                              must_json(json_pack("{s:s, s:s?}", "name", member_text(shim, "name"), "version", *version ? version : NULL)));
    }
    return versions;
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *info = manager_info(in), *shims = in->all ? shim_versions(in) : NULL;
    json_t *shim;
    size_t i;

    if (in->json) {
        auto_json json_t *all = must_json(json_pack("{s:s, s:O?}", "vmctl", HOLDFAST_VERSION, "manager", info));
        if (shims)
            json_object_set(all, "shims", shims);
        put_json(all);
        return OUTCOME_DONE;
    }
    printf("vmctl     %s\n", HOLDFAST_VERSION);
    if (info)
        printf("manager   %s\n", member_text(info, "version"));
    else
        printf("manager   doesn't answer\n");
    json_array_foreach (shims, i, shim) {
        const char *version = member_text(shim, "version");
        printf("shim      %s (%s)\n", *version ? version : "doesn't answer", member_text(shim, "name"));
    }
    return OUTCOME_DONE;
}

static const struct flag flags[] = {
    { "all", 'a', FLAG_SET, NULL, "also those of the shims, asked one by one", offsetof(struct invocation, all), NULL },
    FLAGS_END,
};

const struct verb verb_version = {
    .name = "version",
    .args = "",
    .group = "about",
    .summary = "print the versions of vmctl and of the manager that answers",
    .example = "vmctl version --all",
    .flags = flags,
    .takes = TAKES_NOTHING,
    .run = run,
};
