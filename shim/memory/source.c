#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim/memory/pager_private.h"

static off_t offset_of(uint64_t page) { return (off_t)(page * IMAGE_PAGE); }

char *source_buffer_new(void)
{
    /* cppcheck-suppress invalidFunctionArg ; mmap(2) wants the -1 */
    char *buffer = mmap(NULL, CHUNK * IMAGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (buffer == MAP_FAILED)
        return NULL;
    return buffer;
}

void source_buffer_free(char *buffer)
{
    if (buffer)
        munmap(buffer, CHUNK * IMAGE_PAGE);
}

int source_read(struct pager *p, uint64_t page, uint64_t count, void *buf)
{
    size_t done = 0, len = count * IMAGE_PAGE;
    int tries = 0, error = 0;

    while (done < len && tries < SOURCE_TRIES) {
        ssize_t n = pread(p->config.source_fd, (char *)buf + done, len - done, offset_of(page) + (off_t)done);

        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            error = n == 0 ? ENODATA : errno; /* the file was long enough when we began */
            tries++;
        }
    }
    atomic_fetch_add_explicit(&p->bytes_read, done, memory_order_relaxed);
    return done == len ? 0 : -error;
}

uint64_t source_read_resident(struct pager *p, uint64_t page, uint64_t count, void *buf)
{
    struct iovec iov = { buf, count * IMAGE_PAGE };
    ssize_t n = preadv2(p->config.source_fd, &iov, 1, offset_of(page), p->source_in_ram ? 0 : RWF_NOWAIT);

    if (n < IMAGE_PAGE)
        return 0;
    n -= n % IMAGE_PAGE;
    atomic_fetch_add_explicit(&p->bytes_read, (size_t)n, memory_order_relaxed);
    return (uint64_t)n / IMAGE_PAGE;
}

void source_will_need(struct pager *p, uint64_t page, uint64_t count)
{
    if (!p->source_in_ram)
        (void)posix_fadvise(p->config.source_fd, offset_of(page), (off_t)(count * IMAGE_PAGE), POSIX_FADV_WILLNEED);
}
