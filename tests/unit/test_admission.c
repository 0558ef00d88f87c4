/* Room on the host: arithmetic and words. */
#include "lib/manager/admission.h"

#include "lib/spec/load.h"
#include "tests/unit/fixture.h"

#define G(n) (UINT64_C(n) << 30)

#define SMALL                                    \
    {                                            \
        .cpus = 1, .memory = G(1), .disk = G(10) \
    }
#define BIG                                        \
    {                                              \
        .cpus = 8, .memory = G(16), .disk = G(100) \
    }
static const struct claims small = SMALL, big = BIG;
static const struct claims middling = { .cpus = 2, .memory = G(4) };
static const struct tenant tenants[] = { { "mail", &small }, { "db", &big }, { "web", &small }, { "build", &middling } };

/* With the four above: 12 CPUs, 22G of memory, 120G of disk. */
static const struct {
    struct host_limits limits;
    uint64_t host_memory, disk_free;
    struct claims asked, own;
    const char *why; /* NULL: there is room */
} cases[] = {
    { .asked = BIG },
    { .asked = { .memory = G(64) }, .host_memory = G(64) },
    { .asked = { .memory = G(65) }, .host_memory = G(64), .why = "not enough memory: it asks for 65G, and this host has 64G in all" },
    { .asked = { .memory = G(65) }, .own = { .memory = G(65) }, .host_memory = G(64) },
    { .limits.cpus = 13, .asked = SMALL },
    { .limits.cpus = 12,
      .asked = SMALL,
      .why = "not enough CPUs: it asks for 1, and of 12 (limits in the host config) 0 is left: db 8, build 2, mail 1 and 1 more have 12" },
    { .limits.cpus = 14,
      .asked = { .cpus = 3 },
      .why = "not enough CPUs: it asks for 3, and of 14 (limits in the host config) 2 are left: db 8, build 2, mail 1 and 1 more have 12" },
    /* More than there is in all; what it has is its own. */
    { .limits.cpus = 4, .asked = { .cpus = 3 }, .own = { .cpus = 3 } },
    { .limits.cpus = 4, .asked = { .cpus = 2 }, .own = { .cpus = 3 } },
    { .limits.cpus = 4,
      .asked = { .cpus = 4 },
      .own = { .cpus = 3 },
      .why = "not enough CPUs: it asks for 4, and of 4 (limits in the host config) 0 is left: db 8, build 2, mail 1 and 1 more have 12" },
    { .limits.memory = G(24), .asked = { .memory = G(2) } },
    { .limits.memory = G(24),
      .asked = { .memory = G(2) + (1 << 20) },
      .why =
          "not enough memory: it asks for 2049M, and of 24G (limits in the host config) 2G is left: db 16G, build 4G, mail 1G and 1 more "
          "have 22G" },
    { .limits.memory = MEMORY_OF_HOST, .host_memory = G(23), .asked = { .memory = G(1) } },
    { .limits.memory = MEMORY_OF_HOST,
      .host_memory = G(23),
      .asked = { .memory = G(2) },
      .why =
          "not enough memory: it asks for 2G, and of 23G (what this host has) 1G is left: db 16G, build 4G, mail 1G and 1 more have 22G" },
    { .limits.memory = MEMORY_OF_HOST, .asked = { .memory = G(2) } }, /* which isn't known */
    { .limits.disk = G(130), .asked = SMALL },
    { .limits.disk = G(129),
      .asked = SMALL,
      .why =
          "not enough disk space: it asks for 10G, and of 129G (limits in the host config) 9G is left: db 100G, mail 10G, web 10G have 120G" },
    { .limits.disk = G(1), .asked = { .memory = G(1) } }, /* no disk, so no question of it */
    { .limits.disk_reserve = G(5), .disk_free = G(5), .asked = SMALL },
    { .limits.disk_reserve = G(5),
      .disk_free = G(5) - (512 << 20),
      .asked = SMALL,
      .why = "not enough disk space: 4608M are free where disks are kept, and limits.disk_reserve is 5G" },
    { .limits.disk_reserve = G(5), .disk_free = 0, .asked = { .memory = G(1) } },
    { .limits.disk_reserve = G(5), .disk_free = 0, .asked = SMALL, .own = SMALL },
    { .limits.memory = G(24), .asked = { .memory = UINT64_MAX }, .why = "*" },
};

