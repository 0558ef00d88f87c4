#include "shim/layers.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/json.h"
#include "lib/qemu/chains.h"
#include "lib/qemu/resolve.h"
#include "proto/launch.h"
#include "shim/overlay.h"
#include "tests/unit/fixture.h"

static json_t *json_of(const char *text)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;
    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s: %s", text, err.text);
    return json;
}

/* A plan of tests/golden/good. */
static void read_plan(const char *file, struct plan *ret_plan)
{
    auto_fd int dir = open(GOLDEN_DIR "/good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len = 0;
    struct err err = ERR_INIT;
    ck_assert_int_eq(file_read(dir, file, RECORD_MAX, &text, &len), 0);
    json = json_of(text);
    ck_assert_msg(plan_from_json(json, ret_plan, &err) == 0, "%s", err.text);
}

/* One of `n` raw disks. */
static void plan_with_disks(size_t n, struct plan *ret_plan)
{
    char machine[] = "pc-q35-7.2", version[] = "7.2.22";
    const struct qemu_capabilities capabilities = { .version = version, .machine = machine };
    auto_json json_t *json = json_of("{\"name\":\"v\",\"memory\":\"256M\",\"boot\":{\"kernel\":\"/k\"},\"disks\":[]}");
    auto_spec struct spec spec = { 0 };
    struct err err = ERR_INIT;
    for (size_t i = 0; i < n; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/srv/%zu.img", i);
        ck_assert_int_eq(json_array_append_new(json_object_get(json, "disks"), json_pack("{ss}", "path", path)), 0);
    }
    ck_assert_int_eq(spec_parse(json, NULL, NULL, &spec), 0);
    const struct resolve_input in = {
        .spec = &spec,
        .capabilities = &capabilities,
        .qemu_path = "/usr/bin/qemu-system-x86_64",
        .run_dir = "/run/v",
        .state_dir = "/state/v",
        .log_dir = "/log/v",
    };
    ck_assert_msg(plan_resolve(&in, ret_plan, &err) == 0, "%s", err.text);
}

static void read_disks(const char *text, struct disks *ret_disks)
{
    auto_json json_t *json = json_of(text);
    struct err err = ERR_INIT;
    ck_assert_msg(disks_from_json(json, ret_disks, &err) == 0, "%s", err.text);
}

static bool same_files(const struct plan *plan, const struct layered *layered)
{
    if (plan->qemu.n_files != layered->n_files)
        return false;
    for (size_t i = 0; i < layered->n_files; i++)
        if (plan->qemu.files[i].fd != layered->files[i].fd || plan->qemu.files[i].kind != layered->files[i].kind ||
            !streq(plan->qemu.files[i].path, layered->files[i].path))
            return false;
    return true;
}

static void assert_as_planned(const struct plan *plan, const struct disks *disks)
{
    auto_layered struct layered layered = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(layers_apply(plan, disks, &layered, &err) == 0, "%s", err.text);
    for (size_t i = 0; i <= layered.argv.n; i++)
        ck_assert_msg(streq_opt(plan->qemu.argv[i], layered.argv.items[i]), "word %zu", i);
    ck_assert(same_files(plan, &layered));
}

START_TEST(without_layers_argv_is_the_plans)
{
    static const char *const plans[] = { "disks-kinds.plan.json", "disks-many.plan.json",    "hostile-names.plan.json",
                                         "full.plan.json",        "arm-full.plan.json",      "minimal-disk.plan.json",
                                         "extra-args.plan.json",  "minimal-kernel.plan.json" };
    for (size_t i = 0; i < ARRAY_LEN(plans); i++) {
        auto_plan struct plan plan = { 0 };
        auto_disks struct disks other = { 0 };
        read_plan(plans[i], &plan);
        assert_as_planned(&plan, &other);
        read_disks("{\"schema\":1,\"disks\":[{\"plan_path\":\"/nobodys\",\"layers\":[{\"path\":\"/x\",\"format\":\"qcow2\"}]}]}", &other);
        assert_as_planned(&plan, &other);
    }
}
END_TEST

START_TEST(chains_are_read_back)
{
    auto_plan struct plan plan = { 0 };
    struct chains chains;
    read_plan("disks-kinds.plan.json", &plan);
    ck_assert_int_eq(chains_of_plan(&plan, &chains, NULL), 0);
    ck_assert_uint_eq(chains.n, 10);
    ck_assert_str_eq(chains.items[0].node, "disk0");
    ck_assert_str_eq(chains.items[0].layers[0].path, "/var/lib/holdfast/vms/kinds/root.qcow2");
    ck_assert_str_eq(chains.items[0].layers[0].format, "qcow2");
    ck_assert_str_eq(chains.items[5].layers[0].path, "/srv/c.qcow2");
    ck_assert_str_eq(chains.items[5].layers[0].format, "raw");
    ck_assert(!chains.items[7].readonly);
    ck_assert(chains.items[9].readonly);
}
END_TEST

/* The words after `word`, up to `n`, as one line. */
static void assert_words(const struct layered *layered, const char *node, const char *expected)
{
    const struct strv *argv = &layered->argv;
    auto_free char *quoted = NULL, *line = NULL;
    size_t at = 0, from;
    ck_assert_int_eq(str_format(&quoted, "\"node-name\":\"%s-image\"", node), 0);
    while (at < argv->n && !strstr(argv->items[at], quoted))
        at++;
    ck_assert_uint_lt(at, argv->n);
    for (from = at - 1; from >= 2 && streq(argv->items[from - 2], "-add-fd"); from -= 2)
        ;
    for (; from <= at; from++) {
        auto_free char *before = line;
        line = NULL;
        ck_assert_int_eq(str_format(&line, "%s%s%s", before ? before : "", before ? " " : "", argv->items[from]), 0);
    }
    ck_assert_str_eq(line, expected);
}

static const struct plan_file *file_at(const struct layered *layered, uint64_t fd)
{
    for (size_t i = 0; i < layered->n_files; i++)
        if (layered->files[i].fd == fd)
            return &layered->files[i];
    return NULL;
}

#define FILE_NODE(n) "{\"driver\":\"file\",\"filename\":\"/dev/fdset/" n "\",\"locking\":\"auto\"}"
#define TOP_NODE(n) "{\"driver\":\"file\",\"filename\":\"/dev/fdset/" n "\",\"locking\":\"auto\",\"discard\":\"unmap\"}"

START_TEST(layers_take_the_place_of_the_file)
{
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 };
    auto_layered struct layered layered = { 0 }, again = { 0 };
    struct err err = ERR_INIT;
    read_plan("disks-kinds.plan.json", &plan);
    read_disks("{\"schema\":1,\"disks\":["
               "{\"plan_path\":\"/dev/vg0/lv\",\"layers\":[{\"path\":\"/l/disk7-1.qcow2\",\"format\":\"qcow2\"},"
               "{\"path\":\"/dev/vg0/lv\",\"format\":\"raw\"}]},"
               "{\"plan_path\":\"/var/lib/holdfast/vms/kinds/root.qcow2\",\"layers\":[{\"path\":\"/l/disk0-2.qcow2\",\"format\":\"qcow2\"},"
               "{\"path\":\"/l/a,b=\\\"c\\\" d.qcow2\",\"format\":\"qcow2\"},{\"path\":\"/l/r.qcow2\",\"format\":\"qcow2\"}]},"
               "{\"plan_path\":\"/var/lib/holdfast/vms/kinds/seed.qcow2\",\"layers\":[{\"path\":\"/l/seed.raw\",\"format\":\"raw\"}]}]}",
               &disks);
    ck_assert_msg(layers_apply(&plan, &disks, &layered, &err) == 0, "%s", err.text);
    assert_words(
        &layered, "disk0",
        "-add-fd fd=512,set=512 -add-fd fd=513,set=513 -add-fd fd=514,set=514 -blockdev "
        "{\"driver\":\"qcow2\",\"node-name\":\"disk0-image\",\"read-only\":false,\"discard\":\"unmap\",\"file\":" TOP_NODE(
            "512") ",\"backing\":{\"driver\":\"qcow2\",\"read-only\":true,\"file\":" FILE_NODE("513") ",\"backing\":{\"driver\":"
                                                                                                      "\"qcow2\",\"read-only\":true,\"file\":" FILE_NODE(
                                                                                                          "514") "}}}");
    assert_words(
        &layered, "disk1",
        "-add-fd fd=33,set=33 -blockdev {\"driver\":\"raw\",\"node-name\":\"disk1-image\",\"read-only\":false,\"discard\":\"unmap\","
        "\"file\":" TOP_NODE("33") "}");
    assert_words(
        &layered, "disk2",
        "-add-fd fd=515,set=515 -blockdev {\"driver\":\"raw\",\"node-name\":\"disk2-image\",\"read-only\":true,\"discard\":\"unmap\","
        "\"file\":" TOP_NODE("515") "}");
    assert_words(
        &layered, "disk7",
        "-add-fd fd=516,set=516 -add-fd fd=517,set=517 -blockdev {\"driver\":\"qcow2\",\"node-name\":\"disk7-image\",\"read-only\":"
        "false,\"discard\":\"unmap\",\"file\":" TOP_NODE("516") ",\"backing\":{\"driver\":\"raw\",\"read-only\":true,\"file\":"
                                                                "{\"driver\":\"host_device\",\"filename\":\"/dev/fdset/517\"}}}");
    ck_assert_ptr_null(file_at(&layered, 32));
    ck_assert_ptr_null(file_at(&layered, 39));
    ck_assert_ptr_nonnull(file_at(&layered, 33));
    ck_assert_int_eq(file_at(&layered, 512)->kind, FILE_WRITE);
    ck_assert_int_eq(file_at(&layered, 513)->kind, FILE_READ);
    ck_assert_str_eq(file_at(&layered, 513)->path, "/l/a,b=\"c\" d.qcow2");
    ck_assert_int_eq(file_at(&layered, 515)->kind, FILE_READ);
    ck_assert_uint_eq(layered.n_files, plan.qemu.n_files + 3);
    /* The plan itself isn't touched: a second time gives the same. */
    ck_assert_int_eq(layers_apply(&plan, &disks, &again, NULL), 0);
    ck_assert_uint_eq(layered.argv.n, again.argv.n);
    for (size_t i = 0; i < again.argv.n; i++)
        ck_assert_str_eq(layered.argv.items[i], again.argv.items[i]);
}
END_TEST

