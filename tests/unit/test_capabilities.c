#include <check.h>
#include <errno.h>
#include <unistd.h>

#include "lib/base/util.h"
#include "lib/qemu/capabilities.h"

static const char version_text[] = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022 Fabrice "
                                   "Bellard and the QEMU Project developers\n";
static const char x86_machines[] = "Supported machines are:\n"
                                   "microvm              microvm (i386)\n"
                                   "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)\n"
                                   "pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)\n"
                                   "pc-q35-6.2           Standard PC (Q35 + ICH9, 2009)\n"
                                   "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)\n"
                                   "pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)\n";
static const char arm_machines[] = "Supported machines are:\n"
                                   "virt-7.1             QEMU 7.1 ARM Virtual Machine\n"
                                   "virt                 QEMU 7.2 ARM Virtual Machine (alias of virt-7.2)\n"
                                   "virt-7.2             QEMU 7.2 ARM Virtual Machine\n";

START_TEST(x86)
{
    struct qemu_capabilities c = { 0 };

    ck_assert_int_eq(qemu_capabilities_parse(version_text, x86_machines, &c, NULL), 0);
    ck_assert(qemu_capabilities_has_machine(&c, c.machine));
    ck_assert(!qemu_capabilities_has_machine(&c, "pc-q35-9.9"));
    ck_assert(!qemu_capabilities_has_machine(&c, "q35"));
    ck_assert_str_eq(c.version, "7.2.22");
    ck_assert_str_eq(c.machine, "pc-q35-7.2");
    qemu_capabilities_clear(&c);
    ck_assert_ptr_null(c.version);
}
END_TEST

/* As QEMU 7.2 and 10.1 say it. */
static const char old_objects[] = "List of user creatable objects:\n  memory-backend-ram\n  sev-guest\n";
static const char old_devices[] = "name \"vfio-pci-nohotplug\", bus PCI, desc \"VFIO-based PCI device assignment\"\n"
                                  "name \"vfio-pci\", bus PCI, desc \"VFIO-based PCI device assignment\"\n"
                                  "name \"vhost-vsock-pci-non-transitional\", bus PCI\n";
static const char old_cpus[] =
    "x86 EPYC-IBPB             (alias of EPYC-v2)\nx86 EPYC-Rome-v4\nx86 EPYC-v3               AMD EPYC Processor\n";
static const char new_objects[] = "List of user creatable objects:\n  iommufd\n  sev-snp-guest\n  tdx-guest\n";
static const char new_devices[] = "name \"vhost-vsock-pci\", bus PCI\nname \"vfio-pci\", bus PCI\n";
static const char new_cpus[] = "Available CPUs:\n  EPYC-v3\n  EPYC-v4\n";

static const struct {
    const char *feature;
    bool of_old;
} features[] = {
    { "tdx-guest", false }, { "sev-snp-guest", false },   { "iommufd", false }, { "vfio-pci", true },
    { "EPYC-v3", true },    { "vhost-vsock-pci", false }, { "EPYC-v4", false },
};

START_TEST(features_are_whole_words)
{
    struct qemu_capabilities old = { 0 }, new = { 0 }, none = { 0 };

    ck_assert_int_eq(qemu_capabilities_parse_features(&old, old_objects, old_devices, old_cpus), 0);
    ck_assert_int_eq(qemu_capabilities_parse_features(&new, new_objects, new_devices, new_cpus), 0);
    ck_assert_int_eq(qemu_capabilities_parse_features(&new, new_objects, new_devices, new_cpus), 0); /* asked again */
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        ck_assert(!qemu_capabilities_has(&none, features[i].feature));
        ck_assert_msg(qemu_capabilities_has(&old, features[i].feature) == features[i].of_old, "%s", features[i].feature);
        ck_assert_msg(qemu_capabilities_has(&new, features[i].feature), "%s", features[i].feature);
    }
    ck_assert_int_eq(qemu_capabilities_parse_features(&none, NULL, "", "\n"), 0);
    ck_assert_ptr_nonnull(none.features); /* asked, and has nothing */
    ck_assert(!qemu_capabilities_has(&none, "iommufd"));
    qemu_capabilities_clear(&old);
    qemu_capabilities_clear(&new);
    qemu_capabilities_clear(&none);
}
END_TEST

