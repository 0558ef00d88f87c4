#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/disk/content.h"
#include "lib/spec/limits.h"

enum { CHUNK = 64 * 1024 };

struct digesting {
    XXH3_state_t *hash;
    int copy_fd;
    uint64_t size; /* of the files so far */
    struct err *err;
};

static void feed(struct digesting *d, const void *data, size_t len)
{
    if (len > 0) /* of what it was given a whole state can't fail: xxhash.h */
        (void)XXH3_128bits_update(d->hash, data, len);
}

static void feed_number(struct digesting *d, uint64_t number)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%llu ", (unsigned long long)number);

    feed(d, text, n > 0 ? (size_t)n : 0);
}

/* With its length, so that no text runs into the next. */
static void feed_text(struct digesting *d, const char *text)
{
    feed_number(d, strlen(text));
    feed(d, text, strlen(text));
}

static int copy_failed(const struct digesting *d, const char *path)
{
    return err_set_errno(d->err, errno, "no-copy", "can't make a copy of %s for the disk", path);
}

static int take(struct digesting *d, const struct content_item *item, const void *data, size_t len, int to)
{
    char max[SIZE_TEXT_MAX];

    d->size += len;
    if (d->size > CONTENT_SIZE_MAX)
        return err_set(d->err, EINVAL, "bad-content", "the files for one disk are more than %s", format_size(CONTENT_SIZE_MAX, max));
    feed(d, data, len);
    if (to >= 0 && fd_write_all(to, data, len) < 0)
        return copy_failed(d, item->path);
    return 0;
}

static int read_source(struct digesting *d, const struct content_item *item, int to)
{
    auto_fd int from = open(item->source, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    auto_free char *chunk = malloc(CHUNK);
    uint64_t before = d->size;
    struct stat st;
    ssize_t n = 1;
    int r = 0;

    if (!chunk)
        return -ENOMEM;
    if (from < 0 || fstat(from, &st) < 0)
        return err_set_errno(d->err, errno, "bad-content", "can't read %s", item->source);
    if (!S_ISREG(st.st_mode))
        return err_set(d->err, EINVAL, "bad-content", "%s is not a file", item->source);
    while (r >= 0 && n != 0) {
        n = read(from, chunk, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        r = n < 0 ? err_set_errno(d->err, errno, "bad-content", "can't read %s", item->source) : take(d, item, chunk, (size_t)n, to);
    }
    feed_number(d, d->size - before);
    return r;
}

static int digest_item(struct digesting *d, const struct content_item *item)
{
    auto_fd int to = -1;

    feed_text(d, item->path);
    feed_number(d, item->mode);
    feed_number(d, item->folder);
    if (item->folder)
        return d->copy_fd >= 0 && mkdirat(d->copy_fd, item->path, 0700) < 0 ? copy_failed(d, item->path) : 0;
    if (d->copy_fd >= 0) {
        to = openat(d->copy_fd, item->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (to < 0)
            return copy_failed(d, item->path);
    }
    if (!item->text)
        return read_source(d, item, to);
    feed_number(d, strlen(item->text));
    return take(d, item, item->text, strlen(item->text), to);
}

int content_digest(const struct content *c, const char *what, int copy_fd, char ret_digest[MADE_DIGEST_LEN + 1], uint64_t *ret_size,
                   struct err *err)
{
    struct digesting d = { .hash = XXH3_createState(), .copy_fd = copy_fd, .err = err };
    int r = 0;

    if (!d.hash)
        return -ENOMEM;
    (void)XXH3_128bits_reset(d.hash);
    feed_text(&d, what);
    for (size_t i = 0; i < c->n && r >= 0; i++)
        r = digest_item(&d, &c->items[i]);
    XXH128_hash_t hash = XXH3_128bits_digest(d.hash);
    (void)XXH3_freeState(d.hash);
    if (r < 0)
        return r;
    snprintf(ret_digest, MADE_DIGEST_LEN + 1, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
    if (ret_size)
        *ret_size = d.size;
    return 0;
}
