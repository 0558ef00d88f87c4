#include "lib/qemu/hardware.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"

/* One item of "value,key=value,key=va,,lue" from *p, which moves past it; a doubled comma stands for one (QEMU util/keyval.c).
 * 0 or -ENOMEM. */
static int take_item(const char **p, char **ret)
{
    const char *s = *p;
    char *item = malloc(strlen(s) + 1);
    size_t n = 0;
    if (!item)
        return -ENOMEM;
    for (; *s && (*s != ',' || s[1] == ','); s++) {
        item[n++] = *s;
        s += *s == ',';
    }
    item[n] = '\0';
    *p = *s ? s + 1 : s;
    *ret = item;
    return 0;
}

/* What such a text gives `key`, also by the first item's having no key when that is what `key` is implied by. 1 and *ret, whose former text
 * is freed, or 0: nothing, or -ENOMEM. */
static int option_value(const char *text, const char *key, bool implied, char **ret)
{
    const char *at = text;
    int found = 0;
    while (*at) {
        auto_free char *item = NULL;
        bool first = at == text;
        int r = take_item(&at, &item);
        if (r < 0)
            return r;
        const char *equals = strchr(item, '='), *value = NULL;
        if (equals && (size_t)(equals - item) == strlen(key) && has_prefix(item, key))
            value = equals + 1;
        else if (!equals && first && implied)
            value = item;
        if (!value)
            continue;
        r = str_set(ret, value);
        if (r < 0)
            return r;
        found = 1;
    }
    return found;
}

static int device_from_json(const char *text, char **ret_driver, char **ret_addr)
{
    auto_json json_t *json = NULL;
    int r = json_parse(text, strlen(text), &json, NULL);
    if (r < 0)
        return r;
    const json_t *driver = json_object_get(json, "driver"), *addr = json_object_get(json, "addr");
    if (json_is_string(driver))
        r = str_set(ret_driver, json_string_value(driver));
    if (r >= 0 && json_is_integer(addr))
        return str_format(ret_addr, "%" JSON_INTEGER_FORMAT, json_integer_value(addr));
    return r < 0 ? r : str_set(ret_addr, json_string_value(addr));
}

static int push_device(struct strv *devices, const char *text)
{
    auto_free char *driver = NULL, *addr = NULL;
    int r;
    if (text[0] == '{') {
        r = device_from_json(text, &driver, &addr);
    } else {
        r = option_value(text, "driver", true, &driver);
        if (r >= 0)
            r = option_value(text, "addr", false, &addr);
    }
    if (r < 0)
        return r;
    if (!driver || !driver[0])
        return -EINVAL;
    if (addr)
        strv_pushf(devices, "%s@%s", driver, addr);
    else
        strv_push(devices, driver);
    return devices->failed ? -ENOMEM : 0;
}

/* "2" or "cpus=2,cores=2". */
static int read_cpus(const char *text, uint64_t *ret)
{
    auto_free char *cpus = NULL;
    int r = option_value(text, "cpus", true, &cpus);
    if (r <= 0)
        return r;
    return parse_u64(cpus, 1, UINT32_MAX, ret) < 0 ? -EINVAL : 0;
}

/* Later options win over earlier ones, as in QEMU. */
static int read_option(const char *option, const char *value, struct hardware *hardware, struct strv *devices)
{
    int r = 0;
    if (has_prefix(option, "--"))
        option++;
    if (streq(option, "-machine") || streq(option, "-M"))
        r = option_value(value, "type", true, &hardware->machine);
    else if (streq(option, "-accel"))
        r = option_value(value, "accel", true, &hardware->accel);
    else if (streq(option, "-cpu"))
        r = str_set(&hardware->cpu, value); /* whole: its features are seen, too */
    else if (streq(option, "-smp"))
        r = read_cpus(value, &hardware->cpus);
    else if (streq(option, "-device"))
        r = push_device(devices, value);
    return r;
}

int hardware_from_plan(const struct plan *plan, const char *qemu_version, struct hardware *ret)
{
    auto_hardware struct hardware hardware = { .memory = plan->ram.size };
    auto_strv struct strv devices = { 0 };
    char *const *argv = plan->qemu.argv;
    int r = str_set(&hardware.qemu_version, qemu_version);
    bool any_text = false; /* the word before was -append: a kernel's command line may look like an option */
    for (size_t i = 0; argv[i] && r >= 0; i++) {
        if (!any_text && argv[i + 1])
            r = read_option(argv[i], argv[i + 1], &hardware, &devices);
        any_text = !any_text && streq(argv[i], "-append");
    }
    if (r < 0)
        return r;
    if (!hardware.machine || !hardware.accel || !hardware.cpu || hardware.cpus == 0)
        return -EINVAL;
    hardware.devices = steal_ptr(&devices.items);
    devices = (struct strv){ 0 };
    *ret = hardware;
    hardware = (struct hardware){ 0 };
    return 0;
}

#define REFUSE(err, ...) err_set(err, EINVAL, "other-hardware", __VA_ARGS__)
#define OR_NEW_VM "or restore into a VM made from the snapshot"

