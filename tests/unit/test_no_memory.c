/* Each of the pure parts (parsers, emitters, the resolver) runs again and again, and each time one allocation further on fails: it must
 * answer -ENOMEM, hold nothing afterwards, and work as ever when there is memory again. CMakeLists.txt has the linker put the allocators
 * below in the place of libc's in all code of ours; jansson gets them too. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/qemu/hardware.h"
#include "lib/qemu/qmp.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/load.h"
#include "lib/varlink/idl.h"
#include "lib/varlink/message.h"
#include "proto/exit.h"
#include "proto/interfaces.h"
#include "proto/memory_image.h"
#include "proto/snapshot.h"
#include "proto/status.h"
#include "proto/wanted.h"
#include "shim/layers.h"
#include "tests/unit/fixture.h"

/* ---- allocators that fail on demand ---- */

static struct {
    bool armed, spared;
    size_t countdown; /* allocations until the one that fails */
    bool failed;
    ssize_t held; /* blocks allocated while armed, less the ones freed */
} memory;

static bool fails(void)
{
    if (!memory.armed || memory.spared)
        return false;
    if (memory.countdown == 0 || --memory.countdown > 0)
        return false;
    memory.failed = true;
    errno = ENOMEM;
    return true;
}

static void *counted(void *block)
{
    memory.held += memory.armed && block;
    return block;
}

#define DECLARE_REAL(type, name, ...) \
    type __real_##name(__VA_ARGS__);  \
    __attribute__((used)) type __wrap_##name(__VA_ARGS__);

DECLARE_REAL(void *, malloc, size_t size)
DECLARE_REAL(void *, calloc, size_t n, size_t size)
DECLARE_REAL(void *, realloc, void *block, size_t size)
DECLARE_REAL(void *, reallocarray, void *block, size_t n, size_t size)
DECLARE_REAL(char *, strdup, const char *s)
DECLARE_REAL(char *, strndup, const char *s, size_t n)
DECLARE_REAL(int, vasprintf, char **ret, const char *fmt, va_list ap)
DECLARE_REAL(int, __vasprintf_chk, char **ret, int flag, const char *fmt, va_list ap)
DECLARE_REAL(FILE *, open_memstream, char **text, size_t *len)
DECLARE_REAL(FILE *, fmemopen, void *buf, size_t size, const char *mode)
DECLARE_REAL(json_t *, json_loadb, const char *text, size_t len, size_t flags, json_error_t *error)
DECLARE_REAL(void, free, void *block)

void *__wrap_malloc(size_t size) { return fails() ? NULL : counted(__real_malloc(size)); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : counted(__real_calloc(n, size)); }
char *__wrap_strdup(const char *s) { return fails() ? NULL : counted(__real_strdup(s)); }
char *__wrap_strndup(const char *s, size_t n) { return fails() ? NULL : counted(__real_strndup(s, n)); }
FILE *__wrap_fmemopen(void *buf, size_t size, const char *mode) { return fails() ? NULL : __real_fmemopen(buf, size, mode); }

void *__wrap_realloc(void *block, size_t size)
{
    if (fails())
        return NULL;
    return block ? __real_realloc(block, size) : counted(__real_malloc(size));
}

void *__wrap_reallocarray(void *block, size_t n, size_t size)
{
    if (fails())
        return NULL;
    return block ? __real_reallocarray(block, n, size) : counted(__real_reallocarray(block, n, size));
}

int __wrap_vasprintf(char **ret, const char *fmt, va_list ap)
{
    int n = fails() ? -1 : __real_vasprintf(ret, fmt, ap);

    if (n >= 0)
        counted(*ret);
    return n;
}

int __wrap___vasprintf_chk(char **ret, int flag, const char *fmt, va_list ap)
{
    int n = fails() ? -1 : __real___vasprintf_chk(ret, flag, fmt, ap);

    if (n >= 0)
        counted(*ret);
    return n;
}

FILE *__wrap_open_memstream(char **text, size_t *len)
{
    FILE *f = fails() ? NULL : __real_open_memstream(text, len);

    return counted(f); /* the text, which its user frees */
}

/* jansson 2.14 doesn't look whether its tokens' buffer could grow, and writes behind its end when it couldn't. So its decoder fails as a
 * whole or not at all here. */
json_t *__wrap_json_loadb(const char *text, size_t len, size_t flags, json_error_t *error)
{
    json_t *json;

    if (fails()) {
        *error = (json_error_t){ .line = -1, .column = -1 };
        return NULL;
    }
    memory.spared = true;
    json = __real_json_loadb(text, len, flags, error);
    memory.spared = false;
    return json;
}

void __wrap_free(void *block)
{
    memory.held -= memory.armed && block;
    __real_free(block);
}

