/* Replays tests/golden: good specs become exactly the plan beside them, bad ones exactly the errors beside them.
 *
 * HOLDFAST_GOLDEN_UPDATE=1 rewrites the expected files; read the difference before committing it. The host a spec is resolved for is part
 * of its file name: see `made_up`; "hostile-…" has folders with commas in their names. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "lib/base/err.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/load.h"

enum { FILE_LIMIT = 1 << 20 };

struct output {
    FILE *stream;
    char *text;
    size_t len;
};

static void report_line(void *arg, const struct err *err)
{
    struct output *out = arg;

    ck_assert_int_eq(err->code, EINVAL);
    ck_assert_str_eq(err->id, "bad-spec");
    ck_assert_ptr_null(strpbrk(err->text, "\n\r\033"));
    fprintf(out->stream, "%s\n", err->text);
}

/* The host and its QEMU, by what a file's name begins with. */
static const struct made_up {
    const char *prefix;
    const char *version, *machine, *features;
    struct host host;
    bool kvm, user;
} made_up[] = {
    { "arm-", "7.2.22", "virt-7.2", NULL, { 0 }, false, false },
    { "kvm-", "7.2.22", "pc-q35-7.2", NULL, { 0 }, true, true },
    { "user-", "7.2.22", "pc-q35-7.2", NULL, { 0 }, false, true },
    { "gpu-", "7.2.22", "pc-q35-7.2", " vfio-pci vhost-vsock-pci EPYC-v3 ", { 0 }, true, true },
    { "tdx-",
      "10.1.0",
      "pc-q35-10.1",
      " tdx-guest sev-snp-guest iommufd vfio-pci vhost-vsock-pci EPYC-v3 EPYC-v4 ",
      { .tdx = true, .family = 6, .model = 207, .phys_bits = 46 },
      true,
      true },
    { "snp-",
      "10.1.0",
      "pc-q35-10.1",
      " tdx-guest sev-snp-guest iommufd vfio-pci vhost-vsock-pci EPYC-v3 EPYC-v4 ",
      { .sev_snp = true, .amd = true, .family = 0x19, .model = 0x11, .phys_bits = 52, .cbitpos = 51 },
      true,
      true },
    { "milan-",
      "10.1.0",
      "pc-q35-10.1",
      " sev-snp-guest iommufd vfio-pci vhost-vsock-pci EPYC-v3 EPYC-v4 ",
      { .sev_snp = true, .amd = true, .family = 0x19, .model = 0x01, .phys_bits = 48, .cbitpos = 51 },
      true,
      true },
    { "oldtdx-", "7.2.22", "pc-q35-7.2", " vfio-pci vhost-vsock-pci EPYC-v3 ", { .tdx = true, .phys_bits = 46 }, true, true },
    { "oldsnp-",
      "9.0.0",
      "pc-q35-9.0",
      " iommufd EPYC-v3 ",
      { .sev_snp = true, .amd = true, .family = 0x19, .model = 0x11, .phys_bits = 52, .cbitpos = 51 },
      true,
      true },
    { "", "7.2.22", "pc-q35-7.2", NULL, { 0 }, false, false },
};

#define RELEASE "/var/lib/holdfast/images/sp-vm/build-12"
static const char release[] = RELEASE;

/* What the planner finds in the store. */
static void apply_release(struct spec *spec)
{
    const struct spec_release files = {
        .version = "build-12",
        .kernel = RELEASE "/vmlinuz",
        .firmware = RELEASE "/OVMF.fd",
        .rootfs = RELEASE "/sp-vm-build-12.img",
        .rootfs_hash = "00ff",
    };

    if (spec->image.name)
        ck_assert_int_eq(spec_apply_release(spec, &files), 0);
}

