#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

enum { PAGE = 4096 };

static void line(const char *label, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *label, const char *fmt, ...)
{
    auto_free char *text = NULL;
    va_list args;

    va_start(args, fmt);
    int r = vasprintf(&text, fmt, args);
    va_end(args);
    if (r < 0)
        must(NULL);
    vm_view_line(label, text);
}

static void show_record(const json_t *snapshot, const json_t *details)
{
    const json_t *hardware = json_object_get(details, "hardware"), *user;
    bool live = json_is_true(json_object_get(snapshot, "live"));
    json_int_t pause_us = member_int(snapshot, "pause_us");
    char bytes[BYTES_MAX];
    size_t i;

    printf("%s/%s\n", member_text(snapshot, "vm"), member_text(snapshot, "name"));
    vm_view_line("damaged", member_text(snapshot, "damaged"));
    vm_view_line("id", member_text(snapshot, "id"));
    line("taken", "%s, %s, the guest stood still for %lld.%lld ms", member_text(snapshot, "created"), live ? "live" : "stopped",
         (long long)(pause_us / 1000), (long long)(pause_us % 1000 / 100));
    line("machine", "%s, %s, %lld CPU(s) %s, QEMU %s", member_text(hardware, "machine"), member_text(hardware, "accel"),
         (long long)member_int(hardware, "cpus"), member_text(hardware, "cpu"), member_text(hardware, "qemu_version"));
    line("disk space", "%s", text_bytes((uint64_t)member_int(snapshot, "disk"), bytes));
    json_array_foreach (json_object_get(snapshot, "in_use_by"), i, user)
        vm_view_line(i ? "" : "in use by", json_string_value(user));
}

static void show_disks(const json_t *details)
{
    const json_t *disk, *layer;
    size_t i, k;

    json_array_foreach (json_object_get(details, "disks"), i, disk)
        json_array_foreach (json_object_get(disk, "layers"), k, layer)
            line(k ? "" : member_text(disk, "node"), "%s%s (%s)", k ? "on " : "", member_text(layer, "path"), member_text(layer, "format"));
}

static void show_coverage(const char *label, const json_t *percents, json_int_t pages, json_int_t all)
{
    auto_free char *bar = snapshot_bar(percents);
    char bytes[BYTES_MAX], of[BYTES_MAX];

    line(label, "%s of %s, in %lld pages", text_bytes((uint64_t)pages * PAGE, bytes), text_bytes((uint64_t)all * PAGE, of),
         (long long)pages);
    /* Not through vm_view_line(), which takes care of what others wrote. */
    printf("  %-12s |%s|\n", "", bar);
}

static void show(const json_t *reply)
{
    const json_t *snapshot = json_object_get(reply, "snapshot"), *details = json_object_get(reply, "details");
    json_int_t pages = member_int(reply, "pages");

    show_record(snapshot, details);
    show_disks(details);
    if (pages > 0)
        show_coverage("memory", json_object_get(reply, "present"), member_int(reply, "present_pages"), pages);
    if (member_int(reply, "working_set_pages") > 0)
        show_coverage("working set", json_object_get(reply, "working_set"), member_int(reply, "working_set_pages"), pages);
    else
        line("working set", "not known yet (restore it once, or: vmctl snapshot warm %s/%s)", member_text(snapshot, "vm"),
             member_text(snapshot, "name"));
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    struct snapshot_name name;
    enum outcome outcome = snapshot_name_read(in, in->args[0], NULL, &name);

    if (outcome == OUTCOME_DONE)
        outcome = manager_call_consume(in, "SnapshotShow", NULL, snapshot_parameters(&name), &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    snapshot_complete(json_object_get(reply, "snapshot"));
    if (in->json)
        put_json(reply);
    else
        show(reply);
    return OUTCOME_DONE;
}

const struct verb verb_snapshot_show = {
    .name = "snapshot show",
    .args = "VM/NAME",
    .group = "snapshots",
    .summary = "show a snapshot: of what it is, and where its memory lies",
    .details =
        "The bars are the VM's memory from its first byte to its last: how much of it is more than zeros, and how much a restored guest\n"
        "was seen to need first.",
    .example = "vmctl snapshot show web/before-upgrade",
    .takes = TAKES_ONE_SNAPSHOT,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