START_TEST(layers_replace_the_backing_chain)
{
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 };
    auto_layered struct layered layered = { 0 };
    struct chains chains;
    struct snapshot_layer layers[2];
    char path[] = "/l/disk-1.qcow2", base[] = "/l/base", qcow2[] = "qcow2", raw[] = "raw";
    size_t i = 0;
    read_plan("user-low-port.plan.json", &plan);
    ck_assert_int_eq(chains_of_plan(&plan, &chains, NULL), 0);
    while (i < chains.n && chains.items[i].n_layers == 1)
        i++;
    ck_assert_msg(i < chains.n, "the plan has no disk with a backing file");
    layers[0] = (struct snapshot_layer){ path, qcow2 };
    layers[1] = (struct snapshot_layer){ base, raw };
    ck_assert_int_eq(disks_set(&disks, chains.items[i].layers[0].path, layers, 2), 0);
    ck_assert_int_eq(layers_apply(&plan, &disks, &layered, NULL), 0);
    for (size_t k = 0; k < chains.items[i].n_layers; k++) {
        char words[32];
        snprintf(words, sizeof(words), "set=%d", (int)chains.items[i].fds[k]);
        ck_assert_ptr_null(file_at(&layered, chains.items[i].fds[k]));
        for (size_t w = 0; w < layered.argv.n; w++)
            ck_assert_ptr_null(strstr(layered.argv.items[w], words));
    }
    ck_assert_uint_eq(layered.n_files, plan.qemu.n_files - chains.items[i].n_layers + 2);
}
END_TEST

