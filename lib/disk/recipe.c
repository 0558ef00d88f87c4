#include "lib/disk/recipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/spawn.h"

enum { TOOL_TIMEOUT_MS = 5 * 60 * 1000, TOOL_OUTPUT_MAX = 64 * 1024, SAID_MAX = 160 };

/* What else decides what such a disk is: a new way to make it needs a new number. */
static const char *const kinds[] = { [RECIPE_CONFIG] = "ext4 1", [RECIPE_SEED] = "iso9660 1" };

/* ---- what goes into it ---- */

/* An instance is another one when what it is set up with is: cloud-init runs once for each. */
static int add_meta_data(const struct recipe *recipe, struct content *c, struct err *err)
{
    char digest[MADE_DIGEST_LEN + 1];
    auto_free char *text = NULL;
    int r;

    if (recipe->meta_data)
        return content_add_file(c, "meta-data", recipe->meta_data, err);
    r = content_digest(c, kinds[RECIPE_SEED], -1, digest, NULL, err);
    if (r >= 0)
        r = str_format(&text, "instance-id: %s-%s\nlocal-hostname: %s\n", recipe->vm, digest, recipe->vm);
    return r < 0 ? r : content_add_text(c, "meta-data", text);
}

static int collect_seed(const struct recipe *recipe, struct content *c, struct err *err)
{
    int r = content_add_file(c, "user-data", recipe->user_data, err);

    if (r >= 0 && recipe->network_config)
        r = content_add_file(c, "network-config", recipe->network_config, err);
    return r < 0 ? r : add_meta_data(recipe, c, err);
}

static int collect(const struct recipe *recipe, struct content *c, struct err *err)
{
    int r = 0;

    if (recipe->kind == RECIPE_SEED)
        r = collect_seed(recipe, c, err);
    if (recipe->kind == RECIPE_CONFIG && recipe->directory)
        r = content_add_folder(c, recipe->directory, err);
    for (size_t i = 0; recipe->kind == RECIPE_CONFIG && i < recipe->n_files && r >= 0; i++)
        r = content_add_file(c, recipe->files[i].key, recipe->files[i].value, err);
    return r < 0 ? r : content_finish(c, err);
}

static int digest_of(const struct recipe *recipe, const struct content *c, int copy_fd, char ret_digest[MADE_DIGEST_LEN + 1],
                     uint64_t *ret_size, struct err *err)
{
    auto_free char *what = NULL;

    if (str_format(&what, "%s %s", kinds[recipe->kind], recipe->label) < 0)
        return -ENOMEM;
    return content_digest(c, what, copy_fd, ret_digest, ret_size, err);
}

int recipe_digest(const struct recipe *recipe, char ret_digest[MADE_DIGEST_LEN + 1], struct err *err)
{
    auto_content struct content content = { 0 };
    int r = collect(recipe, &content, err);

    return r < 0 ? r : digest_of(recipe, &content, -1, ret_digest, NULL, err);
}

/* ---- programs ---- */

static const struct {
    const char *program, *package;
} tools[][2] = {
    [RECIPE_CONFIG] = { { "mke2fs", "e2fsprogs" }, { "debugfs", "e2fsprogs" } },
    [RECIPE_SEED] = { { "xorriso", "xorriso" } },
};

/* Where Debian has them: the PATH of a service often lacks sbin. */
char *make_find(const char *program)
{
    static const char *const folders[] = { "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin" };

    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        char *path = NULL;

        if (str_format(&path, "%s/%s", folders[i], program) < 0)
            return NULL;
        if (access(path, X_OK) == 0)
            return path;
        free(path);
    }
    return NULL;
}

int recipe_check_tools(enum recipe_kind kind, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(tools[kind]) && tools[kind][i].program; i++) {
        auto_free char *path = make_find(tools[kind][i].program);

        if (!path)
            return err_set(err, ENOENT, "no-tool", "%s is needed to make the %s, and was not found; install it (Debian: %s)",
                           tools[kind][i].program, kind == RECIPE_SEED ? "seed disk" : "config disk", tools[kind][i].package);
    }
    return 0;
}

/* The first line that isn't one of the banner, without its end; NULL: there is none. Cuts `text`. */
static char *first_line(char *text, const char *banner)
{
    for (char *line = text, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        if (*line && !(banner && has_prefix(line, banner)))
            return line;
    }
    return NULL;
}

