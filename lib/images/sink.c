#include "lib/images/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/unpack.h"

enum {
    FILE_MODE = 0644,
    READ_SIZE = 1024 * 1024,
    FLUSH_EVERY = 16 * 1024 * 1024, /* so that the end isn't a long wait for the disk */
    VALIDATOR_MAX = 1024,
};

struct sink {
    struct image_task *task;
    const struct manifest_file *file;
    int folder_fd, fd, unpacked_fd;
    char *part, *validator_file, *stored;
    char *validator;
    struct hash *hash;
    struct unpacker *unpacker; /* NULL: it isn't packed */
    uint64_t offset, flushed, size;
};

char *sink_part_name(const struct manifest_file *file)
{
    char *name = NULL;

    return str_format(&name, "%s-%s.part", file->sha256, file->filename) < 0 ? NULL : name;
}

void sink_free(struct sink *s)
{
    if (!s)
        return;
    fd_close(s->fd);
    fd_close(s->unpacked_fd);
    unpacker_free(s->unpacker);
    hash_free(s->hash);
    free(s->part);
    free(s->validator_file);
    free(s->stored);
    free(s->validator);
    free(s);
}

static int write_failed(const struct sink *s, int r, struct err *err)
{
    if (r == -ENOSPC || r == -EDQUOT)
        return err_set(err, ENOSPC, "no-space", "%s: the disk is full", s->file->filename);
    return err_set_errno(err, -r, "write", "%s", s->file->filename);
}

