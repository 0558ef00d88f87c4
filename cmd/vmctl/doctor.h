/* vmctl doctor: what of this host would hurt its VMs, and what to do about it. Looks only: it reads files, asks service manager and QEMU for
 * their settings, and changes nothing (but for --prove, see doctor_prove.h).
 *
 * Every file and program is taken from below a root, "" but in tests, so that each check can be tried on a made-up host. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/base/json.h"
#include "lib/base/strv.h"
#include "proto/status.h"

enum verdict {
    VERDICT_OK,
    VERDICT_NOTE,    /* good to know, nothing to do */
    VERDICT_WARNING, /* something doesn't work, or would not after a change that is likely */
    VERDICT_PROBLEM, /* VMs are in danger, or can't run */
    VERDICT_COUNT,
};

/* A VM with a run folder, by its status record and what the kernel says of the processes in it. */
struct doctor_vm {
    char *name;
    struct status status; /* zeroed when it doesn't parse */
    bool readable;
    bool shim_lives, qemu_lives;
    char *shim_cgroup, *qemu_cgroup; /* as in /proc/PID/cgroup; NULL: doesn't live, or can't be read */
};

struct doctor {
    const struct invocation *in;
    const char *root;
    const char *check; /* the one that runs */
    struct doctor_vm *vms;
    size_t n_vms;
    pid_t manager_pid;    /* 0: none */
    char *manager_unit;   /* the service it is in, else the one it should be in */
    bool manager_in_unit; /* manager_unit is where it is */
    int64_t user;         /* whose service manager has it, a uid; -1: the host's */
    bool systemd;         /* a service manager of that kind runs this host */
    json_t *units;        /* name → its properties, as far as asked for */
    json_t *findings;
    unsigned counts[VERDICT_COUNT];
    bool restart_kills, restart_unclear; /* what the checks found out on the question that matters most */
};

struct doctor_check {
    const char *name;
    const char *what; /* for the man page and --help */
    void (*run)(struct doctor *d);
};
extern const struct doctor_check doctor_checks[]; /* NULL-ended */

/* One finding. `remedy`: what to do, NULL when there is nothing to; names no VM but by `fmt`. */
void doctor_find(struct doctor *d, enum verdict verdict, const char *remedy, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The host, read before any check. */
void doctor_open(struct doctor *d, const struct invocation *in);
void doctor_close(struct doctor *d);
#define auto_doctor auto_cleanup(doctor_close)
/* Runs the checks that answer whether a restart of the manager keeps the VMs, or all. */
void doctor_run_checks(struct doctor *d, bool restart_only);

/* doctor_host.c: below the root. */
char *doctor_path(const struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* malloc'ed, with the root */
char *doctor_text(const struct doctor *d, const char *path); /* a small file without the line end behind it; NULL: no such, or not for us */
/* The next word of a text, moving *at behind it; malloc'ed, NULL at the end. */
char *doctor_word(const char **at, const char *separators);
bool doctor_exists(const struct doctor *d, const char *path);
/* Runs the first of the ' '-separated programs that is there, with words behind it; what it printed, or NULL with *ret_found telling whether there
 * was one. */
char *doctor_output(const struct doctor *d, const char *programs, const char *const *words, bool *ret_found);
/* An entry of /proc/PID/limits: soft or hard; UINT64_MAX is unlimited. false: not known. */
bool doctor_limit(const struct doctor *d, pid_t pid, const char *name, uint64_t *ret_soft, uint64_t *ret_hard);

/* The user whose service manager holds a cgroup: ".../user@1000.service/...". */
bool doctor_user_of(const char *cgroup, uint64_t *ret_uid);

/* doctor_units.c: what the service manager says of a unit. "" when it says nothing. */
const char *doctor_property(struct doctor *d, const char *unit, const char *property);
bool doctor_unit_is_loaded(struct doctor *d, const char *unit);
/* The words before the verb, so that the right service manager is asked: " --system", or " --user" with whose it is. malloc'ed. */
char *doctor_systemctl_scope(const struct doctor *d);
/* KillMode=process or none. 1 yes, 0 no, -1 not known. */
int doctor_unit_spares_children(struct doctor *d, const char *unit);

/* The checks, each in the file its name begins with. */
void doctor_check_restart(struct doctor *d); /* doctor_restart.c */
void doctor_check_linger(struct doctor *d);
void doctor_check_unit(struct doctor *d); /* doctor_units.c */
void doctor_check_drain(struct doctor *d);
void doctor_check_kvm(struct doctor *d); /* doctor_cpu.c */
void doctor_check_tee(struct doctor *d);
void doctor_check_userfaultfd(struct doctor *d); /* doctor_memory.c */
void doctor_check_hugepages(struct doctor *d);
void doctor_check_limits(struct doctor *d); /* doctor_limits.c */
void doctor_check_space(struct doctor *d);
void doctor_check_qemu(struct doctor *d); /* doctor_programs.c */
void doctor_check_versions(struct doctor *d);
