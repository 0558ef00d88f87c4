#include "lib/images/fetch.h"

#include <errno.h>
#include <sys/random.h>

enum {
    DELAY_MAX_MS = 30 * 1000,
    PROGRESS_MIN = 64 * 1024, /* an attempt that brought less was none */
};

struct backoff fetch_backoff(const struct image_task *task)
{
    /* A budget of 0 would mean that there is none. */
    return (struct backoff){
        .delay_ms = task->config->retry_delay_ms, .max_delay_ms = DELAY_MAX_MS, .max_attempts = task->config->retries + 1, .attempt = 0
    };
}

bool fetch_again(struct image_task *task, struct backoff *backoff, struct err *err)
{
    uint32_t random = 0;
    uint64_t ms;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = 0; /* it is no more than jitter */
    if (backoff->attempt + 1 >= backoff->max_attempts || !backoff_next(backoff, random, &ms)) {
        if (err && backoff->max_attempts > 1)
            err_set(err, err->code, "source", "%s (tried %llu times)", err->text, (unsigned long long)backoff->max_attempts);
        return false;
    }
    if (image_task_wait(task, ms) >= 0)
        return true;
    (void)image_task_cancelled(err);
    return false;
}

struct fetching {
    struct image_task *task;
    const struct image_source *source;
    const char *version;
    const struct manifest_file *file;
    struct sink *sink;
    struct backoff backoff;
    bool was_wrong;
};

static int attempt(struct fetching *f, char **ret_sha256, struct err *err)
{
    uint64_t before = sink_offset(f->sink);
    int r = sink_is_complete(f->sink) ? 0 : source_fetch(f->task, f->source, f->version, f->file, f->sink, err);

    if (sink_offset(f->sink) >= before + PROGRESS_MIN)
        backoff_reset(&f->backoff);
    return r < 0 ? r : sink_finish(f->sink, ret_sha256, err);
}

/* 1: try again. */
static int after_failure(struct fetching *f, int r, struct err *err)
{
    struct err ignored = ERR_INIT;

    switch (r) {
    case -EBADMSG:
        /* What is wrong mustn't be gone on with, neither now nor later. */
        if (sink_restart(f->sink, &ignored) < 0 || f->was_wrong)
            return r;
        f->was_wrong = true;
        return image_task_is_cancelled(f->task) ? image_task_cancelled(err) : 1;
    case -ERANGE:
        r = sink_restart(f->sink, err);
        if (r < 0)
            return r;
        err_set(err, EAGAIN, "source", "%s: the source has less of it than is here", f->file->filename);
        return fetch_again(f->task, &f->backoff, err) ? 1 : -EAGAIN;
    case -EAGAIN:
    case -ENOENT:
        /* Mirrors get their files one after the other: what the manifest names may be there soon. */
        if (fetch_again(f->task, &f->backoff, err))
            return 1;
        return image_task_is_cancelled(f->task) ? -ECANCELED : r;
    default:
        return r;
    }
}

int fetch_file(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
               int folder_fd, char **ret_sha256, struct err *err)
{
    auto_sink struct sink *sink = NULL;
    struct fetching f = { .task = task, .source = source, .version = version, .file = file, .backoff = fetch_backoff(task) };
    int r = sink_open(task, folder_fd, file, &sink, err);

    if (r >= 0 && file->size)
        r = sink_set_size(sink, file->size, err);
    if (r < 0)
        return r;
    f.sink = sink;
    do {
        r = attempt(&f, ret_sha256, err);
        if (r < 0)
            r = after_failure(&f, r, err);
    } while (r == 1);
    return r;
}
