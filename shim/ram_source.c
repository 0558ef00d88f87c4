/* The snapshot a guest's pages come from: everything of it that is small is checked before QEMU is started; of memory.raw, its size. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "shim/ram.h"
#include "shim/vm.h"

enum { STATE_MAX = 1 << 30 }; /* a device state is a few hundred KB; one with a big framebuffer some tens of MB */

static int damaged(struct err *err, const char *folder, const char *file)
{
    err_prefix(err, "%s/%s is damaged", folder, file);
    return -EINVAL;
}

static int read_record(int dir, const char *folder, struct snapshot *ret, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(dir, FILE_SNAPSHOT, RECORD_MAX, &text, &len);

    if (r < 0)
        return err_set_errno(err, -r, "no-snapshot", "can't read %s/%s", folder, FILE_SNAPSHOT);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = snapshot_from_json(json, ret, err);
    return r < 0 ? damaged(err, folder, FILE_SNAPSHOT) : 0;
}

static int read_index(int dir, const char *folder, uint64_t ram_size, bool with_sums, struct memory_index **ret, struct err *err)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_free char *data = NULL;
    size_t len;
    int r = file_read(dir, FILE_MEMORY_INDEX, memory_index_file_max(ram_size), &data, &len);

    if (r < 0)
        return err_set_errno(err, -r, "bad-snapshot", "can't read %s/%s", folder, FILE_MEMORY_INDEX);
    r = memory_index_decode(data, len, with_sums, &index, err);
    if (r < 0)
        return damaged(err, folder, FILE_MEMORY_INDEX);
    if (memory_index_ram_size(index) != ram_size)
        return err_set(err, EINVAL, "bad-snapshot", "%s/%s is of %llu bytes of RAM, and the VM has %llu", folder, FILE_MEMORY_INDEX,
                       (unsigned long long)memory_index_ram_size(index), (unsigned long long)ram_size);
    *ret = steal_ptr(&index);
    return 0;
}

/* Locked for as long as pages of it may be needed: by us, and by QEMU, which inherits the same open file. */
static int open_image(int dir, const char *folder, uint64_t ram_size, struct err *err)
{
    auto_fd int fd = openat(dir, FILE_MEMORY, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set_errno(err, errno, "bad-snapshot", "can't open %s/%s", folder, FILE_MEMORY);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != ram_size)
        return err_set(err, EINVAL, "bad-snapshot", "%s/%s is damaged: it has %lld bytes, and should have the RAM's %llu", folder,
                       FILE_MEMORY, (long long)st.st_size, (unsigned long long)ram_size);
    if (flock(fd, LOCK_SH | LOCK_NB) < 0)
        return err_set_errno(err, errno, "busy-snapshot", "%s is being deleted", folder);
    return steal_fd(&fd);
}

