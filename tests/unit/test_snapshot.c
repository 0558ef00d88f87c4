#include "proto/snapshot.h"

#include "lib/base/json.h"
#include "tests/unit/fixture.h"

static json_t *json_of(const char *text)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;
    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s: %s", text, err.text);
    return json;
}

static const char snapshot_text[] =
    "{\"schema\":1,\"name\":\"before-upgrade\",\"vm\":\"web\",\"id\":\"0123456789abcdef0123456789abcdef\","
    "\"created\":\"2026-11-21T09:14:03.123Z\",\"incarnation\":3,\"live\":true,\"pause_us\":11873,\"ram_size\":\"256M\",\"page_size\":4096,"
    "\"present_pages\":20111,\"state_size\":\"70731\",\"state_sum\":\"2d06800538d394c2\","
    "\"hardware\":{\"machine\":\"pc-q35-7.2\",\"accel\":\"tcg\",\"cpu\":\"Nehalem-v1\",\"cpus\":2,\"memory\":\"256M\","
    "\"devices\":[\"virtio-rng-pci@0x1.0\",\"pvpanic\",\"virtio-blk-pci@0x10.0\"],\"qemu_version\":\"7.2.22\"},"
    "\"disks\":[{\"node\":\"disk0\",\"layers\":[{\"path\":\"/var/lib/holdfast/snapshots/web/before-upgrade/disks/disk0.qcow2\",\"format\":\"qcow2\"},"
    "{\"path\":\"/images/base.img\",\"format\":\"raw\"}],\"size\":\"20G\"},"
    "{\"node\":\"disk1\",\"readonly\":true,\"layers\":[{\"path\":\"/images/tools.img\",\"format\":\"raw\"}],\"size\":\"1G\"}],"
    "\"spec\":{\"name\":\"web\",\"memory\":\"256M\",\"disks\":[{\"name\":\"data\",\"size\":\"20G\"}]},\"digest\":\"0123456789abcdef\"}";

START_TEST(round_trip)
{
    auto_json json_t *json = json_of(snapshot_text), *again = NULL, *spec = NULL;
    auto_snapshot struct snapshot s = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(snapshot_from_json(json, &s, &err) == 0, "%s", err.text);
    ck_assert_str_eq(s.name, "before-upgrade");
    ck_assert_str_eq(s.vm, "web");
    ck_assert_uint_eq(s.created, UINT64_C(1795252443123000));
    ck_assert_uint_eq(s.incarnation, 3);
    ck_assert(s.live);
    ck_assert_uint_eq(s.pause_us, 11873);
    ck_assert_uint_eq(s.ram_size, UINT64_C(256) << 20);
    ck_assert_uint_eq(s.present_pages, 20111);
    ck_assert_uint_eq(s.state_size, 70731);
    ck_assert_uint_eq(s.hardware.cpus, 2);
    ck_assert_uint_eq(s.hardware.memory, UINT64_C(256) << 20);
    ck_assert_str_eq(s.hardware.devices[1], "pvpanic");
    ck_assert_uint_eq(s.n_disks, 2);
    ck_assert_uint_eq(s.disks[0].n_layers, 2);
    ck_assert_str_eq(s.disks[0].layers[1].path, "/images/base.img");
    ck_assert(!s.disks[0].readonly && s.disks[1].readonly);
    ck_assert_uint_eq(s.disks[1].size, UINT64_C(1) << 30);
    spec = json_of(s.spec);
    ck_assert(json_equal(spec, json_object_get(json, "spec")));
    ck_assert_int_eq(snapshot_to_json(&s, &again), 0);
    ck_assert(json_equal(json, again));
}
END_TEST

START_TEST(the_least_there_is)
{
    auto_json json_t *json = json_of(snapshot_text), *again = NULL;
    static const char *const optional[] = { "created", "incarnation", "live", "pause_us", "disks", "spec", "digest" };
    for (size_t i = 0; i < ARRAY_LEN(optional); i++)
        json_object_del(json, optional[i]);
    json_object_del(json_object_get(json, "hardware"), "devices");
    auto_snapshot struct snapshot s = { 0 };
    ck_assert_int_eq(snapshot_from_json(json, &s, NULL), 0);
    ck_assert(!s.live && !s.spec && !s.digest && !s.hardware.devices && s.n_disks == 0);
    ck_assert_int_eq(snapshot_to_json(&s, &again), 0);
    ck_assert_ptr_null(json_object_get(again, "spec"));
}
END_TEST

/* `path` is a JSON Pointer without escapes; NULL value: removes what it names. */
static json_t *snapshot_with(const char *path, const char *value)
{
    json_t *json = json_of(snapshot_text), *at = json;
    auto_free char *copy = strdup(path);
    ck_assert_ptr_nonnull(copy);
    for (char *key = copy + 1, *next; key; key = next) {
        next = strchr(key, '/');
        if (next)
            *next++ = '\0';
        size_t index = (size_t)(key[0] - '0');
        if (next)
            at = json_is_array(at) ? json_array_get(at, index) : json_object_get(at, key);
        else if (!value)
            json_object_del(at, key);
        else if (json_is_array(at))
            json_array_set_new(at, index, json_of(value));
        else
            json_object_set_new(at, key, json_of(value));
    }
    return json;
}

