/* A labelled ext4 without mounting and without root: mke2fs -d copies a folder, debugfs then says who owns what. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/strv.h"
#include "lib/disk/recipe.h"

enum {
    BLOCK = 4096,
    INODE = 256,
    MIB = 1 << 20,
    RESERVED_INODES = 11 + 5, /* the file system's own, and none too few */
    SPARE_BLOCKS = 32,        /* superblock, descriptors, bitmaps, lost+found */
    TRIES = 6,                /* each with half as much again: the estimate is generous */
};

/* No journal, since it is never written to, and nothing that an older guest's kernel doesn't know. */
#define FEATURES "none,ext_attr,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize"

static uint64_t blocks_of(uint64_t bytes) { return (bytes + BLOCK - 1) / BLOCK; }

/* Enough: every file ends in a block of its own, and each folder has room for all names. */
static uint64_t estimate(const struct making *m)
{
    uint64_t blocks = SPARE_BLOCKS + blocks_of((m->content->n + RESERVED_INODES) * INODE) + blocks_of(m->size);
    uint64_t names = 0;

    for (size_t i = 0; i < m->content->n; i++) {
        blocks += 1;
        names += 2 * strlen(m->content->items[i].path) + 16;
    }
    return blocks + blocks_of(names);
}

static int format(const struct making *m, uint64_t mib, const char *uuid, struct err *err)
{
    auto_strv struct strv argv = { 0 };
    auto_fd int fd = open(m->image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)(mib * MIB)) < 0)
        return err_set_errno(err, errno, "no-image", "can't make %s", m->image);
    for (const char *const *word =
             (const char *const[]){ "mke2fs", "-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-O", FEATURES, NULL };
         *word; word++)
        strv_push(&argv, *word);
    strv_push(&argv, "-N");
    strv_pushf(&argv, "%zu", m->content->n + RESERVED_INODES);
    strv_push(&argv, "-E");
    strv_pushf(&argv, "root_owner=0:0,nodiscard,lazy_itable_init=0,hash_seed=%s", uuid);
    strv_push(&argv, "-U");
    strv_push(&argv, uuid);
    strv_push(&argv, "-L");
    strv_push(&argv, m->recipe->label);
    strv_push(&argv, "-d");
    strv_push(&argv, m->root);
    strv_push(&argv, m->image);
    return argv.failed ? -ENOMEM : make_run("mke2fs", argv.items, NULL, err);
}

/* debugfs splits its lines into words; a quote in a quoted word is doubled. Control characters are no part of a name: lib/spec. */
static int set_inode(FILE *script, const char *path, unsigned mode)
{
    static const char *const fields[] = {
        "uid 0", "gid 0", "atime @" MADE_EPOCH, "ctime @" MADE_EPOCH, "mtime @" MADE_EPOCH, "crtime @" MADE_EPOCH
    };
    char mode_field[32];

    snprintf(mode_field, sizeof(mode_field), "mode 0%o", mode);
    for (size_t i = 0; i <= ARRAY_LEN(fields); i++) {
        if (fputs("sif \"/", script) == EOF)
            return -EIO;
        for (const char *c = path; *c; c++)
            if ((*c == '"' && fputc('"', script) == EOF) || fputc(*c, script) == EOF)
                return -EIO;
        if (fprintf(script, "\" %s\n", i < ARRAY_LEN(fields) ? fields[i] : mode_field) < 0)
            return -EIO;
    }
    return 0;
}

static int write_script(const struct making *m, const char *path)
{
    FILE *script = fopen(path, "we");
    int r = script ? set_inode(script, "", S_IFDIR | 0755) : -errno;

    for (size_t i = 0; i < m->content->n && r >= 0; i++) {
        const struct content_item *item = &m->content->items[i];

        r = set_inode(script, item->path, (item->folder ? S_IFDIR : S_IFREG) | item->mode);
    }
    if (script && fclose(script) == EOF && r >= 0)
        r = -EIO;
    return r;
}

static int set_inodes(const struct making *m, struct err *err)
{
    auto_free char *script = NULL;
    int r = str_format(&script, "%s/script", m->folder);

    if (r < 0)
        return r;
    r = write_script(m, script);
    if (r < 0)
        return err_set_errno(err, -r, "no-image", "can't write %s", script);
    const char *argv[] = { "debugfs", "-w", "-f", script, m->image, NULL };
    return make_run("debugfs", (char *const *)(uintptr_t)argv, "debugfs ", err); /* its exit status says nothing */
}

int make_ext4(const struct making *m, struct err *err)
{
    uint64_t mib = (estimate(m) * BLOCK + MIB - 1) / MIB;
    char uuid[37];
    int r = -EIO;

    snprintf(uuid, sizeof(uuid), "%.8s-%.4s-%.4s-%.4s-%.12s", m->digest, m->digest + 8, m->digest + 12, m->digest + 16, m->digest + 20);
    for (int i = 0; i < TRIES && r == -EIO; i++, mib += (mib + 1) / 2)
        r = format(m, mib, uuid, err);
    return r < 0 ? r : set_inodes(m, err);
}
