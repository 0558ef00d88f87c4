/* What the kinds of sources have to offer; internal to source*.c. */
#pragma once

#include "lib/images/source.h"

struct source_ops {
    int (*newest)(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err);
    /* The text that is signed, and where the source has a key its signature. -ENOENT: there is no such release, or (with the text there)
     * no signature. */
    int (*manifest)(struct image_task *task, const struct image_source *source, const char *version, char **ret_text, size_t *ret_len,
                    char **ret_signature, struct err *err);
    /* From the text to the files of the version. */
    int (*parse)(const struct image_source *source, const char *version, struct source_manifest *m, struct err *err);
    int (*fetch)(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                 struct sink *sink, struct err *err);
};

extern const struct source_ops source_github, source_index, source_folder, source_command;

/* The parse() of those whose text is a vm.json. */
int source_parse_manifest(const struct image_source *source, const char *version, struct source_manifest *m, struct err *err);
/* The source's key, where it has one, against a text and its signature. */
int source_verify_text(const struct image_source *source, const char *text, size_t len, const char *signature, struct err *err);
int source_command_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                         struct sink *sink, struct err *err);
