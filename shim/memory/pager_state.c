#include "shim/memory/pager_state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "proto/memory_image.h"

static const char magic[8] = { 'H', 'F', 'P', 'A', 'G', 'E', 'R', 'S' };

static size_t words_of(uint64_t ram_size) { return (size_t)((ram_size / IMAGE_PAGE + 63) / 64); }
static size_t size_of(uint64_t ram_size) { return STATE_HEADER_SIZE + words_of(ram_size) * sizeof(uint64_t); }

int state_new(uint64_t ram_size)
{
    struct state_header header = { .version = STATE_VERSION, .header_size = STATE_HEADER_SIZE, .ram_size = ram_size };
    auto_fd int fd = -1;

    if (!image_ram_size_is_valid(ram_size))
        return -EINVAL;
    memcpy(header.magic, magic, sizeof(magic));
    fd = memfd_create("pager-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)size_of(ram_size)) < 0)
        return -errno;
    if (pwrite(fd, &header, sizeof(header), 0) != sizeof(header))
        return -EIO;
    /* QEMU has it open, too: it must not be able to take it from under us. */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    return steal_fd(&fd);
}

int state_open(int fd, uint64_t ram_size, struct pager_state *ret_state, struct err *err)
{
    struct pager_state s = { .size = size_of(ram_size), .n_words = words_of(ram_size) };
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (fstat(fd, &st) < 0 || seals < 0)
        return err_set_errno(err, errno, "bad-pager-state", "the pager's state isn't a memfd");
    if ((uint64_t)st.st_size != s.size || !(seals & F_SEAL_SHRINK))
        return err_set(err, EINVAL, "bad-pager-state", "the pager's state is of another size of RAM");
    s.header = mmap(NULL, s.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s.header == MAP_FAILED)
        return err_set_errno(err, errno, "no-memory", "can't map the pager's state");
    if (memcmp(s.header->magic, magic, sizeof(magic)) != 0 || s.header->version != STATE_VERSION || s.header->ram_size != ram_size ||
        s.header->header_size != STATE_HEADER_SIZE) {
        munmap(s.header, s.size);
        return err_set(err, EINVAL, "bad-pager-state", "the pager's state is another program's, or another version's");
    }
    /* read(2) takes an event off the kernel's list before it copies it to the batch: that copy must not have to fault, where a SIGKILL
     * would make it fail. (Refused by a limit it is only unlikely to fail: the page is in use all the time.) */
    (void)mlock(s.header, STATE_HEADER_SIZE);
    s.settled = (_Atomic uint64_t *)(void *)((char *)s.header + STATE_HEADER_SIZE);
    *ret_state = s;
    return 0;
}

void state_close_bitmap(struct pager_state *s)
{
    munmap((char *)s->header + STATE_HEADER_SIZE, s->size - STATE_HEADER_SIZE);
    s->settled = NULL;
    s->size = STATE_HEADER_SIZE;
}

void state_close(struct pager_state *s)
{
    if (s->header)
        munmap(s->header, s->size);
    *s = (struct pager_state){ 0 };
}

uint64_t state_settle(struct pager_state *s, uint64_t page, uint64_t count, const uint64_t *among)
{
    uint64_t fresh = 0;

    while (count > 0) {
        uint64_t bit = page % 64, n = count < 64 - bit ? count : 64 - bit;
        uint64_t mask = (n == 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << bit;
        uint64_t before = atomic_fetch_or_explicit(&s->settled[page / 64], mask, memory_order_acq_rel);

        fresh += (uint64_t)__builtin_popcountll(mask & ~before & among[page / 64]);
        page += n;
        count -= n;
    }
    return fresh;
}
