#include "proto/snapshot.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "proto/memory_image.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct snapshot, member)

static const struct field hardware_fields[] = {
    { "machine", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct hardware, machine) },
    { "accel", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct hardware, accel) },
    { "cpu", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct hardware, cpu) },
    { "cpus", FIELD_UINT, FIELD_REQUIRED, .offset = offsetof(struct hardware, cpus), .min = 1 },
    { "memory", FIELD_CUSTOM, FIELD_REQUIRED, .offset = offsetof(struct hardware, memory), .codec = &codec_size },
    { "devices", FIELD_STRV, FIELD_OMIT_EMPTY, .offset = offsetof(struct hardware, devices) },
    { "qemu_version", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct hardware, qemu_version) },
};
const struct record_type hardware_type = {
    .what = "hardware", .size = sizeof(struct hardware), .fields = hardware_fields, .n_fields = ARRAY_LEN(hardware_fields)
};

static const struct field layer_fields[] = {
    { "path", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct snapshot_layer, path) },
    { "format", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct snapshot_layer, format) },
};
static const struct record_type layer_type = {
    .what = "layer", .size = sizeof(struct snapshot_layer), .fields = layer_fields, .n_fields = ARRAY_LEN(layer_fields)
};

static const struct field disk_fields[] = {
    { "node", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct snapshot_disk, node) },
    { "readonly", FIELD_BOOL, FIELD_OMIT_EMPTY, .offset = offsetof(struct snapshot_disk, readonly) },
    { "layers", FIELD_ARRAY, FIELD_REQUIRED, .offset = offsetof(struct snapshot_disk, layers),
      .count_offset = offsetof(struct snapshot_disk, n_layers), .type = &layer_type },
    { "size", FIELD_CUSTOM, 0, .offset = offsetof(struct snapshot_disk, size), .codec = &codec_size },
};
static const struct record_type disk_type = {
    .what = "disk", .size = sizeof(struct snapshot_disk), .fields = disk_fields, .n_fields = ARRAY_LEN(disk_fields)
};

/* An object in the file, where people may read it; its text in the struct, since what a spec may hold is not this folder's to know. */
static int spec_parse(const json_t *value, void *slot, struct err *err)
{
    char *text = NULL;
    if (!json_is_object(value))
        return record_expected(err, value, "an object");
    int r = json_format(value, &text, NULL);
    if (r < 0)
        return r;
    free(*(char **)slot);
    *(char **)slot = text;
    return 0;
}

static json_t *spec_emit(const void *slot)
{
    const char *text = *(char *const *)slot;
    json_t *json = NULL;
    if (!text)
        return json_null();
    return json_parse(text, strlen(text), &json, NULL) < 0 ? NULL : json;
}

static void spec_clear(void *slot)
{
    free(*(char **)slot);
    *(char **)slot = NULL;
}

static const struct field_codec codec_spec = { .parse = spec_parse, .emit = spec_emit, .clear = spec_clear };

static const struct field snapshot_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "vm", FIELD_STRING, FIELD_REQUIRED, AT(vm) },
    { "id", FIELD_STRING, FIELD_REQUIRED, AT(id) },
    { "created", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(created), .codec = &codec_time },
    { "incarnation", FIELD_UINT, 0, AT(incarnation) },
    { "live", FIELD_BOOL, 0, AT(live) },
    { "pause_us", FIELD_UINT, 0, AT(pause_us) },
    { "ram_size", FIELD_CUSTOM, FIELD_REQUIRED, AT(ram_size), .codec = &codec_size },
    { "page_size", FIELD_UINT, FIELD_REQUIRED, AT(page_size) },
    { "present_pages", FIELD_UINT, FIELD_REQUIRED, AT(present_pages) },
    { "state_size", FIELD_CUSTOM, FIELD_REQUIRED, AT(state_size), .codec = &codec_size },
    { "state_sum", FIELD_STRING, FIELD_REQUIRED, AT(state_sum) },
    { "hardware", FIELD_OBJECT, FIELD_REQUIRED, AT(hardware), .type = &hardware_type },
    { "disks", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(disks), .count_offset = offsetof(struct snapshot, n_disks), .type = &disk_type },
    { "spec", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(spec), .codec = &codec_spec },
    { "digest", FIELD_STRING, FIELD_OMIT_EMPTY, AT(digest) },
};
const struct record_type snapshot_type = {
    .what = "snapshot", .size = sizeof(struct snapshot), .fields = snapshot_fields, .n_fields = ARRAY_LEN(snapshot_fields)
};

static int check_name(const char *place, const char *name, struct err *err)
{
    if (name_is_valid(name))
        return 0;
    return err_set(err, EINVAL, "bad-record", "%s: expected " NAME_RULE ", got \"%s\"", place, name);
}

