/* Devices of VMs: taken once, remembered before they are touched, given back whatever happened in between. */
#include "lib/manager/gpus.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/fake_sysfs.h"

#define A "0000:c1:00.0"
#define B "0000:c2:00.0"

static char a[] = A, b[] = B;
static char *only_a[] = { a, NULL }, *only_b[] = { b, NULL }, *both[] = { a, b, NULL }, *none[] = { NULL };
static struct gpus *gpus;
static struct err err;

static struct gpus *open_gpus(void)
{
    auto_free char *aside = NULL;
    struct gpus *g = NULL;

    ck_assert_int_eq(gpus_new(fixture.dir, fixture.path, &g, &aside, &err), 0);
    ck_assert_ptr_null(aside);
    return g;
}

static int take(struct gpus *g, const char *vm, char **devices)
{
    const struct gpu_wish wish = { .devices = devices };

    err = ERR_INIT;
    return gpus_take(g, vm, &wish, &err);
}

static void assert_taken(const char *vm, char **devices)
{
    int r = take(gpus, vm, devices);
    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static void assert_back(const char *vm)
{
    err = ERR_INIT;
    ck_assert_msg(gpus_give_back(gpus, vm, &err) == 0, "%s", err.text);
    ck_assert(!gpus_has(gpus, vm));
}

static void assert_drivers(const char *of_a, const char *of_b)
{
    ck_assert_str_eq(fake_driver_of(A), of_a);
    ck_assert_str_eq(fake_driver_of(B), of_b);
}

static bool is_on_record(const char *text)
{
    auto_free char *data = NULL;
    size_t len;

    return file_read(fixture.dir, "gpus.json", 1 << 16, &data, &len) >= 0 && strstr(data, text);
}

static void set_up(void)
{
    fake_root(fixture.dir);
    fake_device(A, "0x030200\n", "nvidia", 1);
    fake_device(B, "0x030200\n", NULL, 2);
    fake_driver("vfio-pci");
    fake_kernel_start();
    gpus = open_gpus();
}

static void tear_down(void)
{
    gpus_free(gpus);
    fake_kernel_stop();
}

START_TEST(there_and_back)
{
    assert_taken("web", both);
    assert_drivers("vfio-pci", "vfio-pci");
    ck_assert(gpus_has(gpus, "web") && !gpus_has(gpus, "db"));
    ck_assert(is_on_record(A) && is_on_record(B) && is_on_record("nvidia") && is_on_record("web"));
    assert_taken("web", both); /* its QEMU was started again */
    assert_back("web");
    assert_drivers("nvidia", "");
    ck_assert(!is_on_record(A) && !is_on_record(B));
    assert_back("web");
}
END_TEST

START_TEST(a_vm_has_what_it_wishes_and_no_more)
{
    assert_taken("web", both);
    assert_taken("web", only_b);
    assert_drivers("nvidia", "vfio-pci");
    assert_taken("web", none);
    assert_drivers("nvidia", "");
    ck_assert(!gpus_has(gpus, "web"));
}
END_TEST

START_TEST(two_vms_never_have_one_device)
{
    assert_taken("web", only_a);
    ck_assert_int_eq(take(gpus, "db", both), -EBUSY);
    ck_assert_msg(strstr(err.text, "VM web has PCI device " A) != NULL, "%s", err.text);
    assert_drivers("vfio-pci", "");
    ck_assert(!gpus_has(gpus, "db"));
    assert_taken("db", only_b);
    assert_back("web");
    assert_taken("db", both);
    assert_drivers("vfio-pci", "vfio-pci");
    assert_back("db");
    assert_drivers("nvidia", "");
}
END_TEST

/* After a failure of one, the others are put back too. */
START_TEST(all_or_none)
{
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "sys/bus/pci/devices/" B), 0);
    fake_file("sys/bus/pci/drivers/nouveau/unbind/x", "");
    fake_file("sys/bus/pci/drivers/nouveau/bind", "");
    ck_assert_int_eq(unlinkat(fixture.dir, "sys/kernel/iommu_groups/2/devices/" B, 0), 0);
    fake_device(B, "0x030200\n", NULL, 2);
    ck_assert_int_eq(symlinkat("../../../../bus/pci/drivers/nouveau", fixture.dir, "sys/bus/pci/devices/" B "/driver"), 0);
    ck_assert_int_eq(take(gpus, "web", both), -EISDIR);
    ck_assert_msg(strstr(err.text, "driver nouveau doesn't let go of PCI device " B) != NULL, "%s", err.text);
    assert_drivers("nvidia", "nouveau");
    ck_assert_str_eq(fake_override_of(B), "");
    ck_assert(!gpus_has(gpus, "web"));
    ck_assert(!is_on_record("web"));
}
END_TEST

