/* Devices there and back on a made-up host, with what can go wrong. */
#include "lib/host/vfio.h"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_sysfs.h"

#define GPU "0000:c1:00.0"
#define SOUND "0000:c1:00.1"
#define NIC "0000:c2:00.0"
#define BRIDGE "0000:c0:01.0"

static struct err err;

static int check(const char *address, char *const *gpus, const struct vfio_owners *owners)
{
    struct pci_device device;

    err = ERR_INIT;
    return vfio_check(fixture.path, address, gpus, owners, &device, &err);
}

static void assert_says(const char *a, const char *b)
{
    ck_assert_msg(strstr(err.text, a) != NULL && strstr(err.text, b) != NULL, "%s", err.text);
}

static char gpu[] = GPU, sound[] = SOUND;

START_TEST(a_gpu_by_itself)
{
    char *gpus[] = { gpu, NULL };

    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_device(BRIDGE, "0x060400\n", "pcieport", 42);
    ck_assert_int_eq(check(GPU, gpus, NULL), 0);
}
END_TEST

START_TEST(no_such_device)
{
    char *gpus[] = { gpu, NULL };

    ck_assert_int_eq(check(GPU, gpus, NULL), -ENOENT);
    assert_says("no PCI device", GPU);
}
END_TEST

START_TEST(no_iommu)
{
    char *gpus[] = { gpu, NULL };

    fake_device(GPU, "0x030200\n", "nvidia", -1);
    ck_assert_int_eq(check(GPU, gpus, NULL), -ENODEV);
    assert_says("no IOMMU group", GPU);
}
END_TEST

START_TEST(what_may_hold_the_hosts_disks_is_not_passed)
{
    char nvme[] = "0000:03:00.0", *gpus[] = { nvme, NULL };

    fake_device(nvme, "0x010802\n", "nvme", 3);
    ck_assert_int_eq(check(nvme, gpus, NULL), -EPERM);
    assert_says(nvme, "nvme");
}
END_TEST

START_TEST(the_sound_of_a_card_goes_with_it)
{
    char *both[] = { gpu, sound, NULL }, *alone[] = { sound, NULL };

    fake_device(GPU, "0x030000\n", "nvidia", 42);
    fake_device(SOUND, "0x040300\n", "snd_hda_intel", 42);
    ck_assert_int_eq(check(GPU, both, NULL), 0);
    ck_assert_int_eq(check(SOUND, both, NULL), 0);
    ck_assert_int_eq(check(SOUND, alone, NULL), -EPERM);
    assert_says(SOUND, "snd_hda_intel");
}
END_TEST

START_TEST(a_shared_group_names_who_is_in_it)
{
    char *gpus[] = { gpu, NULL };

    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_device(NIC, "0x020000\n", "mlx5_core", 42);
    ck_assert_int_eq(check(GPU, gpus, NULL), -EBUSY);
    assert_says(NIC, "mlx5_core");
}
END_TEST

START_TEST(who_has_no_driver_or_vfio_disturbs_nobody)
{
    char *gpus[] = { gpu, NULL };

    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_device(SOUND, "0x040300\n", NULL, 42);
    fake_device(NIC, "0x020000\n", "vfio-pci", 42);
    ck_assert_int_eq(check(GPU, gpus, NULL), 0);
}
END_TEST

static const char *nic_is_of_db(void *arg, const char *address) { return streq(address, NIC) ? "db" : NULL; }

START_TEST(a_group_that_another_vm_has_a_part_of)
{
    const struct vfio_owners owners = { .find = nic_is_of_db };
    char *gpus[] = { gpu, NULL };

    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_device(NIC, "0x120000\n", "vfio-pci", 42);
    ck_assert_int_eq(check(GPU, gpus, &owners), -EBUSY);
    assert_says(NIC, "VM db");
}
END_TEST

/* ---- there and back ---- */

static void take(int expected)
{
    err = ERR_INIT;
    ck_assert_msg(vfio_bind(fixture.path, GPU, &err) == expected, "%s", err.text);
}

static void give_back(const char *driver)
{
    err = ERR_INIT;
    ck_assert_msg(vfio_restore(fixture.path, GPU, driver, &err) == 0, "%s", err.text);
}

START_TEST(there_and_back)
{
    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_driver("vfio-pci");
    fake_kernel_start();
    for (int i = 0; i < 3; i++) {
        take(0);
        ck_assert_str_eq(fake_driver_of(GPU), "vfio-pci");
        ck_assert_str_eq(fake_override_of(GPU), "vfio-pci");
        take(0); /* nothing to do */
        give_back("nvidia");
        ck_assert_str_eq(fake_driver_of(GPU), "nvidia");
        ck_assert_str_eq(fake_override_of(GPU), "");
        give_back("nvidia");
    }
    fake_kernel_stop();
}
END_TEST

START_TEST(from_no_driver_and_back)
{
    fake_device(GPU, "0x030200\n", NULL, 42);
    fake_driver("vfio-pci");
    fake_kernel_start();
    take(0);
    give_back("");
    ck_assert_str_eq(fake_driver_of(GPU), "");
    ck_assert_str_eq(fake_override_of(GPU), "");
    fake_kernel_stop();
}
END_TEST

/* The operator bound it at boot: it was theirs before and is theirs after. */
START_TEST(from_vfio_and_back)
{
    fake_device(GPU, "0x030200\n", "vfio-pci", 42);
    fake_file("sys/bus/pci/devices/" GPU "/driver_override", "vfio-pci\n");
    take(0);
    give_back("vfio-pci");
    ck_assert_str_eq(fake_driver_of(GPU), "vfio-pci");
    ck_assert_str_eq(fake_override_of(GPU), "vfio-pci");
}
END_TEST

