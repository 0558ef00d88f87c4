#include "lib/qemu/hardware.h"

#include "lib/base/json.h"
#include "lib/base/strv.h"
#include "tests/unit/fixture.h"

#define ARGV_MAX 32

static int hardware_of(const char *const *argv, struct hardware *ret)
{
    struct plan plan = { .ram.size = UINT64_C(256) << 20, .qemu.argv = (char **)(uintptr_t)argv };
    return hardware_from_plan(&plan, "7.2.22", ret);
}

/* The devices in one text. */
static char *devices_of(const struct hardware *hardware) { return strv_to_shell(hardware->devices); }

START_TEST(reads_a_real_plan)
{
    auto_free char *text = NULL;
    size_t len = 0;
    auto_json json_t *json = NULL;
    auto_plan struct plan plan = { 0 };
    auto_hardware struct hardware hardware = { 0 };
    ck_assert_int_eq(file_read(AT_FDCWD, GOLDEN_DIR "/good/full.plan.json", 1 << 20, &text, &len), 0);
    ck_assert_int_eq(json_parse(text, len, &json, NULL), 0);
    ck_assert_int_eq(plan_from_json(json, &plan, NULL), 0);
    ck_assert_int_eq(hardware_from_plan(&plan, "7.2.22", &hardware), 0);
    ck_assert_str_eq(hardware.machine, "pc-q35-7.2");
    ck_assert_str_eq(hardware.accel, "tcg");
    ck_assert_str_eq(hardware.cpu, "Nehalem-v1");
    ck_assert_uint_eq(hardware.cpus, 2);
    ck_assert_uint_eq(hardware.memory, UINT64_C(2) << 30);
    ck_assert_str_eq(hardware.qemu_version, "7.2.22");
    auto_free char *devices = devices_of(&hardware);
    ck_assert_str_eq(devices, "virtio-rng-pci@0x1.0 vhost-vsock-pci@0x2.0 pvpanic vmgenid virtio-net-pci@0x4.0 "
                              "virtio-blk-pci@0x10.0 virtio-blk-pci@0x10.1");
    ck_assert_int_eq(hardware_fits(&hardware, &hardware, NULL), 0);
}
END_TEST

#define BASE "qemu", "-S", "-machine", "pc-q35-7.2,memory-backend=ram", "-accel", "tcg", "-cpu", "Nehalem-v1", "-smp", "2"

