/* The folder a snapshot is written to (proto/snapshot.h): under a temporary name until all of it is on disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "shim/snapshot_job.h"
#include "shim/vm.h"

#define FILE_PENDING "snapshot.pending"

/* A guest's memory holds its secrets: nobody else's to read, not even who may manage. */
enum { FOLDER_MODE = 0700, FILE_MODE = 0600, PENDING_MAX = 16 * 1024 };

static int make_id(char **ret)
{
    unsigned char bits[SNAPSHOT_ID_LEN / 2];
    char text[SNAPSHOT_ID_LEN + 1];

    if (getrandom(bits, sizeof(bits), 0) != sizeof(bits))
        return -EIO;
    for (size_t i = 0; i < sizeof(bits); i++)
        (void)snprintf(text + 2 * i, 3, "%02x", bits[i]);
    return str_set(ret, text);
}

static int open_parent(struct snapshot_job *job, struct err *err)
{
    const char *slash = strrchr(job->folder, '/');
    auto_free char *parent = strndup(job->folder, (size_t)(slash - job->folder));
    int r;

    if (!parent || str_format(&job->tmp_name, ".%s.tmp", slash + 1) < 0)
        return -ENOMEM;
    r = dir_make(parent, FOLDER_MODE, err);
    if (r < 0)
        return r;
    job->parent = dir_open(AT_FDCWD, parent);
    if (job->parent < 0)
        return err_set_errno(err, -job->parent, "no-folder", "can't open %s", parent);
    if (faccessat(job->parent, slash + 1, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return err_set(err, EEXIST, "name-taken", "there is a snapshot %s already", slash + 1);
    return 0;
}

static int make_file(const struct snapshot_job *job, const char *name, int *ret_fd, struct err *err)
{
    *ret_fd = openat(job->dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    return *ret_fd < 0 ? err_set_errno(err, errno, "no-file", "can't make %s for %s", name, job->folder) : 0;
}

int snapshot_folder_make(struct snapshot_job *job, struct err *err)
{
    int r = open_parent(job, err);

    if (r < 0)
        return r;
    /* First: what a shim that dies leaves is swept by nobody else while the VM lives. */
    r = snapshot_pending_write(job, false);
    if (r < 0)
        return err_set_errno(err, -r, "no-record", "can't write down that a snapshot is under way");
    (void)dir_remove_tree(job->parent, job->tmp_name);
    if (mkdirat(job->parent, job->tmp_name, FOLDER_MODE) < 0)
        return err_set_errno(err, errno, "no-folder", "can't make a folder for %s", job->folder);
    job->dir = dir_open(job->parent, job->tmp_name);
    if (job->dir < 0)
        return err_set_errno(err, -job->dir, "no-folder", "can't open the folder for %s", job->folder);
    r = make_file(job, FILE_DEVICE_STATE, &job->state_fd, err);
    if (r >= 0)
        r = make_file(job, FILE_MEMORY, &job->memory_fd, err);
    if (r >= 0 && mkdirat(job->dir, FOLDER_DISKS, FOLDER_MODE) < 0)
        r = err_set_errno(err, errno, "no-folder", "can't make %s for %s", FOLDER_DISKS, job->folder);
    return r < 0 ? r : make_id(&job->record.id);
}

static int sum_state(struct snapshot_job *job)
{
    auto_stream_sum struct stream_sum *sum = NULL;
    char chunk[16 * 1024], text[STREAM_SUM_TEXT_MAX];
    ssize_t n;
    int r = stream_sum_new(&sum);

    if (r < 0)
        return r;
    job->record.state_size = 0;
    while ((n = pread(job->state_fd, chunk, sizeof(chunk), (off_t)job->record.state_size)) > 0) {
        stream_sum_add(sum, chunk, (size_t)n);
        job->record.state_size += (uint64_t)n;
    }
    return n < 0 ? -errno : str_set(&job->record.state_sum, stream_sum_text(sum, text));
}

static int write_index(struct snapshot_job *job)
{
    auto_free void *data = NULL;
    size_t len;
    int r = memory_index_encode(job->index, &data, &len);

    return r < 0 ? r : file_write(job->dir, FILE_MEMORY_INDEX, data, len, FILE_MODE, FILE_DURABLE);
}

static int write_record(struct snapshot_job *job)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = snapshot_to_json(&job->record, &json);

    if (r >= 0)
        r = json_format(json, &text, &len);
    return r < 0 ? r : file_write(job->dir, FILE_SNAPSHOT, text, len, FILE_MODE, FILE_DURABLE);
}

/* What is published is never written again. */
static int finish_files(const struct snapshot_job *job)
{
    if (fsync(job->state_fd) < 0 || fchmod(job->state_fd, FILE_MODE & 0444) < 0 || fchmod(job->memory_fd, FILE_MODE & 0444) < 0 ||
        fsync(job->memory_fd) < 0 || fsync(job->dir) < 0)
        return -errno;
    return 0;
}

int snapshot_folder_publish(struct snapshot_job *job, struct err *err)
{
    const char *name = strrchr(job->folder, '/') + 1;
    int r = sum_state(job);

    job->record.present_pages = memory_index_present(job->index);
    if (r >= 0)
        r = write_index(job);
    if (r >= 0)
        r = write_record(job);
    if (r >= 0)
        r = finish_files(job);
    FAILPOINT("shim.snapshot-before-rename");
    if (r >= 0 && renameat2(job->parent, job->tmp_name, job->parent, name, RENAME_NOREPLACE) < 0)
        r = -errno;
    if (r < 0)
        return err_set_errno(err, -r, "not-written", "can't finish the snapshot %s", job->folder);
    free(steal_ptr(&job->tmp_name));
    return fsync(job->parent) < 0 ? err_set_errno(err, errno, "not-written", "can't finish the snapshot %s", job->folder) : 0;
}

void snapshot_folder_remove(struct snapshot_job *job)
{
    if (job->parent >= 0 && job->tmp_name)
        (void)dir_remove_tree(job->parent, job->tmp_name);
}

/* ---- for whoever finds it half done ---- */

int snapshot_pending_write(const struct snapshot_job *job, bool resume)
{
    auto_json json_t *json = json_pack("{ss ss sb}", "folder", job->folder, "tmp", job->tmp_name, "resume", (int)resume);
    auto_free char *text = NULL;
    size_t len;
    int r = json ? json_format(json, &text, &len) : -ENOMEM;

    return r < 0 ? r : file_write(job->vm->run_fd, FILE_PENDING, text, len, FILE_MODE, FILE_ATOMIC);
}

void snapshot_pending_remove(const struct vm *vm) { (void)unlinkat(vm->run_fd, FILE_PENDING, 0); }

/* Only a name of the kind that snapshot_folder_make() gives. */
static void remove_tmp(const char *folder, const char *tmp)
{
    const char *slash = strrchr(folder, '/');
    auto_free char *parent = slash ? strndup(folder, (size_t)(slash - folder)) : NULL;
    auto_fd int dir = parent ? dir_open(AT_FDCWD, parent) : -1;

    if (dir >= 0 && tmp[0] == '.' && !strchr(tmp, '/') && strlen(tmp) > 4 && streq(tmp + strlen(tmp) - 4, ".tmp"))
        (void)dir_remove_tree(dir, tmp);
}

int snapshot_pending_undo(const struct vm *vm, bool *ret_resume)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    const char *folder, *tmp;
    size_t len;
    int r = file_read(vm->run_fd, FILE_PENDING, PENDING_MAX, &text, &len);

    if (r == -ENOENT)
        return 0;
    if (r >= 0)
        r = json_parse(text, len, &json, NULL);
    folder = json_string_value(json_object_get(json, "folder"));
    tmp = json_string_value(json_object_get(json, "tmp"));
    if (r < 0 || !folder || !tmp) {
        log_vm_error(vm->plan.name, "%s can't be read: a snapshot may have been left half done, and the guest paused", FILE_PENDING);
        return 0;
    }
    *ret_resume = json_is_true(json_object_get(json, "resume"));
    remove_tmp(folder, tmp);
    snapshot_pending_remove(vm);
    return 1;
}
