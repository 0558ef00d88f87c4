#include "lib/images/source.h"

#include <errno.h>

#include "lib/base/backoff.h"
#include "lib/images/fetch.h"
#include "lib/images/minisign.h"
#include "lib/images/names.h"
#include "lib/images/source_kinds.h"

enum { NEWEST_ATTEMPTS = 2 };

static const struct source_ops *const kinds[] = {
    [IMAGE_SOURCE_GITHUB] = &source_github,
    [IMAGE_SOURCE_INDEX] = &source_index,
    [IMAGE_SOURCE_FOLDER] = &source_folder,
    [IMAGE_SOURCE_COMMAND] = &source_command,
};
_Static_assert(ARRAY_LEN(kinds) == IMAGE_SOURCE_KIND_COUNT, "each kind has its functions");

void source_manifest_clear(struct source_manifest *m)
{
    free(m->text);
    free(m->signature);
    manifest_clear(&m->manifest);
    *m = (struct source_manifest){ 0 };
}

int source_parse_manifest(const struct image_source *source, const char *version, struct source_manifest *m, struct err *err)
{
    int r = manifest_parse(m->text, m->len, &m->manifest, err);

    if (r == -EINVAL)
        err_prefix(err, "the manifest of %s/%s", source->name, version);
    return r;
}

int source_newest(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err)
{
    struct backoff backoff = fetch_backoff(task);
    auto_free char *version = NULL;
    int r;

    /* Somebody waits for the answer, and there is a next check. */
    if (backoff.max_attempts > NEWEST_ATTEMPTS)
        backoff.max_attempts = NEWEST_ATTEMPTS;
    do
        r = kinds[source->kind]->newest(task, source, &version, err);
    while (r == -EAGAIN && fetch_again(task, &backoff, err));
    if (r < 0)
        return r;
    if (!image_version_is_valid(version))
        return err_set(err, EBADMSG, "source",
                       "the source of %s says that \"%.64s\" is its newest release: that is no name (" IMAGE_NAME_RULE ")", source->name,
                       version);
    *ret_version = steal_ptr(&version);
    return 0;
}

int source_verify_text(const struct image_source *source, const char *text, size_t len, const char *signature, struct err *err)
{
    int r = source->public_key ? minisign_verify(source->public_key, signature, text, len, err) : 0;

    if (r < 0)
        err_prefix(err, "the signature of %s", source->name);
    return r;
}

int source_read_manifest(struct image_task *task, const struct image_source *source, const char *version,
                         struct source_manifest *ret_manifest, struct err *err)
{
    const struct source_ops *ops = kinds[source->kind];
    struct backoff backoff = fetch_backoff(task);
    auto_source_manifest struct source_manifest m = { 0 };
    int r;

    do
        r = ops->manifest(task, source, version, &m.text, &m.len, &m.signature, err);
    while (r == -EAGAIN && fetch_again(task, &backoff, err));
    if (r == -ENOENT && m.text)
        return err_set(err, EBADMSG, "bad-signature", "%s/%s is not signed, and the source has a public_key", source->name, version);
    if (r >= 0)
        r = source_verify_text(source, m.text, m.len, m.signature, err);
    if (r >= 0)
        r = ops->parse(source, version, &m, err);
    if (r < 0)
        return r == -EINVAL ? -EBADMSG : r;
    *ret_manifest = m;
    m = (struct source_manifest){ 0 };
    return 0;
}

int source_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                 struct sink *sink, struct err *err)
{
    return kinds[source->kind]->fetch(task, source, version, file, sink, err);
}