static int check_processor(const struct hardware *snapshot, const struct hardware *plan, struct err *err)
{
    if (!streq(snapshot->machine, plan->machine))
        return REFUSE(
            err,
            "the snapshot is of a %s machine and the VM is a %s: let the VM run on the snapshot's QEMU %s (qemu.path of its spec), "
            "whose machine that is",
            snapshot->machine, plan->machine, snapshot->qemu_version);
    if (!streq(snapshot->accel, plan->accel))
        return REFUSE(err, "the snapshot ran under %s and the VM would run under %s: give the VM \"accel\": \"%s\" on a host that has it",
                      snapshot->accel, plan->accel, snapshot->accel);
    if (!streq(snapshot->cpu, plan->cpu))
        return REFUSE(err, "the snapshot's CPU is %s and the VM's is %s: give the VM the same -cpu in qemu.extra_args, " OR_NEW_VM,
                      snapshot->cpu, plan->cpu);
    if (snapshot->cpus != plan->cpus)
        return REFUSE(err, "the snapshot has %" PRIu64 " CPU%s and the VM has %" PRIu64 ": give the VM as many, " OR_NEW_VM, snapshot->cpus,
                      snapshot->cpus == 1 ? "" : "s", plan->cpus);
    return 0;
}

static int check_memory(const struct hardware *snapshot, const struct hardware *plan, struct err *err)
{
    char its[SIZE_TEXT_MAX], ours[SIZE_TEXT_MAX];
    if (snapshot->memory == plan->memory)
        return 0;
    return REFUSE(err, "the snapshot has %s of memory and the VM has %s: give the VM as much, " OR_NEW_VM,
                  format_size(snapshot->memory, its), format_size(plan->memory, ours));
}

static size_t count(char *const *devices, const char *device)
{
    size_t n = 0;
    for (; devices && *devices; devices++)
        n += streq(*devices, device);
    return n;
}

/* One that `some` has more often than `others`, or NULL. */
static const char *missing(char *const *some, char *const *others)
{
    for (char *const *device = some; device && *device; device++)
        if (count(some, *device) > count(others, *device))
            return *device;
    return NULL;
}

static int check_devices(const struct hardware *snapshot, const struct hardware *plan, struct err *err)
{
    const char *device = missing(snapshot->devices, plan->devices);
    if (device)
        return REFUSE(err, "the snapshot has a device %s that the VM lacks: give the VM the same disks, networks and options, " OR_NEW_VM,
                      device);
    device = missing(plan->devices, snapshot->devices);
    if (device)
        return REFUSE(err, "the VM has a device %s that the snapshot lacks: take it out of the VM's spec, " OR_NEW_VM, device);
    /* Devices without an address get theirs, and their names in the stream, by their order. */
    for (size_t i = 0; snapshot->devices && plan->devices && snapshot->devices[i] && plan->devices[i]; i++)
        if (!streq(snapshot->devices[i], plan->devices[i]))
            return REFUSE(err, "device %zu of the snapshot is %s and of the VM %s: put the VM's devices in the same order, " OR_NEW_VM,
                          i + 1, snapshot->devices[i], plan->devices[i]);
    return 0;
}

/* "7.2.22" -> 7002; -EINVAL when it isn't such a text. */
static int read_version(const char *text, unsigned *ret)
{
    uint64_t number[2];
    for (size_t i = 0; i < ARRAY_LEN(number); i++) {
        char digits[4];
        size_t n = strspn(text, "0123456789");
        if (n == 0 || n >= sizeof(digits) || (i == 0 && text[n] != '.'))
            return -EINVAL;
        memcpy(digits, text, n);
        digits[n] = '\0';
        if (parse_u64(digits, 0, 999, &number[i]) < 0)
            return -EINVAL;
        text += n + 1;
    }
    *ret = (unsigned)(number[0] * 1000 + number[1]);
    return 0;
}

static int check_version(const struct hardware *snapshot, const struct hardware *plan, struct err *err)
{
    unsigned its, ours;
    if (streq(snapshot->qemu_version, plan->qemu_version))
        return 0;
    if (read_version(snapshot->qemu_version, &its) < 0 || read_version(plan->qemu_version, &ours) < 0)
        return REFUSE(err, "the snapshot was made by QEMU %s and the VM's is %s, and neither can be told to be the newer: use the same",
                      snapshot->qemu_version, plan->qemu_version);
    if (ours < its)
        return REFUSE(
            err,
            "the snapshot was made by QEMU %s and the VM's QEMU is %s, which can't read what a newer one wrote: let the VM run on a "
            "QEMU as new (qemu.path of its spec)",
            snapshot->qemu_version, plan->qemu_version);
    return 0;
}

int hardware_fits(const struct hardware *of_snapshot, const struct hardware *of_plan, struct err *err)
{
    int r = check_processor(of_snapshot, of_plan, err);
    if (r >= 0)
        r = check_memory(of_snapshot, of_plan, err);
    if (r >= 0)
        r = check_devices(of_snapshot, of_plan, err);
    return r < 0 ? r : check_version(of_snapshot, of_plan, err);
}
