/* The part "images" of the host config, CONFIG/holdfast.json: where images come from, and how. The manager's parser of that file accepts
 * it by this type; holdfast-imaged reads the file by itself, and looks at nothing else in it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/util.h"

enum image_source_kind {
    IMAGE_SOURCE_GITHUB,  /* "github-releases" */
    IMAGE_SOURCE_INDEX,   /* "https-index" */
    IMAGE_SOURCE_FOLDER,  /* "folder" */
    IMAGE_SOURCE_COMMAND, /* "command" */
    IMAGE_SOURCE_KIND_COUNT,
};
extern const struct enum_names image_source_kind_names;

struct image_source {
    char *name; /* of the image */
    int kind;
    char *url;           /* of the releases, or of the index */
    char *file_url;      /* github-releases: {bucket} {prefix} {filename} {version} {name} */
    char **hosts;        /* that redirects and an index may lead to, beside the url's own; "*.example.org" is all below it */
    char *public_key;    /* minisign(1); NULL: signatures aren't asked for */
    char *path;          /* folder: absolute */
    bool flat;           /* not of the config: `path` is the release itself, for an import */
    char **command;      /* command, or the files of github-releases */
    uint64_t timeout_ms; /* of one run of the command; 0: none */
};

struct image_sources {
    struct image_source *items;
    size_t n;
};

struct images_config {
    uint64_t keep_versions;
    uint64_t rate_limit; /* bytes a second for all together, 0: none */
    char *proxy;         /* NULL: none, whatever the environment says */
    char *ca_file;       /* NULL: the system's */
    uint64_t parallel;   /* files fetched at the same time */
    uint64_t retries;    /* attempts in a row without progress, after the first */
    uint64_t retry_delay_ms;
    uint64_t connect_timeout_ms;
    uint64_t stall_timeout_ms; /* a transfer that brings next to nothing for so long is given up, and tried again */
    uint64_t check_interval_ms;
    uint64_t margin; /* bytes of the disk that stay free */
    struct image_sources sources;
};
extern const struct record_type images_config_type;

#define IMAGES_CONFIG_DEFAULTS                                 \
    ((struct images_config){ .keep_versions = 2,               \
                             .parallel = 4,                    \
                             .retries = 5,                     \
                             .retry_delay_ms = 1000,           \
                             .connect_timeout_ms = 20 * 1000,  \
                             .stall_timeout_ms = 60 * 1000,    \
                             .check_interval_ms = 3600 * 1000, \
                             .margin = 256 * 1024 * 1024 })

/* What the record's table can't say. The path in the text is below "/images". -EINVAL. */
int images_config_check(const struct images_config *config, struct err *err);

/* From CONFIG/holdfast.json, or where there is none config.json; a missing file is fine. *ret_group (may be NULL): "/group". */
int images_config_read(const char *config_dir, struct images_config *ret_config, char **ret_group, struct err *err);
void images_config_clear(struct images_config *config);
#define auto_images_config auto_cleanup(images_config_clear)

/* NULL: the config has no source for the image. */
const struct image_source *images_config_source(const struct images_config *config, const char *name);