static int check_hex(const char *place, const char *text, size_t len, struct err *err)
{
    if (strlen(text) == len && strspn(text, "0123456789abcdef") == len)
        return 0;
    return err_set(err, EINVAL, "bad-record", "%s: expected %zu lower-case hex digits, got \"%s\"", place, len, text);
}

static int check_memory(const struct snapshot *snapshot, struct err *err)
{
    if (snapshot->page_size != IMAGE_PAGE)
        return err_set(err, EINVAL, "bad-record", "/page_size: expected %d, got %" PRIu64, IMAGE_PAGE, snapshot->page_size);
    if (!image_ram_size_is_valid(snapshot->ram_size))
        return err_set(err, EINVAL, "bad-record", "/ram_size: expected a multiple of 4K from 4K to 16T, got %" PRIu64 " bytes",
                       snapshot->ram_size);
    if (snapshot->present_pages > snapshot->ram_size / IMAGE_PAGE)
        return err_set(err, EINVAL, "bad-record", "/present_pages: expected at most the %" PRIu64 " of the RAM, got %" PRIu64,
                       snapshot->ram_size / IMAGE_PAGE, snapshot->present_pages);
    return 0;
}

/* QEMU opens these as what they say they are, so nothing is opened by another name or in another format than disks have. */
static int check_layer(const struct snapshot_layer *layer, size_t disk, size_t i, struct err *err)
{
    if (layer->path[0] != '/')
        return err_set(err, EINVAL, "bad-record", "/disks/%zu/layers/%zu/path: expected an absolute path, got \"%s\"", disk, i,
                       layer->path);
    if (!streq(layer->format, "qcow2") && !streq(layer->format, "raw"))
        return err_set(err, EINVAL, "bad-record", "/disks/%zu/layers/%zu/format: expected one of qcow2 raw, got \"%s\"", disk, i,
                       layer->format);
    return 0;
}

static int check_disk(const struct snapshot *snapshot, size_t i, struct err *err)
{
    const struct snapshot_disk *disk = &snapshot->disks[i];
    char place[64];
    snprintf(place, sizeof(place), "/disks/%zu/node", i);
    int r = check_name(place, disk->node, err);
    for (size_t k = 0; k < i && r >= 0; k++)
        if (streq(snapshot->disks[k].node, disk->node))
            r = err_set(err, EINVAL, "bad-record", "%s: %s is also the node of /disks/%zu", place, disk->node, k);
    if (r >= 0 && disk->n_layers == 0)
        r = err_set(err, EINVAL, "bad-record", "/disks/%zu/layers: expected at least one file, got an empty array", i);
    for (size_t k = 0; k < disk->n_layers && r >= 0; k++)
        r = check_layer(&disk->layers[k], i, k, err);
    return r;
}

/* What a table can't say. */
static int check_snapshot(const void *record, struct err *err)
{
    const struct snapshot *snapshot = record;
    int r = check_name("/name", snapshot->name, err);
    if (r >= 0)
        r = check_name("/vm", snapshot->vm, err);
    if (r >= 0)
        r = check_hex("/id", snapshot->id, SNAPSHOT_ID_LEN, err);
    if (r >= 0)
        r = check_hex("/state_sum", snapshot->state_sum, STREAM_SUM_TEXT_MAX - 1, err);
    if (r >= 0)
        r = check_memory(snapshot, err);
    for (size_t i = 0; i < snapshot->n_disks && r >= 0; i++)
        r = check_disk(snapshot, i, err);
    return r;
}

int snapshot_from_json(const json_t *json, struct snapshot *ret_snapshot, struct err *err)
{
    struct snapshot snapshot;
    int r = schema_read(&snapshot_type, SNAPSHOT_SCHEMA, json, NULL, check_snapshot, &snapshot, err);
    if (r >= 0)
        *ret_snapshot = snapshot;
    return r;
}

/* A record that nobody can read is a snapshot lost, and that shows when it is needed: so it is read back here. */
int snapshot_to_json(const struct snapshot *snapshot, json_t **ret_json)
{
    auto_json json_t *json = NULL, *spec = NULL;
    auto_snapshot struct snapshot back = { 0 };
    int r = snapshot->spec ? json_parse(snapshot->spec, strlen(snapshot->spec), &spec, NULL) : 0;
    if (r >= 0)
        r = record_emit(&snapshot_type, snapshot, &json);
    if (r >= 0)
        r = snapshot_from_json(json, &back, NULL);
    if (r < 0)
        return r;
    *ret_json = steal_ptr(&json);
    return 0;
}

void snapshot_clear(struct snapshot *snapshot) { record_clear(&snapshot_type, snapshot); }
void hardware_clear(struct hardware *hardware) { record_clear(&hardware_type, hardware); }
