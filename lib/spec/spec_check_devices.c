/* Disks and networks of a spec: each by itself, and against each other. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/claims.h"
#include "lib/spec/limits.h"
#include "lib/spec/spec_internal.h"

static void check_own_disk(const struct spec_disk *disk, size_t i, struct problems *p)
{
    char min[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX], text[SIZE_TEXT_MAX];

    if (!disk->name)
        problem_add(p, "/disks/%zu/name: missing beside \"size\"", i);
    else if (!name_is_valid(disk->name))
        problem_add(p, "/disks/%zu/name: '%s' is not a valid name: %s", i, disk->name, NAME_RULE);
    if (disk->size == 0)
        problem_add(p, "/disks/%zu/size: missing beside \"name\"; a disk of this VM needs one, like \"20G\"", i);
    else if (disk->size < DISK_SIZE_MIN || disk->size > DISK_SIZE_MAX || disk->size % (1 << 20) != 0)
        problem_add(p, "/disks/%zu/size: expected whole mebibytes from %s to %s, got %s", i, format_size(DISK_SIZE_MIN, min),
                    format_size(DISK_SIZE_MAX, max), format_size(disk->size, text));
}

const char *spec_path_format(const char *path)
{
    static const char suffix[] = ".qcow2";
    size_t n = strlen(path);

    return n >= sizeof suffix - 1 && streq(path + n - (sizeof suffix - 1), suffix) ? "qcow2" : "raw";
}

const char *spec_disk_format(const struct spec_disk *disk)
{
    if (disk->format)
        return disk->format;
    return disk->path ? spec_path_format(disk->path) : "qcow2";
}

static void check_backing(const struct spec_disk *disk, size_t i, struct problems *p)
{
    char pointer[64];

    snprintf(pointer, sizeof pointer, "/disks/%zu/backing", i);
    if (!disk->path)
        problem_add(p, "%s: only together with \"path\"; a disk of this VM is made without", pointer);
    else if (!streq(spec_disk_format(disk), "qcow2"))
        problem_add(p, "%s: only of a qcow2 image, and '%s' is raw", pointer, disk->path);
    for (size_t k = 0; disk->backing[k]; k++) {
        if (k == BACKING_MAX) {
            problem_add(p, "%s: more than %d files", pointer, BACKING_MAX);
            return;
        }
        snprintf(pointer, sizeof pointer, "/disks/%zu/backing/%zu", i, k);
        spec_check_path(p, pointer, disk->backing[k]);
    }
}

static void check_disk(const struct spec_disk *disk, size_t i, struct problems *p)
{
    char pointer[64];

    if (disk->path) {
        snprintf(pointer, sizeof pointer, "/disks/%zu/path", i);
        spec_check_path(p, pointer, disk->path);
        if (disk->name)
            problem_add(p, "/disks/%zu/name: not together with \"path\"", i);
        if (disk->size)
            problem_add(p, "/disks/%zu/size: not together with \"path\"", i);
        if (!disk->persistent)
            problem_add(p, "/disks/%zu/persistent: only a disk of this VM can be made anew at each start, and \"path\" is somebody's file",
                        i);
    } else if (disk->name || disk->size) {
        check_own_disk(disk, i, p);
    } else {
        snprintf(pointer, sizeof pointer, "/disks/%zu", i);
        if (!problem_under(p, pointer))
            problem_add(p, "%s: needs \"name\" and \"size\" (a disk of this VM) or \"path\" (an existing file)", pointer);
    }
    if (disk->backing)
        check_backing(disk, i, p);
    if (disk->format && !streq(disk->format, "raw") && !streq(disk->format, "qcow2"))
        problem_add(p, "/disks/%zu/format: expected \"raw\" or \"qcow2\", got '%s'", i, disk->format);
}

void spec_check_disks(const struct spec *spec, struct problems *p)
{
    if (spec->n_disks > DISKS_MAX) { /* and each would be compared with each */
        problem_add(p, "/disks: %zu disks, at most %d are possible", spec->n_disks, DISKS_MAX);
        return;
    }
    for (size_t i = 0; i < spec->n_disks; i++) {
        const struct spec_disk *disk = &spec->disks[i];

        check_disk(disk, i, p);
        for (size_t k = 0; k < i; k++) {
            const struct spec_disk *other = &spec->disks[k];
            if (disk->name && streq_opt(disk->name, other->name))
                problem_add(p, "/disks/%zu/name: '%s' is also the name of /disks/%zu", i, disk->name, k);
            if (disk->path && streq_opt(disk->path, other->path) && !(disk->readonly && other->readonly))
                problem_add(p, "/disks/%zu/path: '%s' is also the path of /disks/%zu, and not both are readonly", i, disk->path, k);
        }
    }
}

/* One forward with its place, for the comparison of each with each. */
struct seen_forward {
    size_t network, index;
    struct in_addr addr;
    uint16_t port; /* 0: to be given */
    uint64_t guest;
    const char *proto;
};

