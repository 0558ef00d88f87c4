/* Where releases come from: the four kinds of the config behind one face. All of it blocks, on a thread of the caller's, and ends soon
 * after the task is cancelled. */
#pragma once

#include "lib/images/config.h"
#include "lib/images/manifest.h"
#include "lib/images/sink.h"
#include "lib/images/task.h"

struct source_manifest {
    char *text; /* as it came, or for an index the part of it */
    size_t len;
    char *signature; /* NULL: none was asked for */
    struct manifest manifest;
};
void source_manifest_clear(struct source_manifest *m);
#define auto_source_manifest auto_cleanup(source_manifest_clear)

/* The newest release there is. What may go away is tried again, as the config says. -EAGAIN and others with id "source". */
int source_newest(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err);

/* A release's manifest, its signature verified where the source has a key. -ENOENT: the source has no such release; -EBADMSG: the signature
 * or the manifest is bad. */
int source_read_manifest(struct image_task *task, const struct image_source *source, const char *version,
                         struct source_manifest *ret_manifest, struct err *err);

/* One attempt at the rest of a file, from sink_offset() on. 0: all of it came. -EAGAIN, -ENOENT and -ERANGE as for http_get(); -EBADMSG and
 * others of the sink. */
int source_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                 struct sink *sink, struct err *err);
