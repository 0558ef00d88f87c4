#include "lib/manager/specs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/manager/registry.h"
#include "lib/manager/state.h"
#include "lib/spec/load.h"

#define SPEC_SUFFIX ".json"

int specs_read(int specs_fd, const char *file, json_t **ret_json, struct err *err)
{
    auto_free char *text = NULL;
    auto_fd int fd = -1;
    struct stat st;
    size_t len;
    int r;

    /* An operator may well keep specs elsewhere and link them here. */
    fd = openat(specs_fd, file, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set_errno(err, errno, errno == ENOENT ? "no-spec" : "bad-spec", "spec %s", file);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "bad-spec", "spec %s is not a file", file);
    r = fd_read_all(fd, RECORD_MAX, &text, &len);
    if (r < 0)
        return err_set_errno(err, -r, "bad-spec", "spec %s", file);
    r = json_parse(text, len, ret_json, err);
    if (r < 0)
        err_prefix(err, "%s", file);
    return r;
}

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

/* Name, "enabled" and restart policy are where they are in either form of a spec. */
void specs_note(struct vm *vm, const json_t *spec)
{
    const json_t *enabled = json_object_get(spec, "enabled");
    const char *policy = json_string_value(json_object_get(json_object_get(spec, "restart"), "policy"));
    int p = policy ? enum_from_string(&restart_policy_names, policy) : RESTART_ON_FAILURE;

    vm->has_spec = true;
    vm->enabled = !json_is_false(enabled);
    vm->policy = (uint8_t)(p < 0 ? RESTART_ON_FAILURE : p);
    vm->check_due = true;
    (void)spec_warnings(spec, &(struct spec_reader){ .warning = log_spec_warning, .arg = vm });
}

static void set_error(struct vm *vm, const char *text)
{
    vm->has_spec = true;
    if (str_set(&vm->spec_error, text) >= 0)
        log_vm_warning(vm->name, "%s", text);
}

static int note_file(struct vm *vm, const char *file)
{
    char buf[VM_PATH_MAX];

    snprintf(buf, sizeof(buf), "%s" SPEC_SUFFIX, vm->name);
    return str_set(&vm->spec_file, streq(buf, file) ? NULL : file);
}

/* The same VM in a second file: which of them counts is not for us to guess. */
static void duplicate(struct vm *vm, const char *file)
{
    char buf[VM_PATH_MAX];
    auto_free char *text = NULL;

    if (str_set(&vm->spec_second, file) < 0)
        return;
    if (str_format(&text, "its spec is in two files, %s and %s: remove one", specs_file(vm, buf), file) >= 0)
        set_error(vm, text);
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

static int scan_file(struct manager *m, const char *file)
{
    auto_free char *stem = strndup(file, strlen(file) - strlen(SPEC_SUFFIX));
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    const char *name;
    struct vm *vm;
    int r;

    if (!stem)
        return -ENOMEM;
    r = specs_read(m->specs_fd, file, &json, &err);
    name = json_string_value(json_object_get(json, "name"));
    if (r >= 0 && (!name || !name_is_valid(name)))
        r = err_set(&err, EINVAL, "bad-spec", "%s: /name: expected " NAME_RULE, file);
    if (r < 0)
        name = stem;
    if (!name_is_valid(name)) {
        log_error("%s", err.text);
        return 0;
    }
    vm = registry_get_or_add(m, name);
    if (!vm)
        return -ENOMEM;
    if (vm->has_spec) {
        duplicate(vm, file);
        return 0;
    }
    if (r < 0)
        set_error(vm, err.text);
    else
        specs_note(vm, json);
    return note_file(vm, file);
}

int specs_scan(struct manager *m, struct err *err)
{
    int fd = fcntl(m->specs_fd, F_DUPFD_CLOEXEC, 3), r = 0;
    const struct dirent *entry;
    DIR *dir;

    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = -errno;
        fd_close(fd);
        return err_set_errno(err, -r, "no-specs", "can't read %s", m->specs_dir);
    }
    rewinddir(dir);
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        size_t len = strlen(entry->d_name), suffix = strlen(SPEC_SUFFIX);

        if (entry->d_name[0] != '.' && len > suffix && streq(entry->d_name + len - suffix, SPEC_SUFFIX))
            r = scan_file(m, entry->d_name);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r < 0 ? err_set_errno(err, -r, "no-specs", "can't read %s", m->specs_dir) : 0;
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
