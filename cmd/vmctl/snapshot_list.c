#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

enum { COLUMN_NAME, COLUMN_CREATED, COLUMN_KIND, COLUMN_RAM, COLUMN_PRESENT, COLUMN_DISK, COLUMN_WARM, COLUMN_NOTE, COLUMN_COUNT };

static const struct table_column columns[] = {
    [COLUMN_NAME] = { .title = "SNAPSHOT" },
    [COLUMN_CREATED] = { .title = "CREATED", .rank = 2 },
    [COLUMN_KIND] = { .title = "KIND", .rank = 5 },
    [COLUMN_RAM] = { .title = "RAM", .rank = 6, .right = true },
    [COLUMN_PRESENT] = { .title = "USED", .rank = 4, .right = true },
    [COLUMN_DISK] = { .title = "DISK", .rank = 3, .right = true },
    [COLUMN_WARM] = { .title = "WARM", .rank = 7 },
    [COLUMN_NOTE] = { .title = "IN USE BY", .rank = 1, .cut = true },
};
_Static_assert((int)COLUMN_COUNT <= (int)TABLE_COLUMNS_MAX, "table too wide");

static char *full_name(const json_t *snapshot)
{
    char *name = NULL;

    if (str_format(&name, "%s/%s", member_text(snapshot, "vm"), member_text(snapshot, "name")) < 0)
        must(NULL);
    return name;
}

/* "damaged: …", or "web, db". */
static char *note_of(const json_t *snapshot)
{
    const char *damaged = member_text(snapshot, "damaged");
    char *note = NULL;
    const json_t *user;
    size_t i;

    if (str_format(&note, "%s%s", *damaged ? "damaged: " : "", damaged) < 0)
        must(NULL);
    json_array_foreach (json_object_get(snapshot, "in_use_by"), i, user) {
        char *longer = NULL;
        const char *name = json_string_value(user);

        if (str_format(&longer, "%s%s%s", note, i ? ", " : *note ? "; in use by " : "", name ? name : "?") < 0)
            must(NULL);
        free(note);
        note = longer;
    }
    return note;
}

static void add(struct table *t, const json_t *snapshot)
{
    auto_free char *name = full_name(snapshot), *note = note_of(snapshot);
    bool damaged = *member_text(snapshot, "damaged");
    char bytes[BYTES_MAX];

    table_add_row(t);
    table_set(t, COLUMN_NAME, name, damaged ? "red" : NULL);
    table_set(t, COLUMN_CREATED, *member_text(snapshot, "created") ? member_text(snapshot, "created") : "-", NULL);
    table_set(t, COLUMN_KIND, json_is_true(json_object_get(snapshot, "live")) ? "live" : "stopped", NULL);
    table_set(t, COLUMN_RAM, text_bytes((uint64_t)member_int(snapshot, "ram_size"), bytes), NULL);
    table_set(t, COLUMN_PRESENT, text_bytes((uint64_t)member_int(snapshot, "present"), bytes), NULL);
    table_set(t, COLUMN_DISK, text_bytes((uint64_t)member_int(snapshot, "disk"), bytes), NULL);
    table_set(t, COLUMN_WARM, json_is_true(json_object_get(snapshot, "working_set")) ? "yes" : "-", NULL);
    table_set(t, COLUMN_NOTE, note, damaged ? "red" : NULL);
}

static enum outcome print(const struct invocation *in, const json_t *snapshots)
{
    auto_table struct table t;
    const json_t *snapshot;
    size_t i;

    table_init(&t, columns, COLUMN_COUNT);
    json_array_foreach (snapshots, i, snapshot) {
        auto_free char *name = full_name(snapshot);

        if (in->quiet)
            put_line(name);
        else
            add(&t, snapshot);
    }
    if (!json_array_size(snapshots))
        say(in, "no snapshots (take one: vmctl snapshot create VM)");
    return t.n_rows ? table_print(&t, in) : OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    const char *vm = in->n_args ? in->args[0] : NULL;
    auto_json json_t *reply = NULL;
    json_t *snapshot;
    size_t i;
    enum outcome outcome = vm ? name_check(in, vm) : OUTCOME_DONE;

    if (outcome == OUTCOME_DONE)
        outcome = manager_call_consume(in, "SnapshotList", vm, must_json(json_pack("{s:s*}", "name", vm)), &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    const json_t *snapshots = json_object_get(reply, "snapshots");
    if (!in->json)
        return print(in, snapshots);
    json_array_foreach (snapshots, i, snapshot)
        snapshot_complete(snapshot);
    put_json(snapshots);
    return OUTCOME_DONE;
}

const struct verb verb_snapshot_list = {
    .name = "snapshot list",
    .args = "[VM]",
    .group = "snapshots",
    .summary = "show every snapshot in a line",
    .details =
        "Also those of VMs that are no more. USED is memory that is more than zeros, DISK what the files take, WARM whether it is known\n"
        "which memory a restore needs first. With -q only the names are printed.",
    .example = "vmctl snapshot list web",
    .takes = TAKES_ONE_VM,
    .max_args = 1,
    .run = run,
};
