/* Files that QEMU's child opens for it: the device that vfio-pci made of a PCI device, found by its folder in sysfs. */
#include "shim/qemu_files.h"

#include <stdio.h>
#include <sys/stat.h>

#include "tests/unit/fixture.h"

static int open_device(void)
{
    auto_free char *path = NULL;

    ck_assert_int_eq(str_format(&path, "%s/device", fixture.path), 0);
    return qemu_file_open(&(struct plan_file){ .fd = PLAN_FD_VFIO, .kind = FILE_VFIO, .path = path });
}

START_TEST(a_pci_device_becomes_its_character_device)
{
    ck_assert_int_eq(open_device(), -ENOENT); /* the device is gone */
    ck_assert_int_eq(mkdirat(fixture.dir, "device", 0700), 0);
    ck_assert_int_eq(open_device(), -ENODEV); /* another driver has it */
    ck_assert_int_eq(mkdirat(fixture.dir, "device/vfio-dev", 0700), 0);
    ck_assert_int_eq(open_device(), -ENODEV); /* vfio-pci is just letting go */
    /* Names that are no device's are passed over, and there is no such character device on any host. */
    ck_assert_int_eq(mkdirat(fixture.dir, "device/vfio-dev/power", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "device/vfio-dev/vfio-which-is-much-too-long-for-a-name-of-the-kernel's", 0700), 0);
    ck_assert_int_eq(open_device(), -ENODEV);
    ck_assert_int_eq(mkdirat(fixture.dir, "device/vfio-dev/vfio4294967", 0700), 0);
    ck_assert_int_eq(open_device(), -ENOENT);
}
END_TEST

static void add_tests(TCase *tc) { tcase_add_test(tc, a_pci_device_becomes_its_character_device); }

int main(void) { return fixture_main("qemu_files", add_tests); }
