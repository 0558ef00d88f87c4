/* The RAM of a QEMU that an earlier shim had started: its descriptors are fetched out of QEMU with pidfd_getfd(2), its address is in
 * /proc/PID/maps. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "shim/memory/uffd.h"
#include "shim/ram.h"
#include "shim/vm.h"

/* `kind`: how the link in /proc/PID/fd must begin, for a number may be anything's in a QEMU that an older build had started. -1: not there. */
static int fetch(const struct pidref *qemu, int number, const char *kind)
{
    char path[64], target[256];
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)qemu->pid, number);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return -1;
    target[n] = '\0';
    if (!has_prefix(target, kind))
        return -1;
    fd = (int)syscall(SYS_pidfd_getfd, qemu->fd, number, 0);
    return fd;
}

static uint64_t hex(const char **p)
{
    uint64_t n = 0;

    for (; isxdigit((unsigned char)**p); (*p)++)
        n = n * 16 + (uint64_t)(isdigit((unsigned char)**p) ? **p - '0' : tolower((unsigned char)**p) - 'a' + 10);
    return n;
}

struct mapping {
    uint64_t start, end, inode;
};

/* "START-END PERMS OFFSET MAJOR:MINOR INODE  PATH", proc_pid_maps(5). */
static bool parse_mapping(const char *line, struct mapping *m)
{
    const char *p = line;

    m->start = hex(&p);
    if (*p++ != '-')
        return false;
    m->end = hex(&p);
    for (int field = 0; field < 4; field++) {
        p = strchr(p, ' ');
        if (!p)
            return false;
        p++;
    }
    m->inode = 0;
    for (; isdigit((unsigned char)*p); p++)
        m->inode = m->inode * 10 + (uint64_t)(*p - '0');
    return true;
}

/* The range that is mapped of `inode`: what the kernel has split is joined. */
static void find_mapping(struct ram *ram, pid_t pid, uint64_t inode)
{
    auto_free char *line = NULL;
    struct mapping m;
    size_t room = 0;
    char path[64];
    uint64_t begin = 0, end = 0;
    FILE *maps;

    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    while (maps && getline(&line, &room, maps) > 0) {
        if (!parse_mapping(line, &m) || m.inode != inode)
            continue;
        if (begin == 0)
            begin = m.start;
        end = m.end;
    }
    if (maps)
        (void)fclose(maps);
    if (end - begin != ram->vm->plan.ram.size)
        return;
    ram->addr = begin;
    ram->len = end - begin;
}

static uint64_t inode_of(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* UFFDIO_API answers only once, but the kernel shows "API:	VERSION:FEATURES:…" of each descriptor. */
static uint64_t features_of(int fd)
{
    auto_free char *line = NULL;
    uint64_t features = 0;
    size_t room = 0;
    char path[64];
    FILE *info;

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    info = fopen(path, "re");
    while (info && getline(&line, &room, info) > 0) {
        const char *p = has_prefix(line, "API:") ? strchr(line + 4, ':') : NULL;

        if (p) {
            p++;
            features = hex(&p);
        }
    }
    if (info)
        (void)fclose(info);
    return features;
}

static int resume_paging(struct ram *ram, struct err *err)
{
    const struct pidref *qemu = &ram->vm->qemu.ref;
    struct ram_source *source = &ram->source;
    int r;

    source->pages = fetch(qemu, PLAN_FD_PAGES, "/memfd:");
    source->image = fetch(qemu, PLAN_FD_IMAGE, "/");
    if (source->pages < 0 || source->image < 0 || (source->state.mode == RESTORE_LAZY && (ram->uffd < 0 || ram->len == 0)))
        return err_set(err, ENOENT, "no-pages", "QEMU (pid %d) doesn't hold what its missing pages could be loaded with", (int)qemu->pid);
    r = ram_start_pager(ram, err);
    if (r < 0 || source->state.mode != RESTORE_LAZY)
        return r;
    /* A snapshot may have been under way: whoever waits for its write goes on. */
    (void)uffd_protect(ram->uffd, ram->addr, ram->len, false);
    r = pager_attach(source->pager, ram->uffd, ram->features, ram->addr, qemu->pid);
    return r < 0 ? err_set_errno(err, -r, "no-pager", "can't serve the missing pages of QEMU (pid %d)", (int)qemu->pid) : 0;
}

/* A snapshot may have been under way: whoever waits for its write, or for its removal to be read, goes on. */
static void let_go(struct vm *vm)
{
    struct faults *faults;
    int r;

    if (vm->ram->uffd < 0 || vm->ram->len == 0)
        return;
    r = ram_faults(vm, &faults);
    if (r >= 0)
        r = faults_unwatch(faults, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    ram_faults_done(vm);
    if (r < 0)
        vm_tell(vm, EVENT_MEMORY, NULL, "QEMU's memory could not be let go of: %s", strerror(-r));
}

int ram_adopt(struct vm *vm, struct err *err)
{
    struct ram *ram = vm->ram = ram_new(vm);
    const struct pidref *qemu = &vm->qemu.ref;
    int r;

    if (!ram)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    r = ram_source_reopen(vm, &ram->source, err);
    if (r < 0 || !vm->plan.ram.shared)
        return r;
    ram->memfd = fetch(qemu, PLAN_FD_RAM, "/memfd:guest-ram");
    ram->uffd = fetch(qemu, PLAN_FD_UFFD, "anon_inode:[userfaultfd]");
    ram->features = ram->uffd < 0 ? 0 : features_of(ram->uffd);
    if (ram_is_mapped(vm)) {
        ram->source.image = fetch(qemu, PLAN_FD_IMAGE, "/");
        find_mapping(ram, qemu->pid, inode_of(ram->source.image));
    } else {
        find_mapping(ram, qemu->pid, inode_of(ram->memfd));
    }
    if (ram->source.state.folder && !ram->source.state.complete && !ram_is_mapped(vm))
        return resume_paging(ram, err);
    let_go(vm);
    return 0;
}
