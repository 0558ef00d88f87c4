#include "lib/manager/qemu_user.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/base/strv.h"

enum {
    /* systemd's range for users that exist only while something runs: no distribution gives these numbers to people or packages. */
    NOBODYS_UID_MIN = 64321,
    NOBODYS_UID_MAX = 65519,
    ENTRY_MAX = 64 * 1024, /* of a passwd entry, as text */
};

/* 1: filled, 0: no such user, or -errno. By name, or by number when `name` is NULL. */
static int look_up(const char *name, uid_t uid, char *buf, struct passwd *ret_pw)
{
    struct passwd *found = NULL;
    int r = name ? getpwnam_r(name, ret_pw, buf, ENTRY_MAX, &found) : getpwuid_r(uid, ret_pw, buf, ENTRY_MAX, &found);

    if (found)
        return 1;
    /* What libraries say of a name that isn't there: getpwnam(3). */
    return r == 0 || r == ENOENT || r == ESRCH || r == EBADF || r == EPERM ? 0 : -r;
}

static int fill(struct qemu_user *u, const char *name, uid_t uid, gid_t gid)
{
    gid_t groups[PLAN_GROUPS_MAX];
    auto_strv struct strv numbers = { 0 };
    int n = ARRAY_LEN(groups) - 1; /* one is for /dev/kvm */
    bool by_name = name != NULL;

    if (by_name && getgrouplist(name, gid, groups, &n) < 0)
        return -E2BIG;
    for (int i = 0; by_name && i < n; i++)
        if (groups[i] != gid && groups[i] != 0)
            strv_pushf(&numbers, "%u", (unsigned)groups[i]);
    if (numbers.failed || (name ? str_set(&u->name, name) : str_format(&u->name, "%u", (unsigned)uid)) < 0)
        return -ENOMEM;
    u->uid = uid;
    u->gid = gid;
    u->groups = numbers.items;
    numbers = (struct strv){ 0 };
    return 0;
}

static int find_nobodys(char *buf, struct qemu_user *u)
{
    struct passwd pw;

    for (uid_t uid = NOBODYS_UID_MIN; uid <= NOBODYS_UID_MAX; uid++) {
        int r = look_up(NULL, uid, buf, &pw);

        if (r < 0)
            return r;
        if (r == 0)
            return fill(u, NULL, uid, uid);
    }
    return -ENOENT;
}

static int find(const char *wanted, char *buf, struct qemu_user *u, struct err *err)
{
    struct passwd pw = { 0 };
    uint64_t number = 0;
    bool by_number = wanted && parse_u64(wanted, 0, UINT32_MAX - 1, &number) >= 0;
    int r = look_up(by_number ? NULL : wanted ? wanted : QEMU_USER_DEFAULT, (uid_t)number, buf, &pw);

    if (r < 0)
        return r;
    if (r == 0 && !wanted)
        return geteuid() == 0 ? find_nobodys(buf, u) : 0;
    if (r == 0 && !by_number)
        return err_set(err, ENOENT, "no-user",
                       "there is no user \"%s\" for QEMU on this host: make it (useradd --system %s) or change qemu.user", wanted, wanted);
    uid_t uid = r > 0 ? pw.pw_uid : (uid_t)number;
    if (uid == geteuid() || (!wanted && geteuid() != 0))
        return 0;
    if (geteuid() != 0)
        return err_set(err, EPERM, "no-user", "only root can run QEMU as user \"%s\"; leave qemu.user out", wanted);
    if (r > 0 && pw.pw_gid == 0)
        return err_set(err, EINVAL, "no-user", "user \"%s\" has root's group, which QEMU is not to have: give it a group of its own",
                       wanted);
    return r > 0 ? fill(u, pw.pw_name, uid, pw.pw_gid) : fill(u, NULL, uid, (gid_t)number);
}

int qemu_user_find(const char *wanted, struct qemu_user *ret_user, struct err *err)
{
    auto_qemu_user struct qemu_user u = { 0 };
    auto_free char *buf = malloc(ENTRY_MAX);
    int r;

    if (!buf)
        return -ENOMEM;
    *err = ERR_INIT;
    r = find(wanted, buf, &u, err);
    if (r < 0)
        return err->code ? r : err_set_errno(err, -r, "no-user", "can't look up QEMU's user \"%s\"", wanted ? wanted : QEMU_USER_DEFAULT);
    *ret_user = u;
    u = (struct qemu_user){ 0 };
    return 0;
}

void qemu_user_clear(struct qemu_user *u)
{
    struct strv groups = { .items = u->groups };

    free(u->name);
    while (groups.items && groups.items[groups.n])
        groups.n++;
    strv_clear(&groups);
    *u = (struct qemu_user){ 0 };
}

void qemu_user_warn(const char *wanted)
{
    auto_qemu_user struct qemu_user u = { 0 };
    struct err err = ERR_INIT;

    if (qemu_user_find(wanted, &u, &err) < 0)
        log_warning("VMs that don't name a user for QEMU can't be started: %s", err.text);
    else if (!wanted && u.name && !streq(u.name, QEMU_USER_DEFAULT))
        log_warning("there is no user %s, so QEMU runs as uid %" PRIu64
                    ", which is nobody's; better make one: useradd --system --user-group "
                    "--home-dir /nonexistent --shell /usr/sbin/nologin %s",
                    QEMU_USER_DEFAULT, u.uid, QEMU_USER_DEFAULT);
}

char *kvm_group_find(void)
{
    struct stat st;
    char *text = NULL;

    if (stat("/dev/kvm", &st) < 0 || (st.st_mode & 060) != 060 || (st.st_mode & 06) == 06 || st.st_gid == 0)
        return NULL;
    return str_format(&text, "%u", (unsigned)st.st_gid) < 0 ? NULL : text;
}
