#include "cmd/vmctl/image.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

enum { COLUMN_NAME, COLUMN_STATE, COLUMN_SIZE, COLUMN_DISK, COLUMN_SOURCE, COLUMN_FETCHED, COLUMN_NOTE, COLUMN_COUNT };

static const struct table_column columns[] = {
    [COLUMN_NAME] = { .title = "IMAGE" },
    [COLUMN_STATE] = { .title = "STATE" },
    [COLUMN_SIZE] = { .title = "SIZE", .rank = 2, .right = true },
    [COLUMN_DISK] = { .title = "DISK", .rank = 4, .right = true },
    [COLUMN_SOURCE] = { .title = "FROM", .rank = 5 },
    [COLUMN_FETCHED] = { .title = "FETCHED", .rank = 3 },
    [COLUMN_NOTE] = { .title = "NOTE", .rank = 1, .cut = true },
};
_Static_assert((int)COLUMN_COUNT <= (int)TABLE_COLUMNS_MAX, "table too wide");

static char *full_name(const json_t *image)
{
    char *name = NULL;

    if (str_format(&name, "%s/%s", member_text(image, "name"), member_text(image, "version")) < 0)
        must(NULL);
    return name;
}

/* What is the matter with it, or who has it. */
static char *note_of(const json_t *release)
{
    const char *problem = member_text(release, "problem");
    auto_free char *users = image_users(release);
    char *note = NULL;
    int r;

    if (*problem)
        r = str_format(&note, "%s", problem);
    else if (*users)
        r = str_format(&note, "used by %s", users);
    else
        r = str_format(&note, "%s", json_is_true(json_object_get(release, "locked")) ? "held open" : "");
    if (r < 0)
        must(NULL);
    return note;
}

static void add_release(struct table *t, const json_t *release)
{
    auto_free char *name = full_name(release), *note = note_of(release);
    bool verified = json_is_true(json_object_get(release, "verified"));
    char bytes[BYTES_MAX];

    table_add_row(t);
    table_set(t, COLUMN_NAME, name, NULL);
    table_set(t, COLUMN_STATE,
              !verified                                          ? "damaged"
              : json_is_true(json_object_get(release, "newest")) ? "newest"
                                                                 : "verified",
              verified ? "green" : "red");
    table_set(t, COLUMN_SIZE, text_bytes((uint64_t)member_int(release, "size"), bytes), NULL);
    table_set(t, COLUMN_DISK, text_bytes((uint64_t)member_int(release, "disk"), bytes), NULL);
    table_set(t, COLUMN_SOURCE, *member_text(release, "source") ? member_text(release, "source") : "-", NULL);
    table_set(t, COLUMN_FETCHED, *member_text(release, "fetched_at") ? member_text(release, "fetched_at") : "-", NULL);
    table_set(t, COLUMN_NOTE, note, verified ? NULL : "red");
}

static void add_pull(struct table *t, const json_t *pull)
{
    const json_t *progress = json_object_get(pull, "progress");
    uint64_t done = (uint64_t)member_int(progress, "done"), total = (uint64_t)member_int(progress, "total");
    auto_free char *name = full_name(pull), *state = NULL;
    const char *problem = member_text(pull, "problem");
    char bytes[BYTES_MAX];
    int r;

    if (total)
        r = str_format(&state, "%s %d %%", member_text(progress, "phase"),
                       (int)((double)(done < total ? done : total) * 100 / (double)total));
    else
        r = str_format(&state, "%s", member_text(progress, "phase"));
    if (r < 0)
        must(NULL);
    table_add_row(t);
    table_set(t, COLUMN_NAME, name, NULL);
    table_set(t, COLUMN_STATE, state, *problem ? "red" : "yellow");
    table_set(t, COLUMN_SIZE, total ? text_bytes(total, bytes) : "-", NULL);
    table_set(t, COLUMN_NOTE, problem, "red");
}

/* What a source said that isn't in the lines of its releases. */
static void tell_sources(const struct invocation *in, const json_t *sources)
{
    const json_t *source;
    size_t i;

    json_array_foreach (sources, i, source)
        if (*member_text(source, "problem"))
            complain("the source of %s: %s", member_text(source, "name"), member_text(source, "problem"));
}

static enum outcome print(const struct invocation *in, const json_t *reply)
{
    const json_t *releases = json_object_get(reply, "releases"), *pulls = json_object_get(reply, "pulls"), *one;
    auto_table struct table t;
    size_t i;

    table_init(&t, columns, COLUMN_COUNT);
    json_array_foreach (releases, i, one) {
        auto_free char *name = full_name(one);

        if (in->quiet)
            put_line(name);
        else
            add_release(&t, one);
    }
    if (in->quiet)
        return OUTCOME_DONE;
    json_array_foreach (pulls, i, one)
        add_pull(&t, one);
    if (!t.n_rows)
        say(in, "no images (get one: vmctl image pull NAME)");
    tell_sources(in, json_object_get(reply, "sources"));
    return t.n_rows ? table_print(&t, in) : OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    static const char *const lists[] = { "releases", "pulls", "sources" };
    auto_json json_t *reply = NULL;
    json_t *one;
    size_t k;
    enum outcome outcome = image_call_consume(in, "List", must_json(json_pack("{s:s*}", "name", in->n_args ? in->args[0] : NULL)), &reply);

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (!in->json)
        return print(in, reply);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        json_array_foreach (json_object_get(reply, lists[i]), k, one)
            image_complete(one);
    put_json(reply);
    return OUTCOME_DONE;
}

const struct verb verb_image_list = {
    .name = "image list",
    .args = "[NAME]",
    .group = "images",
    .summary = "show the releases that are here, and pulls under way",
    .details = "Each name's newest release comes first. With --json also what the sources said; with -q only the names are printed.",
    .example = "vmctl image list sp-vm",
    .takes = TAKES_ONE_IMAGE,
    .max_args = 1,
    .run = run,
};
