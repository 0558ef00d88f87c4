#include "shim/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/base/socket.h"
#include "proto/launch.h"
#include "shim/agent/agent.h"
#include "shim/restore.h"
#include "shim/vm.h"

_Static_assert((int)AGENT_FD_RAM == (int)PLAN_FD_RAM && (int)AGENT_FD_SOCKET == (int)PLAN_FD_RAM_SOCKET &&
                   (int)AGENT_FD_UFFD == (int)PLAN_FD_UFFD && (int)AGENT_FD_SELF == (int)PLAN_FD_PRELOAD,
               "the preload library and the plan disagree");

#define PRELOAD_NAME "holdfast-agent.so"

/* ---- what QEMU inherits ---- */

/* Beside our own program (a build tree, a package that is all in one folder), else where it is installed. */
static int open_preload(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(PRELOAD_NAME));
    char *slash;
    int fd = -1;

    if (n > 0) {
        path[n] = '\0';
        slash = strrchr(path, '/');
        if (slash) {
            memcpy(slash + 1, PRELOAD_NAME, sizeof(PRELOAD_NAME));
            fd = open(path, O_RDONLY | O_CLOEXEC);
        }
    }
    return fd >= 0 ? fd : open(HOLDFAST_PRELOAD_DIR "/" PRELOAD_NAME, O_RDONLY | O_CLOEXEC);
}

struct ram *ram_new(struct vm *vm)
{
    struct ram *ram = calloc(1, sizeof(*ram));

    if (!ram)
        return NULL;
    ram->vm = vm;
    ram->memfd = ram->uffd = ram->socket = ram->device = ram->preload = ram->hello.fd = -1;
    ram->source.image = ram->source.pages = -1;
    return ram;
}

static void on_hello(struct ev_loop *ev, ev_io *w, int revents);
static void on_woken(struct ev_loop *ev, ev_async *w, int revents);

