#include "lib/manager/config.h"

#include "tests/unit/fixture.h"

START_TEST(missing)
{
    struct host_config config = { .start_interval = 5 };

    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_ptr_null(config.group);
    ck_assert_uint_eq(config.start_interval, 0);
    ck_assert_int_eq(config.restore.mode, RESTORE_MODE_DEFAULT);
    ck_assert(config.restore.prefetch);
    ck_assert_uint_eq(config.ports.first, 20000);
    ck_assert_uint_eq(config.ports.last, 29999);
    ck_assert_uint_eq(config.limits.memory, 0);
    ck_assert(!config.found);
    ck_assert_uint_eq(config.watch.delete_grace, 30000);
    ck_assert_int_eq(config.watch.on_change, ON_CHANGE_RESTART);
    ck_assert_uint_eq(config.watch.restart_interval, 5000);
    ck_assert_int_eq(host_config_read("/nonexistent", &config, NULL), 0);
}
END_TEST

START_TEST(full)
{
    struct host_config config = { 0 };

    fixture_write("holdfast.json", "{\"group\": \"staff\", \"log_level\": \"debug\", \"qemu_user\": \"vm\", \"start_interval\": \"250ms\", "
                                   "\"restore\": {\"mode\": \"eager\", \"prefetch\": false}, "
                                   "\"watch\": {\"delete_grace\": \"1m\", \"on_change\": \"show\", \"restart_interval\": \"0\"}}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_str_eq(config.group, "staff");
    ck_assert_str_eq(config.log_level, "debug");
    ck_assert_str_eq(config.qemu_user, "vm");
    ck_assert_uint_eq(config.start_interval, 250);
    ck_assert_int_eq(config.restore.mode, RESTORE_EAGER);
    ck_assert(!config.restore.prefetch);
    ck_assert(config.found);
    ck_assert_uint_eq(config.watch.delete_grace, 60000);
    ck_assert_int_eq(config.watch.on_change, ON_CHANGE_SHOW);
    ck_assert_uint_eq(config.watch.restart_interval, 0);
    host_config_clear(&config);
}
END_TEST

START_TEST(limits)
{
    struct host_config config = { 0 };

    fixture_write("holdfast.json", "{\"ports\": \"1024-1024\", \"limits\": {\"cpus\": 64, \"memory\": \"auto\", \"disk\": \"1T\", "
                                   "\"disk_reserve\": \"10G\", \"cpus_per_vm\": {\"max\": 8}, \"memory_per_vm\": {\"min\": \"9G\", "
                                   "\"max\": \"64G\"}, \"disk_size\": {\"min\": \"400G\"}}}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_uint_eq(config.ports.first, 1024);
    ck_assert_uint_eq(config.ports.last, 1024);
    ck_assert_uint_eq(config.limits.cpus, 64);
    ck_assert(config.limits.memory == MEMORY_OF_HOST);
    ck_assert_uint_eq(config.limits.disk, UINT64_C(1) << 40);
    ck_assert_uint_eq(config.limits.disk_reserve, UINT64_C(10) << 30);
    ck_assert_uint_eq(config.limits.cpus_per_vm.max, 8);
    ck_assert_uint_eq(config.limits.memory_per_vm.min, UINT64_C(9) << 30);
    ck_assert_uint_eq(config.limits.memory_per_vm.max, UINT64_C(64) << 30);
    ck_assert_uint_eq(config.limits.disk_size.min, UINT64_C(400) << 30);
    host_config_clear(&config);
}
END_TEST

/* As its operators have it, by the name it has there; a file of our own goes before it. */
START_TEST(of_sp_vm)
{
    struct host_config config = { 0 };

    fixture_write("config.json",
                  "{\"vm_config\": {\"configs_dir\": \"/srv/vms\", \"authorized_keys_file\": \"/root/.ssh/authorized_keys\"}}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_str_eq(config.vm_config.configs_dir, "/srv/vms");
    ck_assert_str_eq(config.vm_config.authorized_keys_file, "/root/.ssh/authorized_keys");
    ck_assert_int_eq(config.restore.mode, RESTORE_MODE_DEFAULT);
    host_config_clear(&config);

    fixture_write("config.json", "{\"vm_config\": {\"authorized_keys_file\": null}}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_str_eq(config.vm_config.configs_dir, "/etc/sp/watchdog/vms");
    ck_assert_ptr_null(config.vm_config.authorized_keys_file);
    host_config_clear(&config);

    fixture_write("holdfast.json", "{\"group\": \"staff\"}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_str_eq(config.group, "staff");
    ck_assert_ptr_null(config.vm_config.configs_dir);
    host_config_clear(&config);
}
END_TEST

START_TEST(wrong_of_sp_vm)
{
    struct host_config config = { .start_interval = 5 };
    struct err err = ERR_INIT;

    fixture_write("config.json", "{\"vm_config\": 1}");
    ck_assert_int_lt(host_config_read(fixture.path, &config, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "/config.json: /vm_config: "));
}
END_TEST

START_TEST(of_image_updates)
{
    struct host_config config = { 0 };

    fixture_write("holdfast.json", "{\"image_update\": {\"policy\": \"auto\", \"time\": \"23:05\"}}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_int_eq(config.image_update.policy, IMAGE_UPDATE_AUTO);
    ck_assert_uint_eq(config.image_update.minute, 23 * 60 + 5);
    host_config_clear(&config);
    fixture_write("holdfast.json", "{}");
    ck_assert_int_eq(host_config_read(fixture.path, &config, NULL), 0);
    ck_assert_int_eq(config.image_update.policy, IMAGE_UPDATE_MANUAL);
    ck_assert_uint_eq(config.image_update.minute, 3 * 60 + 30);
    host_config_clear(&config);
}
END_TEST

static const struct {
    const char *text, *says;
} bad[] = {
    { "{\"image_update\": {\"policy\": \"never\"}}", "/image_update/policy" },
    { "{\"image_update\": {\"time\": \"24:00\"}}", "/image_update/time" },
    { "{\"image_update\": {\"time\": \"3:5\"}}", "/image_update/time" },
    { "{\"image_update\": {\"time\": \"030:00\"}}", "/image_update/time" },
    { "{\"image_update\": {\"time\": \"-1:00\"}}", "/image_update/time" },
    { "{\"image_update\": {\"time\": 330}}", "/image_update/time" },
    { "{\"groups\": \"staff\"}", "/groups" },
    { "{\"log_level\": \"loud\"}", "/log_level" },
    { "{\"start_interval\": 5}", "/start_interval" },
    { "{\"restore\": {\"mode\": \"magic\"}}", "/restore/mode" },
    { "{\"restore\": {\"prefetch\": 1}}", "/restore/prefetch" },
    { "{\"restore\": {\"lazy\": true}}", "/restore/lazy" },
    { "{\"watch\": {\"delete_grace\": \"0\"}}", "/watch/delete_grace" },
    { "{\"watch\": {\"delete_grace\": \"999ms\"}}", "/watch/delete_grace" },
    { "{\"watch\": {\"on_change\": \"reboot\"}}", "/watch/on_change" },
    { "{\"watch\": {\"restart_interval\": 5}}", "/watch/restart_interval" },
    { "{\"watch\": {\"grace\": \"1s\"}}", "/watch/grace" },
    { "{\"vm_config\": {\"configs_dir\": \"vms\"}}", "/vm_config/configs_dir" },
    { "{\"ports\": \"20000\"}", "/ports" },
    { "{\"ports\": \"20001-20000\"}", "/ports" },
    { "{\"ports\": \"0-100\"}", "/ports" },
    { "{\"ports\": \"1-65536\"}", "/ports" },
    { "{\"ports\": \"-5\"}", "/ports" },
    { "{\"ports\": 20000}", "/ports" },
    { "{\"limits\": {\"memory\": 5}}", "/limits/memory" },
    { "{\"limits\": {\"memory\": \"all\"}}", "/limits/memory" },
    { "{\"limits\": {\"disk\": \"auto\"}}", "/limits/disk" },
    { "{\"limits\": {\"cpus_per_vm\": {\"maximum\": 4}}}", "/limits/cpus_per_vm/maximum" },
    { "{\"vm_config\": {}, \"limits\": {\"memory_per_vm\": {\"min\": \"2G\", \"max\": \"1G\"}}}", "/limits/memory_per_vm" },
    { "{\"vm_config\": {\"config_dir\": \"/vms\"}}", "/vm_config/config_dir" },
    { "{\n\"group\": }", "line 2" },
};

START_TEST(wrong)
{
    struct host_config config = { .start_interval = 5 };
    struct err err = ERR_INIT;

    fixture_write("holdfast.json", bad[_i].text);
    ck_assert_int_lt(host_config_read(fixture.path, &config, &err), 0);
    ck_assert_msg(strstr(err.text, bad[_i].says), "\"%s\" doesn't say %s", err.text, bad[_i].says);
    ck_assert_ptr_nonnull(strstr(err.text, "holdfast.json"));
    ck_assert_uint_eq(config.start_interval, 5);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, missing);
    tcase_add_test(tc, full);
    tcase_add_test(tc, limits);
    tcase_add_test(tc, of_image_updates);
    tcase_add_test(tc, of_sp_vm);
    tcase_add_test(tc, wrong_of_sp_vm);
    tcase_add_loop_test(tc, wrong, 0, ARRAY_LEN(bad));
}

int main(void) { return fixture_main("host_config", add_tests); }
