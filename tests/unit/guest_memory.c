#include "tests/unit/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "shim/memory/pager.h"

#ifndef USERFAULTFD_IOC_NEW /* linux/userfaultfd.h since 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { WORDS = IMAGE_PAGE / sizeof(uint64_t), RUN = 24 };

static void must(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    abort();
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static int make_uffd(uint64_t *ret_features)
{
    const uint64_t features =
        UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    struct uffdio_api api = { .api = UFFD_API, .features = features };
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

    fd_close(device);
    if (fd < 0)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
        fd_close(fd);
        return -1;
    }
    *ret_features = features;
    return fd;
}

void guest_need_userfaultfd(void)
{
    uint64_t features;
    int fd = make_uffd(&features);

    if (fd < 0) {
        printf("SKIP kernel: no userfaultfd for shared memory with write protection for this user\n");
        exit(77);
    }
    fd_close(fd);
}

/* Pages come in runs of up to RUN of one kind. */
static bool is_absent(const struct guest *g, uint64_t page, unsigned absent) { return mix(g->seed + page / RUN) % 100 < absent; }

uint64_t guest_word(const struct guest *g, uint64_t page, unsigned word)
{
    return memory_index_has(g->index, page) ? mix(mix(g->seed + page * 7919) + word) | 1 : 0;
}

void guest_make(struct guest *g, uint64_t pages, unsigned absent)
{
    uint64_t page[WORDS];

    *g = (struct guest){ .seed = 4711, .pages = pages, .size = pages * IMAGE_PAGE, .ram = -1, .uffd = -1 };
    must(memory_index_new(g->size, &g->index) == 0, "index");
    g->source = memfd_create("image", MFD_CLOEXEC);
    must(g->source >= 0 && ftruncate(g->source, (off_t)g->size) == 0, "image");
    for (uint64_t i = 0; i < pages; i++) {
        if (is_absent(g, i, absent))
            continue;
        memory_index_set(g->index, i, 1);
        for (unsigned w = 0; w < WORDS; w++)
            page[w] = guest_word(g, i, w);
        must(pwrite(g->source, page, sizeof(page), (off_t)(i * IMAGE_PAGE)) == IMAGE_PAGE, "image");
    }
    g->state = pager_state_new(g->size);
    must(g->state >= 0, "state");
}

void guest_map(struct guest *g)
{
    g->ram = memfd_create("ram", MFD_CLOEXEC);
    must(g->ram >= 0 && ftruncate(g->ram, (off_t)g->size) == 0, "ram");
    g->map = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, g->ram, 0);
    must(g->map != MAP_FAILED, "mmap");
    g->uffd = make_uffd(&g->features);
    must(g->uffd >= 0, "userfaultfd");
}

void guest_done(struct guest *g)
{
    if (g->map)
        munmap(g->map, g->size);
    memory_index_free(g->index);
    fd_close(g->ram);
    fd_close(g->source);
    fd_close(g->state);
    fd_close(g->uffd);
    *g = (struct guest){ .ram = -1, .source = -1, .state = -1, .uffd = -1 };
}

uint64_t guest_addr(const struct guest *g) { return (uintptr_t)g->map; }

bool guest_page_is_right(const struct guest *g, uint64_t page)
{
    const volatile uint64_t *p = g->map + page * WORDS;

    for (unsigned w = 0; w < WORDS; w++) {
        uint64_t is = p[w], wanted = guest_word(g, page, w);

        if (is != wanted) {
            printf("page %llu word %u: %llx, not %llx\n", (unsigned long long)page, w, (unsigned long long)is, (unsigned long long)wanted);
            return false;
        }
    }
    return true;
}

bool guest_page_is_zero(const struct guest *g, uint64_t page)
{
    const volatile uint64_t *p = g->map + page * WORDS;

    for (unsigned w = 0; w < WORDS; w++)
        if (p[w] != 0)
            return false;
    return true;
}

uint64_t guest_nth(const struct guest *g, uint64_t i)
{
    /* A step that has no factor in common with the number of pages meets each once. */
    static const uint64_t steps[] = { 1000003, 1299709, 15485863 };

    for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++)
        if (g->pages % steps[s] != 0)
            return i * steps[s] % g->pages;
    return i;
}
