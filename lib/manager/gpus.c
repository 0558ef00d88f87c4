#include "lib/manager/gpus.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "lib/base/failpoint.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/record.h"
#include "lib/host/vfio.h"

#define FILE_GPUS "gpus.json"
enum { GPUS_SCHEMA = 1, GPUS_MAX_BYTES = 1024 * 1024, GPUS_MODE = 0640, GPUS_RECORDS_MAX = 4096 };

/* One device that a VM has. */
struct gpu {
    char *address, *vm;
    char *driver; /* it is taken from; NULL: none had it */
    bool noted;   /* whose it was is known, so it may have been touched */
    bool moving;  /* a thread is at it */
    bool bound;   /* vfio-pci has it */
    bool stuck;   /* it could not be given back */
};

static const struct field gpu_fields[] = {
    { .key = "address", .kind = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = offsetof(struct gpu, address) },
    { .key = "vm", .kind = FIELD_STRING, .flags = FIELD_REQUIRED, .offset = offsetof(struct gpu, vm) },
    { .key = "driver", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, .offset = offsetof(struct gpu, driver) },
};
static const struct record_type gpu_type = { "device", sizeof(struct gpu), NULL, gpu_fields, ARRAY_LEN(gpu_fields) };

struct gpu_list {
    uint64_t schema;
    struct gpu *items;
    size_t n;
};

static const struct field list_fields[] = {
    { .key = "schema", .kind = FIELD_UINT, .flags = FIELD_REQUIRED, .offset = offsetof(struct gpu_list, schema), .min = 1 },
    { .key = "devices",
      .kind = FIELD_ARRAY,
      .flags = FIELD_REQUIRED,
      .offset = offsetof(struct gpu_list, items),
      .count_offset = offsetof(struct gpu_list, n),
      .type = &gpu_type },
};
static const struct record_type list_type = { "devices", sizeof(struct gpu_list), NULL, list_fields, ARRAY_LEN(list_fields) };

struct gpus {
    int state_fd; /* borrowed */
    char *root;
    pthread_mutex_t writing; /* taken before `mutex`, and held while the file is written, so that the newest list is the last one there */
    pthread_mutex_t mutex;   /* for instants: the loop takes it too */
    struct gpu_list list;    /* under mutex */
};

void gpu_wish_clear(struct gpu_wish *wish)
{
    for (size_t i = 0; wish->devices && wish->devices[i]; i++)
        free(wish->devices[i]);
    free(wish->devices);
    *wish = (struct gpu_wish){ 0 };
}

/* ---- the record ---- */

static int check(const struct gpu_list *list, struct err *err)
{
    char address[PCI_TEXT_MAX];

    if (list->schema != GPUS_SCHEMA)
        return err_set(err, EINVAL, "bad-record", "/schema: expected %d", GPUS_SCHEMA);
    if (list->n > GPUS_RECORDS_MAX)
        return err_set(err, EINVAL, "bad-record", "/devices: more than %d", GPUS_RECORDS_MAX);
    for (size_t i = 0; i < list->n; i++) {
        const struct gpu *gpu = &list->items[i];

        /* They become paths below /sys. */
        if (parse_pci_address(gpu->address, address) < 0 || !streq(address, gpu->address) || !name_is_valid(gpu->vm) ||
            (gpu->driver && (!name_is_valid(gpu->driver) || strlen(gpu->driver) >= PCI_DRIVER_MAX)))
            return err_set(err, EINVAL, "bad-record", "/devices/%zu: expected a PCI address, a VM's and a driver's name", i);
    }
    return 0;
}

static int read_file(struct gpus *g, char **ret_aside, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;

    int r = file_read(g->state_fd, FILE_GPUS, GPUS_MAX_BYTES, &text, &len);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_set_errno(err, -r, "unreadable", "can't read %s", FILE_GPUS);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = record_parse(&list_type, json, 0, &g->list, err);
    if (r >= 0)
        r = check(&g->list, err);
    if (r < 0)
        record_clear(&list_type, &g->list);
    for (size_t i = 0; i < g->list.n; i++)
        g->list.items[i].noted = true;
    if (r == -EINVAL)
        r = file_set_aside(g->state_fd, FILE_GPUS, ret_aside);
    return r;
}

