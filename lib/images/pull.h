/* A release from its source into the store: all of it, or nothing that can be seen.
 *
 * STATE/images/NAME/.partial-VERSION/ holds what came so far (sink.h) and partial.json, which says that the pull is wanted. It survives
 * everybody's end and is gone on with by the next pull of that release. Once all files are verified the folder gets its name by one rename.
 * When the disk is full it is removed, since VMs may need the space; when the pull is cancelled, too. */
#pragma once

#include "lib/images/source.h"
#include "lib/images/store.h"

enum { PARTIAL_SCHEMA = 1 };

struct image_partial {
    uint64_t schema;
    char *name, *version;
    uint64_t begun_us; /* real time */
    char *problem;     /* why it was given up; NULL: it is to be gone on with */
};
extern const struct record_type image_partial_type;
int image_partial_from_json(const json_t *json, struct image_partial *ret_partial, struct err *err);
void image_partial_clear(struct image_partial *partial);
#define auto_image_partial auto_cleanup(image_partial_clear)

struct image_partials {
    struct image_partial *items;
    size_t n;
};
void image_partials_clear(struct image_partials *partials);
#define auto_image_partials auto_cleanup(image_partials_clear)

/* All unfinished pulls; what can't be read is passed over. */
int image_partials_list(const struct image_store *store, const char *name, struct image_partials *ret_partials);
/* Removes what of a pull is here; one that isn't there is fine. -EBUSY: it runs. */
int image_partial_discard(const struct image_store *store, const char *name, const char *version);
/* The same for the pull itself. */
int image_partial_remove(const struct image_store *store, const char *name, const char *version);

struct image_pull {
    const struct image_store *store;
    int state_vms_fd; /* STATE/vms, -1: no VMs */
    const char *name, *version;
    const struct image_source *source;
    /* Whether its end is the operator's wish, once the task is cancelled: if not (the service ends), what came is kept, and the next service
     * goes on. */
    const atomic_bool *discard;
};

/* Blocks. *ret_already: it was here, and verified. -ENOENT: the source has no such release; -EBADMSG: what it gave is wrong, or its signature;
 * -EBUSY: a damaged one is here, and in use; -ENOSPC; -ECANCELED; -EAGAIN and others with id "source". */
int image_pull(struct image_task *task, const struct image_pull *pull, bool *ret_already, struct err *err);

/* Reads all files of a release and compares them; their state is remembered anew. -EBADMSG with id "damaged". */
int image_verify(struct image_task *task, const struct image_store *store, const char *name, const char *version, struct err *err);
