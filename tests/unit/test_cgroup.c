/* Which unit a process is in, by the text of /proc/PID/cgroup. */
#include "lib/manager/cgroup.h"

#include <check.h>
#include <unistd.h>

#include "lib/base/util.h"

static const struct {
    const char *text, *unit;
    bool in;
} cases[] = {
    { "0::/holdfast.slice/holdfast-vm-web.scope\n", "holdfast-vm-web.scope", true },
    { "0::/holdfast.slice/holdfast-vm-web.scope/holdfast-vm-web.0a1b2c3d\n", "holdfast-vm-web.scope", true },
    { "0::/system.slice/holdfastd.service\n", "holdfast-vm-web.scope", false },
    { "0::/system.slice/holdfastd.service/holdfast-vm-web.0a1b2c3d\n", "holdfast-vm-web.scope", false },
    /* names that begin or end as ours */
    { "0::/holdfast.slice/holdfast-vm-web.scope2\n", "holdfast-vm-web.scope", false },
    { "0::/holdfast.slice/xholdfast-vm-web.scope\n", "holdfast-vm-web.scope", false },
    { "0::/holdfast.slice/holdfast-vm-web\n", "holdfast-vm-web.scope", false },
    /* v1: only systemd's own hierarchy counts, since a controller's may have been arranged by anybody */
    { "5:memory:/holdfast.slice/holdfast-vm-web.scope\n1:name=systemd:/system.slice/holdfastd.service\n", "holdfast-vm-web.scope", false },
    { "5:memory:/\n1:name=systemd:/holdfast.slice/holdfast-vm-web.scope\n0::/\n", "holdfast-vm-web.scope", true },
    { "1:name=systemd:/\n0::/holdfast.slice/holdfast-vm-web.scope", "holdfast-vm-web.scope", true },
    { "10:name=systemd:/user.slice/user-1000.slice/user@1000.service/holdfast.slice/holdfast-vm-a.scope\n", "holdfast-vm-a.scope", true },
    /* what isn't there, or no such text */
    { "", "holdfast-vm-web.scope", false },
    { "\n\n", "holdfast-vm-web.scope", false },
    { "0::", "holdfast-vm-web.scope", false },
    { "0::/\n", "holdfast-vm-web.scope", false },
    { "nonsense\n0:\n:::\n", "holdfast-vm-web.scope", false },
};

START_TEST(text_is_in_unit)
{
    ck_assert_msg(cgroup_text_is_in_unit(cases[_i].text, cases[_i].unit) == cases[_i].in, "%s in \"%s\"", cases[_i].unit, cases[_i].text);
}
END_TEST

START_TEST(processes)
{
    pid_t pids[4];

    ck_assert(!cgroup_pid_is_in_unit(getpid(), "holdfast-vm-there-is-no-such.scope"));
    ck_assert(!cgroup_pid_is_in_unit(-1, "holdfast-vm-web.scope"));
    /* Only a VM's cgroup is looked into, whatever a record says. */
    ck_assert_uint_eq(cgroup_vm_pids(NULL, pids, ARRAY_LEN(pids)), 0);
    ck_assert_uint_eq(cgroup_vm_pids("/sys/fs/cgroup", pids, ARRAY_LEN(pids)), 0);
    ck_assert_uint_eq(cgroup_vm_pids("/sys/fs/cgroup/holdfast-vm-x/../../cgroup", pids, ARRAY_LEN(pids)), 0);
    ck_assert_uint_eq(cgroup_vm_pids("/tmp/holdfast-vm-x", pids, ARRAY_LEN(pids)), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cgroup");
    TCase *tcase = tcase_create("cgroup");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tcase, text_is_in_unit, 0, ARRAY_LEN(cases));
    tcase_add_test(tcase, processes);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