static int resolve_for(const char *file, const struct spec *spec, struct plan *ret_plan, struct err *err)
{
    const struct made_up *is = made_up;
    while (!has_prefix(file, is->prefix))
        is++;
    bool arm = has_prefix(is->machine, "virt");
    auto_free char *version = strdup(is->version), *machine = strdup(is->machine), *features = is->features ? strdup(is->features) : NULL;
    const struct qemu_capabilities capabilities = { .version = version, .machine = machine, .features = features };
    auto_free char *run = NULL, *state = NULL, *log = NULL;
    const char *root = has_prefix(file, "hostile-") ? "/hold,fast=\"x\" y" : "";

    ck_assert_int_eq(str_format(&run, "%s/run/holdfast/vms/%s", root, spec->name), 0);
    ck_assert_int_eq(str_format(&state, "%s/var/lib/holdfast/vms/%s", root, spec->name), 0);
    ck_assert_int_eq(str_format(&log, "%s/var/log/holdfast/%s", root, spec->name), 0);
    char name[] = "holdfast-qemu", group[] = "36", *groups[] = { group, NULL };
    const struct qemu_user user = { .name = name, .uid = 990, .gid = 980, .groups = groups };
    struct resolve_input in = {
        .spec = spec,
        .release_dir = spec->image.name ? release : NULL,
        .capabilities = &capabilities,
        .qemu_path = spec->qemu.path ? spec->qemu.path
                     : arm           ? "/usr/bin/qemu-system-aarch64"
                                     : "/usr/bin/qemu-system-x86_64",
        .qemu_img_path = "/usr/bin/qemu-img",
        .mkdisk_path = "/usr/bin/holdfast-mkdisk",
        .config_digest = spec->config_disk.wanted ? "00112233445566778899aabbccddeeff" : NULL,
        .seed_digest = spec->seed.wanted ? "ffeeddccbbaa99887766554433221100" : NULL,
        .kvm_usable = is->kvm,
        .host = &is->host,
        .kvm_group = "107",
        .user = is->user ? &user : NULL,
        .run_dir = run,
        .state_dir = state,
        .log_dir = log,
        .vsock_cid = !spec->vsock.wanted ? 0
                     : spec->vsock.cid   ? spec->vsock.cid
                                         : 3,
    };
    return plan_resolve(&in, ret_plan, err);
}

static void write_plan(const struct plan *plan, struct output *out)
{
    auto_json json_t *json = NULL;

    ck_assert_int_eq(plan_to_json(plan, &json), 0);
    ck_assert_int_eq(json_dumpf(json, out->stream, JSON_INDENT(2)), 0);
    fputc('\n', out->stream);
}

/* A spec written out with its defaults is the same VM. */
static void check_round_trip(const char *file, const json_t *json, const struct plan *plan, struct output *out)
{
    auto_spec struct spec again = { 0 };
    auto_plan struct plan again_plan = { 0 };
    struct err err = ERR_INIT;
    char digest[17], again_digest[17];

    ck_assert_msg(spec_parse(json, report_line, out, &again) == 0, "%s: what spec_emit() wrote isn't a valid spec", file);
    apply_release(&again);
    ck_assert_int_eq(resolve_for(file, &again, &again_plan, &err), 0);
    ck_assert_int_eq(plan_digest(plan, digest), 0);
    ck_assert_int_eq(plan_digest(&again_plan, again_digest), 0);
    ck_assert_msg(streq(digest, again_digest), "%s: another plan after a round trip", file);
}

static void replay(int dirfd, const char *file, bool good, struct output *out)
{
    auto_free char *text = NULL;
    size_t len;
    struct err err = ERR_INIT;
    auto_json json_t *json = NULL, *emitted = NULL;
    auto_spec struct spec spec = { 0 };
    auto_plan struct plan plan = { 0 };

    ck_assert_int_eq(file_read(dirfd, file, FILE_LIMIT, &text, &len), 0);
    if (json_parse(text, len, &json, &err) < 0) {
        ck_assert(!good);
        ck_assert_str_eq(err.id, "bad-json");
        fprintf(out->stream, "%s\n", err.text);
        return;
    }
    int r = spec_parse(json, report_line, out, &spec);
    ck_assert_int_ge(r, 0);
    if (r > 0) {
        ck_assert_msg(!good, "%s: is in good/, but has mistakes", file);
        ck_assert_ptr_null(spec.name); /* untouched on failure */
        return;
    }
    ck_assert_int_eq(spec_emit(&spec, &emitted), 0);
    apply_release(&spec);
    r = resolve_for(file, &spec, &plan, &err);
    if (r < 0) {
        ck_assert_msg(!good, "%s: is in good/, but can't be resolved: %s", file, err.text);
        fprintf(out->stream, "%s: %s\n", err.id, err.text);
        return;
    }
    ck_assert_msg(good, "%s: is in bad/, but nothing is wrong with it", file);
    write_plan(&plan, out);
    check_round_trip(file, emitted, &plan, out);
}