START_TEST(sums)
{
    const struct admission admission = {
        .limits = &cases[_i].limits,
        .host_memory = cases[_i].host_memory,
        .disk_free = cases[_i].disk_free,
        .tenants = tenants,
        .n_tenants = ARRAY_LEN(tenants),
        .own = cases[_i].own.memory || cases[_i].own.cpus ? &cases[_i].own : NULL,
    };
    struct err err = ERR_INIT;
    int r = admission_check(&admission, &cases[_i].asked, &err);

    ck_assert_msg(r == (cases[_i].why ? -EDQUOT : 0), "%d: %s", r, err.text);
    if (!cases[_i].why)
        return;
    ck_assert_str_eq(err.id, "no-room");
    if (!streq(cases[_i].why, "*"))
        ck_assert_str_eq(err.text, cases[_i].why);
}
END_TEST

START_TEST(alone)
{
    const struct host_limits limits = { .cpus = 2 };
    const struct admission admission = { .limits = &limits };
    struct err err = ERR_INIT;

    ck_assert_int_eq(admission_check(&admission, &(struct claims){ .cpus = 3 }, &err), -EDQUOT);
    ck_assert_str_eq(err.text, "not enough CPUs: it asks for 3, and of 2 (limits in the host config) 2 are left: no other VM has any");
}
END_TEST

static void collect(void *arg, const struct err *err)
{
    char *all = arg;

    ck_assert_str_eq(err->id, "bad-spec");
    snprintf(all + strlen(all), 1024 - strlen(all), "%s\n", err->text);
}

START_TEST(each_by_itself)
{
    static const struct host_limits tight = { .cpus_per_vm = { 0, 2 }, .memory_per_vm = { G(9), G(64) }, .disk_size = { G(400), 0 } },
                                    none = { 0 }, wide = { .cpus_per_vm = { 4, 4 }, .memory_per_vm = { G(1), G(1) } };
    static const char text[] = "{\"name\": \"a\", \"memory\": \"1G\", \"cpus\": 4, \"disks\": [{\"path\": \"/x\", \"readonly\": true}, "
                               "{\"name\": \"state\", \"size\": \"300G\"}]}";
    auto_json json_t *json = json_loads(text, 0, NULL);
    auto_spec struct spec spec = { 0 };
    char all[1024] = "";

    ck_assert_int_eq(spec_load(json, &(struct spec_reader){ .arg = NULL }, &spec), 0);
    ck_assert_int_eq(admission_check_spec(&none, &spec, false, collect, all), 0);
    ck_assert_int_eq(admission_check_spec(&wide, &spec, false, collect, all), 0);
    ck_assert_int_eq(admission_check_spec(&tight, &spec, false, collect, all), 3);
    ck_assert_str_eq(all, "/cpus: 4 is more than limits.cpus_per_vm.max of this host, 2\n"
                          "/memory: 1G is less than limits.memory_per_vm.min of this host, 9G\n"
                          "/disks/1/size: 300G is less than limits.disk_size.min of this host, 400G\n");
    all[0] = '\0';
    ck_assert_int_eq(admission_check_spec(&tight, &spec, true, collect, all), 3);
    ck_assert_ptr_nonnull(strstr(all, "/qemu_configuration/cores: 4 is more"));
    ck_assert_ptr_nonnull(strstr(all, "/qemu_configuration/mem_gb: 1G is less"));
    ck_assert_ptr_nonnull(strstr(all, "/qemu_configuration/state_disk_size_gb: 300G is less"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, sums, 0, ARRAY_LEN(cases));
    tcase_add_test(tc, alone);
    tcase_add_test(tc, each_by_itself);
}

int main(void) { return fixture_main("admission", add_tests); }