/* ---- what is tried ---- */

static struct {
    char *text;
    size_t len;
} golden; /* the file of this case */

static int via_json(int (*use)(const json_t *json))
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    int r = json_parse(golden.text, golden.len, &json, &err);

    if (r < 0)
        return r;
    return use(json);
}

int use_changes(const json_t *json); /* no_memory_changes.c */

/* No assertion in here: check allocates, too. */
static void ignore_problem(void *arg, const struct err *err) {}

static int use_spec(const json_t *json)
{
    char machine[] = "pc-q35-7.2", version[] = "7.2.22";
    struct qemu_capabilities capabilities = { .version = version, .machine = machine };
    auto_spec struct spec spec = { 0 };
    auto_plan struct plan plan = { 0 };
    auto_json json_t *out = NULL;
    struct resolve_input in = {
        .spec = &spec,
        .capabilities = &capabilities,
        .qemu_path = "/usr/bin/qemu",
        .qemu_img_path = "/usr/bin/qemu-img",
        .mkdisk_path = "/usr/bin/holdfast-mkdisk",
        .kvm_usable = true,
        .run_dir = "/run/x",
        .state_dir = "/state/x",
        .log_dir = "/log/x",
        .vsock_cid = 3,
    };
    int r = spec_parse(json, ignore_problem, NULL, &spec);

    if (r != 0)
        return r;
    in.config_digest = spec.config_disk.wanted ? "00112233445566778899aabbccddeeff" : NULL;
    in.seed_digest = spec.seed.wanted ? "ffeeddccbbaa99887766554433221100" : NULL;
    r = spec_emit(&spec, &out);
    return r < 0 ? r : plan_resolve(&in, &plan, NULL);
}

static int use_plan(const json_t *json)
{
    auto_plan struct plan plan = { 0 };
    auto_json json_t *out = NULL;
    struct err err = ERR_INIT;
    char digest[17];
    int r = plan_from_json(json, &plan, &err);

    if (r >= 0)
        r = plan_to_json(&plan, &out);
    return r < 0 ? r : plan_digest(&plan, digest);
}

static int use_hardware(const json_t *json)
{
    auto_plan struct plan plan = { 0 };
    auto_hardware struct hardware hardware = { 0 };
    int r = plan_from_json(json, &plan, NULL);

    return r < 0 ? r : hardware_from_plan(&plan, "7.2.22", &hardware);
}

static int use_spvm(const json_t *json)
{
    const struct spec_reader reader = { .problem = ignore_problem, .warning = ignore_problem, .root = "sp-vm/host" };
    auto_spec struct spec spec = { 0 };
    int r = spec_load(json, &reader, &spec);

    if (r != 0)
        return r;
    r = spec_load_host(json, &spec, &reader);
    return r < 0 ? r : 0;
}

static int try_spec(void) { return via_json(use_spec); }
static int try_spvm(void) { return via_json(use_spvm); }
static int try_plan(void) { return via_json(use_plan); }
static int try_changes(void) { return via_json(use_changes); }
static int try_hardware(void) { return via_json(use_hardware); }

/* Without memory a word of a mistake's message may be missing, never the message. */
static int bad_spec(int r)
{
    if (r > 0)
        return memory.failed ? -ENOMEM : 0;
    return r < 0 ? r : -EPROTO;
}

static int try_bad_spec(void) { return bad_spec(try_spec()); }
static int try_bad_spvm(void) { return bad_spec(try_spvm()); }

static int parse_text(const char *text, json_t **ret_json) { return json_parse(text, strlen(text), ret_json, NULL); }

static int try_status(void)
{
    auto_json json_t *json = NULL, *out = NULL;
    auto_status struct status status = { 0 };
    int r = parse_text("{\"schema\":1,\"name\":\"web\",\"incarnation\":3,\"state\":\"running\",\"since\":\"2026-11-21T09:14:03.123Z\","
                       "\"detail\":\"up\",\"boot_id\":\"b\",\"shim\":{\"pid\":7,\"start_time\":9},\"plan_digest\":\"d\"}",
                       &json);

    if (r >= 0)
        r = status_from_json(json, &status, NULL);
    return r < 0 ? r : record_emit(&status_type, &status, &out);
}

static int try_exit(void)
{
    auto_json json_t *json = NULL, *wire = NULL;
    auto_exit struct exit_record exit = { 0 }, back = { 0 };
    auto_free char *words = NULL;
    int r = parse_text("{\"schema\":1,\"name\":\"web\",\"incarnation\":3,\"kind\":\"signal\",\"code\":-1,\"signal\":9,"
                       "\"at\":\"2026-11-21T09:14:03.123Z\",\"final\":true,\"detail\":\"killed\",\"event_seq\":12}",
                       &json);

    if (r >= 0)
        r = exit_from_json(json, &exit, NULL);
    if (r < 0)
        return r;
    wire = exit_to_wire(&exit);
    if (!wire)
        return -ENOMEM;
    r = exit_from_wire(wire, &back);
    if (r < 0)
        return r;
    words = exit_describe(&exit);
    return words ? 0 : -ENOMEM;
}

