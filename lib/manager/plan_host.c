#include "lib/manager/plan_host.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "lib/qemu/capabilities.h"

enum { CPUINFO_MAX = 64 * 1024 };

static bool kvm_usable(void)
{
    auto_fd int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    auto_fd int fd = -1;
    auto_free char *cpuinfo = NULL;
    ssize_t n;

    if (device < 0)
        return false;
    /* The first processor's block says it all; of a big host the file is long. */
    fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
    cpuinfo = malloc(CPUINFO_MAX + 1);
    if (fd < 0 || !cpuinfo)
        return false;
    n = read(fd, cpuinfo, CPUINFO_MAX);
    cpuinfo[n > 0 ? n : 0] = '\0';
    return qemu_kvm_usable(cpuinfo, true);
}

/* In the manager's own PATH, then where it usually is. NULL: nowhere; *ret_path is malloc'ed. */
static int find_qemu_img(char **ret_path)
{
    const char *from = getenv("PATH");
    auto_free char *places = NULL;
    int r;

    r = str_format(&places, "%s:/usr/local/bin:/usr/bin:/bin:/opt/qemu/bin", from ? from : "");
    if (r < 0)
        return r;
    for (char *place = places, *end; place; place = end ? end + 1 : NULL) {
        auto_free char *path = NULL;

        end = strchr(place, ':');
        if (end)
            *end = '\0';
        if (place[0] != '/')
            continue; /* what is found may not hang on where we stand */
        r = str_format(&path, "%s/qemu-img", place);
        if (r < 0)
            return r;
        if (access(path, X_OK) == 0) {
            *ret_path = steal_ptr(&path);
            return 0;
        }
    }
    return 0;
}

int plan_host_look(const char *default_user, struct plan_host *ret_host)
{
    auto_plan_host struct plan_host host = { .kvm_usable = kvm_usable(), .kvm_group = kvm_group_find() };
    int r = find_qemu_img(&host.qemu_img);

    if (r < 0)
        return r;
    host.user_r = qemu_user_find(default_user, &host.user, &host.user_err);
    if (host.user_r == -ENOMEM)
        return -ENOMEM;
    *ret_host = host;
    host = (struct plan_host){ 0 };
    return 0;
}

void plan_host_clear(struct plan_host *host)
{
    free(host->kvm_group);
    free(host->qemu_img);
    qemu_user_clear(&host->user);
    *host = (struct plan_host){ 0 };
}
