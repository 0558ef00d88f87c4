#include "lib/images/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/thread.h"
#include "lib/images/fetch.h"
#include "lib/images/partial.h"
#include "lib/images/remove.h"

enum { FILE_MODE = 0644, FOLDER_MODE = 0755, THREADS_MAX = 16 };

struct pulling {
    struct image_task *task;
    const struct image_pull *pull;
    struct source_manifest source_manifest;
    int name_fd, folder_fd;
    char **sha256; /* of each file as it will be published; those of repeated files are NULL */
    atomic_size_t next;
    pthread_mutex_t mutex;
    int r; /* of the first that failed, under mutex */
    struct err err;
};

static const struct manifest *manifest_of(const struct pulling *p) { return &p->source_manifest.manifest; }

/* ---- the files ---- */

static void fail(struct pulling *p, int r, const struct err *err)
{
    pthread_mutex_lock(&p->mutex);
    if (p->r >= 0) {
        p->r = r;
        p->err = *err;
    }
    pthread_mutex_unlock(&p->mutex);
    /* The others would go on for nothing. */
    image_task_cancel(p->task);
}

static void *fetch_some(void *arg)
{
    struct pulling *p = arg;
    const struct manifest *manifest = manifest_of(p);
    size_t i;

    while ((i = atomic_fetch_add(&p->next, 1)) < manifest->n_files && !image_task_is_cancelled(p->task)) {
        struct err err = ERR_INIT;
        int r;

        if (manifest_file_is_repeated(manifest, i))
            continue;
        r = fetch_file(p->task, p->pull->source, p->pull->version, &manifest->files[i], p->folder_fd, &p->sha256[i], &err);
        if (r < 0)
            fail(p, r, &err);
    }
    return NULL;
}

static int fetch_all(struct pulling *p, struct err *err)
{
    pthread_t threads[THREADS_MAX];
    uint64_t wanted = p->task->config->parallel;
    size_t n = 0, n_files = manifest_of(p)->n_files;
    bool was_cancelled;

    atomic_store(&p->task->phase, "downloading");
    while (n + 1 < wanted && n + 1 < n_files && n < THREADS_MAX && thread_start(IMAGE_THREAD_STACK, fetch_some, p, &threads[n]) == 0)
        n++;
    (void)fetch_some(p); /* also where no thread could be made */
    for (size_t i = 0; i < n; i++)
        (void)pthread_join(threads[i], NULL);
    was_cancelled = image_task_is_cancelled(p->task);
    if (p->r >= 0)
        return was_cancelled ? image_task_cancelled(err) : 0;
    if (err)
        *err = p->err;
    return p->r;
}

/* ---- publishing ---- */

static int fill_record(const struct pulling *p, struct image_record *record)
{
    const struct manifest *manifest = manifest_of(p);

    record->schema = IMAGE_SCHEMA;
    record->fetched_us = clock_real_us();
    record->files = calloc(manifest->n_files, sizeof(*record->files));
    if (!record->files || str_set(&record->name, p->pull->name) < 0 || str_set(&record->version, p->pull->version) < 0 ||
        str_set(&record->source, p->pull->source->flat ? "import" : enum_to_string(&image_source_kind_names, p->pull->source->kind)) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < manifest->n_files; i++) {
        const struct manifest_file *from = &manifest->files[i];
        struct image_file *file = &record->files[record->n_files++];
        size_t same = i;
        int r;

        for (size_t k = 0; k < i && same == i; k++)
            if (streq(manifest->files[k].filename, from->filename))
                same = k;
        file->filename = manifest_file_stored_name(from);
        if (!file->filename || str_set(&file->role, from->role) < 0 || str_set(&file->sha256, p->sha256[same]) < 0 ||
            (manifest_file_is_packed(from) && str_set(&file->packed_sha256, from->sha256) < 0))
            return -ENOMEM;
        r = image_file_note(p->folder_fd, file);
        if (r < 0)
            return r;
    }
    return 0;
}

static int name_files(const struct pulling *p, int (*each)(int folder_fd, const struct manifest_file *file))
{
    const struct manifest *manifest = manifest_of(p);
    int r = 0;

    for (size_t i = 0; i < manifest->n_files && r >= 0; i++)
        if (!manifest_file_is_repeated(manifest, i))
            r = each(p->folder_fd, &manifest->files[i]);
    return r;
}