static int try_wanted(void)
{
    auto_json json_t *json = NULL, *out = NULL;
    auto_wanted struct wanted wanted = { 0 };
    int r = parse_text("{\"schema\":1,\"wish\":\"running\",\"from\":3,\"seen\":2,\"seen_boot\":\"b\",\"timeout\":\"10s\"}", &json);

    if (r >= 0)
        r = wanted_from_json(json, &wanted, NULL);
    return r < 0 ? r : record_emit(&wanted_type, &wanted, &out);
}

static int try_snapshot(void)
{
    auto_json json_t *json = NULL, *out = NULL;
    auto_snapshot struct snapshot snapshot = { 0 };
    int r = parse_text("{\"schema\":1,\"name\":\"one\",\"vm\":\"web\",\"id\":\"0123456789abcdef0123456789abcdef\",\"ram_size\":\"1M\","
                       "\"page_size\":4096,\"present_pages\":7,\"state_size\":\"1K\",\"state_sum\":\"0123456789abcdef\",\"hardware\":"
                       "{\"machine\":\"m\",\"accel\":\"kvm\",\"cpu\":\"host\",\"cpus\":2,\"memory\":\"1M\",\"devices\":[\"a\"],"
                       "\"qemu_version\":\"7.2.22\"},\"disks\":[{\"node\":\"disk0\",\"layers\":[{\"path\":\"/a\",\"format\":\"raw\"}]}],"
                       "\"spec\":{\"name\":\"web\"},\"digest\":\"d\"}",
                       &json);

    if (r >= 0)
        r = snapshot_from_json(json, &snapshot, NULL);
    return r < 0 ? r : snapshot_to_json(&snapshot, &out);
}

static int try_memory_index(void)
{
    struct memory_index auto_memory_index *index = NULL, *back = NULL;
    auto_free void *file = NULL;
    size_t len = 0;
    int r = memory_index_new(100 * IMAGE_PAGE, &index);

    if (r >= 0)
        r = memory_index_encode(index, &file, &len);
    return r < 0 ? r : memory_index_decode(file, len, true, &back, NULL);
}

static int try_working_set(void)
{
    struct page_run runs[] = { { 7, 2 }, { 1, 1 } };
    const struct working_set set = {
        .snapshot_id = "0123456789abcdef0123456789abcdef", .ram_size = 100 * IMAGE_PAGE, .runs = runs, .n_runs = ARRAY_LEN(runs)
    };
    auto_working_set struct working_set back = { 0 };
    auto_free struct page_run *compact = NULL;
    auto_free void *file = NULL;
    size_t n = 0;
    int r = working_set_encode(&set, &file, &n);

    if (r >= 0)
        r = working_set_decode(file, n, &back, NULL);
    return r < 0 ? r : working_set_compact(&back, 0, &compact, &n);
}

static int try_stream_sum(void)
{
    struct stream_sum auto_stream_sum *sum = NULL;

    return stream_sum_new(&sum);
}

static const char disks_text[] =
    "{\"schema\":1,\"disks\":[{\"plan_path\":\"/var/lib/holdfast/vms/kinds/root.qcow2\",\"layers\":[{\"path\":\"/l/1\","
    "\"format\":\"qcow2\"},{\"path\":\"/l/0\",\"format\":\"qcow2\"}]},"
    "{\"plan_path\":\"/srv/a.img\",\"layers\":[{\"path\":\"/l/2\",\"format\":\"raw\"}]}]}";

static int try_disks(void)
{
    auto_json json_t *json = NULL, *out = NULL;
    auto_disks struct disks disks = { 0 }, copy = { 0 };
    int r = parse_text(disks_text, &json);

    if (r >= 0)
        r = disks_from_json(json, &disks, NULL);
    if (r >= 0)
        r = disks_copy(&disks, &copy);
    return r < 0 ? r : record_emit(&disks_type, &copy, &out);
}

static int try_layers(void)
{
    auto_json json_t *json = NULL, *record = NULL;
    auto_plan struct plan plan = { 0 };
    auto_disks struct disks disks = { 0 };
    auto_layered struct layered layered = { 0 };
    int r = parse_text(golden.text, &json);

    if (r >= 0)
        r = plan_from_json(json, &plan, NULL);
    if (r >= 0)
        r = parse_text(disks_text, &record);
    if (r >= 0)
        r = disks_from_json(record, &disks, NULL);
    return r < 0 ? r : layers_apply(&plan, &disks, &layered, NULL);
}

