/* Guest memory: what serves its pages, and what they are made of. */
#include <fcntl.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "lib/base/fd.h"
#include "lib/base/parse.h"

/* userfaultfd(2): the device where it may be opened, else the sysctl. The shim opens the device and passes it to QEMU, which may do nothing. */
void doctor_check_userfaultfd(struct doctor *d)
{
    auto_free char *path = doctor_path(d, "/dev/userfaultfd");
    auto_free char *sysctl = doctor_text(d, "/proc/sys/vm/unprivileged_userfaultfd");
    auto_fd int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0)
        doctor_find(d, VERDICT_OK, NULL, "/dev/userfaultfd opens: running VMs can be saved, and restored lazily");
    else if (sysctl && streq(sysctl, "1"))
        doctor_find(d, VERDICT_OK, NULL, "vm.unprivileged_userfaultfd is 1: running VMs can be saved, and restored lazily");
    else
        doctor_find(d, VERDICT_WARNING,
                    doctor_exists(d, "/dev/userfaultfd")
                        ? "give the manager's user the right to open /dev/userfaultfd (udev rule, or setfacl)"
                    : sysctl ? "sysctl vm.unprivileged_userfaultfd=1, or Linux 6.1 or later, which has /dev/userfaultfd"
                             : "use a kernel with CONFIG_USERFAULTFD=y",
                    "no userfaultfd for us: snapshots need --stop, and restores map their memory from the snapshot's file");
}

/* A "Name:   N" line of /proc/meminfo. */
static uint64_t meminfo(const char *text, const char *name)
{
    const char *at = text ? strstr(text, name) : NULL;
    auto_free char *number = NULL;
    uint64_t n = 0;

    if (!at)
        return 0;
    at += strlen(name);
    at += strspn(at, ": ");
    number = must(strndup(at, strcspn(at, " \n")));
    return parse_u64(number, 0, UINT64_MAX, &n) < 0 ? 0 : n;
}

/* The word in [brackets]. */
static char *chosen(const char *text)
{
    const char *open = text ? strchr(text, '[') : NULL;

    return open ? must(strndup(open + 1, strcspn(open + 1, "]"))) : NULL;
}

void doctor_check_hugepages(struct doctor *d)
{
    auto_free char *text = doctor_text(d, "/proc/meminfo");
    auto_free char *shmem = doctor_text(d, "/sys/kernel/mm/transparent_hugepage/shmem_enabled"), *mode = chosen(shmem);
    uint64_t total = meminfo(text, "HugePages_Total"), free_pages = meminfo(text, "HugePages_Free");
    uint64_t size = meminfo(text, "Hugepagesize") * 1024;
    char held[BYTES_MAX], idle[BYTES_MAX];

    if (total && free_pages)
        doctor_find(d, VERDICT_WARNING, "sysctl vm.nr_hugepages=0, unless another program needs them",
                    "%s are reserved as huge pages, %s of it idle: guests' memory can't come from there", text_bytes(total * size, held),
                    text_bytes(free_pages * size, idle));
    else
        doctor_find(d, VERDICT_OK, NULL, "no memory is set aside as huge pages that guests couldn't use");
    if (mode)
        doctor_find(d, VERDICT_NOTE, NULL, "transparent huge pages for guests' memory: %s", mode);
}
