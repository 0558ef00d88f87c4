/* The two kinds of sources over HTTP: releases in GitHub's style with the files elsewhere, and an index. */
#include <errno.h>

#include "lib/images/http.h"
#include "lib/images/source_kinds.h"
#include "lib/images/template.h"

enum { SIGNATURE_MAX = 8 * 1024 };

static void free_previous(char **text)
{
    free(*text);
    *text = NULL;
}

static int get_text(struct image_task *task, const struct image_source *source, size_t limit, char **ret_text, size_t *ret_len,
                    struct err *err, const char *url)
{
    free_previous(ret_text); /* of an attempt before this one */
    return http_get_text(task, url, source->hosts, limit, ret_text, ret_len, err);
}

static int get_signed(struct image_task *task, const struct image_source *source, const char *url, size_t limit, char **ret_text,
                      size_t *ret_len, char **ret_signature, struct err *err)
{
    auto_free char *signature_url = NULL;
    size_t len;
    int r = get_text(task, source, limit, ret_text, ret_len, err, url);

    if (r < 0 || !source->public_key)
        return r;
    if (str_format(&signature_url, "%s.minisig", url) < 0)
        return -ENOMEM;
    return get_text(task, source, SIGNATURE_MAX, ret_signature, &len, err, signature_url);
}

/* ---- a file into its sink ---- */

struct delivery {
    struct sink *sink;
    const char *url;
};

static int begin(void *arg, const struct http_head *head, struct err *err)
{
    struct delivery *d = arg;
    int r = 0;

    if (head->partial && head->offset != sink_offset(d->sink)) {
        r = sink_restart(d->sink, err);
        return r < 0 ? r : err_set(err, EAGAIN, "source", "%s: the server answers with another part than the one asked for", d->url);
    }
    /* It takes no ranges, or has another file there now. */
    if (!head->partial && sink_offset(d->sink) > 0)
        r = sink_restart(d->sink, err);
    if (r >= 0 && head->size)
        r = sink_set_size(d->sink, head->size, err);
    if (r >= 0 && !head->partial)
        r = sink_set_validator(d->sink, head->validator);
    return r;
}

static int deliver(void *arg, const void *data, size_t len, struct err *err)
{
    struct delivery *d = arg;

    return sink_write(d->sink, data, len, err);
}

static int fetch_url(struct image_task *task, const struct image_source *source, const char *url, struct sink *sink, struct err *err)
{
    struct delivery d = { .sink = sink, .url = url };
    struct http_get get = {
        .url = url,
        .hosts = source->hosts,
        .from = sink_offset(sink),
        .validator = sink_validator(sink),
        .begin = begin,
        .data = deliver,
        .arg = &d,
    };

    return http_get(task, &get, err);
}

/* ---- releases in GitHub's style ---- */

static int releases_url(const struct image_source *source, const char *rest, const char *version, const char *file, char **ret_url)
{
    size_t len = strlen(source->url);

    while (len > 0 && source->url[len - 1] == '/')
        len--;
    return str_format(ret_url, "%.*s/releases/%s%s%s", (int)len, source->url, rest, version, file);
}

static int github_newest(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err)
{
    auto_free char *url = NULL, *text = NULL;
    auto_json json_t *json = NULL;
    const char *tag;
    size_t len;
    int r;

    if (releases_url(source, "latest", "", "", &url) < 0)
        return -ENOMEM;
    r = http_get_text(task, url, source->hosts, MANIFEST_TEXT_MAX, &text, &len, err);
    if (r < 0)
        return r == -ENOENT ? err_set(err, EIO, "source", "%s: there is none (HTTP status 404)", url) : r;
    r = json_parse(text, len, &json, err);
    tag = json_string_value(json_object_get(json, "tag_name"));
    if (r == -EINVAL || (r >= 0 && !tag))
        return err_set(err, EBADMSG, "source", "%s: its answer has no \"tag_name\"", url);
    return r < 0 ? r : str_set(ret_version, tag);
}

static int github_manifest(struct image_task *task, const struct image_source *source, const char *version, char **ret_text,
                           size_t *ret_len, char **ret_signature, struct err *err)
{
    auto_free char *url = NULL;

    /* A valid version has no character that a URL would need encoded, but '+', which stands for itself in a path. */
    if (releases_url(source, "download/", version, "/vm.json", &url) < 0)
        return -ENOMEM;
    return get_signed(task, source, url, MANIFEST_TEXT_MAX, ret_text, ret_len, ret_signature, err);
}

