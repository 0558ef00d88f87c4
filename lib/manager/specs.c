#include "lib/manager/specs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/manager/spec_gone.h"
#include "lib/manager/spec_sync.h"
#include "lib/manager/state.h"
#include "lib/spec/load.h"

int specs_to_native(const json_t *json, json_t **ret_native)
{
    const struct spec_reader nobody = { .arg = NULL };
    auto_spec struct spec spec = { 0 };
    int r;

    if (!spec_is_spvm(json)) {
        *ret_native = json_incref((json_t *)(uintptr_t)json);
        return 0;
    }
    r = spec_load(json, &nobody, &spec);
    return r > 0 ? -EINVAL : r < 0 ? r : spec_emit(&spec, ret_native);
}

const char *specs_file(const struct vm *vm, char buf[VM_PATH_MAX])
{
    if (vm->spec_file)
        return vm->spec_file;
    snprintf(buf, VM_PATH_MAX, "%s" SPEC_SUFFIX, vm->name);
    return buf;
}

const struct vm *specs_file_owner(const struct manager *m, const char *name)
{
    char file[VM_PATH_MAX];

    snprintf(file, sizeof(file), "%s" SPEC_SUFFIX, name);
    map_foreach (m->vms, e) {
        const struct vm *vm = map_value(e);

        if (vm->spec_file && !streq(vm->name, name) && streq(vm->spec_file, file))
            return vm;
    }
    return NULL;
}

static void log_spec_warning(void *arg, const struct err *err)
{
    const struct vm *vm = arg;

    log_vm_warning(vm->name, "%s", err->text);
}

void specs_warn(const struct vm *vm, const json_t *spec)
{
    (void)spec_warnings(spec, &(struct spec_reader){ .warning = log_spec_warning, .arg = (void *)(uintptr_t)vm });
}

void specs_note_facts(struct vm *vm, const char *digest, bool enabled, uint8_t policy)
{
    vm->has_spec = true;
    vm->enabled = enabled;
    vm->enabled_known = true;
    vm->policy = policy;
    vm->check_due = true;
    memcpy(vm->spec_digest, digest, sizeof(vm->spec_digest));
}

void specs_note(struct vm *vm, const json_t *spec)
{
    char digest[17] = "";

    (void)json_digest(spec, digest);
    specs_note_facts(vm, digest, spec_json_enabled(spec), spec_json_policy(spec));
    memcpy(vm->applied_digest, digest, sizeof(vm->applied_digest));
    spec_gone_called_off(vm);
    specs_warn(vm, spec);
}

static int note_file(struct vm *vm, const char *file)
{
    char buf[VM_PATH_MAX];

    snprintf(buf, sizeof(buf), "%s" SPEC_SUFFIX, vm->name);
    return str_set(&vm->spec_file, streq(buf, file) ? NULL : file);
}

bool specs_is_twice(struct vm *vm)
{
    const char *second = vm->spec_second;
    int specs_fd = vm->manager->specs_fd;
    char buf[VM_PATH_MAX];
    bool first_there, second_there;

    if (!second)
        return false;
    first_there = faccessat(specs_fd, specs_file(vm, buf), F_OK, 0) == 0;
    second_there = faccessat(specs_fd, second, F_OK, 0) == 0;
    if (first_there && second_there)
        return true;
    /* The operator has removed one, as he was told to: the other is the spec. */
    if (!first_there && second_there)
        (void)note_file(vm, second);
    free(steal_ptr(&vm->spec_second));
    (void)str_set(&vm->spec_error, NULL);
    return false;
}

int specs_scan(struct manager *m, struct err *err)
{
    auto_spec_folder struct spec_folder folder = { 0 };
    int r = spec_folder_scan(m->specs_fd, NULL, &folder, err);

    if (r < 0) {
        err_prefix(err, "%s", m->specs_dir);
        return r;
    }
    return spec_sync_begin_take(m, &folder);
}

void specs_collect_problem(void *arg, const struct err *err)
{
    const char *colon = err->text[0] == '/' ? strstr(err->text, ": ") : NULL;
    auto_free char *path = strndup(err->text, colon ? (size_t)(colon - err->text) : 0);

    (void)json_array_append_new(arg,
                                json_pack("{s:o*, s:o*}", "path", json_text(path), "reason", json_text(colon ? colon + 2 : err->text)));
}

int specs_problems_err(const json_t *problems, struct err *err)
{
    const json_t *first = json_array_get(problems, 0);
    const char *path = json_string_value(json_object_get(first, "path"));
    const char *reason = json_string_value(json_object_get(first, "reason"));
    size_t n = json_array_size(problems);

    if (n <= 1)
        return err_set(err, EINVAL, "bad-spec", "%s%s%s", path ? path : "", path && *path ? ": " : "",
                       reason ? reason : "the spec is wrong");
    return err_set(err, EINVAL, "bad-spec", "%s%s%s (and %zu more)", path ? path : "", path && *path ? ": " : "", reason ? reason : "",
                   n - 1);
}
