#include "lib/qemu/chains.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

#define FDSET_PREFIX "/dev/fdset/"
#define NODE_SUFFIX "-image"

int fdset_of_filename(const char *filename, uint64_t *ret_set)
{
    if (!filename || !has_prefix(filename, FDSET_PREFIX))
        return -EINVAL;
    return parse_u64(filename + strlen(FDSET_PREFIX), 0, INT64_MAX, ret_set) < 0 ? -EINVAL : 0;
}

/* "disk3-image" -> 3. */
static int index_of_node(const char *name, size_t *ret_index)
{
    char digits[8];
    size_t len = name ? strlen(name) : 0, around = strlen("disk") + strlen(NODE_SUFFIX);
    uint64_t index;

    if (len <= around || len - around >= sizeof(digits) || !has_prefix(name, "disk") ||
        !streq(name + len - strlen(NODE_SUFFIX), NODE_SUFFIX))
        return -EINVAL;
    snprintf(digits, sizeof(digits), "%.*s", (int)(len - around), name + strlen("disk"));
    if (parse_u64(digits, 0, DISKS_MAX - 1, &index) < 0)
        return -EINVAL;
    *ret_index = (size_t)index;
    return 0;
}

static const struct plan_file *find_file(const struct plan *plan, uint64_t fd)
{
    for (size_t i = 0; i < plan->qemu.n_files; i++)
        if (plan->qemu.files[i].fd == fd)
            return &plan->qemu.files[i];
    return NULL;
}

/* The format is one of two words of ours, the path is the plan's: neither is the JSON's, which is gone when the caller reads them. */
static int read_layer(const struct plan *plan, const json_t *node, struct chain *chain)
{
    static char qcow2[] = "qcow2", raw[] = "raw";
    const char *driver = json_string_value(json_object_get(node, "driver"));
    const char *filename = json_string_value(json_object_get(json_object_get(node, "file"), "filename"));
    const struct plan_file *file;
    uint64_t set;

    if (!driver || (!streq(driver, qcow2) && !streq(driver, raw)) || fdset_of_filename(filename, &set) < 0)
        return -EINVAL;
    file = find_file(plan, set);
    if (!file || chain->n_layers == ARRAY_LEN(chain->layers))
        return -EINVAL;
    chain->fds[chain->n_layers] = set;
    chain->layers[chain->n_layers++] = (struct snapshot_layer){ .path = file->path, .format = streq(driver, raw) ? raw : qcow2 };
    return 0;
}

static int read_chain(const struct plan *plan, const json_t *node, struct chain *chain)
{
    int r = 0;

    chain->readonly = json_is_true(json_object_get(node, "read-only"));
    for (; node && r >= 0; node = json_object_get(node, "backing"))
        r = read_layer(plan, node, chain);
    return r;
}

/* 1: a disk of the plan's, 0: something else. */
static int read_word(const struct plan *plan, size_t word, struct chain *ret_chain, struct err *err)
{
    const char *text = plan->qemu.argv[word];
    auto_json json_t *json = NULL;
    struct chain chain = { .word = word };

    int r = json_parse(text, strlen(text), &json, NULL);

    if (r == -ENOMEM)
        return r; /* not "something else": that would lose a disk */
    if (r < 0 || index_of_node(json_string_value(json_object_get(json, "node-name")), &chain.index) < 0)
        return 0;
    if (read_chain(plan, json, &chain) < 0)
        return err_set(err, EINVAL, "bad-plan", "/qemu/argv/%zu: can't tell which files disk %zu consists of: %s", word, chain.index, text);
    snprintf(chain.node, sizeof(chain.node), "disk%zu", chain.index);
    *ret_chain = chain;
    return 1;
}

int chains_of_plan(const struct plan *plan, struct chains *ret_chains, struct err *err)
{
    char *const *argv = plan->qemu.argv;

    ret_chains->n = 0;
    for (size_t i = 0; argv[i] && argv[i + 1]; i++) {
        struct chain chain;
        int r = streq(argv[i], "-blockdev") ? read_word(plan, i + 1, &chain, err) : 0;

        if (r < 0)
            return r;
        if (r == 0)
            continue;
        for (size_t k = 0; k < ret_chains->n; k++)
            if (ret_chains->items[k].index == chain.index)
                return err_set(err, EINVAL, "bad-plan", "/qemu/argv/%zu: disk %zu comes twice", i + 1, chain.index);
        ret_chains->items[ret_chains->n++] = chain;
    }
    return 0;
}
