#include "lib/disk/content.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/spec/limits.h"

void content_clear(struct content *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->items[i].path);
        free(c->items[i].source);
        free(c->items[i].text);
    }
    free(c->items);
    *c = (struct content){ 0 };
}

static int add(struct content *c, const char *path, const char *source, struct content_item **ret)
{
    struct content_item *grown = reallocarray(c->items, c->n + 1, sizeof(*grown));

    if (!grown)
        return -ENOMEM;
    c->items = grown;
    grown[c->n] = (struct content_item){ 0 };
    if (str_set(&grown[c->n].path, path) < 0 || str_set(&grown[c->n].source, source) < 0) {
        free(grown[c->n].path);
        return -ENOMEM;
    }
    *ret = &grown[c->n++];
    return 0;
}

int content_add_text(struct content *c, const char *path, const char *text)
{
    struct content_item *item;
    int r = add(c, path, NULL, &item);

    if (r < 0)
        return r;
    item->mode = 0644;
    return str_set(&item->text, text);
}

static int check_count(const struct content *c, struct err *err)
{
    if (c->n < CONTENT_FILES_MAX)
        return 0;
    return err_set(err, EINVAL, "bad-content", "more than %d files and folders for one disk", CONTENT_FILES_MAX);
}

/* Links are followed: what counts is what can be read there. A pipe of that name must hold up nobody. */
static int open_source(int parent, const char *name, const char *shown, struct stat *ret_st, struct err *err)
{
    auto_fd int fd = openat(parent, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, ret_st) < 0)
        return err_set_errno(err, errno, "bad-content", "can't read %s", shown);
    return steal_fd(&fd);
}

int content_add_file(struct content *c, const char *path, const char *source, struct err *err)
{
    struct content_item *item;
    struct stat st;
    auto_fd int fd = open_source(AT_FDCWD, source, source, &st, err);
    int r = fd < 0 ? fd : check_count(c, err);

    if (r < 0)
        return r;
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "bad-content", "%s is not a file", source);
    r = add(c, path, source, &item);
    if (r >= 0)
        item->mode = st.st_mode & 0777;
    return r;
}

struct walk {
    struct content *content;
    struct err *err;
    unsigned depth;
};

static int walk_folder(struct walk *w, int fd_consume, const char *source, const char *path);

/* NOLINTNEXTLINE(misc-no-recursion): CONTENT_DEPTH_MAX deep */
static int walk_entry(struct walk *w, int folder, const char *name, const char *outer_source, const char *outer_path)
{
    auto_free char *source = NULL, *path = NULL;
    struct content_item *item;
    auto_fd int fd = -1;
    struct stat st;
    int r;

    if (str_format(&source, "%s/%s", outer_source, name) < 0 || str_format(&path, "%s%s%s", outer_path, *outer_path ? "/" : "", name) < 0)
        return -ENOMEM;
    fd = open_source(folder, name, source, &st, w->err);
    r = fd < 0 ? fd : check_count(w->content, w->err);
    if (r < 0)
        return r;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return err_set(w->err, EINVAL, "bad-content", "%s is neither a file nor a folder", source);
    r = add(w->content, path, S_ISREG(st.st_mode) ? source : NULL, &item);
    if (r < 0)
        return r;
    item->mode = st.st_mode & 0777;
    item->folder = S_ISDIR(st.st_mode);
    return item->folder ? walk_folder(w, steal_fd(&fd), source, path) : 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): CONTENT_DEPTH_MAX deep */
static int walk_folder(struct walk *w, int fd_consume, const char *source, const char *path)
{
    DIR *dir = fdopendir(fd_consume);
    const struct dirent *entry;
    int r = 0;

    if (!dir) {
        r = err_set_errno(w->err, errno, "bad-content", "can't list %s", source);
        fd_close(fd_consume);
        return r;
    }
    if (++w->depth > CONTENT_DEPTH_MAX)
        r = err_set(w->err, EINVAL, "bad-content", "%s: more than %d folders in each other", source, CONTENT_DEPTH_MAX);
    while (r >= 0 && (errno = 0, entry = readdir(dir)))
        if (!streq(entry->d_name, ".") && !streq(entry->d_name, ".."))
            r = walk_entry(w, dirfd(dir), entry->d_name, source, path);
    if (r >= 0 && errno)
        r = err_set_errno(w->err, errno, "bad-content", "can't list %s", source);
    w->depth--;
    closedir(dir);
    return r;
}

int content_add_folder(struct content *c, const char *source, struct err *err)
{
    struct walk walk = { .content = c, .err = err };
    struct stat st;
    int fd = open_source(AT_FDCWD, source, source, &st, err);

    if (fd >= 0 && !S_ISDIR(st.st_mode)) {
        fd_close(fd);
        return err_set(err, EINVAL, "bad-content", "%s is not a folder", source);
    }
    return fd < 0 ? fd : walk_folder(&walk, fd, source, "");
}

/* ---- the whole ---- */

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct content_item *)a)->path, ((const struct content_item *)b)->path);
}

static const struct content_item *find(const struct content *c, size_t n, const char *path, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(c->items[i].path, path, len) == 0 && c->items[i].path[len] == '\0')
            return &c->items[i];
    return NULL;
}

/* The folders of one path, where nobody named them. */
static int add_parents(struct content *c, size_t index, struct err *err)
{
    auto_free char *path = strdup(c->items[index].path);
    int r = path ? 0 : -ENOMEM;

    for (char *slash = path ? strchr(path, '/') : NULL; slash && r >= 0; slash = strchr(slash + 1, '/')) {
        const struct content_item *found = find(c, c->n, path, (size_t)(slash - path));
        struct content_item *item = NULL;

        if (found && !found->folder)
            return err_set(err, EINVAL, "bad-content", "%s: %s is a file", path, found->path);
        if (found)
            continue;
        *slash = '\0';
        r = check_count(c, err);
        if (r >= 0)
            r = add(c, path, NULL, &item);
        if (r >= 0) {
            item->folder = true;
            item->mode = 0755;
        }
        *slash = '/';
    }
    return r;
}

int content_finish(struct content *c, struct err *err)
{
    size_t given = c->n;
    int r = 0;

    for (size_t i = 0; i < given && r >= 0; i++)
        r = add_parents(c, i, err);
    if (r < 0)
        return r;
    if (c->n > 0)
        qsort(c->items, c->n, sizeof(*c->items), by_path);
    for (size_t i = 1; i < c->n; i++)
        if (streq(c->items[i - 1].path, c->items[i].path))
            return err_set(err, EINVAL, "bad-content", "%s comes twice", c->items[i].path);
    return 0;
}
