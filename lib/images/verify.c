/* Reading a release whole, for pull.h. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/hash.h"
#include "lib/images/pull.h"

enum { CHUNK = 1024 * 1024 };

static int hash_file(struct image_task *task, int fd, char ret_text[HASH_TEXT_MAX], struct err *err)
{
    auto_free char *buffer = malloc(CHUNK);
    auto_hash struct hash *hash = NULL;
    int r = buffer ? hash_new(&hash) : -ENOMEM;

    while (r >= 0) {
        ssize_t n = read(fd, buffer, CHUNK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, errno, "unreadable", "reading");
        if (n == 0)
            break;
        if (image_task_is_cancelled(task))
            return image_task_cancelled(err);
        atomic_fetch_add(&task->done, (uint64_t)n);
        r = hash_add(hash, buffer, (size_t)n);
    }
    return r < 0 ? r : hash_text(hash, ret_text);
}

/* The state of the file from before it was read is what is remembered: a change meanwhile shows. */
static int verify_file(struct image_task *task, int folder_fd, struct image_file *file, struct err *err)
{
    auto_fd int fd = openat(folder_fd, file->filename, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    uint64_t size = file->size;
    char sha256[HASH_TEXT_MAX];
    int r;

    if (fd < 0)
        return err_set_errno(err, errno == ENOENT ? EBADMSG : errno, "damaged", "%s", file->filename);
    r = image_file_note(folder_fd, file);
    if (r < 0)
        return err_set_errno(err, -r, "damaged", "%s", file->filename);
    if (file->size != size)
        return err_set(err, EBADMSG, "damaged", "%s has %llu bytes, expected %llu", file->filename, (unsigned long long)file->size,
                       (unsigned long long)size);
    r = hash_file(task, fd, sha256, err);
    if (r < 0) {
        err_prefix(err, "%s", file->filename);
        return r;
    }
    if (!streq(sha256, file->sha256))
        return err_set(err, EBADMSG, "damaged", "%s is damaged: its SHA-256 is %s, expected %s", file->filename, sha256, file->sha256);
    return 0;
}

static bool is_repeated(const struct image_record *record, size_t i, size_t *ret_first)
{
    for (*ret_first = 0; *ret_first < i; (*ret_first)++)
        if (streq(record->files[*ret_first].filename, record->files[i].filename))
            return true;
    return false;
}

static int verify_files(struct image_task *task, int folder_fd, struct image_record *record, struct err *err)
{
    struct err ignored = ERR_INIT;
    int worst = 0;
    size_t first;

    for (size_t i = 0; i < record->n_files; i++) {
        struct image_file *file = &record->files[i];
        int r;

        if (is_repeated(record, i, &first)) {
            file->mtime_ns = record->files[first].mtime_ns;
            file->inode = record->files[first].inode;
            continue;
        }
        r = verify_file(task, folder_fd, file, worst < 0 ? &ignored : err);
        if (r == -ECANCELED || r == -ENOMEM)
            return r;
        if (r < 0) {
            file->mtime_ns = 0; /* so that it doesn't count as verified */
            worst = worst < 0 ? worst : r;
        }
    }
    return worst;
}

int image_verify(struct image_task *task, const struct image_store *store, const char *name, const char *version, struct err *err)
{
    auto_image_record struct image_record record = { 0 };
    char path[IMAGE_PATH_MAX];
    auto_fd int fd = image_release_path(name, version, path) < 0 ? -ENOENT : dir_open(store->fd, path);
    uint64_t size = 0;
    size_t first;
    int r, saved;

    if (fd < 0)
        return err_set(err, ENOENT, "no-such-image", "there is no image \"%s/%s\" here", name, version);
    atomic_store(&task->phase, "verifying");
    r = image_record_read(fd, &record, err);
    if (r < 0)
        return r == -ENOMEM ? r : err_set(err, EBADMSG, "damaged", "%s", err->text);
    for (size_t i = 0; i < record.n_files; i++)
        if (!is_repeated(&record, i, &first))
            size += record.files[i].size;
    atomic_store(&task->total, size);
    r = verify_files(task, fd, &record, err);
    if (r == -ECANCELED || r == -ENOMEM)
        return r;
    saved = image_record_write(fd, &record);
    if (r >= 0 && saved < 0)
        return err_set_errno(err, -saved, "write", "%s/%s/%s/" FILE_IMAGE, store->path, name, version);
    return r;
}
