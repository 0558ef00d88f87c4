/* Loading before the guest runs: with plain writes, for nobody else touches the memfd yet. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "shim/memory/pager_private.h"
#include "shim/memory/walk.h"

static int write_all(int fd, const char *data, size_t len, off_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        len -= (size_t)n;
        offset += n;
    }
    return 0;
}

static int write_chunk(struct pager *p, const struct chunk *c, char *buffer)
{
    off_t offset = (off_t)(c->page * IMAGE_PAGE);
    size_t len = c->count * IMAGE_PAGE;
    int r;

    if (!c->present)
        return fallocate(p->config.ram_fd, 0, offset, (off_t)len) < 0 ? -errno : 0;
    r = source_read(p, c->page, c->count, buffer);
    if (r < 0)
        return r;
    atomic_fetch_add_explicit(&p->bytes_installed, len, memory_order_relaxed);
    return write_all(p->config.ram_fd, buffer, len, offset);
}

/* One chunk, unless the guest may run by now. What fails here will fail where it is needed, or succeed there. */
static int write_next(struct walk *w)
{
    struct pager *p = w->p;
    struct chunk c;
    int r;

    pthread_mutex_lock(&p->plain_lock);
    if (atomic_load(&p->attaching) || !walk_next(w, &c)) {
        pthread_mutex_unlock(&p->plain_lock);
        return 0;
    }
    r = write_chunk(p, &c, w->buffer);
    if (r == 0) {
        pager_settle_pages(p, c.page, c.count);
        if (w->runs)
            atomic_fetch_add_explicit(&p->n_known_in, c.count, memory_order_relaxed);
        p->known_plain = w->runs ? c.page + c.count : 0;
    }
    pthread_mutex_unlock(&p->plain_lock);
    if (r < 0 && p->config.everything)
        pager_fail(p, -r, "can't load the snapshot's memory", c.page);
    return 1;
}

void walk_write_plainly(struct walk *w)
{
    while (!pager_is_ending(w->p) && write_next(w) > 0)
        ;
}