/* What is given is remembered by what it is for, so that two alike couldn't be told apart. */
static bool forwards_collide(const struct seen_forward *a, const struct seen_forward *b)
{
    bool same_address = a->addr.s_addr == b->addr.s_addr || ((a->addr.s_addr == INADDR_ANY || b->addr.s_addr == INADDR_ANY) && a->port);
    bool same_use = a->port || (a->network == b->network && a->guest == b->guest);
    return a->port == b->port && same_address && same_use && streq(a->proto, b->proto);
}

/* Returns whether *ret was filled: whether there is anything to compare. */
static bool check_forward(const struct spec_forward *f, size_t network, size_t i, struct problems *p, struct seen_forward *ret)
{
    struct seen_forward seen = { .network = network, .index = i, .guest = f->guest, .proto = f->proto ? f->proto : "tcp" };

    if (!streq(seen.proto, "tcp") && !streq(seen.proto, "udp"))
        problem_add(p, "/network/%zu/forward/%zu/proto: expected \"tcp\" or \"udp\", got '%s'", network, i, f->proto);
    if (!f->host)
        return false;
    if (!host_port_is_auto(f->host, &seen.addr) && (parse_host_port(f->host, &seen.addr, &seen.port) < 0 || seen.port == 0)) {
        problem_add(p, "/network/%zu/forward/%zu/host: expected \"ADDRESS:PORT\" like \"127.0.0.1:8080\" or \"127.0.0.1:auto\", got '%s'",
                    network, i, f->host);
        return false;
    }
    *ret = seen;
    return true;
}

static int check_forwards(const struct spec *spec, struct problems *p)
{
    size_t total = 0, n = 0;

    for (size_t i = 0; i < spec->n_network; i++)
        total += spec->network[i].n_forward;
    if (total > FORWARDS_MAX) { /* each is compared with each */
        problem_add(p, "/network: %zu forwards, at most %d are possible", total, FORWARDS_MAX);
        return 0;
    }
    auto_free struct seen_forward *seen = calloc(total + 1, sizeof *seen);
    if (!seen)
        return -ENOMEM;
    for (size_t i = 0; i < spec->n_network; i++)
        for (size_t k = 0; k < spec->network[i].n_forward; k++) {
            if (!check_forward(&spec->network[i].forward[k], i, k, p, &seen[n]))
                continue;
            size_t j = 0;
            while (j < n && !forwards_collide(&seen[j], &seen[n]))
                j++;
            if (j < n)
                problem_add(p, "/network/%zu/forward/%zu/host: '%s' is taken by /network/%zu/forward/%zu%s", i, k,
                            spec->network[i].forward[k].host, seen[j].network, seen[j].index,
                            seen[j].port ? "" : ", which leads to the same port of the guest");
            n++;
        }
    return 0;
}

static bool ifname_is_valid(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > IFNAME_LEN_MAX || streq(s, ".") || streq(s, ".."))
        return false;
    for (; *s; s++)
        if (!isgraph((unsigned char)*s) || *s == '/' || *s == ':' || *s == '%') /* '%' makes the kernel choose a name */
            return false;
    return true;
}

static int check_one_network(struct spec_network *net, size_t i, struct problems *p)
{
    char mac[MAC_TEXT_MAX];

    if (net->mode == NETWORK_TAP && !net->ifname)
        problem_add(p, "/network/%zu/ifname: missing; mode \"tap\" needs the name of an existing tap device", i);
    if (net->mode == NETWORK_USER && net->ifname)
        problem_add(p, "/network/%zu/ifname: only in mode \"tap\"", i);
    else if (net->ifname && !ifname_is_valid(net->ifname))
        problem_add(p, "/network/%zu/ifname: expected the name of a network device, 1 to %d characters, got '%s'", i, IFNAME_LEN_MAX,
                    net->ifname);
    if (net->mode != NETWORK_USER && net->n_forward > 0)
        problem_add(p, "/network/%zu/forward: only in mode \"user\"", i);
    if (!net->mac)
        return 0;
    if (parse_mac(net->mac, mac) < 0) {
        problem_add(p, "/network/%zu/mac: expected a unicast address like \"52:54:00:12:34:56\", got '%s'", i, net->mac);
        return 0;
    }
    return str_set(&net->mac, mac);
}

int spec_check_network(struct spec *spec, struct problems *p)
{
    if (spec->n_network > NETWORKS_MAX) {
        problem_add(p, "/network: %zu networks, at most %d are possible", spec->n_network, NETWORKS_MAX);
        return 0;
    }
    for (size_t i = 0; i < spec->n_network; i++) {
        struct spec_network *net = &spec->network[i];

        int r = check_one_network(net, i, p);
        if (r < 0)
            return r;
        for (size_t k = 0; k < net->n_forward; k++)
            if (!net->forward[k].proto && str_set(&net->forward[k].proto, "tcp") < 0)
                return -ENOMEM;
        for (size_t k = 0; k < i; k++) {
            if (net->mac && streq_opt(net->mac, spec->network[k].mac))
                problem_add(p, "/network/%zu/mac: '%s' is also the address of /network/%zu", i, net->mac, k);
            if (net->ifname && streq_opt(net->ifname, spec->network[k].ifname))
                problem_add(p, "/network/%zu/ifname: '%s' is also used by /network/%zu", i, net->ifname, k);
        }
    }
    return check_forwards(spec, p);
}