static int make_inheritance(struct ram *ram)
{
    int pair[2];

    ram->memfd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (ram->memfd < 0 || ftruncate(ram->memfd, (off_t)ram->vm->plan.ram.size) < 0)
        return -errno;
    ram->preload = open_preload();
    if (ram->preload < 0) {
        vm_tell(ram->vm, EVENT_MEMORY, NULL,
                "%s is missing beside holdfast-shim and in " HOLDFAST_PRELOAD_DIR ": no live snapshots of this VM", PRELOAD_NAME);
        return 0;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    ram->socket = pair[1];
    /* What QEMU's user may not open is opened for it; without the device the library tries the system call. */
    ram->device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    ev_io_init(&ram->hello, on_hello, pair[0], EV_READ);
    ev_io_start(loop_ev(ram->vm->loop), &ram->hello);
    return fd_set_nonblock(ram->socket, false);
}

static void on_pager_event(void *arg)
{
    struct ram *ram = arg;

    ev_async_send(loop_ev(ram->vm->loop), &ram->woken);
}

int ram_start_pager(struct ram *ram, struct err *err)
{
    struct ram_source *source = &ram->source;
    const struct pager_config config = {
        .ram_fd = ram->memfd,
        .source_fd = source->image,
        .index = source->index,
        .known = source->known.n_runs > 0 && source->state.prefetch ? &source->known : NULL,
        .everything = source->state.mode == RESTORE_EAGER,
        .prefetch = source->state.prefetch,
        .record = source->state.record,
        .state_fd = source->pages,
        .notify = on_pager_event,
        .arg = ram,
    };

    ev_async_init(&ram->woken, on_woken);
    ev_async_start(loop_ev(ram->vm->loop), &ram->woken);
    return pager_new(&config, &source->pager, err);
}

static void end_pager(struct ram *ram)
{
    if (!ram->source.pager)
        return;
    pager_free(steal_ptr(&ram->source.pager));
    ev_async_stop(loop_ev(ram->vm->loop), &ram->woken);
}

static int begin_restore(struct ram *ram, struct err *err)
{
    struct vm *vm = ram->vm;
    int r = 0;

    restore_take_source(vm, &ram->source);
    if (ram->preload < 0 && ram->source.state.mode != RESTORE_EAGER)
        return err_set(err, ENOENT, "no-agent", "%s isn't installed, so RAM can only be restored whole: vmctl restore … --mode eager",
                       PRELOAD_NAME);
    if (ram->source.state.mode != RESTORE_MAPPED) {
        ram->source.pages = pager_state_new(vm->plan.ram.size);
        if (ram->source.pages < 0)
            return err_set_errno(err, -ram->source.pages, "no-memory", "can't make the pager's page table");
        r = ram_start_pager(ram, err);
    }
    if (r >= 0) {
        r = ram_source_write(vm, &ram->source);
        if (r < 0)
            err_set_errno(err, -r, "no-record", "can't write %s/%s", vm->plan.run_dir, FILE_MEMORY_STATE);
    }
    return r;
}

int ram_begin(struct vm *vm, struct err *err)
{
    struct ram *ram;
    int r;

    ram_end(vm);
    (void)unlinkat(vm->run_fd, FILE_MEMORY_STATE, 0);
    ram = vm->ram = ram_new(vm);
    if (!ram)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    if (!vm->plan.ram.shared)
        return 0;
    r = make_inheritance(ram);
    if (r < 0)
        return err_set_errno(err, -r, "no-memory", "can't make the guest's RAM");
    return vm_is_restoring(vm) ? begin_restore(ram, err) : 0;
}

size_t ram_fds(const struct ram *ram, struct spawn_fd fds[RAM_FDS_MAX])
{
    const struct spawn_fd all[RAM_FDS_MAX] = {
        { ram->memfd, PLAN_FD_RAM },       { ram->socket, PLAN_FD_RAM_SOCKET },  { ram->device, PLAN_FD_UFFD },
        { ram->preload, PLAN_FD_PRELOAD }, { ram->source.pages, PLAN_FD_PAGES }, { ram->source.image, PLAN_FD_IMAGE },
    };
    size_t n = 0;

    for (size_t i = 0; i < RAM_FDS_MAX; i++)
        if (all[i].source >= 0)
            fds[n++] = all[i];
    return n;
}

const char *const *ram_environment(const struct ram *ram)
{
    static const char *const none[] = { NULL }, *const may[] = { "LD_PRELOAD=/proc/self/fd/15", NULL },
                             *const must[] = { "LD_PRELOAD=/proc/self/fd/15", AGENT_ENV "=" AGENT_MUST, NULL };

    if (ram->preload < 0)
        return none;
    return ram->source.state.folder && ram->source.state.mode != RESTORE_EAGER ? must : may;
}
_Static_assert(PLAN_FD_PRELOAD == 15, "ram_environment() names it");

void ram_forked(struct ram *ram)
{
    ram->socket = fd_close(ram->socket);
    ram->device = fd_close(ram->device);
    ram->preload = fd_close(ram->preload);
}

/* ---- the preload library's hello ---- */

static int say_go(struct ram *ram, int file)
{
    const struct agent_go go = { .protocol = AGENT_PROTOCOL, .map_file = file >= 0 };
    ssize_t n = socket_send_fd(ram->hello.fd, &go, sizeof(go), file);

    return n == sizeof(go) ? 0 : n < 0 ? (int)n : -EPIPE;
}

/* Without a userfaultfd the kernel pages from the file. What was loaded into the memfd by then isn't used. */
static int fall_to_mapped(struct ram *ram)
{
    struct ram_source *source = &ram->source;
    int r;

    vm_tell(ram->vm, EVENT_MEMORY, NULL, "no userfaultfd on this kernel (%s): the guest's RAM is mapped from the snapshot instead",
            strerror((int)ram->error));
    end_pager(ram);
    (void)fallocate(ram->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)ram->vm->plan.ram.size);
    source->state.mode = RESTORE_MAPPED;
    r = ram_source_write(ram->vm, source);
    return r < 0 ? r : say_go(ram, source->image);
}

static int begin_paging(struct ram *ram)
{
    int r = pager_attach(ram->source.pager, ram->uffd, ram->features, ram->addr, ram->vm->qemu.ref.pid);

    return r < 0 ? r : say_go(ram, -1);
}

