/* What the manager does with specs at its start, without the manager: each is read, parsed, checked, what it leaves open is given, compared
 * with all others, and resolved to a launch plan; one write for all that was given.
 *
 *   plan_bench FOLDER [COUNT [RUNS]]
 *
 * FOLDER is where the specs and the allocations are put. Prints milliseconds of the quickest run and of the median. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/manager/allocations.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/load.h"

enum { COUNT = 500, RUNS = 9, MAX = 5000, SPEC_MAX = 64 * 1024 };

static void fail(const char *what, int r, const struct err *err)
{
    fprintf(stderr, "plan_bench: %s: %s\n", what, err && *err->text ? err->text : strerror(-r));
    exit(1);
}

static void write_specs(int fd, const char *kernel, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        auto_free char *text = NULL;
        char file[32];
        int r = str_format(
            &text,
            "{\"name\": \"vm%zu\", \"enabled\": false, \"cpus\": 2, \"memory\": \"2G\", \"accel\": \"tcg\", "
            "\"boot\": {\"kernel\": \"%s\", \"cmdline\": \"console=ttyS0\"}, \"disks\": [{\"name\": \"data\", \"size\": \"20G\"}], "
            "\"network\": [{\"forward\": [{\"host\": \"127.0.0.1:auto\", \"guest\": 80}, "
            "{\"host\": \"127.0.0.1:%zu\", \"guest\": 22}]}], \"vsock\": {}, "
            "\"health\": [{\"type\": \"tcp\", \"port\": 80}]}\n",
            i, kernel, 10000 + i);

        snprintf(file, sizeof file, "vm%zu.json", i);
        if (r >= 0)
            r = file_write(fd, file, text, strlen(text), 0600, FILE_ATOMIC);
        if (r < 0)
            fail(file, r, NULL);
    }
}

static void load(int fd, size_t i, struct spec *ret_spec)
{
    const struct spec_reader nobody = { .arg = NULL };
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    struct err err = ERR_INIT;
    char file[32];
    size_t len;
    int r;

    snprintf(file, sizeof file, "vm%zu.json", i);
    r = file_read(fd, file, SPEC_MAX, &text, &len);
    if (r >= 0)
        r = json_parse(text, len, &json, &err);
    if (r >= 0)
        r = spec_load(json, &nobody, ret_spec);
    if (r == 0)
        r = spec_load_host(json, ret_spec, &nobody);
    if (r != 0)
        fail(file, r > 0 ? -EINVAL : r, &err);
}

static void resolve(const struct spec *spec)
{
    struct qemu_capabilities capabilities = { .version = (char *)(uintptr_t) "7.2.0", .machine = (char *)(uintptr_t) "pc-q35-7.2" };
    auto_free char *run = NULL, *state = NULL, *log = NULL;
    auto_plan struct plan plan = { 0 };
    struct err err = ERR_INIT;
    char digest[17];
    int r;

    if (str_format(&run, "/run/holdfast/vms/%s", spec->name) < 0 || str_format(&state, "/var/lib/holdfast/vms/%s", spec->name) < 0 ||
        str_format(&log, "/var/log/holdfast/%s", spec->name) < 0)
        fail(spec->name, -ENOMEM, NULL);
    r = plan_resolve(
        &(struct resolve_input){
            .spec = spec,
            .capabilities = &capabilities,
            .qemu_path = "/usr/bin/qemu-system-x86_64",
            .qemu_img_path = "/usr/bin/qemu-img",
            .run_dir = run,
            .state_dir = state,
            .log_dir = log,
            .vsock_cid = spec->vsock.cid,
        },
        &plan, &err);
    if (r >= 0)
        r = plan_digest(&plan, digest);
    if (r < 0)
        fail(spec->name, r, &err);
}

static double run_once(int fd, size_t n)
{
    static const struct port_range ports = PORT_RANGE_DEFAULT;
    auto_free struct spec *specs = calloc(n, sizeof(*specs));
    struct allocations *allocations = NULL;
    auto_free char *aside = NULL;
    struct err err = ERR_INIT;
    uint64_t began = clock_mono_us();
    int r = allocations_new(fd, &allocations, &aside, &err);

    if (r < 0 || !specs)
        fail("allocations", r, &err);
    for (size_t i = 0; i < n; i++) {
        auto_claims struct claims claims = { 0 };

        load(fd, i, &specs[i]);
        r = allocations_give(allocations, &specs[i], &ports, &err);
        if (r >= 0)
            r = claims_from_spec(&specs[i], &claims);
        if (r < 0 || allocations_check(allocations, specs[i].name, &claims, false, NULL, NULL) > 0)
            fail(specs[i].name, r < 0 ? r : -EBUSY, &err);
    }
    r = allocations_commit(allocations);
    if (r < 0)
        fail("allocations.json", r, NULL);
    for (size_t i = 0; i < n; i++) {
        resolve(&specs[i]);
        spec_clear(&specs[i]);
    }
    allocations_free(allocations);
    return (double)(clock_mono_us() - began) / 1000.;
}

static int by_size(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
    uint64_t n = COUNT, runs = RUNS;
    auto_free char *folder = NULL;
    auto_free double *ms = NULL;
    auto_fd int fd = -1;

    if (argc < 2 || (argc > 2 && parse_u64(argv[2], 1, MAX, &n) < 0) || (argc > 3 && parse_u64(argv[3], 1, MAX, &runs) < 0)) {
        fprintf(stderr, "usage: plan_bench FOLDER [COUNT [RUNS]]\n");
        return 2;
    }
    if (str_format(&folder, "%s/plan_bench.XXXXXX", argv[1]) < 0 || !mkdtemp(folder))
        fail(argv[1], -errno, NULL);
    fd = dir_open(AT_FDCWD, folder);
    if (fd < 0)
        fail(folder, fd, NULL);
    write_specs(fd, "/proc/self/exe", n); /* a file there is */
    ms = calloc(runs, sizeof(*ms));
    for (size_t i = 0; ms && i < runs; i++) {
        if (unlinkat(fd, "allocations.json", 0) < 0 && errno != ENOENT)
            fail("allocations.json", -errno, NULL);
        ms[i] = run_once(fd, n);
    }
    if (ms) {
        qsort(ms, runs, sizeof(*ms), by_size);
        printf("%llu specs, from text to plan, all ids, addresses and ports given: best %.1f ms, median %.1f ms\n", (unsigned long long)n,
               ms[0], ms[runs / 2]);
    }
    return dir_remove_tree(AT_FDCWD, folder) < 0 || !ms;
}
