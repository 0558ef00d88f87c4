/* A folder of folders, each a release with its vm.json: a mounted share, or what is to be imported. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/names.h"
#include "lib/images/release.h"
#include "lib/images/source_kinds.h"

enum { CHUNK = 1024 * 1024, SIGNATURE_MAX = 8 * 1024 };

/* A source that is away for the moment (a mount) is not one that has no such release. */
static int open_base(const struct image_source *source, struct err *err)
{
    auto_fd int fd = open(source->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_set(err, errno == ENOENT ? EAGAIN : errno, "source", "%s: %s", source->path, strerror(errno));
    return steal_fd(&fd);
}

static int open_release(const struct image_source *source, const char *version, struct err *err)
{
    auto_fd int base = open_base(source, err), fd = -1;

    if (base < 0 || source->flat)
        return steal_fd(&base);
    fd = openat(base, version, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "source", "%s/%s", source->path, version);
    return steal_fd(&fd);
}

static int folder_newest(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err)
{
    auto_fd int fd = open_base(source, err);
    auto_free char *newest = NULL;
    struct dirent *entry;
    DIR *dir;
    int r = 0;

    if (fd < 0)
        return fd;
    dir = fdopendir(fd);
    if (!dir)
        return -errno;
    steal_fd(&fd);
    while (r >= 0 && (entry = readdir(dir))) {
        char manifest[IMAGE_NAME_MAX + sizeof("/" FILE_MANIFEST)];

        if (!image_version_is_valid(entry->d_name) || (newest && strverscmp(entry->d_name, newest) <= 0))
            continue;
        (void)snprintf(manifest, sizeof(manifest), "%.*s/" FILE_MANIFEST, (int)IMAGE_NAME_MAX, entry->d_name);
        if (faccessat(dirfd(dir), manifest, R_OK, 0) == 0)
            r = str_set(&newest, entry->d_name);
    }
    closedir(dir);
    if (r < 0)
        return r;
    if (!newest)
        return err_set(err, EIO, "source", "%s: no folder in it has a " FILE_MANIFEST, source->path);
    *ret_version = steal_ptr(&newest);
    return 0;
}

static int read_text(int fd, const struct image_source *source, const char *name, size_t limit, char **ret_text, size_t *ret_len,
                     struct err *err)
{
    int r;

    free(*ret_text);
    *ret_text = NULL;
    r = file_read(fd, name, limit, ret_text, ret_len);
    return r < 0 ? err_set_errno(err, -r, "source", "%s: %s", source->path, name) : 0;
}

static int folder_manifest(struct image_task *task, const struct image_source *source, const char *version, char **ret_text,
                           size_t *ret_len, char **ret_signature, struct err *err)
{
    auto_fd int fd = open_release(source, version, err);
    size_t len;
    int r = fd < 0 ? fd : read_text(fd, source, FILE_MANIFEST, MANIFEST_TEXT_MAX, ret_text, ret_len, err);

    return r < 0 || !source->public_key ? r : read_text(fd, source, FILE_SIGNATURE, SIGNATURE_MAX, ret_signature, &len, err);
}

static int copy(struct image_task *task, int fd, struct sink *sink, const char *name, struct err *err)
{
    auto_free char *buffer = malloc(CHUNK);

    if (!buffer)
        return -ENOMEM;
    for (;;) {
        ssize_t n = pread(fd, buffer, CHUNK, (off_t)sink_offset(sink));
        int r;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, EAGAIN, "source", "%s: %s", name, strerror(errno));
        if (n == 0)
            return 0;
        r = sink_write(sink, buffer, (size_t)n, err);
        if (r < 0)
            return r;
    }
}

static int folder_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                        struct sink *sink, struct err *err)
{
    auto_fd int folder = open_release(source, version, err), fd = -1;
    struct stat st;
    int r;

    if (folder < 0)
        return folder;
    /* No links: an import is asked for by people who may read less than we do. */
    fd = openat(folder, file->filename, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set_errno(err, errno, "source", "%s: %s", source->path, file->filename);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EACCES, "source", "%s: %s is no regular file", source->path, file->filename);
    r = sink_set_size(sink, (uint64_t)st.st_size, err);
    if (r >= 0 && sink_offset(sink) > (uint64_t)st.st_size)
        r = sink_restart(sink, err);
    return r < 0 ? r : copy(task, fd, sink, file->filename, err);
}

const struct source_ops source_folder = {
    .newest = folder_newest, .manifest = folder_manifest, .parse = source_parse_manifest, .fetch = folder_fetch
};
