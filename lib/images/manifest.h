/* What a release is made of, as its source says: the manifest vm.json, or an entry of an index. Pure.
 *
 * vm.json is an object of roles, each {bucket, prefix, filename, sha256} and maybe {size, url, unpacked_sha256, unpacked_size}; members
 * that are no objects are ignored. sha256 and size are of the file as it is published. A file whose name ends in ".zst" is unpacked, and
 * named without that here; what comes of it is compared with unpacked_sha256 and unpacked_size where they are given. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/json.h"
#include "lib/base/strv.h"

enum { MANIFEST_TEXT_MAX = 1024 * 1024, INDEX_TEXT_MAX = 8 * 1024 * 1024, INDEX_SCHEMA = 1 };

struct manifest_file {
    char *role;
    char *bucket, *prefix; /* may be NULL */
    char *filename;        /* as published */
    char *url;             /* NULL: by the source's template */
    char *sha256;
    uint64_t size; /* 0: not said */
    char *unpacked_sha256;
    uint64_t unpacked_size; /* 0: not said */
};

struct manifest {
    struct manifest_file *files;
    size_t n_files;
};
void manifest_clear(struct manifest *manifest);
#define auto_manifest auto_cleanup(manifest_clear)

/* -EINVAL with id "bad-manifest", naming the role and what is wrong. */
int manifest_parse(const char *text, size_t len, struct manifest *ret_manifest, struct err *err);

/* The index: {"schema": 1, "latest": "1.3", "versions": [{"version": "1.3", "files": {ROLE: {filename, url, sha256, size…}}}]}. The newest
 * is `latest`, or the first of them. */
int index_parse(const char *text, size_t len, json_t **ret_index, struct err *err);
/* Borrowed; NULL: the index has no version. */
const char *index_newest(const json_t *index);
/* Borrowed: the object of roles of a version, NULL: there is no such version. */
const json_t *index_files(const json_t *index, const char *version);
int manifest_from_json(const json_t *roles, struct manifest *ret_manifest, struct err *err);

/* Whether the file is unpacked, and its name in the store then; else the same name. */
bool manifest_file_is_packed(const struct manifest_file *file);
/* malloc'ed, NULL: out of memory. */
char *manifest_file_stored_name(const struct manifest_file *file);
/* Whether an earlier entry is of the same file. */
bool manifest_file_is_repeated(const struct manifest *manifest, size_t i);
