#include "proto/disks.h"

#include <errno.h>
#include <stdio.h>

#include "proto/schema.h"

static const struct field layer_fields[] = {
    { "path", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct snapshot_layer, path) },
    { "format", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct snapshot_layer, format) },
};
static const struct record_type layer_type = {
    .what = "layer", .size = sizeof(struct snapshot_layer), .fields = layer_fields, .n_fields = ARRAY_LEN(layer_fields)
};

static const struct field disk_fields[] = {
    { "plan_path", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct disk_layers, plan_path) },
    { "layers", FIELD_ARRAY, FIELD_REQUIRED, .offset = offsetof(struct disk_layers, layers),
      .count_offset = offsetof(struct disk_layers, n_layers), .type = &layer_type },
};
static const struct record_type disk_type = {
    .what = "disk", .size = sizeof(struct disk_layers), .fields = disk_fields, .n_fields = ARRAY_LEN(disk_fields)
};

static const struct field disks_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, .offset = offsetof(struct disks, schema), .min = 1 },
    { "disks", FIELD_ARRAY, FIELD_REQUIRED, .offset = offsetof(struct disks, disks), .count_offset = offsetof(struct disks, n_disks),
      .type = &disk_type },
};
const struct record_type disks_type = {
    .what = "record of disk layers", .size = sizeof(struct disks), .fields = disks_fields, .n_fields = ARRAY_LEN(disks_fields)
};

static int check_layer(const struct disk_layers *disk, size_t k, const char *place, struct err *err)
{
    const struct snapshot_layer *layer = &disk->layers[k];
    if (layer->path[0] != '/')
        return err_set(err, EINVAL, "bad-record", "%s/layers/%zu/path: expected an absolute path, got \"%s\"", place, k, layer->path);
    if (!streq(layer->format, "qcow2") && !streq(layer->format, "raw"))
        return err_set(err, EINVAL, "bad-record", "%s/layers/%zu/format: expected one of qcow2 raw, got \"%s\"", place, k, layer->format);
    if (streq(layer->format, "raw") && k + 1 < disk->n_layers)
        return err_set(err, EINVAL, "bad-record", "%s/layers/%zu/format: a raw image can't have %s below it", place, k,
                       disk->layers[k + 1].path);
    for (size_t i = 0; i < k; i++)
        if (streq(disk->layers[i].path, layer->path))
            return err_set(err, EINVAL, "bad-record", "%s/layers/%zu/path: %s is also layer %zu", place, k, layer->path, i);
    return 0;
}

/* No two disks write one file, and none reads what another one writes. */
static int check_written(const struct disks *disks, size_t i, size_t k, struct err *err)
{
    const struct disk_layers *a = &disks->disks[i], *b = &disks->disks[k];
    for (size_t n = 0; n < a->n_layers || n < b->n_layers; n++)
        if ((n < b->n_layers && streq(a->layers[0].path, b->layers[n].path)) ||
            (n < a->n_layers && streq(b->layers[0].path, a->layers[n].path)))
            return err_set(err, EINVAL, "bad-record", "/disks/%zu/layers: a file of them, %s, is also of /disks/%zu", i,
                           n < b->n_layers && streq(a->layers[0].path, b->layers[n].path) ? a->layers[0].path : b->layers[0].path, k);
    return 0;
}

static int check_disk(const struct disks *disks, size_t i, struct err *err)
{
    const struct disk_layers *disk = &disks->disks[i];
    char place[32];
    snprintf(place, sizeof(place), "/disks/%zu", i);
    int r = 0;
    if (disk->plan_path[0] != '/')
        return err_set(err, EINVAL, "bad-record", "%s/plan_path: expected an absolute path, got \"%s\"", place, disk->plan_path);
    if (disk->n_layers == 0 || disk->n_layers > LAYERS_MAX)
        return err_set(err, EINVAL, "bad-record", "%s/layers: expected 1 to %d files, got %zu", place, LAYERS_MAX, disk->n_layers);
    for (size_t k = 0; k < disk->n_layers && r >= 0; k++)
        r = check_layer(disk, k, place, err);
    for (size_t k = 0; k < i && r >= 0; k++)
        r = streq(disks->disks[k].plan_path, disk->plan_path)
                ? err_set(err, EINVAL, "bad-record", "%s/plan_path: %s is also that of /disks/%zu", place, disk->plan_path, k)
                : check_written(disks, i, k, err);
    return r;
}