static int save(struct gpus *g)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;

    pthread_mutex_lock(&g->writing);
    pthread_mutex_lock(&g->mutex);
    g->list.schema = GPUS_SCHEMA;
    int r = record_emit(&list_type, &g->list, &json);
    pthread_mutex_unlock(&g->mutex);
    if (r >= 0)
        r = json_format(json, &text, &len);
    if (r >= 0)
        r = file_write(g->state_fd, FILE_GPUS, text, len, GPUS_MODE, FILE_DURABLE);
    pthread_mutex_unlock(&g->writing);
    return r;
}

int gpus_new(int state_fd, const char *root, struct gpus **ret_gpus, char **ret_aside, struct err *err)
{
    struct gpus *g = calloc(1, sizeof(*g));

    if (!g)
        return -ENOMEM;
    g->state_fd = state_fd;
    pthread_mutex_init(&g->writing, NULL);
    pthread_mutex_init(&g->mutex, NULL);
    int r = str_set(&g->root, root);
    if (r >= 0)
        r = read_file(g, ret_aside, err);
    if (r < 0) {
        gpus_free(g);
        return r;
    }
    *ret_gpus = g;
    return 0;
}

void gpus_free(struct gpus *g)
{
    if (!g)
        return;
    record_clear(&list_type, &g->list);
    pthread_mutex_destroy(&g->mutex);
    pthread_mutex_destroy(&g->writing);
    free(g->root);
    free(g);
}

/* ---- the list, with the mutex held ---- */

static struct gpu *find(const struct gpus *g, const char *address)
{
    for (size_t i = 0; i < g->list.n; i++)
        if (streq(g->list.items[i].address, address))
            return &g->list.items[i];
    return NULL;
}

static int add(struct gpus *g, const char *address, const char *vm)
{
    struct gpu *items = reallocarray(g->list.items, g->list.n + 1, sizeof(*items)), *gpu;

    if (!items)
        return -ENOMEM;
    g->list.items = items;
    gpu = &items[g->list.n];
    *gpu = (struct gpu){ 0 };
    if (str_set(&gpu->address, address) < 0 || str_set(&gpu->vm, vm) < 0) {
        record_clear(&gpu_type, gpu);
        return -ENOMEM;
    }
    g->list.n++;
    return 0;
}

static void drop(struct gpus *g, const char *address)
{
    struct gpu *gpu = find(g, address);

    if (!gpu)
        return;
    record_clear(&gpu_type, gpu);
    *gpu = g->list.items[--g->list.n];
}

static bool is_wished(const struct gpu_wish *wish, const char *address)
{
    for (size_t i = 0; wish && wish->devices && wish->devices[i]; i++)
        if (streq(wish->devices[i], address))
            return true;
    return false;
}

/* ---- giving back ---- */

/* A copy of one of the VM's devices that is to go, marked as moving. Its strings are the caller's. 1, 0: no more, -ENOMEM. */
static int pick(struct gpus *g, const char *vm, const struct gpu_wish *keep, struct gpu *ret_gpu)
{
    int r = 0;

    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < g->list.n && r == 0; i++) {
        struct gpu *gpu = &g->list.items[i], copy = { 0 };

        if (!streq(gpu->vm, vm) || gpu->moving || gpu->stuck || is_wished(keep, gpu->address))
            continue;
        r = 1;
        if (str_set(&copy.address, gpu->address) < 0 || str_set(&copy.driver, gpu->driver) < 0) {
            record_clear(&gpu_type, &copy);
            r = -ENOMEM;
        } else {
            copy.noted = gpu->noted;
            gpu->moving = true;
            gpu->bound = false;
            *ret_gpu = copy;
        }
    }
    pthread_mutex_unlock(&g->mutex);
    return r;
}

