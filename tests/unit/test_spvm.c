/* The sp-vm format: tests/golden/sp-vm replayed. A good file becomes exactly the spec beside it, of a bad one exactly what stands beside it
 * is said; warnings are lines before that. HOLDFAST_GOLDEN_UPDATE=1 rewrites them. Folders the files name are below sp-vm/host. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/spec/load.h"
#include "tests/unit/fixture.h"

enum { FILE_LIMIT = 1 << 20 };
#define HOST_ROOT GOLDEN_DIR "/sp-vm/host"

struct output {
    FILE *stream;
    char *text;
    size_t len;
};

static void problem(void *arg, const struct err *err)
{
    struct output *out = arg;

    ck_assert_int_eq(err->code, EINVAL);
    ck_assert_str_eq(err->id, "bad-spec");
    ck_assert_ptr_null(strpbrk(err->text, "\n\r\033"));
    fprintf(out->stream, "%s\n", err->text);
}

static void warning(void *arg, const struct err *err)
{
    struct output *out = arg;

    ck_assert_str_eq(err->id, "spec-warning");
    ck_assert_int_eq(err->text[0], '/');
    fprintf(out->stream, "warning: %s\n", err->text);
}

static void output_open(struct output *out)
{
    out->stream = open_memstream(&out->text, &out->len);
    ck_assert_ptr_nonnull(out->stream);
}

static json_t *read_json(int dirfd, const char *file)
{
    auto_free char *text = NULL;
    json_t *json = NULL;
    struct err err = ERR_INIT;
    size_t len;

    ck_assert_int_eq(file_read(dirfd, file, FILE_LIMIT, &text, &len), 0);
    ck_assert_msg(json_parse(text, len, &json, &err) == 0, "%s: %s", file, err.text);
    return json;
}

/* What was written out is a native spec and stays itself. */
static void check_native(const json_t *json, struct output *out)
{
    const struct spec_reader reader = { .problem = problem, .warning = warning, .arg = out };
    auto_spec struct spec again = { 0 };
    auto_json json_t *second = NULL;

    ck_assert(!spec_is_spvm(json));
    ck_assert_int_eq(spec_load(json, &reader, &again), 0);
    ck_assert_int_eq(spec_emit(&again, &second), 0);
    ck_assert(json_equal(json, second));
}

static void replay(int dirfd, const char *file, bool good, struct output *out)
{
    const struct spec_reader reader = {
        .problem = problem, .warning = warning, .arg = out, .root = HOST_ROOT, .authorized_keys = "/etc/keys"
    };
    auto_json json_t *json = read_json(dirfd, file), *native = NULL;
    auto_spec struct spec spec = { 0 };
    int r = spec_load(json, &reader, &spec);

    ck_assert(spec_is_spvm(json));
    ck_assert_msg((r == 0) == good, "%s: %d problems", file, r);
    if (r != 0) {
        ck_assert_ptr_null(spec.name); /* untouched on failure */
        return;
    }
    ck_assert_int_eq(spec_emit(&spec, &native), 0);
    ck_assert_int_eq(json_dumpf(native, out->stream, JSON_INDENT(2)), 0);
    fputc('\n', out->stream);
    check_native(native, out);
}