static int answer_hello(struct ram *ram)
{
    const struct ram_source *source = &ram->source;

    if (!source->state.folder)
        return say_go(ram, -1);
    switch ((enum restore_mode)source->state.mode) {
    case RESTORE_LAZY:
        return ram->uffd < 0 ? fall_to_mapped(ram) : begin_paging(ram);
    case RESTORE_MAPPED:
        return say_go(ram, source->image);
    case RESTORE_EAGER:
        return say_go(ram, -1);
    }
    return -EINVAL;
}

static void on_hello(struct ev_loop *ev, ev_io *w, int revents)
{
    struct ram *ram = container_of(w, struct ram, hello);
    struct agent_hello hello;
    int passed = -1, r = 0;
    ssize_t n = socket_receive_fd(w->fd, &hello, sizeof(hello), &passed);

    if (n == -EAGAIN || n == -EINTR)
        return;
    ev_io_stop(ev, w);
    if (n == sizeof(hello) && hello.protocol == AGENT_PROTOCOL && hello.len == ram->vm->plan.ram.size) {
        ram->addr = hello.addr;
        ram->len = hello.len;
        ram->features = hello.features;
        ram->error = hello.error;
        ram->uffd = steal_fd(&passed);
        r = answer_hello(ram);
    }
    /* QEMU's end tells of itself; so does one that never maps the RAM, once its monitor is there. */
    fd_close(passed);
    ram->hello.fd = fd_close(ram->hello.fd);
    if (r < 0)
        vm_restore_failed(ram->vm, "QEMU could not be given its RAM: %s", strerror(-r));
    else
        restore_poke(ram->vm);
}

int ram_ready(const struct ram *ram, struct err *err)
{
    const struct ram_source *source = &ram->source;

    if (source->pager && pager_error(source->pager, err) < 0)
        return -EIO;
    if (source->state.mode == RESTORE_EAGER)
        return !source->pager || pager_loaded(source->pager);
    if (ram->len > 0)
        return 1;
    return err_set(
        err, ENOTSUP, "no-agent",
        "QEMU mapped its RAM without %s (is it linked statically, or setuid?): vmctl restore … --mode eager needs no such library",
        PRELOAD_NAME);
}

/* ---- what the pager's threads tell ---- */

/* Not one byte that isn't the snapshot's: what can't be read can't be left out. */
static void paging_failed(struct ram *ram, const struct err *why)
{
    struct vm *vm = ram->vm;

    log_vm_error(vm->plan.name, "%s", why->text);
    if (vm->state == STATE_RESTORING) {
        vm_restore_failed(vm, "%s", why->text);
        return;
    }
    vm_tell(vm, EVENT_MEMORY, NULL, "%s; QEMU is killed, for its guest would see wrong memory", why->text);
    (void)str_set(&vm->qemu.doom, why->text);
    (void)pidref_kill(&vm->qemu.ref, SIGKILL);
}

static void store_working_set(struct ram *ram)
{
    struct err err = ERR_INIT;

    ram->source.stored = true;
    if (ram_source_store_working_set(ram->vm, &ram->source, &err) < 0)
        vm_tell(ram->vm, EVENT_MEMORY, NULL, "which pages are needed first could not be written down: %s", err.text);
}

/* All pages are in: the snapshot may go, and the guest is one like any other. */
static void complete(struct ram *ram)
{
    struct ram_source *source = &ram->source;

    pager_stats(source->pager, &source->last);
    end_pager(ram);
    memory_index_free(steal_ptr(&source->index));
    working_set_clear(&source->known);
    source->state.complete = true;
    (void)ram_source_write(ram->vm, source);
    /* QEMU holds the same open file, so its lock goes only this way. */
    (void)flock(source->image, LOCK_UN);
    source->image = fd_close(source->image);
    source->pages = fd_close(source->pages);
    vm_tell(ram->vm, EVENT_MEMORY, NULL, "all of the snapshot's memory is in");
}

static bool all_is_in(const struct ram_source *source)
{
    return source->state.mode == RESTORE_EAGER ? pager_loaded(source->pager) : pager_complete(source->pager);
}

