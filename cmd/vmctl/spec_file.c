#include "cmd/vmctl/spec_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/disk/own_disks.h"
#include "lib/disk/spec_recipes.h"
#include "proto/launch.h"

static int is_spec_name(const struct dirent *e)
{
    size_t len = strlen(e->d_name);

    return e->d_name[0] != '.' && len > 5 && streq(e->d_name + len - 5, ".json");
}

static enum outcome expand_folder(const char *folder, struct strv *paths)
{
    enum outcome outcome = OUTCOME_DONE;
    struct dirent **entries = NULL;
    int n = scandir(folder, &entries, is_spec_name, alphasort);

    if (n < 0) {
        complain("%s: %s", folder, strerror(errno));
        return OUTCOME_FAILED;
    }
    for (int i = 0; i < n; i++) {
        size_t len = strlen(folder);
        auto_free char *path = NULL;
        struct stat st;

        must(str_format(&path, "%s%s%s", folder, len && folder[len - 1] == '/' ? "" : "/", entries[i]->d_name) < 0 ? NULL : path);
        free(entries[i]);
        if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* a FIFO nobody writes to would be waited for */
            complain("%s: not a file", path);
            outcome = OUTCOME_FAILED;
        } else {
            strv_push(paths, path);
        }
    }
    free(entries);
    if (n == 0)
        complain("%s: no *.json in this folder", folder);
    return n == 0 ? OUTCOME_FAILED : outcome;
}

enum outcome spec_files_expand(const struct invocation *in, struct strv *ret_paths)
{
    enum outcome outcome = OUTCOME_DONE;
    struct stat st;

    for (size_t i = 0; i < in->n_args; i++) {
        if (!streq(in->args[i], "-") && stat(in->args[i], &st) == 0 && S_ISDIR(st.st_mode)) {
            if (expand_folder(in->args[i], ret_paths) != OUTCOME_DONE)
                outcome = OUTCOME_FAILED;
        } else {
            strv_push(ret_paths, in->args[i]);
        }
    }
    if (ret_paths->failed)
        must(NULL);
    return outcome;
}

static void add(json_t *list, const char *path, const char *reason)
{
    json_array_append_new(list, must_json(json_pack("{s:s, s:s}", "path", path, "reason", reason)));
}

void spec_file_add_problem(struct spec_file *f, const char *path, const char *reason) { add(f->problems, path, reason); }

/* "/disks/0/size: expected…" is a place and a reason; anything else is about the whole. */
static void add_from_err(json_t *list, const struct err *err)
{
    const char *colon = err->text[0] == '/' ? strstr(err->text, ": ") : NULL;

    if (colon) {
        auto_free char *path = must(strndup(err->text, (size_t)(colon - err->text)));
        add(list, path, colon + 2);
    } else {
        add(list, "", err->text);
    }
}

static void problem(void *arg, const struct err *err) { add_from_err(((struct spec_file *)arg)->problems, err); }
static void warning(void *arg, const struct err *err) { add_from_err(((struct spec_file *)arg)->warnings, err); }

static int read_text(const char *path, char **ret_text, size_t *ret_len)
{
    auto_fd int fd = -1;

    if (streq(path, "-"))
        return fd_read_all(STDIN_FILENO, RECORD_MAX, ret_text, ret_len);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return fd < 0 ? -errno : fd_read_all(fd, RECORD_MAX, ret_text, ret_len);
}

static void read_json(struct spec_file *f)
{
    auto_free char *text = NULL;
    struct err err = ERR_INIT;
    size_t len;

    int r = read_text(f->path, &text, &len);
    if (r == -EFBIG)
        spec_file_add_problem(f, "", "larger than 1 MiB: this can't be a spec");
    else if (r < 0)
        spec_file_add_problem(f, "", strerror(-r));
    else if (json_parse(text, len, &f->json, &err) < 0)
        problem(f, &err);
}

static void check_name(struct spec_file *f, struct map *names)
{
    const char *other = map_get(names, f->spec.name);
    auto_free char *reason = NULL;

    if (!other) {
        if (map_put(names, f->spec.name, (void *)(uintptr_t)f->shown) < 0)
            must(NULL);
        return;
    }
    if (str_format(&reason, "\"%s\" is already the name of the VM in %s", f->spec.name, other) < 0)
        must(NULL);
    spec_file_add_problem(f, "/name", reason);
}

/* Of the host config, as far as we may read it: what is wrong with that is the manager's to say. */
static char *host_keys(const struct invocation *in)
{
    static const char *const files[] = { "holdfast.json", "config.json" }; /* as lib/manager/config.c */
    auto_json json_t *config = NULL;
    const char *keys;

    for (size_t i = 0; i < ARRAY_LEN(files) && !config; i++) {
        auto_free char *path = NULL, *text = NULL;
        size_t len;

        if (str_format(&path, "%s/%s", in->dirs.config, files[i]) < 0)
            must(NULL);
        if (read_text(path, &text, &len) >= 0)
            (void)json_parse(text, len, &config, NULL);
    }
    keys = json_string_value(json_object_get(json_object_get(config, "vm_config"), "authorized_keys_file"));
    return keys ? must(strdup(keys)) : NULL;
}

/* What this host says of it, and the disks that are there of a VM with its name. */
static void check_host(const struct invocation *in, const struct spec_reader *reader, struct spec_file *f)
{
    struct spec_finding finding = { f->json, reader };
    auto_free char *state = NULL;
    struct spec_digests digests;
    int r = spec_load_host(f->json, &f->spec, reader);

    if (r < 0 || str_format(&state, "%s/" FOLDER_VMS "/%s", in->dirs.state, f->spec.name) < 0 ||
        own_disks_check(&f->spec, state, spec_found, &finding) < 0 ||
        (r == 0 && spec_recipes_digest(&f->spec, spec_found, &finding, &digests) < 0))
        must(NULL);
}

enum outcome spec_file_load(const struct invocation *in, const char *path, struct map *names, bool host, struct spec_file *ret_file)
{
    struct spec_file f = {
        .path = path,
        .shown = streq(path, "-") ? "standard input" : path,
        .problems = must_json(json_array()),
        .warnings = must_json(json_array()),
    };
    struct spec_reader reader = { .problem = problem, .warning = warning, .arg = &f };

    read_json(&f);
    if (f.json && spec_is_spvm(f.json))
        reader.authorized_keys = f.keys = host_keys(in);
    if (f.json) {
        int r = spec_load(f.json, &reader, &f.spec);
        if (r < 0)
            must(NULL);
        if (r == 0) {
            check_name(&f, names);
            if (host)
                check_host(in, &reader, &f);
        }
    }
    *ret_file = f;
    return json_array_size(f.problems) ? OUTCOME_FAILED : OUTCOME_DONE;
}

void spec_file_clear(struct spec_file *f)
{
    free(f->keys);
    json_decref(f->json);
    json_decref(f->problems);
    json_decref(f->warnings);
    spec_clear(&f->spec);
    *f = (struct spec_file){ 0 };
}

static void print_list(const struct spec_file *f, const char *kind, const json_t *list)
{
    size_t i;
    json_t *one;

    json_array_foreach (list, i, one) {
        const char *path = member_text(one, "path");
        auto_free char *reason = text_one_line(member_text(one, "reason"));
        auto_free char *place = text_one_line(path);
        fprintf(stderr, "%s: %s%s%s%s\n", f->shown, kind, place, *path ? ": " : "", reason);
    }
}

void spec_file_complain(const struct spec_file *f)
{
    (void)fflush(stdout);
    print_list(f, "warning: ", f->warnings);
    print_list(f, "", f->problems);
}
