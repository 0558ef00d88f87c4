/* Disks that are made of files on the host: what a spec may say of them. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/limits.h"
#include "lib/spec/spec_internal.h"

#define FILES_POINTER "/config_disk/files/"
#define SEED_LABEL "cidata"

/* A JSON Pointer has "~1" for a slash and "~0" for a tilde: RFC 6901. */
int spec_file_pointer(const char *path, char **ret_pointer)
{
    char *text = malloc(sizeof(FILES_POINTER) + 2 * strlen(path)), *out = text;

    if (!text)
        return -ENOMEM;
    out = stpcpy(out, FILES_POINTER);
    for (; *path; path++) {
        if (*path == '/' || *path == '~') {
            *out++ = '~';
            *out++ = *path == '/' ? '1' : '0';
        } else {
            *out++ = *path;
        }
    }
    *out = '\0';
    *ret_pointer = text;
    return 0;
}

/* NULL, or what a path on the disk must be and this one isn't. */
static const char *path_fault(const char *path)
{
    static const char lost[] = "lost+found";

    if (!*path || strlen(path) > CONTENT_PATH_MAX)
        return "expected a path of 1 to 1023 bytes";
    if (*path == '/')
        return "expected a path on the disk without '/' in front";
    if (has_prefix(path, lost) && (path[sizeof lost - 1] == '/' || !path[sizeof lost - 1]))
        return "\"lost+found\" is the file system's own";
    for (const char *c = path; *c; c++)
        if (iscntrl((unsigned char)*c))
            return "expected a path without control characters";
    for (const char *part = path; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL) {
        size_t len = strcspn(part, "/");

        if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
            return "expected a path without empty parts, \".\" and \"..\"";
        if (len > CONTENT_NAME_MAX)
            return "expected parts of at most 255 bytes";
    }
    return NULL;
}

static bool lies_in(const char *inner, const char *outer)
{
    size_t n = strlen(outer);

    return strncmp(inner, outer, n) == 0 && inner[n] == '/';
}

static int check_file(const struct spec *spec, size_t i, struct problems *p)
{
    const struct pair *file = &spec->config_disk.files[i];
    const char *fault = path_fault(file->key);
    auto_free char *pointer = NULL;

    if (spec_file_pointer(file->key, &pointer) < 0)
        return -ENOMEM;
    if (fault)
        problem_add(p, "%s: %s", pointer, fault);
    for (size_t k = 0; k < spec->config_disk.n_files; k++)
        if (lies_in(file->key, spec->config_disk.files[k].key))
            problem_add(p, "%s: '%s' is a file too, so nothing can lie in it", pointer, spec->config_disk.files[k].key);
    spec_check_path(p, pointer, file->value);
    return 0;
}

static int check_config_disk(struct spec *spec, struct problems *p)
{
    const char *label = spec->config_disk.label;
    int r = 0;

    if (!spec->config_disk.wanted)
        return 0;
    if (!label)
        r = str_set(&spec->config_disk.label, "config");
    else if (!name_is_valid(label) || strlen(label) > LABEL_MAX)
        problem_add(
            p,
            "/config_disk/label: '%s' is not a valid label: at most %d of letters, digits, '.', '_', '-', beginning with a letter or "
            "digit",
            label, LABEL_MAX);
    else if (spec->seed.wanted && streq(label, SEED_LABEL))
        problem_add(p, "/config_disk/label: \"" SEED_LABEL "\" is the label of \"seed\"");
    spec_check_path(p, "/config_disk/directory", spec->config_disk.directory);
    if (!spec->config_disk.directory && spec->config_disk.n_files == 0 && !problem_under(p, "/config_disk"))
        problem_add(p, "/config_disk: needs \"files\" or \"directory\"");
    if (spec->config_disk.n_files > CONTENT_FILES_MAX) { /* and each is compared with each */
        problem_add(p, "/config_disk/files: %zu files, at most %d are possible", spec->config_disk.n_files, CONTENT_FILES_MAX);
        return r;
    }
    for (size_t i = 0; i < spec->config_disk.n_files && r >= 0; i++)
        r = check_file(spec, i, p);
    return r;
}

static void check_seed(const struct spec *spec, struct problems *p)
{
    if (!spec->seed.wanted)
        return;
    spec_check_path(p, "/seed/user_data", spec->seed.user_data);
    spec_check_path(p, "/seed/meta_data", spec->seed.meta_data);
    spec_check_path(p, "/seed/network_config", spec->seed.network_config);
}

int spec_check_content(struct spec *spec, struct problems *p)
{
    size_t made = (size_t)spec->config_disk.wanted + (size_t)spec->seed.wanted + (spec->image.name ? 1 : 0);

    if (made > 0 && spec->n_disks <= DISKS_MAX && spec->n_disks + made > DISKS_MAX)
        problem_add(p, "/disks: %zu disks and those of \"image\", \"config_disk\" and \"seed\", at most %d in all are possible",
                    spec->n_disks, DISKS_MAX);
    check_seed(spec, p);
    return check_config_disk(spec, p);
}
