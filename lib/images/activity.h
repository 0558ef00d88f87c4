/* What takes its time: checks, pulls, imports, verifications. Each has a thread and any number of callers, who come and go; it goes on
 * without them. The loop looks at its progress and answers when the thread is done. */
#pragma once

#include "lib/images/state.h"

enum activity_kind { ACTIVITY_CHECK, ACTIVITY_PULL, ACTIVITY_IMPORT, ACTIVITY_VERIFY, ACTIVITY_KIND_COUNT };
extern const struct enum_names activity_kind_names;

enum { ACTIVITIES_MAX = 64, RATE_SAMPLES = 20 };

/* What a caller wants once it is done. */
enum watcher_wish {
    WISH_RESULT,  /* what the activity came to */
    WISH_PULL,    /* of a check: the release it found, pulled */
    WISH_RESOLVE, /* of a check: the answer of Resolve */
};

struct watcher {
    struct watcher *next, **prev_next;
    struct varlink_call *call;
    enum watcher_wish wish;
};

struct activity {
    struct activity *next, **prev_next, *next_finished;
    struct images_service *service;
    enum activity_kind kind;
    char *name, *version, *folder; /* version: not of a check; folder: of an import */
    pthread_t thread;
    struct image_task task;
    struct images_config config; /* the thread's own, read when it begins */
    atomic_bool discard;
    uint64_t begun_us; /* real time */
    struct watcher *watchers;
    struct {
        uint64_t at_us, done;
    } samples[RATE_SAMPLES];
    size_t n_samples;
    /* the thread's result */
    int r;
    struct err err;
    bool already;
    char *found;     /* of a check: the newest version */
    json_t *release; /* as it goes over the wire */
};

/* The one of that kind and release under way, or NULL. `version` NULL: any. */
struct activity *activity_find(struct images_service *s, enum activity_kind kind, const char *name, const char *version);
/* -EBUSY with id "refused": there are too many, or another one works at the same release; -EAGAIN: no thread. */
int activity_begin(struct images_service *s, enum activity_kind kind, const char *name, const char *version, const char *folder,
                   struct activity **ret_activity, struct err *err);
/* The call is answered when it is done, with progress until then if it wants more. Ends the call when memory runs out. */
void activity_watch(struct activity *a, struct varlink_call *call, enum watcher_wish wish);

/* {"phase": …}, on the loop. */
json_t *activity_progress(const struct activity *a);

int activities_start(struct images_service *s);
/* All threads are told to end, and waited for at most `grace_ms`. False: one hangs. */
bool activities_stop(struct images_service *s, uint64_t grace_ms);

/* Runs on the thread (work.c). */
void activity_work(struct activity *a);
/* Runs on the loop, once for each caller, whose call it ends (api_long.c). */
void activity_answer(struct activity *a, struct varlink_call *call, enum watcher_wish wish);
