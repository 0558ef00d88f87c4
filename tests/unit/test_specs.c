#include "lib/manager/specs.h"
#include "lib/spec/load.h"
#include "tests/unit/fixture.h"

static const char qemu[] = "{\"cores\": 1, \"mem_gb\": 1, \"state_disk_size_gb\": 1, \"state_disk_persistent\": true}";

static json_t *spvm(const char *build_dir)
{
    auto_free char *text = NULL;
    json_t *json = NULL;

    ck_assert_int_eq(
        str_format(&text, "{\"name\": \"x\", \"run_configuration\": {\"build_dir\": \"%s\"}, \"qemu_configuration\": %s}", build_dir, qemu),
        0);
    ck_assert_int_eq(json_parse(text, strlen(text), &json, NULL), 0);
    return json;
}

START_TEST(native_stays_what_it_is)
{
    auto_json json_t *json = json_pack("{s:s, s:s}", "name", "x", "memory", "not checked here"), *native = NULL;

    ck_assert_int_eq(specs_to_native(json, &native), 0);
    ck_assert_ptr_eq(native, json);
}
END_TEST

START_TEST(sp_vm_becomes_native)
{
    auto_json json_t *json = spvm(fixture.path), *native = NULL;

    fixture_write("sp-vm-build-7.img", "");
    fixture_write("rootfs_hash.txt", "0123abcd");
    ck_assert_int_eq(specs_to_native(json, &native), 0);
    ck_assert(!spec_is_spvm(native));
    ck_assert_str_eq(json_string_value(json_object_get(native, "memory")), "1G");
}
END_TEST

/* What it stood for can't be told any more. */
START_TEST(sp_vm_without_its_build)
{
    auto_json json_t *json = spvm("/nonexistent"), *native = NULL;

    ck_assert_int_eq(specs_to_native(json, &native), -EINVAL);
    ck_assert_ptr_null(native);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, native_stays_what_it_is);
    tcase_add_test(tc, sp_vm_becomes_native);
    tcase_add_test(tc, sp_vm_without_its_build);
}

int main(void) { return fixture_main("specs", add_tests); }