static int check_disks(const void *record, struct err *err)
{
    const struct disks *disks = record;
    int r = 0;
    if (disks->n_disks > DISKS_KEPT_MAX)
        return err_set(err, EINVAL, "bad-record", "/disks: expected at most %d, got %zu", DISKS_KEPT_MAX, disks->n_disks);
    for (size_t i = 0; i < disks->n_disks && r >= 0; i++)
        r = check_disk(disks, i, err);
    return r;
}

int disks_from_json(const json_t *json, struct disks *ret_disks, struct err *err)
{
    struct disks disks;
    int r = schema_read(&disks_type, DISKS_SCHEMA, json, NULL, check_disks, &disks, err);
    if (r >= 0)
        *ret_disks = disks;
    return r;
}

void disks_clear(struct disks *disks) { record_clear(&disks_type, disks); }

struct disk_layers *disks_find(const struct disks *disks, const char *plan_path)
{
    for (size_t i = 0; i < disks->n_disks; i++)
        if (streq(disks->disks[i].plan_path, plan_path))
            return &disks->disks[i];
    return NULL;
}

void layers_free(struct snapshot_layer *layers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(layers[i].path);
        free(layers[i].format);
    }
    free(layers);
}

int layers_copy(const struct snapshot_layer *from, size_t n, struct snapshot_layer **ret_layers)
{
    struct snapshot_layer *layers = calloc(n > 0 ? n : 1, sizeof(*layers));
    if (!layers)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (str_set(&layers[i].path, from[i].path) < 0 || str_set(&layers[i].format, from[i].format) < 0) {
            layers_free(layers, n);
            return -ENOMEM;
        }
    *ret_layers = layers;
    return 0;
}

static int add_entry(struct disks *disks, const char *plan_path, struct disk_layers **ret)
{
    struct disk_layers *grown = reallocarray(disks->disks, disks->n_disks + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    disks->disks = grown;
    grown[disks->n_disks] = (struct disk_layers){ 0 };
    if (str_set(&grown[disks->n_disks].plan_path, plan_path) < 0)
        return -ENOMEM;
    *ret = &grown[disks->n_disks++];
    return 0;
}

int disks_set(struct disks *disks, const char *plan_path, const struct snapshot_layer *layers, size_t n_layers)
{
    struct disk_layers *entry = disks_find(disks, plan_path);
    struct snapshot_layer *copy = NULL;
    int r = layers_copy(layers, n_layers, &copy);
    if (r >= 0 && !entry)
        r = add_entry(disks, plan_path, &entry);
    if (r < 0) {
        layers_free(copy, copy ? n_layers : 0);
        return r;
    }
    layers_free(entry->layers, entry->n_layers);
    entry->layers = copy;
    entry->n_layers = n_layers;
    disks->schema = DISKS_SCHEMA;
    return 0;
}

int disks_copy(const struct disks *from, struct disks *ret_disks)
{
    struct disks copy = { .schema = DISKS_SCHEMA };
    for (size_t i = 0; i < from->n_disks; i++) {
        int r = disks_set(&copy, from->disks[i].plan_path, from->disks[i].layers, from->disks[i].n_layers);
        if (r < 0) {
            disks_clear(&copy);
            return r;
        }
    }
    *ret_disks = copy;
    return 0;
}

bool disks_drop(struct disks *disks, const char *plan_path)
{
    struct disk_layers *entry = disks_find(disks, plan_path);

    if (!entry)
        return false;
    free(entry->plan_path);
    layers_free(entry->layers, entry->n_layers);
    *entry = disks->disks[--disks->n_disks];
    return true;
}