static int try_idl(void)
{
    struct varlink_interface auto_varlink_interface *i = NULL;
    struct err err = ERR_INIT;

    return varlink_interface_parse(manager_interface_text, &i, &err);
}

static int try_call(void)
{
    static const char text[] = "{\"method\":\"a.b.C\",\"parameters\":{\"x\":[1,{\"y\":null}],\"s\":\"text\"},\"more\":true}";
    auto_varlink_message struct varlink_message m = { 0 };
    auto_free char *formed = NULL;
    size_t len;
    int r = varlink_message_parse_call(text, strlen(text), &m, NULL);

    return r < 0 ? r : varlink_message_format_call("a.b", "C", m.parameters, true, false, false, &formed, &len);
}

static int try_reply(void)
{
    static const char text[] = "{\"error\":\"a.b.E\",\"parameters\":{\"reason\":\"why\"}}";
    auto_varlink_message struct varlink_message m = { 0 };
    auto_free char *formed = NULL;
    size_t len;
    int r = varlink_message_parse_reply(text, strlen(text), &m, NULL);

    return r < 0 ? r : varlink_message_format_reply(m.error, m.parameters, false, &formed, &len);
}

static int try_qmp(void)
{
    static const char line[] = "{\"return\":{\"status\":\"running\",\"list\":[1,2]},\"id\":7}";
    auto_qmp_message struct qmp_message m = { 0 };
    auto_free char *formed = NULL;
    size_t len;
    int r = qmp_parse(line, strlen(line), &m, NULL);

    return r < 0 ? r : qmp_command("query-status", m.data, 8, &formed, &len);
}

static const struct {
    const char *what;
    int (*run)(void);
    const char *file; /* below tests/golden */
} cases[] = {
    { "spec", try_spec, "good/full.json" },
    { "spec with probes", try_spec, "good/health-all.json" },
    { "spec with disks", try_spec, "good/disks-kinds.json" },
    { "spec with disks of files", try_spec, "good/config-disk.json" },
    { "bad spec", try_bad_spec, "bad/everything-at-once.json" },
    { "sp-vm file", try_spvm, "sp-vm/good/full.json" },
    { "sp-vm file with warnings", try_spvm, "sp-vm/good/warnings.json" },
    { "sp-vm file with a config disk", try_spvm, "sp-vm/good/provider-config.json" },
    { "bad sp-vm file", try_bad_spvm, "sp-vm/bad/values.json" },
    { "plan", try_plan, "good/full.plan.json" },
    { "changes", try_changes, "good/full.plan.json" },
    { "hardware", try_hardware, "good/extra-args.plan.json" },
    { "status", try_status, NULL },
    { "exit record", try_exit, NULL },
    { "wish", try_wanted, NULL },
    { "snapshot", try_snapshot, NULL },
    { "memory index", try_memory_index, NULL },
    { "working set", try_working_set, NULL },
    { "sum of a stream", try_stream_sum, NULL },
    { "disk layers", try_disks, NULL },
    { "argv with layers", try_layers, "good/disks-kinds.plan.json" },
    { "interface", try_idl, NULL },
    { "call", try_call, NULL },
    { "reply", try_reply, NULL },
    { "qmp", try_qmp, NULL },
};

START_TEST(every_allocation_fails_once)
{
    bool again = true;
    size_t n = 0;

    if (cases[_i].file)
        ck_assert_int_eq(file_read(AT_FDCWD, cases[_i].file, 1 << 20, &golden.text, &golden.len), 0);
    json_set_alloc_funcs(malloc, free);
    while (again) {
        int r;

        memory.failed = false;
        memory.held = 0;
        memory.countdown = ++n;
        memory.armed = true;
        r = cases[_i].run();
        memory.armed = false;
        again = memory.failed;
        ck_assert_msg(memory.held == 0, "%s: %zd blocks left when allocation %zu failed", cases[_i].what, memory.held, n);
        ck_assert_msg(r == (memory.failed ? -ENOMEM : 0), "%s: %d when allocation %zu %s", cases[_i].what, r, n,
                      memory.failed ? "failed" : "was not needed");
    }
    ck_assert_uint_gt(n, 2); /* something was allocated at all */
    free(steal_ptr(&golden.text));
}
END_TEST

static void add_tests(TCase *tc) { tcase_add_loop_test(tc, every_allocation_fails_once, 0, ARRAY_LEN(cases)); }

int main(void)
{
    if (chdir(GOLDEN_DIR) < 0)
        return EXIT_FAILURE;
    return fixture_main("no_memory", add_tests);
}