START_TEST(too_many_files_are_refused)
{
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 };
    auto_layered struct layered layered = { 0 };
    struct chains chains;
    struct err err = ERR_INIT;
    plan_with_disks(16, &plan);
    ck_assert_int_eq(chains_of_plan(&plan, &chains, NULL), 0);
    ck_assert_uint_eq(chains.n, 16);
    for (size_t i = 0; i < 16; i++) {
        char paths[LAYERS_MAX][32], qcow2[] = "qcow2";
        struct snapshot_layer layers[LAYERS_MAX];
        for (size_t k = 0; k < LAYERS_MAX; k++) {
            snprintf(paths[k], sizeof(paths[k]), "/l/%zu-%zu", i, k);
            layers[k] = (struct snapshot_layer){ paths[k], qcow2 };
        }
        ck_assert_int_eq(disks_set(&disks, chains.items[i].layers[0].path, layers, LAYERS_MAX), 0);
        if (i == 14)
            ck_assert_int_eq(layers_apply(&plan, &disks, &layered, NULL), 0);
    }
    layered_clear(&layered);
    ck_assert_int_eq(layers_apply(&plan, &disks, &layered, &err), -EMFILE);
    ck_assert_str_eq(err.id, "too-many-layers");
}
END_TEST

START_TEST(a_broken_record_starts_nothing)
{
    static const char *const texts[] = { "", "{", "{\"schema\":1}", "{\"schema\":1,\"disks\":[{\"plan_path\":\"/a\",\"layers\":[]}]}",
                                         "{\"schema\":2,\"disks\":[]}" };
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 };
    read_plan("minimal-disk.plan.json", &plan);
    ck_assert_int_eq(layers_load(fixture.dir, &plan, &disks, NULL), 0);
    ck_assert_uint_eq(disks.n_disks, 0);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_INIT;
        fixture_write(FILE_DISKS, texts[i]);
        ck_assert_int_lt(layers_load(fixture.dir, &plan, &disks, &err), 0);
        ck_assert_str_eq(err.id, "bad-disks");
        ck_assert_ptr_nonnull(strstr(err.text, "/disks.json: "));
        fixture_assert_content(FILE_DISKS, texts[i]); /* not set aside: the next start must not go on without it */
    }
}
END_TEST

