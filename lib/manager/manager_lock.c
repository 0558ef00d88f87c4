#include "lib/manager/manager_lock.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/file.h"
#include "lib/manager/state.h"

enum {
    LOCK_GRACE_MS = 300, /* for a killed predecessor to be gone */
    LOCK_RETRY_MS = 5,
    PID_TEXT_MAX = 32,
};

static pid_t read_holder(int run_fd)
{
    auto_free char *text = NULL;
    uint64_t pid;
    size_t len;

    if (file_read(run_fd, FILE_MANAGER_LOCK, PID_TEXT_MAX, &text, &len) < 0)
        return 0;
    text[strcspn(text, "\n")] = '\0';
    return parse_u64(text, 1, INT32_MAX, &pid) < 0 ? 0 : (pid_t)pid;
}

/* Waits a little for the lock to be let go of: its holder may be on its way out, or dead already with a child of its own between fork and exec,
 * where all that is open is still shared. A manager that goes on living is told from these by its pid. */
static void wait_for_holder(pid_t pid)
{
    struct pidref auto_pidref ref = PIDREF_NONE;

    if (pid > 0 && pidref_open(pid, &ref) >= 0) {
        struct pollfd pollfd = { .fd = ref.fd, .events = POLLIN };

        (void)poll(&pollfd, 1, LOCK_GRACE_MS);
    } else {
        (void)poll(NULL, 0, LOCK_RETRY_MS);
    }
}

static int try_lock(const struct manager *m)
{
    uint64_t until = clock_mono_us() + (uint64_t)LOCK_GRACE_MS * 1000;
    int fd;

    while ((fd = lock_take(m->run_fd, FILE_MANAGER_LOCK)) == -EWOULDBLOCK && clock_mono_us() < until)
        wait_for_holder(read_holder(m->run_fd));
    return fd;
}

int manager_lock_take(struct manager *m, struct err *err)
{
    char text[PID_TEXT_MAX];
    int fd = try_lock(m), n;

    if (fd == -EWOULDBLOCK)
        return err_set(err, EWOULDBLOCK, "locked",
                       "another manager, process %d, holds %s/%s: stop that one first, or use another --run-dir",
                       (int)read_holder(m->run_fd), m->dirs.run, FILE_MANAGER_LOCK);
    if (fd < 0)
        return err_set_errno(err, -fd, "no-lock", "can't lock %s/%s", m->dirs.run, FILE_MANAGER_LOCK);
    m->lock_fd = fd;
    n = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return err_set_errno(err, errno, "no-lock", "can't write %s/%s", m->dirs.run, FILE_MANAGER_LOCK);
    FAILPOINT("manager.after-lock");
    return 0;
}