START_TEST(what_is_not_there_is_refused_before_anything_is_touched)
{
    fake_remove_device(B);
    ck_assert_int_eq(take(gpus, "web", both), -ENOENT);
    assert_drivers("nvidia", "");
    ck_assert_str_eq(fake_override_of(A), "(null)");
    ck_assert(!gpus_has(gpus, "web"));
}
END_TEST

START_TEST(nothing_is_touched_that_can_not_be_remembered)
{
    ck_assert_int_eq(mkdirat(fixture.dir, ".gpus.json.tmp", 0700), 0);
    ck_assert_int_lt(take(gpus, "web", only_a), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "gpus.json"));
    assert_drivers("nvidia", "");
    ck_assert_str_eq(fake_override_of(A), "(null)");
}
END_TEST

START_TEST(what_can_not_be_given_back_is_kept_in_mind)
{
    assert_taken("web", only_a);
    ck_assert_int_eq(unlinkat(fixture.dir, "sys/bus/pci/drivers/nvidia/bind", 0), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "sys/bus/pci/drivers/nvidia/bind", 0700), 0);
    ck_assert_int_lt(gpus_give_back(gpus, "web", &err), 0);
    ck_assert_msg(strstr(err.text, A) != NULL && strstr(err.text, "nvidia") != NULL, "%s", err.text);
    ck_assert(!gpus_has(gpus, "web")); /* not tried again and again … */
    ck_assert(is_on_record("nvidia"));
    ck_assert_int_eq(unlinkat(fixture.dir, "sys/bus/pci/drivers/nvidia/bind", AT_REMOVEDIR), 0);
    fake_file("sys/bus/pci/drivers/nvidia/bind", "");
    gpus_retry(gpus, "web"); /* … but at the next occasion */
    ck_assert(gpus_has(gpus, "web"));
    assert_back("web");
    assert_drivers("nvidia", "");
}
END_TEST

START_TEST(after_a_reboot_the_note_is_old)
{
    fake_file("gpus.json", "{\"schema\":1,\"devices\":[{\"address\":\"" A "\",\"vm\":\"web\",\"driver\":\"nouveau\"}]}");
    gpus_free(gpus);
    gpus = open_gpus();
    ck_assert(gpus_has(gpus, "web"));
    assert_taken("web", only_a);
    assert_drivers("vfio-pci", "");
    assert_back("web");
    assert_drivers("nvidia", ""); /* as the host has it since */
}
END_TEST

static const char *const bad_records[] = {
    "",
    "{",
    "[]",
    "{\"schema\":2,\"devices\":[]}",
    "{\"schema\":1,\"devices\":[{\"address\":\"../../x\",\"vm\":\"web\"}]}",
    "{\"schema\":1,\"devices\":[{\"address\":\"c1:00.0\",\"vm\":\"web\"}]}",
    "{\"schema\":1,\"devices\":[{\"address\":\"" A "\",\"vm\":\"../web\"}]}",
    "{\"schema\":1,\"devices\":[{\"address\":\"" A "\",\"vm\":\"web\",\"driver\":\"../nvidia\"}]}",
    "{\"schema\":1,\"devices\":[{\"address\":\"" A "\"}]}",
};

START_TEST(a_record_that_does_not_parse_is_set_aside)
{
    auto_free char *aside = NULL;
    struct gpus *g = NULL;

    fake_file("gpus.json", bad_records[_i]);
    ck_assert_int_eq(gpus_new(fixture.dir, fixture.path, &g, &aside, &err), 0);
    ck_assert_str_eq(aside, "gpus.json.corrupt-1");
    ck_assert(!gpus_has(g, "web"));
    gpus_free(g);
}
END_TEST

/* ---- a driver that doesn't let go ---- */

static int slow_r;

static void *take_slowly(void *arg)
{
    const struct gpu_wish wish = { .devices = only_a };
    struct err slow_err;

    slow_r = gpus_take(gpus, "web", &wish, &slow_err);
    return NULL;
}