static int give_one_back(struct gpus *g, const struct gpu *gpu, struct err *err)
{
    struct pci_device device;
    struct gpu *entry;
    int r = 0;

    if (gpu->noted && pci_device_read(g->root, gpu->address, &device, NULL) >= 0 && device.iommu_group >= 0)
        vfio_group_take_back(g->root, device.iommu_group);
    if (gpu->noted)
        r = vfio_restore(g->root, gpu->address, gpu->driver ? gpu->driver : "", err);
    FAILPOINT("manager.gpus-after-restore");
    pthread_mutex_lock(&g->mutex);
    entry = find(g, gpu->address);
    if (entry && r >= 0) {
        drop(g, gpu->address);
    } else if (entry) {
        entry->moving = false;
        entry->stuck = true;
    }
    pthread_mutex_unlock(&g->mutex);
    return r;
}

/* All but those in `keep`. */
static int give_back(struct gpus *g, const char *vm, const struct gpu_wish *keep, struct err *err)
{
    int result = 0, r;
    struct gpu gpu;
    bool any = false;

    while ((r = pick(g, vm, keep, &gpu)) > 0) {
        r = give_one_back(g, &gpu, result < 0 ? NULL : err);
        record_clear(&gpu_type, &gpu);
        any = true;
        if (result >= 0 && r < 0)
            result = r;
    }
    if (any && save(g) < 0 && result >= 0)
        return result; /* on disk it is still theirs: given back once more by the next manager, which changes nothing */
    return r < 0 && result >= 0 ? r : result;
}

int gpus_give_back(struct gpus *g, const char *vm, struct err *err) { return give_back(g, vm, NULL, err); }

void gpus_retry(struct gpus *g, const char *vm)
{
    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < g->list.n; i++)
        if (streq(g->list.items[i].vm, vm))
            g->list.items[i].stuck = false;
    pthread_mutex_unlock(&g->mutex);
}

/* ---- taking ---- */

/* From here on nobody else gets it. */
static int claim(struct gpus *g, const char *vm, const char *address, struct err *err)
{
    int r = 0;

    pthread_mutex_lock(&g->mutex);
    struct gpu *gpu = find(g, address);
    if (gpu && !streq(gpu->vm, vm))
        r = err_set(err, EBUSY, "device-taken", "VM %s has PCI device %s: stop that one first, or give this one another device", gpu->vm,
                    address);
    else if (gpu && gpu->moving)
        r = err_set(err, EAGAIN, "device-taken", "PCI device %s is still on its way back to its driver: try again in a while", address);
    else if (!gpu && (r = add(g, address, vm)) >= 0)
        gpu = find(g, address);
    if (r >= 0) {
        gpu->moving = true;
        gpu->stuck = false;
    }
    pthread_mutex_unlock(&g->mutex);
    return r;
}

static void let_go(struct gpus *g, const struct gpu_wish *wish, size_t n)
{
    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < n; i++) {
        struct gpu *gpu = find(g, wish->devices[i]);
        if (gpu)
            gpu->moving = false;
    }
    pthread_mutex_unlock(&g->mutex);
}

struct asking {
    struct gpus *g;
    const char *vm;
    char name[NAME_MAX_LEN + 1]; /* the entry may go while the answer is used */
};

static const char *find_owner(void *arg, const char *address)
{
    struct asking *a = arg;
    const char *owner = NULL;

    pthread_mutex_lock(&a->g->mutex);
    const struct gpu *gpu = find(a->g, address);
    if (gpu && !streq(gpu->vm, a->vm)) {
        snprintf(a->name, sizeof(a->name), "%s", gpu->vm);
        owner = a->name;
    }
    pthread_mutex_unlock(&a->g->mutex);
    return owner;
}

/* Looks at a claimed device, and notes whom it is taken from. One that was taken before, by us or by a manager that was killed, keeps that note,
 * unless the host has given it to somebody since: it was rebooted, for one. */