START_TEST(refuses)
{
    static const struct {
        const char *path, *value, *message;
    } cases[] = {
        { "/schema", "0", "/schema: " },
        { "/schema", "2", "/schema: this snapshot has schema 2, this build knows up to 1" },
        { "/name", "\"../x\"", "/name: expected 1 to 64" },
        { "/vm", "\"a/b\"", "/vm: expected 1 to 64" },
        { "/id", "\"0123\"", "/id: expected 32 lower-case hex digits, got \"0123\"" },
        { "/id", "\"0123456789ABCDEF0123456789abcdef\"", "/id: expected 32 lower-case hex digits" },
        { "/state_sum", "\"2d06800538d394c2a\"", "/state_sum: expected 16 lower-case hex digits" },
        { "/page_size", "16384", "/page_size: expected 4096, got 16384" },
        { "/ram_size", "\"0\"", "/ram_size: expected a multiple of 4K" },
        { "/ram_size", "\"5000\"", "/ram_size: expected a multiple of 4K from 4K to 16T, got 5000 bytes" },
        { "/ram_size", "\"17T\"", "/ram_size: expected a multiple of 4K" },
        { "/present_pages", "65537", "/present_pages: expected at most the 65536 of the RAM, got 65537" },
        { "/hardware", NULL, "/hardware: required" },
        { "/hardware/machine", NULL, "/hardware/machine: required" },
        { "/hardware/cpus", "0", "/hardware/cpus: " },
        { "/disks/0/node", "\"../disk\"", "/disks/0/node: expected 1 to 64" },
        { "/disks/1/node", "\"disk0\"", "/disks/1/node: disk0 is also the node of /disks/0" },
        { "/disks/1/layers", "[]", "/disks/1/layers: expected at least one file" },
        { "/disks/1/layers", NULL, "/disks/1/layers: required" },
        { "/disks/0/layers/1/path", "\"base.img\"", "/disks/0/layers/1/path: expected an absolute path, got \"base.img\"" },
        { "/disks/0/layers/1/path", "\"\"", "/disks/0/layers/1/path: expected an absolute path" },
        { "/disks/0/layers/0/format", "\"host_device\"", "/disks/0/layers/0/format: expected one of qcow2 raw" },
        { "/spec", "\"{}\"", "/spec: expected an object" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_json json_t *json = snapshot_with(cases[i].path, cases[i].value);
        struct snapshot s = { .n_disks = 4711 };
        struct err err = ERR_INIT;
        ck_assert_msg(snapshot_from_json(json, &s, &err) < 0, "%s", cases[i].message);
        ck_assert_msg(has_prefix(err.text, cases[i].message), "%s", err.text);
        ck_assert_uint_eq(s.n_disks, 4711); /* untouched */
    }
}
END_TEST

START_TEST(of_other_builds)
{
    struct err err = ERR_INIT;
    struct snapshot none;
    auto_json json_t *newer = snapshot_with("/schema", "2"), *more = snapshot_with("/hardware/added_later", "[1]");
    ck_assert_int_eq(snapshot_from_json(newer, &none, &err), -EPROTONOSUPPORT);
    ck_assert_str_eq(err.id, "newer-schema");
    auto_snapshot struct snapshot s = { 0 };
    ck_assert_int_eq(snapshot_from_json(more, &s, NULL), 0);
}
END_TEST

static void expect_not_written(struct snapshot *s)
{
    json_t *json = NULL;
    ck_assert_int_eq(snapshot_to_json(s, &json), -EINVAL);
    ck_assert_ptr_null(json);
}

/* Nothing is written that can't be read. */
START_TEST(writes_no_nonsense)
{
    static const char *const bad_specs[] = { "", "{", "[1]", "\"text\"", "{\"a\":1,\"a\":2}" };
    auto_json json_t *json = json_of(snapshot_text);
    auto_snapshot struct snapshot s = { 0 };
    ck_assert_int_eq(snapshot_from_json(json, &s, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad_specs); i++) {
        ck_assert_int_eq(str_set(&s.spec, bad_specs[i]), 0);
        expect_not_written(&s);
    }
    ck_assert_int_eq(str_set(&s.spec, NULL), 0);
    ck_assert_int_eq(str_set(&s.id, NULL), 0);
    expect_not_written(&s);
    ck_assert_int_eq(str_set(&s.id, "0123456789abcdef0123456789abcdef"), 0);
    s.page_size = 0;
    expect_not_written(&s);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, round_trip);
    tcase_add_test(tc, the_least_there_is);
    tcase_add_test(tc, refuses);
    tcase_add_test(tc, of_other_builds);
    tcase_add_test(tc, writes_no_nonsense);
}

int main(void) { return fixture_main("snapshot", add_tests); }