START_TEST(a_driver_that_hangs_holds_up_nobody_else)
{
    static const char unbind[] = "sys/bus/pci/drivers/nvidia/unbind";
    char pending[128] = "", text[32];
    pthread_t thread;

    ck_assert_int_eq(unlinkat(fixture.dir, unbind, 0), 0);
    ck_assert_int_eq(mkfifoat(fixture.dir, unbind, 0600), 0); /* opening it waits for a reader, as a write waits for the driver */
    ck_assert_int_eq(pthread_create(&thread, NULL, take_slowly, NULL), 0);
    for (int i = 0; i < FIXTURE_DEADLINE_MS && !streq(fake_override_of(A), "vfio-pci"); i++)
        (void)poll(NULL, 0, 1);
    gpus_pending(gpus, "web", pending, sizeof(pending));
    ck_assert_str_eq(pending, "driver nvidia has not let go of PCI device " A);
    ck_assert(is_on_record(A));

    assert_taken("db", only_b);
    assert_back("db");
    ck_assert_int_eq(take(gpus, "db", only_a), -EBUSY);
    ck_assert_int_eq(take(gpus, "web", only_a), -EAGAIN);
    ck_assert_int_eq(gpus_give_back(gpus, "web", &err), 0); /* not while it is on its way */
    ck_assert(gpus_has(gpus, "web"));

    int fd = openat(fixture.dir, unbind, O_RDONLY | O_CLOEXEC);
    fixture_await(fd, POLLIN);
    ck_assert_int_gt(read(fd, text, sizeof(text)), 0);
    ck_assert_int_eq(unlinkat(fixture.dir, "sys/bus/pci/devices/" A "/driver", 0), 0);
    pthread_join(thread, NULL);
    fd_close(fd);
    ck_assert_int_eq(slow_r, 0);
    assert_drivers("vfio-pci", "");
    ck_assert_int_eq(unlinkat(fixture.dir, unbind, 0), 0);
    assert_back("web");
    assert_drivers("nvidia", "");
}
END_TEST

/* ---- killed in between ---- */

#ifdef HOLDFAST_FAILPOINTS
static const struct {
    const char *point;
    bool after_taking; /* while it gives back */
} deaths[] = {
    { "manager.gpus-saved=kill", false }, { "vfio.after-override=kill", false },      { "vfio.after-unbind=kill", false },
    { "vfio.after-bind=kill", false },    { "vfio.restore-after-unbind=kill", true }, { "manager.gpus-after-restore=kill", true },
};

static void die_at(const char *point, bool after_taking)
{
    pid_t pid = fork();

    if (pid == 0) {
        struct gpus *g = open_gpus();
        if (after_taking && take(g, "web", both) < 0)
            _exit(1);
        (void)setenv("HOLDFAST_FAILPOINT", point, 1);
        (void)take(g, "web", after_taking ? none : both);
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: %x", point, (unsigned)status);
}

START_TEST(the_next_manager_gives_back)
{
    die_at(deaths[_i].point, deaths[_i].after_taking);
    gpus_free(gpus);
    gpus = open_gpus();
    ck_assert(gpus_has(gpus, "web"));
    assert_back("web");
    assert_drivers("nvidia", "");
    ck_assert(!streq(fake_override_of(A), "vfio-pci") && !streq(fake_override_of(B), "vfio-pci"));
    ck_assert(!is_on_record("web"));
}
END_TEST

START_TEST(the_next_manager_starts_it_again)
{
    die_at(deaths[_i].point, deaths[_i].after_taking);
    gpus_free(gpus);
    gpus = open_gpus();
    assert_taken("web", both);
    assert_drivers("vfio-pci", "vfio-pci");
    assert_back("web");
    assert_drivers("nvidia", "");
}
END_TEST
#endif

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, there_and_back);
    tcase_add_test(tc, a_vm_has_what_it_wishes_and_no_more);
    tcase_add_test(tc, two_vms_never_have_one_device);
    tcase_add_test(tc, all_or_none);
    tcase_add_test(tc, what_is_not_there_is_refused_before_anything_is_touched);
    tcase_add_test(tc, nothing_is_touched_that_can_not_be_remembered);
    tcase_add_test(tc, what_can_not_be_given_back_is_kept_in_mind);
    tcase_add_test(tc, after_a_reboot_the_note_is_old);
    tcase_add_loop_test(tc, a_record_that_does_not_parse_is_set_aside, 0, ARRAY_LEN(bad_records));
    tcase_add_test(tc, a_driver_that_hangs_holds_up_nobody_else);
#ifdef HOLDFAST_FAILPOINTS
    tcase_add_loop_test(tc, the_next_manager_gives_back, 0, ARRAY_LEN(deaths));
    tcase_add_loop_test(tc, the_next_manager_starts_it_again, 0, ARRAY_LEN(deaths));
#endif
}

int main(void) { return fixture_main("gpus", add_tests); }