START_TEST(aarch64)
{
    struct qemu_capabilities c = { 0 };

    ck_assert_int_eq(qemu_capabilities_parse(version_text, arm_machines, &c, NULL), 0);
    ck_assert_str_eq(c.machine, "virt-7.2");
    qemu_capabilities_clear(&c);
}
END_TEST

START_TEST(not_qemu)
{
    static const char *const texts[] = { NULL, "", "bash 5.2", "QEMU emulator version ", "QEMU emulator version x" };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct qemu_capabilities c = { 0 };
        struct err err = ERR_INIT;

        ck_assert_int_eq(qemu_capabilities_parse(texts[i], x86_machines, &c, &err), -EINVAL);
        ck_assert_str_eq(err.id, "not-qemu");
        ck_assert_ptr_null(c.version);
    }
}
END_TEST

START_TEST(no_versioned_machine)
{
    static const char *const texts[] = {
        NULL,
        "",
        "q35",
        "q35 Standard PC",
        "pc-q35-7.2 Standard PC\n",
        "virt   RISC-V VirtIO board\n",
        "q35x (alias of pc-q35-7.2)\n",
        "q35 Standard PC\nvirtual (alias of virt-7.2)\n",
        "q35 Standard PC (alias of )\n",
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct qemu_capabilities c = { 0 };
        struct err err = ERR_INIT;

        ck_assert_int_eq(qemu_capabilities_parse(version_text, texts[i], &c, &err), -EINVAL);
        ck_assert_str_eq(err.id, "no-machine");
    }
}
END_TEST

START_TEST(machine_name_cannot_carry_options)
{
    struct qemu_capabilities c = { 0 };

    ck_assert_int_eq(qemu_capabilities_parse(version_text, "q35 x (alias of pc-q35-7.2,accel=kvm)\n", &c, NULL), 0);
    ck_assert_str_eq(c.machine, "pc-q35-7.2");
    qemu_capabilities_clear(&c);
}
END_TEST

START_TEST(kvm_needs_cpu_and_device)
{
#if defined(__x86_64__)
    ck_assert(qemu_kvm_usable("processor\t: 0\nflags\t\t: fpu vmx smx\n", true));
    ck_assert(qemu_kvm_usable("flags\t\t: fpu svm", true));
    ck_assert(!qemu_kvm_usable("flags\t\t: fpu vmx\n", false));
    ck_assert(!qemu_kvm_usable("flags\t\t: fpu vmxx avmx svm_lock\n", true));
    ck_assert(!qemu_kvm_usable("model name\t: vmx svm\nflags\t\t: fpu\nbugs\t: vmx\n", true));
    ck_assert(!qemu_kvm_usable("vmx flags\t: vnmi vmx\n", true));
    ck_assert(!qemu_kvm_usable("", true));
    ck_assert(!qemu_kvm_usable(NULL, true));
#else
    ck_assert(qemu_kvm_usable("", true));
    ck_assert(!qemu_kvm_usable("", false));
#endif
}
END_TEST

START_TEST(default_path_can_be_executed)
{
    const char *path = qemu_default_path();

    if (path) {
        ck_assert_int_eq(path[0], '/');
        ck_assert_int_eq(access(path, X_OK), 0);
    } else {
        ck_assert_int_ne(access("/usr/bin/qemu-system-x86_64", X_OK) | access("/usr/bin/qemu-system-aarch64", X_OK), 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("capabilities");
    TCase *tc = tcase_create("parse");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tc, x86);
    tcase_add_test(tc, features_are_whole_words);
    tcase_add_test(tc, aarch64);
    tcase_add_test(tc, not_qemu);
    tcase_add_test(tc, no_versioned_machine);
    tcase_add_test(tc, machine_name_cannot_carry_options);
    tcase_add_test(tc, kvm_needs_cpu_and_device);
    tcase_add_test(tc, default_path_can_be_executed);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
