/* What a verb is. Most files of this folder define one `const struct verb` each; verb.c lists them all, and that table makes parsing,
 * --help, shell completion and the man page's list. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/dirs.h"

/* The exit status (DESIGN §10). */
enum outcome {
    OUTCOME_DONE,
    OUTCOME_FAILED,
    OUTCOME_USAGE,
    OUTCOME_NO_SUCH,
    OUTCOME_UNREACHABLE,
    OUTCOME_TIMED_OUT,
    OUTCOME_REFUSED,
};

struct verb;

/* One command line, parsed. Strings point into argv; numbers are -1 where the option was not given. */
struct invocation {
    const struct verb *verb;
    char **args;
    size_t n_args;
    struct dirs dirs;

    /* understood by every verb */
    const char *run_dir, *state_dir, *log_dir, *config_dir;
    bool json, quiet, no_color, help, version;

    /* of some verbs */
    bool all, force, purge, no_wait, follow, qemu, shim, console, exit_on_eof, more, standing, dry_run, restart, off;
    bool image_verify, image_cancel;
    const char *signal, *condition, *escape, *boot, *mode, *pattern;
    int64_t timeout_ms, since, lines, backlog, count;
    bool prove;                             /* doctor */
    const char *root, *unit, *restart_with; /* doctor */
    const char *qmp;                        /* shim adopt */
    int64_t pid;                            /* shim adopt */
};

enum flag_kind {
    FLAG_SET,      /* bool */
    FLAG_TEXT,     /* const char * */
    FLAG_DURATION, /* int64_t milliseconds */
    FLAG_NUMBER,   /* int64_t */
};

struct flag {
    const char *name; /* without the dashes; NULL ends a list */
    char letter;      /* 0: none */
    enum flag_kind kind;
    const char *value; /* what stands for the value in help, NULL for FLAG_SET */
    const char *summary;
    size_t offset;       /* in struct invocation */
    const char *choices; /* values to complete, separated by spaces */
};

#define FLAG_ALL                                                                       \
    {                                                                                  \
        "all", 'a', FLAG_SET, NULL, "every VM", offsetof(struct invocation, all), NULL \
    }
#define FLAG_FORCE                                                                                                    \
    {                                                                                                                 \
        "force", 0, FLAG_SET, NULL, "don't ask the guest, begin at SIGTERM", offsetof(struct invocation, force), NULL \
    }
#define FLAG_STOP_TIMEOUT                                                                              \
    {                                                                                                  \
        "timeout", 't', FLAG_DURATION, "DURATION", "how long the guest may take before force is used", \
            offsetof(struct invocation, timeout_ms), NULL                                              \
    }
#define FLAG_NO_WAIT                                                                                            \
    {                                                                                                           \
        "no-wait", 0, FLAG_SET, NULL, "don't wait until it is done", offsetof(struct invocation, no_wait), NULL \
    }
#define FLAG_FOLLOW                                                                                           \
    {                                                                                                         \
        "follow", 'f', FLAG_SET, NULL, "go on with what comes new", offsetof(struct invocation, follow), NULL \
    }
#define FLAG_SINCE                                                                                           \
    {                                                                                                        \
        "since", 0, FLAG_NUMBER, "N", "only events after number N", offsetof(struct invocation, since), NULL \
    }
#define FLAG_MODE                                                                                                             \
    {                                                                                                                         \
        "mode", 0, FLAG_TEXT, "MODE", "lazy, mapped or eager (as the host is configured)", offsetof(struct invocation, mode), \
            "lazy mapped eager"                                                                                               \
    }
#define FLAGS_END                              \
    {                                          \
        NULL, 0, FLAG_SET, NULL, NULL, 0, NULL \
    }

/* What completion offers for the arguments. */
enum verb_takes {
    TAKES_NOTHING,
    TAKES_VMS,
    TAKES_ONE_VM,
    TAKES_SNAPSHOTS,
    TAKES_ONE_SNAPSHOT,
    TAKES_VM_AND_SNAPSHOT,
    TAKES_IMAGES,
    TAKES_ONE_IMAGE,
    TAKES_IMAGE_AND_FOLDER,
    TAKES_FILES,
    TAKES_VMS_AND_FILES,
    TAKES_SHELL,
    TAKES_VERB
};

enum { ARGS_ANY = 1 << 20 };

struct verb {
    const char *name;  /* one word, or two: "shim list" */
    const char *args;  /* "NAME..." */
    const char *group; /* heading in help */
    const char *summary;
    const char *details;      /* further lines of help, may be NULL */
    const char *example;      /* one command a line */
    const struct flag *flags; /* may be NULL */
    enum verb_takes takes;
    unsigned min_args, max_args;
    enum outcome (*run)(const struct invocation *in);
};

extern const struct verb *const verb_table[]; /* NULL-ended, in the order of help */
extern const struct flag global_flags[];

/* The verb spelled by the first words of `words` (NULL-ended); *ret_used: how many they were. NULL when there is none. */
const struct verb *verb_find(char *const *words, size_t *ret_used);
/* Whether some verb begins with this word and another: "shim". */
bool verb_is_family(const char *word);
/* The known word most like `word`, or NULL when none is like it. */
const char *verb_nearest(const char *word);
