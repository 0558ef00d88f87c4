#include "lib/images/unpack.h"

#include <errno.h>
#include <zstd.h>

enum { HOLE = 4096, OUT_SIZE = 256 * 1024 };

struct unpacker {
    int fd;
    ZSTD_DStream *stream;
    struct hash *hash;
    uint64_t size;
    size_t left; /* what the stream says it still wants; 0: a frame has ended */
    char out[OUT_SIZE];
};

int unpacker_new(int fd, struct unpacker **ret_unpacker)
{
    auto_unpacker struct unpacker *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return -ENOMEM;
    u->fd = fd;
    u->left = 1;
    u->stream = ZSTD_createDStream();
    if (!u->stream)
        return -ENOMEM;
    r = hash_new(&u->hash);
    if (r < 0)
        return r;
    *ret_unpacker = steal_ptr(&u);
    return 0;
}

void unpacker_free(struct unpacker *u)
{
    if (!u)
        return;
    ZSTD_freeDStream(u->stream);
    hash_free(u->hash);
    free(u);
}

static bool is_zero(const char *data, size_t len) { return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0); }

static int write_at(int fd, const char *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* Pages of zeros are left out. Neighbours that aren't go out in one write. */
static int write_sparse(struct unpacker *u, size_t len)
{
    size_t from = 0, at = 0;
    int r = 0;

    while (at < len && r >= 0) {
        /* To the next boundary in the file. */
        size_t step = HOLE - (size_t)((u->size + at) % HOLE);

        step = step < len - at ? step : len - at;
        if (is_zero(u->out + at, step)) {
            r = write_at(u->fd, u->out + from, at - from, u->size + from);
            from = at + step;
        }
        at += step;
    }
    return r < 0 ? r : write_at(u->fd, u->out + from, len - from, u->size + from);
}

int unpacker_write(struct unpacker *u, const void *data, size_t len, struct err *err)
{
    ZSTD_inBuffer in = { .src = data, .size = len };
    ZSTD_outBuffer out;
    int r;

    if (len == 0)
        return 0;
    do {
        out = (ZSTD_outBuffer){ .dst = u->out, .size = sizeof(u->out) };
        u->left = ZSTD_decompressStream(u->stream, &out, &in);
        if (ZSTD_isError(u->left))
            return err_set(err, EBADMSG, "damaged", "it can't be unpacked: %s", ZSTD_getErrorName(u->left));
        r = hash_add(u->hash, u->out, out.pos);
        if (r >= 0)
            r = write_sparse(u, out.pos);
        if (r < 0)
            return err_set_errno(err, -r, r == -ENOSPC ? "no-space" : "write", "can't write what it is unpacked to");
        u->size += out.pos;
    } while (in.pos < in.size || (out.pos == out.size && u->left != 0)); /* asked after its end, it would say it wants another frame */
    return 0;
}

int unpacker_finish(struct unpacker *u, uint64_t *ret_size, char ret_sha256[HASH_TEXT_MAX], struct err *err)
{
    int r;

    if (u->left != 0)
        return err_set(err, EBADMSG, "damaged", "it can't be unpacked: the stream ends in its middle");
    /* The last page may be a hole. */
    if (ftruncate(u->fd, (off_t)u->size) < 0)
        return err_set_errno(err, errno, "write", "can't write what it is unpacked to");
    r = hash_text(u->hash, ret_sha256);
    if (r < 0)
        return err_set_errno(err, -r, "hash", "SHA-256");
    *ret_size = u->size;
    return 0;
}