START_TEST(a_record_is_stored_and_loaded)
{
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 }, back = { 0 };
    auto_free char *unused = NULL, *used = NULL;
    struct err err = ERR_INIT;
    read_plan("disks-kinds.plan.json", &plan);
    read_disks("{\"schema\":1,\"disks\":[{\"plan_path\":\"/srv/a.img\",\"layers\":[{\"path\":\"/l/1\",\"format\":\"qcow2\"}]}]}", &disks);
    ck_assert_int_eq(layers_store(fixture.dir, &disks, NULL), 0);
    ck_assert_int_eq(layers_load(fixture.dir, &plan, &back, &err), 0);
    ck_assert_str_eq(disks_find(&back, "/srv/a.img")->layers[0].path, "/l/1");
    used = layers_unused(&plan, &back);
    ck_assert_ptr_null(used);
    free(back.disks[0].plan_path);
    back.disks[0].plan_path = strdup("/srv/old.img");
    unused = layers_unused(&plan, &back);
    ck_assert_ptr_nonnull(strstr(unused, "/srv/old.img (its newest data is in /l/1)"));
    /* What could not be read again isn't written. */
    back.disks[0].layers[0].path[0] = 'x';
    ck_assert_int_eq(layers_store(fixture.dir, &back, &err), -EINVAL);
}
END_TEST

START_TEST(the_sweep_removes_what_nobody_names)
{
    auto_disks struct disks disks = { 0 };
    auto_fd int folder = -1;
    uint64_t number = 0;
    ck_assert_int_eq(layers_sweep(fixture.dir, &disks), 0);
    folder = layers_folder(fixture.dir, 0, &number);
    ck_assert_int_ge(folder, 0);
    ck_assert_uint_eq(number, 1);
    static const char *const kept[] = { "layers/disk0-1.qcow2",  "layers/disk0-3.qcow2",     "layers/mine.qcow2", "layers/disk0-x.qcow2",
                                        "layers/disk64-1.qcow2", "layers/disk0-2.qcow2.bak", "disk0-1.qcow2" };
    static const char *const gone[] = { "layers/disk0-2.qcow2", "layers/disk0-10.raw", "layers/disk1-1.qcow2" };
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        fixture_write(kept[i], "");
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        fixture_write(gone[i], "");
    ck_assert_int_eq(fchmodat(fixture.dir, "layers/disk0-3.qcow2", 0440, 0), 0);
    read_disks(
        "{\"schema\":1,\"disks\":[{\"plan_path\":\"/a\",\"layers\":[{\"path\":\"/moved/layers/disk0-1.qcow2\",\"format\":\"qcow2\"}]}]}",
        &disks);
    fd_close(steal_fd(&folder));
    folder = layers_folder(fixture.dir, 0, &number);
    ck_assert_uint_eq(number, 11);
    ck_assert_int_eq(layers_sweep(fixture.dir, &disks), 0);
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        ck_assert_msg(fixture_exists(kept[i]), "%s", kept[i]);
    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        ck_assert_msg(!fixture_exists(gone[i]), "%s", gone[i]);
}
END_TEST