static void on_woken(struct ev_loop *ev, ev_async *w, int revents)
{
    struct ram *ram = container_of(w, struct ram, woken);
    struct ram_source *source = &ram->source;
    struct err err = ERR_INIT;

    if (!source->pager)
        return;
    if (pager_error(source->pager, &err) < 0) {
        paging_failed(ram, &err);
        return;
    }
    if (!source->settled && pager_settled(source->pager)) {
        source->settled = true;
        if (source->state.record && !source->stored)
            store_working_set(ram);
        restore_settled(ram->vm);
    }
    restore_poke(ram->vm);
    if (ram->vm->state != STATE_RESTORING && !ram->vm->snapshot && all_is_in(source))
        complete(ram);
}

void ram_end(struct vm *vm)
{
    struct ram *ram = steal_ptr(&vm->ram);

    if (!ram)
        return;
    ram_forked(ram);
    ev_io_stop(loop_ev(vm->loop), &ram->hello);
    fd_close(ram->hello.fd);
    faults_free(ram->faults);
    end_pager(ram); /* its threads use what is closed below */
    ram_source_close(&ram->source);
    fd_close(ram->uffd);
    fd_close(ram->memfd);
    free(ram);
}

bool ram_is_lazy(const struct vm *vm) { return vm->ram && vm->ram->source.pager && vm->ram->source.state.mode == RESTORE_LAZY; }

bool ram_is_mapped(const struct vm *vm) { return vm->ram && vm->ram->source.state.folder && vm->ram->source.state.mode == RESTORE_MAPPED; }

void ram_guest_runs(struct vm *vm)
{
    if (vm->ram && vm->ram->source.pager) /* it may have been done before that */
        ev_async_send(loop_ev(vm->loop), &vm->ram->woken);
}

bool ram_can_protect(const struct vm *vm) { return vm->ram && (vm->ram->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM); }

int ram_faults(struct vm *vm, struct faults **ret_faults)
{
    struct ram *ram = vm->ram;
    const struct faults_config config = {
        .uffd = ram->uffd,
        .addr = ram->addr,
        .len = ram->len,
        .features = ram->features,
        .pid = vm->qemu.ref.pid,
    };
    int r = 0;

    if (ram_is_lazy(vm)) {
        *ret_faults = pager_faults(ram->source.pager);
        return 0;
    }
    if (!ram->faults)
        r = faults_new(&config, &ram->faults);
    if (r >= 0)
        *ret_faults = ram->faults;
    return r;
}

void ram_faults_done(struct vm *vm)
{
    if (vm->ram)
        faults_free(steal_ptr(&vm->ram->faults));
}

/* "VM/SNAPSHOT" of a folder that ends so. */
static const char *snapshot_name(const char *folder)
{
    const char *slash = strrchr(folder, '/');

    while (slash > folder && slash[-1] != '/')
        slash--;
    return slash;
}

static json_t *optional(uint64_t n) { return n > 0 ? json_integer((json_int_t)n) : NULL; }

json_t *ram_to_wire(const struct vm *vm)
{
    const struct ram *ram = vm->ram;
    const struct ram_source *source = ram ? &ram->source : NULL;
    bool restored = source && source->state.folder;
    struct pager_stats stats = { 0 };
    uint64_t present = vm->plan.ram.size, prefetched;

    if (restored)
        stats = source->last;
    if (restored && source->pager) {
        pager_stats(source->pager, &stats);
        present -= (stats.present - stats.settled) * IMAGE_PAGE;
    }
    if (restored && source->state.mode == RESTORE_MAPPED)
        present = 0; /* all of it needs the file, however much QEMU has its own copy of by now */
    prefetched = stats.known + stats.background;
    return json_pack("{ss ss* sI sI sI sI sI sI so* so* sb}", "mode",
                     restored ? enum_to_string(&restore_mode_names, source->state.mode) : "plain", "snapshot",
                     restored ? snapshot_name(source->state.folder) : NULL, "total", (json_int_t)vm->plan.ram.size, "present",
                     (json_int_t)present, "faults", (json_int_t)stats.faults, "neighbours", (json_int_t)stats.neighbours, "prefetched",
                     (json_int_t)prefetched, "useless", (json_int_t)stats.useless, "p50_us", optional(stats.p50_us), "p99_us",
                     optional(stats.p99_us), "settled", restored && (source->settled || !source->pager));
}