static int is_input(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 5 && streq(entry->d_name + n - 5, ".json") && !strstr(entry->d_name, ".plan.json");
}

/* Returns 1 when the expected file differs, and shows both. */
static int compare(int dirfd, const char *file, const char *suffix, const struct output *out)
{
    auto_free char *name = NULL, *expected = NULL;
    size_t len = 0;

    ck_assert_int_eq(str_format(&name, "%.*s%s", (int)strlen(file) - 5, file, suffix), 0);
    if (getenv("HOLDFAST_GOLDEN_UPDATE")) {
        ck_assert_int_eq(file_write(dirfd, name, out->text, out->len, 0644, FILE_ATOMIC), 0);
        return 0;
    }
    int r = file_read(dirfd, name, FILE_LIMIT, &expected, &len);
    if (r == 0 && len == out->len && memcmp(expected, out->text, len) == 0)
        return 0;
    fprintf(stderr, "%s: expected\n%s\ngot\n%s\n", name, r < 0 ? strerror(-r) : expected, out->text);
    return 1;
}

static int count_files(int dirfd)
{
    int n = 0;
    DIR *dir = fdopendir(dup(dirfd));

    ck_assert_ptr_nonnull(dir);
    rewinddir(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* without . and .. */
}

static void replay_folder(const char *folder, const char *suffix, bool good)
{
    struct dirent **entries = NULL;
    int differ = 0, dirfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    ck_assert_int_ge(dirfd, 0);
    int n = scandir(folder, &entries, is_input, alphasort);
    ck_assert_int_gt(n, 10); /* an empty folder proves nothing */
    for (int i = 0; i < n; i++) {
        struct output out = { 0 };

        out.stream = open_memstream(&out.text, &out.len);
        ck_assert_ptr_nonnull(out.stream);
        replay(dirfd, entries[i]->d_name, good, &out);
        fclose(out.stream);
        differ += compare(dirfd, entries[i]->d_name, suffix, &out);
        free(out.text);
        free(entries[i]);
    }
    free(entries);
    ck_assert_int_eq(differ, 0);
    ck_assert_msg(count_files(dirfd) == 2 * n, "%s has files that belong to no spec", folder);
    close(dirfd);
}

START_TEST(good_specs_become_their_plans) { replay_folder(GOLDEN_DIR "/good", ".plan.json", true); }
END_TEST

START_TEST(bad_specs_get_their_errors) { replay_folder(GOLDEN_DIR "/bad", ".errors", false); }
END_TEST

/* Examples that don't work are worse than none: every JSON block of the man page is a good spec. */
START_TEST(examples_of_the_man_page_are_good)
{
    auto_free char *page = NULL;
    size_t len;
    int n = 0;
    struct output out = { .stream = stderr };
    const struct spec_reader reader = { .problem = report_line, .warning = report_line, .arg = &out, .root = GOLDEN_DIR "/sp-vm/host" };
    static const char fence[] = "\n```\n";

    ck_assert_int_eq(file_read(AT_FDCWD, MAN_PAGE, FILE_LIMIT, &page, &len), 0);
    for (const char *begin = strstr(page, fence); begin;) {
        const char *text = begin + sizeof fence - 1, *end = strstr(text, fence);
        auto_json json_t *json = NULL;
        auto_spec struct spec spec = { 0 };
        struct err err = ERR_INIT;

        ck_assert_ptr_nonnull(end);
        begin = strstr(end + sizeof fence - 1, fence);
        if (*text != '{')
            continue;
        ck_assert_msg(json_parse(text, (size_t)(end - text), &json, &err) == 0, "%s", err.text);
        ck_assert_int_eq(spec_load(json, &reader, &spec), 0);
        n++;
    }
    ck_assert_int_ge(n, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("replay");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tc, good_specs_become_their_plans);
    tcase_add_test(tc, bad_specs_get_their_errors);
    tcase_add_test(tc, examples_of_the_man_page_are_good);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
