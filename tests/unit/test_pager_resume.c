/* Pagers killed with SIGKILL at any moment, one after the other, under a guest of its own process that checks every word it reads. */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "shim/memory/pager.h"
#include "tests/unit/fixture.h"
#include "tests/unit/guest_memory.h"

enum { PAGES = 16384, ABSENT = 25, KILL_MAX_US = 6 * 1000, RESTORES = 6, SPAN = 64, GONE = 6 };

static struct guest guest;

struct hello {
    uint64_t addr, features;
};

static void send_hello(int fd)
{
    struct hello hello = { guest_addr(&guest), guest.features };
    int fds[2] = { guest.ram, guest.uffd };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(fds))];
    } control = { 0 };
    struct iovec iov = { &hello, sizeof(hello) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

    control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds)) };
    memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
    if (sendmsg(fd, &m, 0) != sizeof(hello))
        _exit(3);
}

static void receive_hello(int fd, struct hello *ret)
{
    int fds[2];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(fds))];
    } control = { 0 };
    struct iovec iov = { ret, sizeof(*ret) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

    ck_assert_int_eq(recvmsg(fd, &m, MSG_CMSG_CLOEXEC), sizeof(*ret));
    ck_assert_ptr_nonnull(CMSG_FIRSTHDR(&m));
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fds));
    guest.ram = fds[0];
    guest.uffd = fds[1];
}

/* ---- the guest ---- */

/* One page in three is written, and must keep what was written. */
static bool visit(uint64_t page)
{
    volatile uint64_t *word = guest.map + page * 512;

    if (!guest_page_is_right(&guest, page))
        return false;
    if (page % 3 == 0)
        *word = ~page;
    return true;
}

static bool is_as_left(uint64_t page)
{
    volatile uint64_t *word = guest.map + page * 512;

    if (page % SPAN < GONE)
        return guest_page_is_zero(&guest, page);
    if (page % 3 == 0) {
        if (*word != ~page)
            return false;
        *word = guest_word(&guest, page, 0);
    }
    return guest_page_is_right(&guest, page);
}

/* The first pages of each span are given back: some read before, some never. Two vCPUs, each with its half. */
static void *vcpu(void *arg)
{
    uint64_t from = (uint64_t)(uintptr_t)arg, n = PAGES / 2;

    for (uint64_t i = 0; i < n; i += SPAN) {
        uint64_t at = from + i * 37 % n / SPAN * SPAN;

        for (uint64_t k = 0; k < SPAN; k++)
            if (k * 11 % SPAN >= GONE / 2 && !visit(at + k * 11 % SPAN))
                return &guest;
        if (madvise(guest.map + at * 512, GONE * IMAGE_PAGE, MADV_REMOVE) < 0)
            return &guest;
    }
    for (uint64_t i = 0; i < n; i++)
        if (!is_as_left(from + i)) {
            printf("page %llu isn't as it was left\n", (unsigned long long)(from + i));
            return &guest;
        }
    return NULL;
}

_Noreturn static void be_guest(int fd)
{
    pthread_t threads[2];
    void *wrong[2];
    char go;

    guest_map(&guest);
    send_hello(fd);
    if (read(fd, &go, 1) != 1)
        _exit(4);
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, vcpu, (void *)(i * (PAGES / 2))) != 0)
            _exit(5);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], &wrong[i]);
    (void)fflush(stdout);
    _exit(wrong[0] || wrong[1] ? 1 : 0);
}

/* ---- pagers ---- */

_Noreturn static void be_pager(const struct hello *hello, pid_t qemu, int ready)
{
    struct page_run runs[] = { { 300, 500 }, { 3000, 100 } };
    struct working_set set = { .ram_size = guest.size, .runs = runs, .n_runs = ARRAY_LEN(runs) };
    struct pager_config c = { .ram_fd = guest.ram,
                              .source_fd = guest.source,
                              .state_fd = guest.state,
                              .index = guest.index,
                              .known = &set,
                              .prefetch = true,
                              .record = true };
    struct pager *p = NULL;
    int r;

    if (pager_new(&c, &p, NULL) < 0)
        _exit(6);
    r = pager_attach(p, guest.uffd, hello->features, hello->addr, qemu);
    if (r < 0 && r != -ESRCH && r != -ENOMEM) /* the guest may just have ended */
        _exit(9);
    if (write(ready, "r", 1) != 1)
        _exit(7);
    pager_settle(p);
    for (;;)
        if (pager_error(p, NULL) < 0 || poll(NULL, 0, 1) < 0)
            _exit(8);
}

static pid_t start_pager(const struct hello *hello, pid_t qemu, bool await)
{
    int ready[2];
    char byte;
    pid_t pid;

    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0)
        be_pager(hello, qemu, ready[1]);
    ck_assert_int_gt(pid, 0);
    fd_close(ready[1]);
    if (await)
        ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    fd_close(ready[0]);
    return pid;
}

static void end_pager(pid_t pid)
{
    int status;

    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the pager ended by itself: %x", (unsigned)status);
}

static bool has_ended(pid_t pid, unsigned wait_us, int *ret_status)
{
    struct timespec nap = { .tv_nsec = (long)wait_us * 1000 };

    (void)nanosleep(&nap, NULL);
    return waitpid(pid, ret_status, WNOHANG) == pid;
}

static void restore(unsigned *random)
{
    struct hello hello;
    int pair[2], status = 0;
    pid_t qemu, pager;
    unsigned killed = 0;

    guest_make(&guest, PAGES, ABSENT);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    qemu = fork();
    if (qemu == 0)
        be_guest(pair[1]);
    ck_assert_int_gt(qemu, 0);
    receive_hello(pair[0], &hello);
    pager = start_pager(&hello, qemu, true); /* before the go there is no guest that could outlive its pager */
    ck_assert_int_eq(write(pair[0], "g", 1), 1);
    while (!has_ended(qemu, (unsigned)rand_r(random) % KILL_MAX_US, &status)) {
        end_pager(pager);
        killed++;
        pager = start_pager(&hello, qemu, rand_r(random) % 2);
    }
    end_pager(pager);
    printf("%u pagers killed\n", killed);
    (void)fflush(stdout);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the guest saw something wrong: %x", (unsigned)status);
    fd_close(pair[0]);
    fd_close(pair[1]);
    guest_done(&guest);
}

START_TEST(killed_again_and_again)
{
    unsigned random = (unsigned)getpid();

    printf("seed %u\n", random);
    (void)fflush(stdout); /* children have their own end */
    for (int i = 0; i < RESTORES; i++)
        restore(&random);
}
END_TEST

static void add_tests(TCase *tc) { tcase_add_test(tc, killed_again_and_again); }

int main(void)
{
    guest_need_userfaultfd();
    return fixture_main("pager_resume", add_tests);
}
