/* Disks that are made of files on the host: the config disk (ext4) and cloud-init's seed (ISO 9660). A recipe says of what; its digest goes
 * into the disk's name (proto/made_image.h), and holdfast-mkdisk makes it. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/disk/content.h"

enum recipe_kind { RECIPE_CONFIG, RECIPE_SEED };

/* Borrowed from whoever has it. Paths are absolute. */
struct recipe {
    enum recipe_kind kind;
    const char *label;
    /* RECIPE_CONFIG */
    const char *directory;    /* may be NULL */
    const struct pair *files; /* path on the disk, path on the host */
    size_t n_files;
    /* RECIPE_SEED */
    const char *vm;                                     /* whose it is, for an instance-id */
    const char *user_data, *meta_data, *network_config; /* but for the first they may be NULL */
};

#define SEED_LABEL "cidata" /* by which cloud-init finds it: its NoCloud data source */

/* Reads all the files. -EINVAL "bad-content" with a line for the operator, -ENOMEM. Blocks. */
int recipe_digest(const struct recipe *recipe, char ret_digest[MADE_DIGEST_LEN + 1], struct err *err);

/* Whether the programs that make such a disk are installed: else -ENOENT "no-tool" with the package that has them. */
int recipe_check_tools(enum recipe_kind kind, struct err *err);

/* Makes it as `output`, mode 0600, whole or not at all, by way of a folder beside it. -EAGAIN "changed" when the files aren't those of the
 * digest. Same digest, same content, and as far as mke2fs and xorriso go the same bytes. Runs programs and waits for them. */
int recipe_make(const struct recipe *recipe, const char *digest, const char *output, struct err *err);

/* For recipe_make() alone: `root` is a folder with the content, `image` the path of the new image. */
struct making {
    const struct recipe *recipe;
    const struct content *content;
    uint64_t size; /* of the files */
    const char *digest;
    const char *folder; /* 0700, for whatever else is needed */
    const char *root, *image;
};
int make_ext4(const struct making *m, struct err *err);
int make_iso(const struct making *m, struct err *err);

/* Runs a program with a fixed environment to its end; `stdout_file` may be NULL. -EIO "no-image" with what it said when it fails, or says
 * anything on stderr but lines that begin with `banner` (NULL: what it says is no failure). */
int make_run(const char *program, char *const *argv, const char *banner, struct err *err);
/* Path of a program of theirs, malloc'ed; NULL: not installed (or out of memory). */
char *make_find(const char *program);

#define MADE_EPOCH "946684800" /* 2000-01-01, the time of everything on such a disk */
