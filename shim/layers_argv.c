/* The plan's argv, with the layers of its disks. Words and files of disks without layers stay as they are, to the byte. */
#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/qemu/chains.h"
#include "shim/layers.h"

struct rewrite {
    const struct plan *plan;
    struct chains chains;
    const struct disk_layers *entries[DISKS_MAX]; /* by place in `chains`; NULL: as the plan says */
    struct layered *to;
    uint64_t next_fd;
};

void layered_clear(struct layered *l)
{
    strv_clear(&l->argv);
    for (size_t i = 0; i < l->n_files; i++)
        free(l->files[i].path);
    free(l->files);
    *l = (struct layered){ 0 };
}

static int add_file(struct layered *to, uint64_t fd, enum file_kind kind, const char *path)
{
    struct plan_file *files = reallocarray(to->files, to->n_files + 1, sizeof(*files));

    if (!files)
        return -ENOMEM;
    to->files = files;
    files[to->n_files] = (struct plan_file){ .fd = fd, .kind = (int)kind };
    if (str_set(&files[to->n_files].path, path) < 0)
        return -ENOMEM;
    to->n_files++;
    return 0;
}

static bool is_replaced(const struct rewrite *w, uint64_t fd)
{
    for (size_t i = 0; i < w->chains.n; i++)
        for (size_t k = 0; w->entries[i] && k < w->chains.items[i].n_layers; k++)
            if (w->chains.items[i].fds[k] == fd)
                return true;
    return false;
}

static int keep_files(struct rewrite *w)
{
    for (size_t i = 0; i < w->plan->qemu.n_files; i++) {
        const struct plan_file *file = &w->plan->qemu.files[i];

        if (!is_replaced(w, file->fd) && add_file(w->to, file->fd, file->kind, file->path) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* The same as lib/qemu/argv_devices.c makes. */
static json_t *file_node(const struct rewrite *w, const struct snapshot_layer *layer, bool top)
{
    char name[32];
    json_t *node;

    snprintf(name, sizeof(name), "/dev/fdset/%d", (int)w->next_fd);
    node = has_prefix(layer->path, "/dev/") ? json_pack("{ss ss}", "driver", "host_device", "filename", name)
                                            : json_pack("{ss ss ss}", "driver", "file", "filename", name, "locking", "auto");
    if (node && top && json_object_set_new(node, "discard", json_string("unmap")) < 0) {
        json_decref(node);
        return NULL;
    }
    return node;
}

/* One layer as a node, and its file under the next number. The top keeps what else the plan says of it. */
static int add_layer(struct rewrite *w, const struct chain *chain, const struct disk_layers *entry, size_t k, json_t **ret_node)
{
    const struct snapshot_layer *layer = &entry->layers[k];
    const char *text = w->plan->qemu.argv[chain->word];
    bool top = k == 0;
    auto_json json_t *node = NULL;
    int r = 0;

    if (top)
        r = json_parse(text, strlen(text), &node, NULL);
    else if (!(node = json_pack("{ss sb}", "driver", layer->format, "read-only", 1)))
        r = -ENOMEM;
    if (r < 0)
        return r;
    (void)json_object_del(node, "backing");
    if (json_object_set_new(node, "driver", json_string(layer->format)) < 0 ||
        json_object_set_new(node, "file", file_node(w, layer, top)) < 0)
        return -ENOMEM;
    strv_push(&w->to->argv, "-add-fd");
    strv_pushf(&w->to->argv, "fd=%d,set=%d", (int)w->next_fd, (int)w->next_fd);
    r = add_file(w->to, w->next_fd++, top && !chain->readonly ? FILE_WRITE : FILE_READ, layer->path);
    if (r >= 0)
        *ret_node = steal_ptr(&node);
    return r;
}

static int add_disk(struct rewrite *w, const struct chain *chain, const struct disk_layers *entry, struct err *err)
{
    json_t *nodes[LAYERS_MAX] = { 0 };
    auto_free char *text = NULL;
    size_t n = 0;
    int r = 0;

    if (w->next_fd + entry->n_layers > PLAN_FD_LAYER_END)
        return err_set(err, EMFILE, "too-many-layers",
                       "the disks consist of more than %d files in all; merge layers with qemu-img rebase or "
                       "convert while the VM is stopped",
                       PLAN_FD_LAYER_END - PLAN_FD_LAYER);
    for (; n < entry->n_layers && r >= 0; n++)
        r = add_layer(w, chain, entry, n, &nodes[n]);
    /* The deepest into the next. */
    for (size_t k = n; k-- > 1 && r >= 0; nodes[k] = NULL)
        r = json_object_set_new(nodes[k - 1], "backing", nodes[k]) < 0 ? -ENOMEM : 0;
    if (r >= 0)
        r = json_format(nodes[0], &text, NULL);
    for (size_t k = 0; k < n; k++)
        json_decref(nodes[k]);
    if (r < 0)
        return r;
    strv_push(&w->to->argv, "-blockdev");
    strv_push(&w->to->argv, text);
    return 0;
}

/* "fd=32,set=32" of a file that isn't used any more. */
static bool is_dropped(const struct rewrite *w, const char *word)
{
    char digits[24];
    uint64_t fd;

    if (!has_prefix(word, "fd="))
        return false;
    snprintf(digits, sizeof(digits), "%.*s", (int)strcspn(word + 3, ","), word + 3);
    return parse_u64(digits, 0, PLAN_FD_END, &fd) >= 0 && is_replaced(w, fd);
}

static int rewrite(struct rewrite *w, struct err *err)
{
    char *const *argv = w->plan->qemu.argv;
    size_t chain = 0;
    int r = keep_files(w);

    for (size_t i = 0; argv[i] && r >= 0; i++) {
        /* Chains are in the order of the argv. */
        while (chain < w->chains.n && (w->chains.items[chain].word < i + 1 || !w->entries[chain]))
            chain++;
        if (chain < w->chains.n && w->chains.items[chain].word == i + 1) {
            r = add_disk(w, &w->chains.items[chain], w->entries[chain], err);
            i++;
        } else if (streq(argv[i], "-add-fd") && argv[i + 1] && is_dropped(w, argv[i + 1])) {
            i++;
        } else {
            strv_push(&w->to->argv, argv[i]);
        }
    }
    return r < 0 ? r : w->to->argv.failed ? -ENOMEM : 0;
}

int layers_apply(const struct plan *plan, const struct disks *disks, struct layered *ret_layered, struct err *err)
{
    auto_layered struct layered layered = { 0 };
    struct rewrite w = { .plan = plan, .to = &layered, .next_fd = PLAN_FD_LAYER };
    int r = chains_of_plan(plan, &w.chains, err);

    for (size_t i = 0; i < w.chains.n && r >= 0; i++)
        w.entries[i] = disks_find(disks, w.chains.items[i].layers[0].path);
    if (r >= 0)
        r = rewrite(&w, err);
    if (r < 0)
        return r;
    *ret_layered = layered;
    layered = (struct layered){ 0 };
    return 0;
}