int make_run(const char *program, char *const *argv, const char *banner, struct err *err)
{
    static const char *const env[] = {
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",          "TZ=UTC", "SOURCE_DATE_EPOCH=" MADE_EPOCH,
        "E2FSPROGS_FAKE_TIME=" MADE_EPOCH,    "MKE2FS_CONFIG=/dev/null", NULL
    };
    auto_free char *path = make_find(program);
    struct spawn_output output = { 0 };
    const char *said;
    int r;

    if (!path)
        return err_set(err, ENOENT, "no-tool", "%s was not found", program);
    r = spawn_capture(&(struct spawn){ .path = path, .argv = argv, .env = (char *const *)(uintptr_t)env, .go_fd = -1, .new_group = true },
                      TOOL_TIMEOUT_MS, TOOL_OUTPUT_MAX, &output);
    if (r < 0)
        return err_set_errno(err, -r, "no-image", "%s", program);
    said = output.err ? first_line(output.err, banner) : NULL;
    if (output.wstatus != 0 || (banner && said))
        r = err_set(err, EIO, "no-image", "%s failed: %.*s", program, SAID_MAX, said ? said : "without a word");
    spawn_output_done(&output);
    return r;
}

/* ---- making ---- */

/* A folder nobody else can look into, with a name of its own, so that one which a killed maker left is in nobody's way. */
static int make_folder(const char *output, char **ret_folder, struct err *err)
{
    const char *slash = strrchr(output, '/');
    auto_free char *folder = NULL;

    if (!slash || str_format(&folder, "%.*s/" MADE_STAGING_PREFIX "XXXXXX", (int)(slash - output), output) < 0)
        return slash ? -ENOMEM : err_set(err, EINVAL, "bad-path", "%s is not an absolute path", output);
    if (!mkdtemp(folder))
        return err_set_errno(err, errno, "no-folder", "can't make a folder beside %s", output);
    *ret_folder = steal_ptr(&folder);
    return 0;
}

static int keep(const char *image, const char *output, struct err *err)
{
    auto_fd int fd = open(image, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fchmod(fd, 0600) < 0 || fsync(fd) < 0 || rename(image, output) < 0)
        return err_set_errno(err, errno, "no-image", "can't keep %s", output);
    return 0;
}

static int fill(struct making *m, struct content *content, struct err *err)
{
    char digest[MADE_DIGEST_LEN + 1];
    auto_fd int root = -1;
    int r;

    if (mkdir(m->root, 0700) < 0)
        return err_set_errno(err, errno, "no-folder", "can't make %s", m->root);
    root = dir_open(AT_FDCWD, m->root);
    r = root < 0 ? root : collect(m->recipe, content, err);
    if (r >= 0)
        r = digest_of(m->recipe, content, root, digest, &m->size, err);
    FAILPOINT("mkdisk.filled");
    if (r >= 0 && !streq(digest, m->digest))
        return err_set(err, EAGAIN, "changed", "its files aren't those any more that it was to be made of: restart the VM");
    return r;
}

static int make_in(const char *folder, const struct recipe *recipe, const char *digest, const char *output, struct err *err)
{
    auto_content struct content content = { 0 };
    auto_free char *root = NULL, *image = NULL;
    struct making m = { .recipe = recipe, .content = &content, .digest = digest, .folder = folder };
    int r = str_format(&root, "%s/root", folder);

    if (r >= 0)
        r = str_format(&image, "%s/image", folder);
    if (r < 0)
        return r;
    m.root = root;
    m.image = image;
    r = fill(&m, &content, err);
    if (r >= 0)
        r = recipe->kind == RECIPE_SEED ? make_iso(&m, err) : make_ext4(&m, err);
    FAILPOINT("mkdisk.made");
    return r < 0 ? r : keep(image, output, err);
}

int recipe_make(const struct recipe *recipe, const char *digest, const char *output, struct err *err)
{
    auto_free char *folder = NULL;
    int r = make_folder(output, &folder, err), removed;

    if (r < 0)
        return r;
    r = make_in(folder, recipe, digest, output, err);
    removed = dir_remove_tree(AT_FDCWD, folder);
    return r < 0 || removed >= 0 ? r : err_set_errno(err, -removed, "no-folder", "can't remove %s", folder);
}
