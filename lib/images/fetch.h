/* One file, whatever it takes: attempts, back-off, going on after a cut, one clean retry of what came out wrong. */
#pragma once

#include "lib/base/backoff.h"
#include "lib/images/source.h"

/* As the config says; to be used with fetch_again(). */
struct backoff fetch_backoff(const struct image_task *task);
/* Waits for the next attempt. False: there is none any more, or the task is cancelled; `err` then says so (what was in it stays in front). */
bool fetch_again(struct image_task *task, struct backoff *backoff, struct err *err);

/* Fetches a file into the folder (sink.h); what is there already is gone on with. *ret_sha256: of the file to be published, malloc'ed.
 * -EBADMSG: it came twice and was wrong twice, and was discarded. -EAGAIN, -ENOENT, -EACCES: the source fails, what came stays.
 * -ENOSPC, -ECANCELED. */
int fetch_file(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
               int folder_fd, char **ret_sha256, struct err *err);