static int look(struct gpus *g, const char *vm, const char *address, const struct gpu_wish *wish, struct err *err)
{
    struct asking asking = { .g = g, .vm = vm };
    const struct vfio_owners owners = { .find = find_owner, .arg = &asking };
    struct pci_device device;

    int r = vfio_check(g->root, address, wish->devices, &owners, &device, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&g->mutex);
    struct gpu *gpu = find(g, address);
    if (!gpu->noted || (*device.driver && !streq(device.driver, PCI_VFIO_DRIVER)))
        r = str_set(&gpu->driver, *device.driver ? device.driver : NULL);
    if (r >= 0)
        gpu->noted = true;
    pthread_mutex_unlock(&g->mutex);
    return r;
}

static int bind_one(struct gpus *g, const char *address, const struct gpu_wish *wish, struct err *err)
{
    struct pci_device device;

    int r = vfio_bind(g->root, address, err);
    if (r >= 0 && wish->by_group && wish->has_user) {
        r = pci_device_read(g->root, address, &device, err);
        if (r >= 0)
            r = vfio_group_give(g->root, device.iommu_group, wish->uid, wish->gid, err);
    }
    if (r < 0)
        return r;
    pthread_mutex_lock(&g->mutex);
    find(g, address)->bound = true;
    pthread_mutex_unlock(&g->mutex);
    return 0;
}

int gpus_take(struct gpus *g, const char *vm, const struct gpu_wish *wish, struct err *err)
{
    size_t n = 0, claimed = 0;

    while (wish->devices && wish->devices[n])
        n++;
    gpus_retry(g, vm);
    int r = give_back(g, vm, wish, err);
    if (r < 0)
        return r;
    while (claimed < n && (r = claim(g, vm, wish->devices[claimed], err)) >= 0)
        claimed++;
    for (size_t i = 0; i < n && r >= 0; i++)
        r = look(g, vm, wish->devices[i], wish, err);
    if (r >= 0 && n > 0) {
        r = save(g); /* before anything is touched */
        if (r < 0)
            err_set_errno(err, -r, "not-saved", "can't write %s, so no device is taken from its driver", FILE_GPUS);
    }
    FAILPOINT("manager.gpus-saved");
    for (size_t i = 0; i < n && r >= 0; i++)
        r = bind_one(g, wish->devices[i], wish, err);
    let_go(g, wish, claimed);
    if (r < 0)
        (void)give_back(g, vm, NULL, NULL); /* what can't be is kept on record, and shown when it is tried again */
    return r;
}

/* ---- looking ---- */

bool gpus_has(struct gpus *g, const char *vm)
{
    bool has = false;

    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < g->list.n; i++)
        has = has || (streq(g->list.items[i].vm, vm) && !g->list.items[i].stuck);
    pthread_mutex_unlock(&g->mutex);
    return has;
}

int gpus_owners(struct gpus *g, struct strv *ret_vms)
{
    auto_strv struct strv vms = { 0 };

    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < g->list.n; i++) {
        size_t k = 0;
        while (k < vms.n && !streq(vms.items[k], g->list.items[i].vm))
            k++;
        if (k == vms.n)
            strv_push(&vms, g->list.items[i].vm);
    }
    pthread_mutex_unlock(&g->mutex);
    if (vms.failed)
        return -ENOMEM;
    *ret_vms = vms;
    vms = (struct strv){ 0 };
    return 0;
}

void gpus_pending(struct gpus *g, const char *vm, char *ret_text, size_t size)
{
    ret_text[0] = '\0';
    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < g->list.n; i++) {
        const struct gpu *gpu = &g->list.items[i];
        if (!streq(gpu->vm, vm) || !gpu->moving || gpu->bound)
            continue;
        snprintf(ret_text, size, "driver %s has not let go of PCI device %s", gpu->driver ? gpu->driver : PCI_VFIO_DRIVER, gpu->address);
        break;
    }
    pthread_mutex_unlock(&g->mutex);
}