START_TEST(no_vfio_module)
{
    fake_device(GPU, "0x030200\n", "nvidia", 42);
    take(-ENODEV);
    assert_says("modprobe", "vfio-pci");
    ck_assert_str_eq(fake_driver_of(GPU), "nvidia");
    ck_assert_str_eq(fake_override_of(GPU), "(null)");
}
END_TEST

START_TEST(a_driver_that_refuses)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "sys", 0700), 0);
    fake_device(GPU, "0x030200\n", NULL, 42);
    fake_file("sys/bus/pci/drivers/nvidia/unbind/x", "");
    fake_file("sys/bus/pci/drivers/nvidia/bind", "");
    ck_assert_int_eq(symlinkat("../../../../bus/pci/drivers/nvidia", fixture.dir, "sys/bus/pci/devices/" GPU "/driver"), 0);
    fake_driver("vfio-pci");
    fake_kernel_start();
    take(-EISDIR);
    assert_says("driver nvidia doesn't let go", GPU);
    give_back("nvidia");
    ck_assert_str_eq(fake_driver_of(GPU), "nvidia");
    ck_assert_str_eq(fake_override_of(GPU), "");
    fake_kernel_stop();
}
END_TEST

/* Waits for the write to drivers_probe, and takes the device away before it lets that go on. */
static void *pull_out(void *arg)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/sys/bus/pci/drivers_probe", fixture.path);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct pollfd pollfd = { .fd = fd, .events = POLLIN };
    (void)poll(&pollfd, 1, FIXTURE_DEADLINE_MS);
    fake_remove_device(GPU);
    fd_close(fd);
    return NULL;
}

START_TEST(a_device_that_goes_while_it_is_bound)
{
    pthread_t thread;

    fake_device(GPU, "0x030200\n", "nvidia", 42);
    fake_driver("vfio-pci");
    ck_assert_int_eq(unlinkat(fixture.dir, "sys/bus/pci/drivers_probe", 0), 0);
    ck_assert_int_eq(mkfifoat(fixture.dir, "sys/bus/pci/drivers_probe", 0600), 0);
    fake_kernel_start();
    ck_assert_int_eq(pthread_create(&thread, NULL, pull_out, NULL), 0);
    take(-ENODEV);
    assert_says(GPU, "went away");
    pthread_join(thread, NULL);
    give_back("nvidia");
    fake_kernel_stop();
}
END_TEST

START_TEST(a_device_that_is_gone_needs_nothing_back) { give_back("nvidia"); }
END_TEST

START_TEST(a_third_driver_keeps_what_it_got)
{
    fake_device(GPU, "0x030200\n", "nouveau", 42);
    give_back("nvidia");
    ck_assert_str_eq(fake_driver_of(GPU), "nouveau");
}
END_TEST

/* Its module was unloaded while a VM had the device: whoever wants it may have it, and that nobody does is no error. */
START_TEST(back_to_a_driver_that_is_gone)
{
    fake_device(GPU, "0x030200\n", "vfio-pci", 42);
    fake_file("sys/bus/pci/devices/" GPU "/driver_override", "vfio-pci\n");
    fake_kernel_start();
    give_back("nvidia");
    ck_assert_str_eq(fake_driver_of(GPU), "");
    fake_kernel_stop();
}
END_TEST

START_TEST(the_groups_node_changes_hands)
{
    struct stat st;

    ck_assert_int_eq(vfio_group_give(fixture.path, 42, geteuid(), getegid(), &err), -ENOENT);
    assert_says("/dev/vfio/42", "No such file");
    fake_file("dev/vfio/42", "");
    uid_t uid = geteuid() == 0 ? 12345 : geteuid();
    ck_assert_int_eq(vfio_group_give(fixture.path, 42, uid, getegid(), NULL), 0);
    ck_assert_int_eq(fstatat(fixture.dir, "dev/vfio/42", &st, 0), 0);
    ck_assert_uint_eq(st.st_uid, uid);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    vfio_group_take_back(fixture.path, 42);
    ck_assert_int_eq(fstatat(fixture.dir, "dev/vfio/42", &st, 0), 0);
    ck_assert_uint_eq(st.st_uid, geteuid());
}
END_TEST

static void point_at_root(void) { fake_root(fixture.dir); }

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, point_at_root, NULL);
    tcase_add_test(tc, a_gpu_by_itself);
    tcase_add_test(tc, no_such_device);
    tcase_add_test(tc, no_iommu);
    tcase_add_test(tc, what_may_hold_the_hosts_disks_is_not_passed);
    tcase_add_test(tc, the_sound_of_a_card_goes_with_it);
    tcase_add_test(tc, a_shared_group_names_who_is_in_it);
    tcase_add_test(tc, who_has_no_driver_or_vfio_disturbs_nobody);
    tcase_add_test(tc, a_group_that_another_vm_has_a_part_of);
    tcase_add_test(tc, there_and_back);
    tcase_add_test(tc, from_no_driver_and_back);
    tcase_add_test(tc, from_vfio_and_back);
    tcase_add_test(tc, no_vfio_module);
    tcase_add_test(tc, a_driver_that_refuses);
    tcase_add_test(tc, a_device_that_goes_while_it_is_bound);
    tcase_add_test(tc, a_device_that_is_gone_needs_nothing_back);
    tcase_add_test(tc, a_third_driver_keeps_what_it_got);
    tcase_add_test(tc, back_to_a_driver_that_is_gone);
    tcase_add_test(tc, the_groups_node_changes_hands);
}

int main(void) { return fixture_main("vfio", add_tests); }