/* An empty file for what is unpacked. */
static int begin_unpacking(struct sink *s)
{
    unpacker_free(steal_ptr(&s->unpacker));
    s->unpacked_fd = fd_close(s->unpacked_fd);
    if (!manifest_file_is_packed(s->file))
        return 0;
    s->unpacked_fd = openat(s->folder_fd, s->stored, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    return s->unpacked_fd < 0 ? -errno : unpacker_new(s->unpacked_fd, &s->unpacker);
}

/* Bytes that are in the .part: through the hash and the unpacker. */
static int digest(struct sink *s, const void *data, size_t len, struct err *err)
{
    int r = hash_add(s->hash, data, len);

    if (r < 0)
        return err_set_errno(err, -r, "hash", "SHA-256");
    s->offset += len;
    atomic_fetch_add(&s->task->done, len);
    r = s->unpacker ? unpacker_write(s->unpacker, data, len, err) : 0;
    if (r < 0)
        err_prefix(err, "%s", s->file->filename);
    return r;
}

static int read_back(struct sink *s, struct err *err)
{
    auto_free char *buffer = malloc(READ_SIZE);
    int r = 0;

    if (!buffer)
        return -ENOMEM;
    while (r >= 0) {
        ssize_t n = pread(s->fd, buffer, READ_SIZE, (off_t)s->offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, errno, "read", "%s", s->file->filename);
        if (n == 0)
            return 0;
        r = image_task_is_cancelled(s->task) ? image_task_cancelled(err) : digest(s, buffer, (size_t)n, err);
    }
    /* What is here is no beginning of the file after all. */
    return r == -EBADMSG ? sink_restart(s, err) : r;
}

static void read_validator(struct sink *s)
{
    size_t len;

    if (s->offset > 0)
        (void)file_read(s->folder_fd, s->validator_file, VALIDATOR_MAX, &s->validator, &len);
}

static int prepare(struct sink *s, struct err *err)
{
    int r = hash_new(&s->hash);

    if (r < 0)
        return r;
    s->part = sink_part_name(s->file);
    s->stored = manifest_file_stored_name(s->file);
    if (!s->part || !s->stored || str_format(&s->validator_file, "%s-%s.validator", s->file->sha256, s->file->filename) < 0)
        return -ENOMEM;
    s->fd = openat(s->folder_fd, s->part, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    if (s->fd < 0)
        return write_failed(s, -errno, err);
    r = begin_unpacking(s);
    return r < 0 ? write_failed(s, r, err) : 0;
}

int sink_open(struct image_task *task, int folder_fd, const struct manifest_file *file, struct sink **ret_sink, struct err *err)
{
    auto_sink struct sink *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->task = task;
    s->folder_fd = folder_fd;
    s->file = file;
    s->fd = s->unpacked_fd = -1;
    r = prepare(s, err);
    if (r >= 0)
        r = read_back(s, err);
    if (r >= 0 && file->size && s->offset > file->size)
        r = sink_restart(s, err);
    if (r < 0)
        return r;
    s->flushed = s->offset;
    read_validator(s);
    *ret_sink = steal_ptr(&s);
    return 0;
}

uint64_t sink_offset(const struct sink *s) { return s->offset; }

bool sink_is_complete(const struct sink *s)
{
    char sha256[HASH_TEXT_MAX];

    if (s->file->size)
        return s->offset == s->file->size;
    return s->offset > 0 && hash_peek(s->hash, sha256) >= 0 && streq(sha256, s->file->sha256);
}

const char *sink_validator(const struct sink *s) { return s->validator; }

int sink_set_validator(struct sink *s, const char *validator)
{
    int r = str_set(&s->validator, validator);

    if (r < 0)
        return r;
    if (!validator)
        return unlinkat(s->folder_fd, s->validator_file, 0) < 0 && errno != ENOENT ? -errno : 0;
    return file_write(s->folder_fd, s->validator_file, validator, strlen(validator), FILE_MODE, FILE_ATOMIC);
}

int sink_check_space(int folder_fd, uint64_t bytes, uint64_t margin, struct err *err)
{
    struct statvfs fs;
    uint64_t free_bytes;

    if (fstatvfs(folder_fd, &fs) < 0)
        return err_set_errno(err, errno, "no-space", "how much room the disk has");
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes >= bytes + margin)
        return 0;
    return err_set(err, ENOSPC, "no-space",
                   "not enough room on the disk: %llu MiB are still to come, %llu MiB are free, of which %llu MiB must stay free",
                   (unsigned long long)(bytes >> 20), (unsigned long long)(free_bytes >> 20), (unsigned long long)(margin >> 20));
}

static int check_space(const struct sink *s, struct err *err)
{
    uint64_t left = s->size > s->offset ? s->size - s->offset : 0;

    return sink_check_space(s->folder_fd, left + (s->unpacker ? s->file->unpacked_size : 0), s->task->config->margin, err);
}

int sink_set_size(struct sink *s, uint64_t size, struct err *err)
{
    if (s->file->size && size != s->file->size)
        return err_set(err, EBADMSG, "wrong-size", "%s: the source has %llu bytes, the manifest says %llu", s->file->filename,
                       (unsigned long long)size, (unsigned long long)s->file->size);
    atomic_fetch_add(&s->task->total, size - s->size);
    s->size = size;
    return check_space(s, err);
}

int sink_restart(struct sink *s, struct err *err)
{
    int r = hash_reset(s->hash);

    if (ftruncate(s->fd, 0) < 0)
        r = -errno;
    if (r >= 0)
        r = sink_set_validator(s, NULL);
    if (r >= 0)
        r = begin_unpacking(s);
    if (r < 0)
        return write_failed(s, r, err);
    atomic_fetch_sub(&s->task->done, s->offset);
    s->offset = s->flushed = 0;
    return 0;
}

int sink_write(struct sink *s, const void *data, size_t len, struct err *err)
{
    uint64_t limit = s->size ? s->size : s->file->size;
    uint64_t at = s->offset;
    int r = 0;

    if (limit && s->offset + len > limit)
        return err_set(err, EBADMSG, "wrong-size", "%s: the source sends more than its %llu bytes", s->file->filename,
                       (unsigned long long)limit);
    for (size_t written = 0; written < len;) {
        ssize_t n = pwrite(s->fd, (const char *)data + written, len - written, (off_t)(at + written));

        if (n < 0 && errno != EINTR)
            return write_failed(s, -errno, err);
        written += n > 0 ? (size_t)n : 0;
    }
    r = digest(s, data, len, err);
    if (r >= 0 && s->offset - s->flushed >= FLUSH_EVERY) {
        /* No more than a hint: sink_finish() has the word that counts. */
        (void)sync_file_range(s->fd, (off_t)s->flushed, (off_t)(s->offset - s->flushed), SYNC_FILE_RANGE_WRITE);
        s->flushed = s->offset;
    }
    return r >= 0 && image_task_pace(s->task, len) < 0 ? image_task_cancelled(err) : r;
}

/* ---- the end ---- */

static int finish_unpacked(struct sink *s, char sha256[HASH_TEXT_MAX], struct err *err)
{
    const struct manifest_file *file = s->file;
    uint64_t size;
    int r = unpacker_finish(s->unpacker, &size, sha256, err);

    if (r < 0) {
        err_prefix(err, "%s", file->filename);
        return r;
    }
    if (file->unpacked_size && size != file->unpacked_size)
        return err_set(err, EBADMSG, "wrong-size", "%s: unpacked it has %llu bytes, the manifest says %llu", file->filename,
                       (unsigned long long)size, (unsigned long long)file->unpacked_size);
    if (file->unpacked_sha256 && !streq(sha256, file->unpacked_sha256))
        return err_set(err, EBADMSG, "wrong-hash", "%s: unpacked its SHA-256 is %s, the manifest says %s", file->filename, sha256,
                       file->unpacked_sha256);
    return fsync(s->unpacked_fd) < 0 ? write_failed(s, -errno, err) : 0;
}

int sink_finish(struct sink *s, char **ret_sha256, struct err *err)
{
    char sha256[HASH_TEXT_MAX];
    int r;

    if (s->file->size && s->offset != s->file->size)
        return err_set(err, EBADMSG, "wrong-size", "%s: the source has %llu bytes, the manifest says %llu", s->file->filename,
                       (unsigned long long)s->offset, (unsigned long long)s->file->size);
    r = hash_text(s->hash, sha256);
    if (r < 0)
        return err_set_errno(err, -r, "hash", "SHA-256");
    if (!streq(sha256, s->file->sha256))
        return err_set(err, EBADMSG, "wrong-hash", "%s: its SHA-256 is %s, the manifest says %s", s->file->filename, sha256,
                       s->file->sha256);
    if (s->unpacker)
        r = finish_unpacked(s, sha256, err);
    else if (fsync(s->fd) < 0)
        r = write_failed(s, -errno, err);
    return r < 0 ? r : str_set(ret_sha256, sha256);
}

static int names_of(const struct manifest_file *file, char **ret_part, char **ret_stored, char **ret_validator)
{
    *ret_part = sink_part_name(file);
    *ret_stored = manifest_file_stored_name(file);
    return *ret_part && *ret_stored ? str_format(ret_validator, "%s-%s.validator", file->sha256, file->filename) : -ENOMEM;
}

int sink_publish(int folder_fd, const struct manifest_file *file)
{
    auto_free char *part = NULL, *stored = NULL, *validator = NULL;
    int r = names_of(file, &part, &stored, &validator);

    if (r < 0)
        return r;
    if (manifest_file_is_packed(file))
        r = unlinkat(folder_fd, part, 0);
    else
        r = renameat(folder_fd, part, folder_fd, stored);
    if (r < 0)
        return -errno;
    return unlinkat(folder_fd, validator, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int sink_unpublish(int folder_fd, const struct manifest_file *file)
{
    auto_free char *part = NULL, *stored = NULL, *validator = NULL;
    int r = names_of(file, &part, &stored, &validator);

    if (r < 0 || manifest_file_is_packed(file))
        return r;
    return renameat2(folder_fd, stored, folder_fd, part, RENAME_NOREPLACE) < 0 && errno != ENOENT && errno != EEXIST ? -errno : 0;
}