static int is_input(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 5 && streq(entry->d_name + n - 5, ".json");
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

static void replay_folder(const char *folder, const char *suffix, bool good)
{
    struct dirent **entries = NULL;
    int differ = 0, dirfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    ck_assert_int_ge(dirfd, 0);
    int n = scandir(folder, &entries, is_input, alphasort);
    ck_assert_int_gt(n, 4); /* an empty folder proves nothing */
    for (int i = 0; i < n; i++) {
        struct output out = { 0 };

        output_open(&out);
        replay(dirfd, entries[i]->d_name, good, &out);
        fclose(out.stream);
        differ += compare(dirfd, entries[i]->d_name, suffix, &out);
        free(out.text);
        free(entries[i]);
    }
    free(entries);
    ck_assert_int_eq(differ, 0);
    close(dirfd);
}

START_TEST(good_files_become_their_specs) { replay_folder(GOLDEN_DIR "/sp-vm/good", ".native", true); }
END_TEST

START_TEST(bad_files_get_their_errors) { replay_folder(GOLDEN_DIR "/sp-vm/bad", ".errors", false); }
END_TEST

START_TEST(a_file_is_told_by_its_parts)
{
    auto_json json_t *native = json_pack("{s:s, s:s}", "name", "x", "memory", "1G");
    auto_json json_t *run = json_pack("{s:n}", "run_configuration"), *qemu = json_pack("{s:{}}", "qemu_configuration");
    auto_json json_t *array = json_pack("[s]", "qemu_configuration");

    ck_assert(!spec_is_spvm(native));
    ck_assert(spec_is_spvm(run));
    ck_assert(spec_is_spvm(qemu));
    ck_assert(!spec_is_spvm(array));
    ck_assert(!spec_is_spvm(NULL));
}
END_TEST

/* ---- what only the host can say ---- */

static int load_host(const json_t *json, const char *root, struct output *out)
{
    const struct spec_reader parse = { .problem = problem, .warning = warning, .arg = out, .root = HOST_ROOT };
    const struct spec_reader host = { .problem = problem, .warning = warning, .arg = out, .root = root };
    auto_spec struct spec spec = { 0 };

    ck_assert_int_eq(spec_load(json, &parse, &spec), 0);
    return spec_load_host(json, &spec, &host);
}

START_TEST(what_lacks_on_the_host_has_its_place_in_the_file)
{
    int dirfd = open(GOLDEN_DIR "/sp-vm/good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_json json_t *json = read_json(dirfd, "full.json");
    struct output out = { 0 };

    close(dirfd);
    output_open(&out);
    ck_assert_int_eq(load_host(json, NULL, &out), 2);
    fclose(out.stream);
    ck_assert_ptr_nonnull(strstr(out.text, "/run_configuration/build_dir: '/srv/build/vmlinuz' can't be found"));
    ck_assert_ptr_nonnull(strstr(out.text, "/qemu_configuration/qemu_path: '/opt/qemu/bin/qemu-system-x86_64' can't be found"));
    free(out.text);
}
END_TEST

static void make_folders(const char *path)
{
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        auto_free char *folder = strndup(path, (size_t)(slash - path));
        ck_assert(mkdirat(fixture.dir, folder, 0700) == 0 || errno == EEXIST);
    }
}

#define TDX "sys/module/kvm_intel/parameters/tdx"
#define SNP "sys/module/kvm_amd/parameters/sev_snp"

static const struct {
    const char *parameter, *value, *mode;
    enum confidential_mode confidential;
    const char *firmware, *words;
    const char *says; /* NULL: nothing of the mode */
} offers[] = {
    { TDX, "Y\n", "auto", CONFIDENTIAL_TDX, "OVMF.fd", " clearcpuid=mtrr", NULL },
    { TDX, "Y\n", NULL, CONFIDENTIAL_TDX, "OVMF.fd", " clearcpuid=mtrr", NULL },
    { TDX, "Y\n", "tdx", CONFIDENTIAL_TDX, "OVMF.fd", " clearcpuid=mtrr", NULL },
    { TDX, "Y\n", "sev-snp", CONFIDENTIAL_SEV_SNP, "OVMF_AMD.fd", " build=build-7 pci=realloc,nocrs", "offers no SEV-SNP" },
    { SNP, "Y\n", "auto", CONFIDENTIAL_SEV_SNP, "OVMF_AMD.fd", " build=build-7 pci=realloc,nocrs", NULL },
    { SNP, "1\n", "sev-snp", CONFIDENTIAL_SEV_SNP, "OVMF_AMD.fd", " build=build-7 pci=realloc,nocrs", NULL },
    { SNP, "Y\n", "tdx", CONFIDENTIAL_TDX, "OVMF.fd", " clearcpuid=mtrr", "offers no TDX" },
    { SNP, "Y\n", "untrusted", CONFIDENTIAL_NONE, "OVMF.fd", NULL, NULL },
    { TDX, "N\n", "auto", CONFIDENTIAL_NONE, "OVMF.fd", NULL, NULL },
    { TDX, "N\n", "tdx", CONFIDENTIAL_TDX, "OVMF.fd", " clearcpuid=mtrr", "offers no TDX" },
    { "sys/module/kvm_intel/parameters/ept", "Y\n", "auto", CONFIDENTIAL_NONE, "OVMF.fd", NULL, NULL },
};

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && streq(text + n - m, end);
}

START_TEST(the_mode_is_what_was_asked_for_or_the_host_offers)
{
    auto_spec struct spec spec = { 0 };
    int dirfd = open(GOLDEN_DIR "/sp-vm/good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_json json_t *json = read_json(dirfd, "minimal.json");
    struct output out = { 0 };

    close(dirfd);
    if (offers[_i].mode)
        json_object_set_new(json_object_get(json, "qemu_configuration"), "mode", json_string(offers[_i].mode));
    make_folders(offers[_i].parameter);
    fixture_write(offers[_i].parameter, offers[_i].value);
    output_open(&out);
    const struct spec_reader reader = {
        .problem = problem, .warning = warning, .arg = &out, .root = HOST_ROOT, .sysfs_root = fixture.path
    };
    ck_assert_int_eq(spec_load(json, &reader, &spec), 0);
    ck_assert_int_eq(spec.confidential, offers[_i].confidential);
    ck_assert_msg(ends_in(spec.boot.firmware, offers[_i].firmware), "%s", spec.boot.firmware);
    if (offers[_i].words)
        ck_assert_msg(ends_in(spec.boot.cmdline, offers[_i].words), "%s", spec.boot.cmdline);
    else
        ck_assert_msg(!strstr(spec.boot.cmdline, "mtrr") && !strstr(spec.boot.cmdline, "pci="), "%s", spec.boot.cmdline);
    (void)spec_load_host(json, &spec, &reader);
    fclose(out.stream);
    if (offers[_i].says)
        ck_assert_msg(strstr(out.text, "/qemu_configuration/mode: this host ") && strstr(out.text, offers[_i].says), "%s", out.text);
    else
        ck_assert_msg(!strstr(out.text, "/mode"), "%s", out.text);
    free(out.text);
}
END_TEST

START_TEST(gpus_that_are_not_there_are_named_in_the_file)
{
    int dirfd = open(GOLDEN_DIR "/sp-vm/good", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_json json_t *json = read_json(dirfd, "mode-sev-snp-gpus.json");
    struct output out = { 0 };

    close(dirfd);
    output_open(&out);
    ck_assert_int_gt(load_host(json, fixture.path, &out), 0);
    fclose(out.stream);
    ck_assert_msg(strstr(out.text, "/qemu_configuration/gpus/1: there is no PCI device 0000:c2:00.0 on this host") != NULL, "%s", out.text);
    free(out.text);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, good_files_become_their_specs);
    tcase_add_test(tc, bad_files_get_their_errors);
    tcase_add_test(tc, a_file_is_told_by_its_parts);
    tcase_add_test(tc, what_lacks_on_the_host_has_its_place_in_the_file);
    tcase_add_test(tc, gpus_that_are_not_there_are_named_in_the_file);
    tcase_add_loop_test(tc, the_mode_is_what_was_asked_for_or_the_host_offers, 0, ARRAY_LEN(offers));
}

int main(void) { return fixture_main("spvm", add_tests); }