/* A snapshot on another file system than the VM. */
START_TEST(what_can_not_be_linked_is_protected)
{
    auto_disks struct disks none = { 0 };
    auto_snapshot struct snapshot snapshot = { 0 };
    auto_free char *path = NULL, *layers = NULL;
    char elsewhere[] = "/dev/shm/holdfast-unit-XXXXXX", qcow2[] = "qcow2";
    struct err err = ERR_INIT;
    struct stat st;
    uint64_t number = 0;
    ck_assert_ptr_nonnull(mkdtemp(elsewhere));
    auto_fd int disks = dir_open(AT_FDCWD, elsewhere), folder = layers_folder(fixture.dir, 0, &number);
    ck_assert_int_ge(folder, 0);
    fixture_write("layers/disk0-1.qcow2", "x");
    ck_assert_int_eq(str_format(&layers, "%s/layers", fixture.path), 0);
    ck_assert_int_eq(str_format(&path, "%s/disk0-1.qcow2", layers), 0);
    auto_fd int frozen = open(path, O_RDONLY | O_CLOEXEC);
    struct snapshot_layer layer = { path, qcow2 };
    struct frozen_disk disk = { .node = "disk0", .layers = &layer, .n_layers = 1, .size = 512, .frozen_fd = frozen };
    const struct freeze freeze = { .disks = &disk, .n_disks = 1, .folder = layers };
    ck_assert_msg(layers_link(&freeze, disks, elsewhere, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_str_eq(snapshot.disks[0].layers[0].path, path);
    ck_assert_int_eq(fstat(frozen, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0440);
    ck_assert_int_eq(layers_sweep(fixture.dir, &none), 0);
    ck_assert(fixture_exists("layers/disk0-1.qcow2"));
    ck_assert_int_eq(dir_remove_tree(AT_FDCWD, elsewhere), 0);
}
END_TEST

/* qemu-img's own opinion of an overlay of ours is asked in test_freeze.c; here what it may be made of. */
START_TEST(overlays_have_limits)
{
    char path[1100] = "/", qcow2[] = "qcow2", vmdk[] = "a-long-format";
    struct snapshot_layer base = { path, qcow2 };
    struct err err = ERR_INIT;
    struct stat st;
    memset(path + 1, 'x', 1022);
    auto_fd int fd = overlay_create(fixture.dir, "longest", &base, UINT64_C(1) << 50, &err);
    ck_assert_msg(fd >= 0, "%s", err.text);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, (3 + 256) * 65536);
    ck_assert_int_eq(overlay_create(fixture.dir, "longest", &base, 512, NULL), -EEXIST);
    path[1023] = 'x';
    ck_assert_int_eq(overlay_create(fixture.dir, "longer", &base, 512, NULL), -ENAMETOOLONG);
    path[10] = '\0';
    ck_assert_int_eq(overlay_create(fixture.dir, "odd", &base, 513, NULL), -EINVAL);
    ck_assert_int_eq(overlay_create(fixture.dir, "none", &base, 0, NULL), -EINVAL);
    ck_assert_int_eq(overlay_create(fixture.dir, "huge", &base, UINT64_C(1) << 52, NULL), -EINVAL);
    base.format = vmdk;
    ck_assert_int_eq(overlay_create(fixture.dir, "format", &base, 512, NULL), -EINVAL);
    ck_assert(!fixture_exists("longer") && !fixture_exists("odd") && !fixture_exists("format"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, without_layers_argv_is_the_plans);
    tcase_add_test(tc, chains_are_read_back);
    tcase_add_test(tc, layers_take_the_place_of_the_file);
    tcase_add_test(tc, layers_replace_the_backing_chain);
    tcase_add_test(tc, too_many_files_are_refused);
    tcase_add_test(tc, a_broken_record_starts_nothing);
    tcase_add_test(tc, a_record_is_stored_and_loaded);
    tcase_add_test(tc, the_sweep_removes_what_nobody_names);
    tcase_add_test(tc, what_can_not_be_linked_is_protected);
    tcase_add_test(tc, overlays_have_limits);
}

int main(void) { return fixture_main("layers", add_tests); }