static int github_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                        struct sink *sink, struct err *err)
{
    const struct template_value values[] = {
        { "bucket", file->bucket }, { "prefix", file->prefix }, { "filename", file->filename },
        { "version", version },     { "name", source->name },
    };
    auto_free char *url = NULL;
    int r;

    if (!source->file_url)
        return source_command_fetch(task, source, version, file, sink, err);
    r = template_expand(source->file_url, values, ARRAY_LEN(values), true, &url, err);
    return r < 0 ? r : fetch_url(task, source, url, sink, err);
}

const struct source_ops source_github = {
    .newest = github_newest, .manifest = github_manifest, .parse = source_parse_manifest, .fetch = github_fetch
};

/* ---- an index ---- */

/* Whoever may change the index may say what is the newest, so that is signed as well. */
static int read_index(struct image_task *task, const struct image_source *source, char **ret_text, size_t *ret_len, char **ret_signature,
                      struct err *err)
{
    return get_signed(task, source, source->url, INDEX_TEXT_MAX, ret_text, ret_len, ret_signature, err);
}

static int parse_index(const struct image_source *source, const char *text, size_t len, json_t **ret_index, struct err *err)
{
    int r = index_parse(text, len, ret_index, err);

    if (r == -EINVAL) {
        err_prefix(err, "%s", source->url);
        return -EBADMSG;
    }
    return r;
}

static int index_newest_of(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err)
{
    auto_free char *text = NULL, *signature = NULL;
    auto_json json_t *index = NULL;
    size_t len;
    int r = read_index(task, source, &text, &len, &signature, err);

    if (r == -ENOENT)
        return err_set(err, EIO, "source", "%s%s: there is none (HTTP status 404)", source->url, text ? ".minisig" : "");
    if (r >= 0)
        r = source_verify_text(source, text, len, signature, err);
    if (r >= 0)
        r = parse_index(source, text, len, &index, err);
    if (r < 0)
        return r;
    if (!index_newest(index))
        return err_set(err, EBADMSG, "source", "%s: it names no version", source->url);
    return str_set(ret_version, index_newest(index));
}

static int index_manifest(struct image_task *task, const struct image_source *source, const char *version, char **ret_text, size_t *ret_len,
                          char **ret_signature, struct err *err)
{
    int r = read_index(task, source, ret_text, ret_len, ret_signature, err);

    /* An index that isn't there says nothing about releases. */
    if (r == -ENOENT && !*ret_text)
        return err_set(err, EIO, "source", "%s: there is none (HTTP status 404)", source->url);
    return r;
}

static int index_parse_version(const struct image_source *source, const char *version, struct source_manifest *m, struct err *err)
{
    auto_json json_t *index = NULL;
    const json_t *files;
    int r = parse_index(source, m->text, m->len, &index, err);

    if (r < 0)
        return r;
    files = index_files(index, version);
    if (!files)
        return err_set(err, ENOENT, "source", "%s has no version \"%s\"", source->url, version);
    r = manifest_from_json(files, &m->manifest, err);
    if (r < 0) {
        err_prefix(err, "%s: version %s", source->url, version);
        return r;
    }
    /* The signature is of the whole. */
    free_previous(&m->signature);
    free_previous(&m->text);
    return json_format_indented(files, &m->text, &m->len);
}

static int index_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                       struct sink *sink, struct err *err)
{
    auto_free char *url = NULL;
    int r = http_url_resolve(source->url, file->url ? file->url : file->filename, &url);

    if (r < 0)
        return r == -ENOMEM ? r
                            : err_set(err, EACCES, "bad-url", "%s: \"%s\" is no URL", file->role, file->url ? file->url : file->filename);
    if (!http_url_is_allowed(url, source->url, source->hosts))
        return err_set(err, EACCES, "redirect", "%s: %s is on a host that the config doesn't name (\"hosts\" of the source)", file->role,
                       url);
    return fetch_url(task, source, url, sink, err);
}

const struct source_ops source_index = {
    .newest = index_newest_of, .manifest = index_manifest, .parse = index_parse_version, .fetch = index_fetch
};