static int write_manifest(const struct pulling *p)
{
    const struct source_manifest *m = &p->source_manifest;
    int r = file_write(p->folder_fd, FILE_MANIFEST, m->text, m->len, FILE_MODE, FILE_DURABLE);

    if (r >= 0 && m->signature)
        r = file_write(p->folder_fd, FILE_SIGNATURE, m->signature, strlen(m->signature), FILE_MODE, FILE_DURABLE);
    return r;
}

/* By one rename, in the place of a damaged one if there is one. */
static int give_name(const struct pulling *p, struct err *err)
{
    const struct image_pull *pull = p->pull;
    auto_free char *partial = NULL;
    uint64_t freed;
    int r = partial_folder_name(pull->version, &partial);

    if (r < 0)
        return r;
    if (faccessat(p->name_fd, pull->version, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        r = image_remove(pull->store, pull->state_vms_fd, pull->name, pull->version, &freed, err);
        if (r < 0)
            return r;
    }
    /* What has its name mustn't look as if somebody used it. */
    (void)flock(p->folder_fd, LOCK_UN);
    if (renameat2(p->name_fd, partial, p->name_fd, pull->version, RENAME_NOREPLACE) < 0)
        return -errno;
    return fsync(p->name_fd) < 0 ? -errno : 0;
}

static int publish(const struct pulling *p, struct err *err)
{
    auto_image_record struct image_record record = { 0 };
    int r;

    atomic_store(&p->task->phase, "publishing");
    r = name_files(p, sink_publish);
    FAILPOINT("images.files-named");
    if (r >= 0)
        r = write_manifest(p);
    if (r >= 0)
        r = fill_record(p, &record);
    if (r >= 0)
        r = image_record_write(p->folder_fd, &record);
    FAILPOINT("images.before-publish");
    if (r >= 0)
        r = give_name(p, err);
    if (r < 0 && err_is_set(err))
        return r;
    if (r < 0)
        return err_set_errno(err, -r, r == -ENOSPC ? "no-space" : "write", "can't publish image %s/%s", p->pull->name, p->pull->version);
    (void)partial_forget(p->folder_fd);
    return 0;
}

/* ---- beginning ---- */

static int check_space(const struct pulling *p, struct err *err)
{
    const struct manifest *manifest = manifest_of(p);
    uint64_t size = 0, here = 0;

    for (size_t i = 0; i < manifest->n_files; i++) {
        auto_free char *part = sink_part_name(&manifest->files[i]);
        struct stat st;

        if (!part)
            return -ENOMEM;
        if (manifest_file_is_repeated(manifest, i))
            continue;
        size += manifest->files[i].size + (manifest_file_is_packed(&manifest->files[i]) ? manifest->files[i].unpacked_size : 0);
        if (manifest->files[i].size && fstatat(p->folder_fd, part, &st, AT_SYMLINK_NOFOLLOW) == 0)
            here += (uint64_t)st.st_blocks * 512;
    }
    return sink_check_space(p->folder_fd, size > here ? size - here : 0, p->task->config->margin, err);
}

static int begin(struct pulling *p, struct err *err)
{
    const struct image_pull *pull = p->pull;
    auto_image_partial struct image_partial partial = { .schema = PARTIAL_SCHEMA, .begun_us = clock_real_us() };
    int r;

    if (mkdirat(pull->store->fd, pull->name, FOLDER_MODE) < 0 && errno != EEXIST)
        return err_set_errno(err, errno, "write", "%s/%s", pull->store->path, pull->name);
    p->name_fd = dir_open(pull->store->fd, pull->name);
    if (p->name_fd < 0)
        return err_set_errno(err, -p->name_fd, "write", "%s/%s", pull->store->path, pull->name);
    p->folder_fd = partial_open(p->name_fd, pull->version);
    if (p->folder_fd < 0)
        return err_set_errno(err, -p->folder_fd, p->folder_fd == -ENOSPC ? "no-space" : "write", "%s/%s", pull->store->path, pull->name);
    if (str_set(&partial.name, pull->name) < 0 || str_set(&partial.version, pull->version) < 0)
        return -ENOMEM;
    /* An import is asked for again by whoever has the folder. */
    r = pull->source->flat ? 0 : partial_write(p->folder_fd, &partial);
    return r < 0 ? err_set_errno(err, -r, r == -ENOSPC ? "no-space" : "write", "%s/%s", pull->store->path, pull->name) : 0;
}

/* What is here may be whole though its files were touched: it is read before it is called damaged. */
static int compare(struct image_task *task, const struct image_pull *pull, struct err *err)
{
    int r = image_verify(task, pull->store, pull->name, pull->version, err);

    atomic_store(&task->done, 0);
    atomic_store(&task->total, 0);
    return r;
}

/* 1: a good one is here. One that is damaged stays until there is a good one to take its place; when it is in use, that can't be. */
static int look_for_it(struct image_task *task, const struct image_pull *pull, struct err *err)
{
    auto_image_release struct image_release release = { 0 };
    int r = image_release_read(pull->store, pull->name, pull->version, &release);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r == -ENOMEM ? r : err_set_errno(err, -r, "unreadable", "%s/%s/%s", pull->store->path, pull->name, pull->version);
    if (!release.problem)
        return 1;
    r = compare(task, pull, err);
    if (r != -EBADMSG)
        return r < 0 ? r : 1;
    *err = ERR_INIT;
    r = image_may_remove(pull->store, pull->state_vms_fd, pull->name, pull->version, err);
    if (r < 0)
        err_prefix(err, "image %s/%s is here and damaged (%s), but can't be replaced", pull->name, pull->version, release.problem);
    return r;
}

static int run(struct pulling *p, struct err *err)
{
    int r = begin(p, err);

    if (r < 0)
        return r;
    atomic_store(&p->task->phase, "asking the source");
    r = source_read_manifest(p->task, p->pull->source, p->pull->version, &p->source_manifest, err);
    if (r < 0)
        return r;
    p->sha256 = calloc(manifest_of(p)->n_files, sizeof(*p->sha256)); /* NOLINT(bugprone-sizeof-expression): of pointers */
    if (!p->sha256)
        return -ENOMEM;
    r = name_files(p, sink_unpublish); /* the last service may have died while it published */
    if (r < 0)
        return err_set_errno(err, -r, "write", "%s/%s", p->pull->store->path, p->pull->name);
    r = check_space(p, err);
    if (r >= 0)
        r = fetch_all(p, err);
    return r < 0 ? r : publish(p, err);
}

/* What becomes of what is here. */
static void end(struct pulling *p, int r, const struct err *err)
{
    const struct image_pull *pull = p->pull;
    auto_image_partial struct image_partial partial = { 0 };
    /* A release that the source doesn't have is no pull to go on with; one of which something came is. */
    bool useless = r == -ENOSPC || (r == -ENOENT && !p->sha256) || pull->source->flat || (r == -ECANCELED && atomic_load(pull->discard));

    if (p->folder_fd < 0)
        return;
    if (useless) {
        (void)image_partial_remove(pull->store, pull->name, pull->version);
        return;
    }
    if (r == -ECANCELED || partial_read(p->folder_fd, &partial) < 0)
        return;
    if (str_set(&partial.problem, err && err->text[0] ? err->text : strerror(-r)) >= 0)
        (void)partial_write(p->folder_fd, &partial);
}

static void clear(struct pulling *p)
{
    for (size_t i = 0; p->sha256 && i < manifest_of(p)->n_files; i++)
        free(p->sha256[i]);
    free(p->sha256);
    source_manifest_clear(&p->source_manifest);
    fd_close(p->folder_fd);
    fd_close(p->name_fd);
    pthread_mutex_destroy(&p->mutex);
}

int image_pull(struct image_task *task, const struct image_pull *pull, bool *ret_already, struct err *err)
{
    struct pulling p = { .task = task, .pull = pull, .name_fd = -1, .folder_fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER };
    struct err own = ERR_INIT;
    int r = look_for_it(task, pull, &own);

    *ret_already = r == 1;
    if (r == 0) {
        r = run(&p, &own);
        if (r < 0)
            end(&p, r, &own);
        clear(&p);
    }
    if (r < 0 && err)
        *err = own;
    return r < 0 ? r : 0;
}