START_TEST(reads_what_users_add)
{
    static const struct {
        const char *argv[ARGV_MAX];
        const char *machine, *accel, *cpu, *devices;
        uint64_t cpus;
    } cases[] = {
        { { BASE }, "pc-q35-7.2", "tcg", "Nehalem-v1", NULL, 2 },
        { { BASE, "-device", "virtio-balloon-pci" }, "pc-q35-7.2", "tcg", "Nehalem-v1", "virtio-balloon-pci", 2 },
        { { BASE, "--device", "nvme,serial=a,,addr=9,addr=07.0", "-device", "id=x,driver=edu" },
          "pc-q35-7.2",
          "tcg",
          "Nehalem-v1",
          "nvme@07.0 edu",
          2 },
        { { BASE, "-device", "{\"driver\":\"edu\",\"addr\":7}" }, "pc-q35-7.2", "tcg", "Nehalem-v1", "edu@7", 2 },
        { { BASE, "-cpu", "max,+avx2,model-id=a,,b", "-smp", "cores=2,cpus=4" }, "pc-q35-7.2", "tcg", "max,+avx2,model-id=a,,b", NULL, 4 },
        { { BASE, "-smp", "maxcpus=8" }, "pc-q35-7.2", "tcg", "Nehalem-v1", NULL, 2 },
        { { BASE, "-machine", "usb=off", "-M", "type=virt-7.2,its=on", "-accel", "accel=kvm,kernel-irqchip=on" },
          "virt-7.2",
          "kvm",
          "Nehalem-v1",
          NULL,
          2 },
        /* A kernel's command line is no option, whatever it looks like. */
        { { BASE, "-append", "-cpu", "-append", "-device", "-device", "edu" }, "pc-q35-7.2", "tcg", "Nehalem-v1", "edu", 2 },
        { { BASE, "-device" }, "pc-q35-7.2", "tcg", "Nehalem-v1", NULL, 2 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_hardware struct hardware hardware = { 0 };
        ck_assert_msg(hardware_of(cases[i].argv, &hardware) == 0, "case %zu", i);
        ck_assert_str_eq(hardware.machine, cases[i].machine);
        ck_assert_str_eq(hardware.accel, cases[i].accel);
        ck_assert_str_eq(hardware.cpu, cases[i].cpu);
        ck_assert_uint_eq(hardware.cpus, cases[i].cpus);
        ck_assert_uint_eq(hardware.memory, UINT64_C(256) << 20);
        auto_free char *devices = hardware.devices ? devices_of(&hardware) : NULL;
        ck_assert_msg(streq_opt(devices, cases[i].devices), "case %zu: %s", i, devices ? devices : "(none)");
    }
}
END_TEST

START_TEST(refuses_what_it_cannot_read)
{
    static const char *const cases[][ARGV_MAX] = {
        { NULL },
        { "qemu" },
        { "qemu", "-accel", "tcg", "-cpu", "max", "-smp", "1" },
        { "qemu", "-machine", "usb=off", "-accel", "tcg", "-cpu", "max", "-smp", "1" },
        { "qemu", "-machine", "virt", "-cpu", "max", "-smp", "1" },
        { "qemu", "-machine", "virt", "-accel", "tcg", "-smp", "1" },
        { "qemu", "-machine", "virt", "-accel", "tcg", "-cpu", "max" },
        { BASE, "-smp", "0" },
        { BASE, "-smp", "two" },
        { BASE, "-device", "{" },
        { BASE, "-device", "{}" },
        { BASE, "-device", "{\"driver\":7}" },
        { BASE, "-device", "" },
        { BASE, "-device", "id=x" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hardware hardware = { .cpus = 4711 };
        ck_assert_msg(hardware_of(cases[i], &hardware) == -EINVAL, "case %zu", i);
        ck_assert_uint_eq(hardware.cpus, 4711); /* untouched */
    }
}
END_TEST

static char machine[] = "pc-q35-7.2", other_machine[] = "pc-q35-8.0", tcg[] = "tcg", kvm[] = "kvm", cpu[] = "Nehalem-v1", host[] = "host";
static char rng[] = "virtio-rng-pci@0x1.0", nic[] = "virtio-net-pci@0x4.0", disk[] = "virtio-blk-pci@0x10.0", edu[] = "edu";
static char *devices[] = { rng, nic, NULL }, *more[] = { rng, nic, disk, NULL }, *twice[] = { rng, nic, edu, edu, NULL };
static char *turned[] = { nic, rng, NULL };
static char v7_2_22[] = "7.2.22", v7_2_3[] = "7.2.3", v7_1_9[] = "7.1.9", v8_0[] = "8.0.0", v10_0[] = "10.0.0", odd[] = "git-2026";

static const struct hardware base = {
    .machine = machine,
    .accel = tcg,
    .cpu = cpu,
    .cpus = 2,
    .memory = UINT64_C(256) << 20,
    .devices = devices,
    .qemu_version = v7_2_22,
};

static void expect_refused(struct hardware snapshot, struct hardware plan, const char *message)
{
    struct err err = ERR_INIT;
    ck_assert_int_eq(hardware_fits(&snapshot, &plan, &err), -EINVAL);
    ck_assert_str_eq(err.id, "other-hardware");
    ck_assert_str_eq(err.text, message);
    ck_assert_int_eq(hardware_fits(&snapshot, &plan, NULL), -EINVAL);
}

/* The base, changed: BUT(but_.cpus = 1). */
#define BUT(...)                     \
    ({                               \
        struct hardware but_ = base; \
        __VA_ARGS__;                 \
        but_;                        \
    })

START_TEST(names_the_first_difference_and_the_remedy)
{
    expect_refused(base, BUT(but_.machine = other_machine, but_.cpus = 1),
                   "the snapshot is of a pc-q35-7.2 machine and the VM is a pc-q35-8.0: let the VM run on the snapshot's QEMU 7.2.22 "
                   "(qemu.path of its spec), whose machine that is");
    expect_refused(base, BUT(but_.accel = kvm, but_.cpu = host),
                   "the snapshot ran under tcg and the VM would run under kvm: give the VM \"accel\": \"tcg\" on a host that has it");
    expect_refused(base, BUT(but_.cpu = host),
                   "the snapshot's CPU is Nehalem-v1 and the VM's is host: give the VM the same -cpu in qemu.extra_args, or restore into a "
                   "VM made from the snapshot");
    expect_refused(base, BUT(but_.cpus = 1),
                   "the snapshot has 2 CPUs and the VM has 1: give the VM as many, or restore into a VM made from the snapshot");
    expect_refused(BUT(but_.cpus = 1), base,
                   "the snapshot has 1 CPU and the VM has 2: give the VM as many, or restore into a VM made from the snapshot");
    expect_refused(base, BUT(but_.memory = UINT64_C(1) << 30),
                   "the snapshot has 256M of memory and the VM has 1G: give the VM as much, or restore into a VM made from the snapshot");
}
END_TEST

START_TEST(compares_devices)
{
    expect_refused(BUT(but_.devices = more), base,
                   "the snapshot has a device virtio-blk-pci@0x10.0 that the VM lacks: give the VM the same disks, networks and options, "
                   "or restore into a VM made from the snapshot");
    expect_refused(BUT(but_.devices = NULL), base,
                   "the VM has a device virtio-rng-pci@0x1.0 that the snapshot lacks: take it out of the VM's spec, or restore into a VM "
                   "made from the snapshot");
    expect_refused(base, BUT(but_.devices = NULL),
                   "the snapshot has a device virtio-rng-pci@0x1.0 that the VM lacks: give the VM the same disks, networks and options, "
                   "or restore into a VM made from the snapshot");
    expect_refused(base, BUT(but_.devices = turned),
                   "device 1 of the snapshot is virtio-rng-pci@0x1.0 and of the VM virtio-net-pci@0x4.0: put the VM's devices in the same "
                   "order, or restore into a VM made from the snapshot");
    static char *once[] = { rng, nic, edu, NULL };
    expect_refused(BUT(but_.devices = once), BUT(but_.devices = twice),
                   "the VM has a device edu that the snapshot lacks: take it out of the VM's spec, or restore into a VM made from the "
                   "snapshot");
    struct hardware none = BUT(but_.devices = NULL);
    ck_assert_int_eq(hardware_fits(&none, &none, NULL), 0);
}
END_TEST

START_TEST(qemu_may_be_newer_not_older)
{
    static const struct {
        char *of_snapshot, *of_plan;
        bool fits;
    } cases[] = {
        { v7_2_22, v7_2_3, true }, { v7_2_3, v7_2_22, true }, { v7_2_22, v8_0, true },  { v8_0, v10_0, true },
        { v7_1_9, v7_2_3, true },  { v7_2_3, v7_1_9, false }, { v8_0, v7_2_22, false }, { v10_0, v8_0, false },
        { odd, v7_2_3, false },    { v7_2_3, odd, false },    { odd, odd, true },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct hardware snapshot = base, plan = base;
        struct err err = ERR_INIT;
        snapshot.qemu_version = cases[i].of_snapshot;
        plan.qemu_version = cases[i].of_plan;
        ck_assert_msg((hardware_fits(&snapshot, &plan, &err) == 0) == cases[i].fits, "%s into %s: %s", cases[i].of_snapshot,
                      cases[i].of_plan, err.text);
    }
    expect_refused(BUT(but_.qemu_version = v8_0), base,
                   "the snapshot was made by QEMU 8.0.0 and the VM's QEMU is 7.2.22, which can't read what a newer one wrote: let the VM "
                   "run on a QEMU as new (qemu.path of its spec)");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, reads_a_real_plan);
    tcase_add_test(tc, reads_what_users_add);
    tcase_add_test(tc, refuses_what_it_cannot_read);
    tcase_add_test(tc, names_the_first_difference_and_the_remedy);
    tcase_add_test(tc, compares_devices);
    tcase_add_test(tc, qemu_may_be_newer_not_older);
}

int main(void) { return fixture_main("hardware", add_tests); }
