/* What hosts of several kinds offer, by files that are made up. */
#include "lib/host/host.h"

#include "lib/host/pci.h"
#include "tests/unit/fake_sysfs.h"

static bool cbit_51(uint32_t leaf, uint32_t registers[4])
{
    if (leaf != 0x8000001f)
        return false;
    registers[0] = 0x1f;
    registers[1] = 51 | 5 << 6; /* EBX[5:0], and how many bits the address space loses */
    return true;
}

static bool no_leaf(uint32_t leaf, uint32_t registers[4]) { return false; }

static void cpuinfo(const char *vendor, int family, int model, const char *sizes)
{
    auto_free char *text = NULL;

    ck_assert_int_eq(str_format(&text,
                                "processor\t: 0\nvendor_id\t: %s\ncpu family\t: %d\nmodel\t\t: %d\nmodel name\t: Some 99 Processor\n"
                                "flags\t\t: fpu sev sev_es sev_snp\naddress sizes\t: %s\n\nprocessor\t: 1\nvendor_id\t: Other\n",
                                vendor, family, model, sizes),
                     0);
    fake_file("proc/cpuinfo", text);
}

START_TEST(a_host_without_anything)
{
    struct host host = { .tdx = true };

    ck_assert_int_eq(host_read(fixture.path, no_leaf, &host), 0);
    ck_assert(!host.tdx && !host.sev_snp && !host.amd);
    ck_assert_uint_eq(host.phys_bits, 0);
    ck_assert_uint_eq(host.cbitpos, 0);
    ck_assert_ptr_null(host_epyc_model(&host));
}
END_TEST

static const struct {
    const char *path, *text;
    bool tdx, sev_snp;
} switches[] = {
    { "sys/module/kvm_intel/parameters/tdx", "Y\n", true, false },      { "sys/module/kvm_intel/parameters/tdx", "1\n", true, false },
    { "sys/module/kvm_intel/parameters/tdx", "N\n", false, false },     { "sys/module/kvm_intel/parameters/tdx", "", false, false },
    { "sys/module/kvm_amd/parameters/sev_snp", "Y\n", false, true },    { "sys/module/kvm_amd/parameters/sev_snp", "N\n", false, false },
    { "sys/module/kvm_amd/parameters/sev_snp", "y\n", false, false },   { "sys/module/kvm_amd/parameters/sev", "Y\n", false, false },
    { "sys/module/kvm_amd/parameters/sev_snp/x", "Y\n", false, false }, /* a folder */
};

START_TEST(what_kvm_offers)
{
    struct host host;

    fake_file(switches[_i].path, switches[_i].text);
    ck_assert_int_eq(host_read(fixture.path, no_leaf, &host), 0);
    ck_assert_int_eq(host.tdx, switches[_i].tdx);
    ck_assert_int_eq(host.sev_snp, switches[_i].sev_snp);
}
END_TEST

static const struct {
    const char *vendor;
    int family, model;
    const char *epyc;
} processors[] = {
    { "AuthenticAMD", 25, 1, "EPYC-v3" },   /* Milan */
    { "AuthenticAMD", 25, 17, "EPYC-v4" },  /* Genoa */
    { "AuthenticAMD", 25, 160, "EPYC-v4" }, /* Bergamo */
    { "AuthenticAMD", 26, 2, "EPYC-v4" },   /* Turin */
    { "AuthenticAMD", 23, 49, NULL },       /* Rome: SEV-ES at most */
    { "GenuineIntel", 6, 207, NULL },       { "GenuineIntel", 25, 1, NULL },
};

START_TEST(the_processor)
{
    struct host host;

    cpuinfo(processors[_i].vendor, processors[_i].family, processors[_i].model, "52 bits physical, 57 bits virtual");
    ck_assert_int_eq(host_read(fixture.path, cbit_51, &host), 0);
    ck_assert_uint_eq(host.phys_bits, 52); /* not the virtual ones */
    ck_assert_uint_eq(host.cbitpos, 51);
    ck_assert_uint_eq(host.family, (unsigned)processors[_i].family);
    ck_assert_uint_eq(host.model, (unsigned)processors[_i].model);
    ck_assert_msg(streq_opt(host_epyc_model(&host), processors[_i].epyc), "%s", host_epyc_model(&host));
}
END_TEST

