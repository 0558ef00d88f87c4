#include "cmd/vmctl/verb.h"

#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/util.h"

const struct verb *const verb_table[] = {
    &verb_check,
    &verb_convert,
    &verb_diff,
    &verb_apply,
    &verb_delete,
    &verb_list,
    &verb_status,
    &verb_inspect,
    &verb_logs,
    &verb_console,
    &verb_health,
    &verb_events,
    &verb_start,
    &verb_stop,
    &verb_restart,
    &verb_kill,
    &verb_pause,
    &verb_resume,
    &verb_reset,
    &verb_drain,
    &verb_wait,
    &verb_qmp,
    &verb_snapshot_create,
    &verb_snapshot_list,
    &verb_snapshot_show,
    &verb_snapshot_delete,
    &verb_snapshot_verify,
    &verb_snapshot_warm,
    &verb_restore,
    &verb_clone,
    &verb_image_list,
    &verb_image_pull,
    &verb_image_show,
    &verb_image_import,
    &verb_image_delete,
    &verb_image_prune,
    &verb_shim_list,
    &verb_shim_status,
    &verb_shim_events,
    &verb_shim_call,
    &verb_shim_adopt,
    &verb_doctor,
    &verb_completion,
    &verb_version,
    &verb_help,
    NULL,
};

const struct flag global_flags[] = {
    { "json", 0, FLAG_SET, NULL, "print JSON for programs", offsetof(struct invocation, json), NULL },
    { "quiet", 'q', FLAG_SET, NULL, "print errors only; names only in lists", offsetof(struct invocation, quiet), NULL },
    { "no-color", 0, FLAG_SET, NULL, "no colours (as with NO_COLOR set)", offsetof(struct invocation, no_color), NULL },
    { "run-dir", 0, FLAG_TEXT, "DIR", "where the sockets are (HOLDFAST_RUN_DIR)", offsetof(struct invocation, run_dir), NULL },
    { "state-dir", 0, FLAG_TEXT, "DIR", "where the records are (HOLDFAST_STATE_DIR)", offsetof(struct invocation, state_dir), NULL },
    { "log-dir", 0, FLAG_TEXT, "DIR", "where the logs are (HOLDFAST_LOG_DIR)", offsetof(struct invocation, log_dir), NULL },
    { "config-dir", 0, FLAG_TEXT, "DIR", "where the specs are (HOLDFAST_CONFIG_DIR)", offsetof(struct invocation, config_dir), NULL },
    { "help", 'h', FLAG_SET, NULL, "this help, or a verb's", offsetof(struct invocation, help), NULL },
    { "version", 0, FLAG_SET, NULL, "print vmctl's version", offsetof(struct invocation, version), NULL },
    FLAGS_END,
};

/* How many of `words` the verb's name covers, 0 when they spell another. */
static size_t match_words(const char *name, char *const *words)
{
    size_t used = 0;

    for (;;) {
        size_t len = strcspn(name, " ");
        if (!words[used] || strlen(words[used]) != len || memcmp(words[used], name, len) != 0)
            return 0;
        used++;
        if (!name[len])
            return used;
        name += len + 1;
    }
}

const struct verb *verb_find(char *const *words, size_t *ret_used)
{
    for (size_t i = 0; verb_table[i]; i++) {
        size_t used = match_words(verb_table[i]->name, words);
        if (used) {
            *ret_used = used;
            return verb_table[i];
        }
    }
    return NULL;
}

bool verb_is_family(const char *word)
{
    size_t len = strlen(word);

    for (size_t i = 0; verb_table[i]; i++)
        if (len && strncmp(verb_table[i]->name, word, len) == 0 && verb_table[i]->name[len] == ' ')
            return true;
    return false;
}

const char *verb_nearest(const char *word)
{
    const char *best = NULL;
    unsigned best_distance = text_typo_limit(word) + 1;

    for (size_t i = 0; verb_table[i]; i++) {
        unsigned d = text_distance(word, verb_table[i]->name);
        if (d < best_distance) {
            best = verb_table[i]->name;
            best_distance = d;
        }
    }
    return best;
}