static int check_state(int dir, const char *folder, const struct snapshot *snapshot, struct err *err)
{
    auto_fd int fd = openat(dir, FILE_DEVICE_STATE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    auto_stream_sum struct stream_sum *sum = NULL;
    char chunk[16 * 1024], text[STREAM_SUM_TEXT_MAX];
    uint64_t len = 0;
    ssize_t n;
    int r;

    if (fd < 0)
        return err_set_errno(err, errno, "bad-snapshot", "can't open %s/%s", folder, FILE_DEVICE_STATE);
    r = stream_sum_new(&sum);
    if (r < 0)
        return r;
    while (len < STATE_MAX && (n = read(fd, chunk, sizeof(chunk))) > 0) {
        stream_sum_add(sum, chunk, (size_t)n);
        len += (uint64_t)n;
    }
    if (len != snapshot->state_size || !streq_opt(stream_sum_text(sum, text), snapshot->state_sum))
        return err_set(err, EINVAL, "bad-snapshot", "%s/%s is damaged: it isn't what was written", folder, FILE_DEVICE_STATE);
    return 0;
}

/* A record of another snapshot, or a damaged one, is as good as none: the next restore makes it anew. */
static void read_working_set(const struct vm *vm, int dir, struct ram_source *source)
{
    auto_working_set struct working_set set = { 0 };
    auto_free char *data = NULL;
    struct err err = ERR_INIT;
    size_t len;
    int r = file_read(dir, FILE_WORKING_SET, working_set_file_max(vm->plan.ram.size), &data, &len);

    if (r == -ENOENT)
        return;
    if (r >= 0)
        r = working_set_decode(data, len, &set, &err);
    if (r >= 0 && (!streq(set.snapshot_id, source->snapshot.id) || set.ram_size != vm->plan.ram.size))
        r = err_set(&err, EINVAL, "bad-working-set", "it is another snapshot's");
    if (r < 0) {
        (void)str_format(&source->warning, "%s/%s isn't used: %s", source->state.folder, FILE_WORKING_SET, err.text);
        return;
    }
    source->known = set;
    set = (struct working_set){ 0 };
}

static int check_record(const struct vm *vm, const struct snapshot *snapshot, const char *folder, struct err *err)
{
    if (snapshot->ram_size != vm->plan.ram.size || snapshot->page_size != IMAGE_PAGE)
        return err_set(err, EINVAL, "other-hardware", "the snapshot %s has %llu MiB of RAM and %s has %llu MiB: give it as much", folder,
                       (unsigned long long)(snapshot->ram_size >> 20), vm->plan.name, (unsigned long long)(vm->plan.ram.size >> 20));
    return 0;
}

int ram_source_open(const struct vm *vm, struct ram_source *source, struct err *err)
{
    const char *folder = vm->plan.restore.folder;
    auto_fd int dir = dir_open(AT_FDCWD, folder);
    int r;

    if (dir < 0)
        return err_set_errno(err, -dir, "no-snapshot", "can't open the snapshot %s", folder);
    r = read_record(dir, folder, &source->snapshot, err);
    if (r < 0 || (r = check_record(vm, &source->snapshot, folder, err)) < 0 ||
        (r = read_index(dir, folder, vm->plan.ram.size, false, &source->index, err)) < 0 ||
        (r = check_state(dir, folder, &source->snapshot, err)) < 0)
        return r;
    source->image = open_image(dir, folder, vm->plan.ram.size, err);
    if (source->image < 0)
        return source->image;
    source->state = (struct memory_state){
        .schema = MEMORY_SCHEMA,
        .incarnation = vm->incarnation,
        .mode = vm->plan.restore.mode,
        .prefetch = vm->plan.restore.prefetch,
    };
    if (str_set(&source->state.folder, folder) < 0)
        return -ENOMEM;
    if (source->state.mode == RESTORE_LAZY)
        read_working_set(vm, dir, source);
    source->state.record = vm->plan.restore.record && source->state.mode == RESTORE_LAZY && source->known.n_runs == 0;
    return 0;
}

int ram_source_reopen(struct vm *vm, struct ram_source *source, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int dir = -1;
    size_t len;
    int r = file_read(vm->run_fd, FILE_MEMORY_STATE, RECORD_MAX, &text, &len);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_set_errno(err, -r, "no-record", "can't read %s/%s", vm->plan.run_dir, FILE_MEMORY_STATE);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = memory_state_from_json(json, &source->state, err);
    if (r < 0) {
        err_prefix(err, "%s/%s", vm->plan.run_dir, FILE_MEMORY_STATE);
        return r;
    }
    if (source->state.complete || source->state.mode == RESTORE_MAPPED)
        return 0;
    dir = dir_open(AT_FDCWD, source->state.folder);
    if (dir < 0)
        return err_set_errno(err, -dir, "no-snapshot", "can't open the snapshot %s, and pages of it are missing", source->state.folder);
    r = read_index(dir, source->state.folder, vm->plan.ram.size, false, &source->index, err);
    if (r >= 0)
        r = read_record(dir, source->state.folder, &source->snapshot, err);
    return r;
}

int ram_source_read_index(const struct vm *vm, const char *folder, bool with_sums, struct memory_index **ret, struct err *err)
{
    auto_fd int dir = dir_open(AT_FDCWD, folder);

    if (dir < 0)
        return err_set_errno(err, -dir, "no-snapshot", "can't open the snapshot %s", folder);
    return read_index(dir, folder, vm->plan.ram.size, with_sums, ret, err);
}

void ram_source_close(struct ram_source *source)
{
    memory_index_free(source->index);
    working_set_clear(&source->known);
    snapshot_clear(&source->snapshot);
    memory_state_clear(&source->state);
    free(source->warning);
    fd_close(source->image);
    fd_close(source->pages);
    *source = (struct ram_source){ .image = -1, .pages = -1 };
}

int ram_source_write(struct vm *vm, const struct ram_source *source)
{
    return vm_write_record(vm->run_fd, FILE_MEMORY_STATE, &memory_state_type, &source->state, FILE_ATOMIC);
}

int ram_source_store_working_set(const struct vm *vm, struct ram_source *source, struct err *err)
{
    auto_working_set struct working_set set = { 0 };
    auto_fd int dir = dir_open(AT_FDCWD, source->state.folder);
    auto_free void *data = NULL;
    size_t len;
    int r = dir;

    if (r >= 0)
        r = pager_working_set(source->pager, &set);
    if (r >= 0) {
        (void)snprintf(set.snapshot_id, sizeof(set.snapshot_id), "%s", source->snapshot.id);
        set.ram_size = vm->plan.ram.size;
        r = working_set_encode(&set, &data, &len);
    }
    if (r >= 0)
        r = file_write(dir, FILE_WORKING_SET, data, len, 0600, FILE_ATOMIC);
    return r < 0 ? err_set_errno(err, -r, "no-working-set", "can't write %s/%s", source->state.folder, FILE_WORKING_SET) : 0;
}
