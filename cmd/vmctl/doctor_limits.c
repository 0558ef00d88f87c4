/* What runs out one day: open files, locked memory, processes, room on disks. */
#include <errno.h>
#include <sys/statvfs.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "lib/base/parse.h"

enum {
    FILES_WANTED = 8192, /* the manager has a few a VM: connection, pidfd, watches */
    TASKS_OF_A_VM = 16,  /* shim with its pager, QEMU with its threads, for a small one */
    VMS_WANTED = 64,     /* room for that many more is enough not to be talked about */
};

static void check_files(struct doctor *d)
{
    uint64_t soft, hard;

    if (!doctor_limit(d, d->manager_pid, "Max open files", &soft, &hard))
        return;
    if (hard < FILES_WANTED)
        doctor_find(d, VERDICT_WARNING, "write LimitNOFILE=524288 in its unit, then systemctl daemon-reload and restart it",
                    "the manager may open %" PRIu64 " files: not enough for many hundred VMs", hard);
    else
        doctor_find(d, VERDICT_OK, NULL, "the manager may open enough files (%" PRIu64 ")", hard);
}

/* VFIO pins a guest's memory, and accounts it to QEMU's limit, which is the manager's, handed down. */
static void check_locked(struct doctor *d)
{
    uint64_t soft, hard;

    if (!doctor_limit(d, d->manager_pid, "Max locked memory", &soft, &hard) || soft == UINT64_MAX)
        return;
    char bytes[BYTES_MAX];
    doctor_find(d, VERDICT_NOTE, "for VMs with passed-through devices write LimitMEMLOCK=infinity in the manager's unit",
                "%s may be locked: enough for every VM but those with passed-through devices", text_bytes(soft, bytes));
}

/* A number in a small file; UINT64_MAX for "max", and where there is none. */
static uint64_t number_in(const struct doctor *d, const char *path)
{
    auto_free char *text = doctor_text(d, path);
    uint64_t n;

    return text && parse_u64(text, 0, UINT64_MAX, &n) >= 0 ? n : UINT64_MAX;
}

/* How many tasks there are: the number behind the slash in /proc/loadavg, proc_loadavg(5). */
static uint64_t tasks_now(const struct doctor *d)
{
    auto_free char *text = doctor_text(d, "/proc/loadavg"), *number = NULL;
    const char *slash = text ? strchr(text, '/') : NULL;
    uint64_t n;

    if (!slash)
        return 0;
    number = must(strndup(slash + 1, strcspn(slash + 1, " ")));
    return parse_u64(number, 0, UINT64_MAX, &n) < 0 ? 0 : n;
}

static void check_tasks(struct doctor *d)
{
    uint64_t pid_max = number_in(d, "/proc/sys/kernel/pid_max"), threads_max = number_in(d, "/proc/sys/kernel/threads-max");
    uint64_t max = pid_max < threads_max ? pid_max : threads_max, now = tasks_now(d);

    if (max == UINT64_MAX)
        return;
    uint64_t room = max > now ? (max - now) / TASKS_OF_A_VM : 0;
    if (room < VMS_WANTED)
        doctor_find(d, VERDICT_WARNING, "sysctl kernel.pid_max=4194304 kernel.threads-max=1000000",
                    "%" PRIu64 " of at most %" PRIu64 " tasks run: room for about %" PRIu64 " more VMs", now, max, room);
    else
        doctor_find(d, VERDICT_OK, NULL, "the kernel allows enough tasks (%" PRIu64 ")", max);
}

/* TasksMax= counts what is in the unit: the shims that stayed in it, too. */
static void check_unit_tasks(struct doctor *d)
{
    const char *text = d->systemd ? doctor_property(d, d->manager_unit, "TasksMax") : "";
    uint64_t max;

    if (!*text || parse_u64(text, 0, UINT64_MAX, &max) < 0 || max / TASKS_OF_A_VM >= VMS_WANTED)
        return;
    doctor_find(d, VERDICT_WARNING, "write TasksMax=infinity in the unit, then systemctl daemon-reload",
                "%s has TasksMax=%" PRIu64 ", which VMs without a scope of their own share", d->manager_unit, max);
}

void doctor_check_limits(struct doctor *d)
{
    if (d->manager_pid) {
        check_files(d);
        check_locked(d);
    } else {
        doctor_find(d, VERDICT_NOTE, NULL, "no manager runs, so its limits aren't known");
    }
    check_unit_tasks(d);
    check_tasks(d);
}

static const struct folder {
    const char *what;
    const char *remedy;
    size_t offset;      /* in struct dirs */
    uint64_t low, none; /* bytes left: little, and as good as nothing */
} folders[] = {
    { "sockets and records of what runs", "find what fills it: du -x", offsetof(struct dirs, run), UINT64_C(32) << 20, UINT64_C(2) << 20 },
    { "disks and snapshots", "vmctl snapshot list shows what takes room; vmctl snapshot delete", offsetof(struct dirs, state),
      UINT64_C(4) << 30, UINT64_C(256) << 20 },
    { "logs", "find what fills it: du -x", offsetof(struct dirs, log), UINT64_C(256) << 20, UINT64_C(16) << 20 },
};

/* The folder, or the nearest one above it that is there: where it would be made. */
static int stat_nearest(const char *path, struct statvfs *ret)
{
    auto_free char *at = must(strdup(path));

    while (statvfs(at, ret) < 0) {
        char *slash = strrchr(at, '/');

        if (errno != ENOENT || !slash)
            return -errno;
        if (slash == at)
            return statvfs("/", ret) < 0 ? -errno : 0;
        *slash = '\0';
    }
    return 0;
}

static void check_folder(struct doctor *d, const struct folder *f)
{
    const char *shown = *(char *const *)((const char *)&d->in->dirs + f->offset);
    auto_free char *path = doctor_path(d, "%s", shown);
    struct statvfs fs;
    char bytes[BYTES_MAX];

    int r = stat_nearest(path, &fs);
    if (r < 0) {
        doctor_find(d, VERDICT_WARNING, NULL, "%s: %s", shown, strerror(-r));
        return;
    }
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    enum verdict verdict = left < f->none ? VERDICT_PROBLEM : left < f->low ? VERDICT_WARNING : VERDICT_OK;
    doctor_find(d, verdict, verdict == VERDICT_OK ? NULL : f->remedy, "%s (%s): %s free", shown, f->what, text_bytes(left, bytes));
    /* f_files 0: inodes are made as they are needed */
    if (fs.f_files && fs.f_favail < 1000)
        doctor_find(d, fs.f_favail < 10 ? VERDICT_PROBLEM : VERDICT_WARNING, f->remedy, "%s (%s): %ju files can still be made there", shown,
                    f->what, (uintmax_t)fs.f_favail);
}

void doctor_check_space(struct doctor *d)
{
    for (size_t i = 0; i < ARRAY_LEN(folders); i++)
        check_folder(d, &folders[i]);
}