START_TEST(odd_cpuinfo)
{
    static const char *const texts[] = { "",      "\n\n", "address sizes", "address sizes\t: bits", "address sizes\t: 99999999999 bits",
                                         "model", ":" };
    struct host host;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        fake_file("proc/cpuinfo", texts[i]);
        ck_assert_int_eq(host_read(fixture.path, no_leaf, &host), 0);
        ck_assert_uint_eq(host.phys_bits, 0);
    }
}
END_TEST

START_TEST(this_processor)
{
    uint32_t registers[4] = { 0 };

    (void)host_cpuid_native(0x8000001f, registers); /* known or not, it returns */
    ck_assert(!host_cpuid_native(0xdeadbeef, registers));
}
END_TEST

START_TEST(pci_devices)
{
    struct pci_device device;
    struct err err = ERR_INIT;

    fake_device("0000:c1:00.0", "0x030200\n", "nvidia", 42);
    fake_device("0001:0a:1f.7", "0x010802\n", NULL, -1);
    ck_assert_int_eq(pci_device_read(fixture.path, "0000:c1:00.0", &device, &err), 0);
    ck_assert_str_eq(device.address, "0000:c1:00.0");
    ck_assert_uint_eq(device.class, 0x030200);
    ck_assert_uint_eq(device.vendor, 0x10de);
    ck_assert_str_eq(device.driver, "nvidia");
    ck_assert_int_eq(device.iommu_group, 42);
    ck_assert(pci_may_be_passed(&device));
    ck_assert_int_eq(pci_device_read(fixture.path, "0001:0a:1f.7", &device, &err), 0);
    ck_assert_str_eq(device.driver, "");
    ck_assert_int_eq(device.iommu_group, -1);
    ck_assert(!pci_may_be_passed(&device));
    ck_assert_int_eq(pci_device_read(fixture.path, "0000:c2:00.0", &device, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "no PCI device 0000:c2:00.0"));
}
END_TEST

START_TEST(odd_sysfs)
{
    static const char *const classes[] = { "", "\n", "0x\n", "zz\n", "0x030200x\n", "0x0302000000\n" };
    struct pci_device device;
    struct err err = ERR_INIT;

    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        fake_device("0000:01:00.0", classes[i], NULL, -1);
        ck_assert_msg(pci_device_read(fixture.path, "0000:01:00.0", &device, &err) == -EINVAL, "\"%s\"", classes[i]);
    }
    fake_device("0000:01:00.0", "0x030000\n", NULL, -1);
    ck_assert_int_eq(symlinkat("../../../../kernel/iommu_groups/x", fixture.dir, "sys/bus/pci/devices/0000:01:00.0/iommu_group"), 0);
    ck_assert_int_eq(pci_device_read(fixture.path, "0000:01:00.0", &device, &err), -EINVAL);
}
END_TEST

START_TEST(classes)
{
    static const struct {
        uint32_t class;
        bool may, bridge;
    } kinds[] = {
        { 0x030000, true, false },  { 0x030200, true, false },  { 0x120000, true, false },  { 0x068000, true, false },
        { 0x060400, false, true },  { 0x060000, false, true },  { 0x010802, false, false }, { 0x020000, false, false },
        { 0x0c0330, false, false }, { 0x040300, false, false },
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct pci_device device = { .class = kinds[i].class };
        ck_assert_msg(pci_may_be_passed(&device) == kinds[i].may, "%06x", kinds[i].class);
        ck_assert_msg(pci_is_bridge(&device) == kinds[i].bridge, "%06x", kinds[i].class);
    }
    ck_assert(pci_same_slot("0000:c1:00.0", "0000:c1:00.7"));
    ck_assert(!pci_same_slot("0000:c1:00.0", "0000:c1:01.0"));
    ck_assert(!pci_same_slot("0000:c1:00.0", "0001:c1:00.0"));
}
END_TEST

static void point_at_root(void) { fake_root(fixture.dir); }

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, point_at_root, NULL);
    tcase_add_test(tc, a_host_without_anything);
    tcase_add_loop_test(tc, what_kvm_offers, 0, ARRAY_LEN(switches));
    tcase_add_loop_test(tc, the_processor, 0, ARRAY_LEN(processors));
    tcase_add_test(tc, odd_cpuinfo);
    tcase_add_test(tc, this_processor);
    tcase_add_test(tc, pci_devices);
    tcase_add_test(tc, odd_sysfs);
    tcase_add_test(tc, classes);
}

int main(void) { return fixture_main("host", add_tests); }
