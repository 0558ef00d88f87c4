#include "proto/plan_diff.h"

#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"

/* What the shim does by itself, whatever QEMU does. */
static const char *const live_keys[] = { "restart", "health", "stop", "logs" };

static bool is_live_key(const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(live_keys); i++)
        if (streq(live_keys[i], key))
            return true;
    return false;
}

/* ---- the results ---- */

/* `old` and `new` are taken, also on failure. */
static int add_change_consume(struct plan_diff *diff, const char *what, bool live, char *old, char *new)
{
    struct plan_change *changes = reallocarray(diff->changes, diff->n_changes + 1, sizeof(*changes));
    char *copy = strdup(what);

    if (changes)
        diff->changes = changes;
    if (!changes || !copy) {
        free(copy);
        free(old);
        free(new);
        return -ENOMEM;
    }
    changes[diff->n_changes++] = (struct plan_change){ .what = copy, .old = old, .new = new, .live = live };
    return 0;
}

static int add_json_change(struct plan_diff *diff, const char *what, bool live, const json_t *old, const json_t *new)
{
    auto_free char *from = NULL, *to = NULL;

    if ((old && json_format(old, &from, NULL) < 0) || (new &&json_format(new, &to, NULL) < 0))
        return -ENOMEM;
    return add_change_consume(diff, what, live, steal_ptr(&from), steal_ptr(&to));
}

static int add_step(struct plan_diff *diff, const char *netdev, const char *rule, bool add)
{
    struct forward_step *steps = reallocarray(diff->steps, diff->n_steps + 1, sizeof(*steps));

    if (!steps)
        return -ENOMEM;
    diff->steps = steps;
    steps[diff->n_steps] = (struct forward_step){ .netdev = strdup(netdev), .rule = strdup(rule), .add = add };
    diff->n_steps++;
    return steps[diff->n_steps - 1].netdev && steps[diff->n_steps - 1].rule ? 0 : -ENOMEM;
}

/* ---- forwards, which are in the argv ---- */

struct forward {
    char *netdev, *rule;
};

/* An argv with its forwards taken out. */
struct stripped {
    struct strv words;
    struct forward *forwards;
    size_t n_forwards;
};

static void stripped_clear(struct stripped *s)
{
    strv_clear(&s->words);
    for (size_t i = 0; i < s->n_forwards; i++) {
        free(s->forwards[i].netdev);
        free(s->forwards[i].rule);
    }
    free(s->forwards);
}
#define auto_stripped auto_cleanup(stripped_clear)

static int take_forward(struct stripped *s, const char *netdev, const char *rule)
{
    struct forward *forwards = reallocarray(s->forwards, s->n_forwards + 1, sizeof(*forwards));

    if (!forwards)
        return -ENOMEM;
    s->forwards = forwards;
    forwards[s->n_forwards] = (struct forward){ .netdev = strdup(netdev), .rule = strdup(rule) };
    s->n_forwards++;
    return forwards[s->n_forwards - 1].netdev && forwards[s->n_forwards - 1].rule ? 0 : -ENOMEM;
}

/* 1: a user network whose forwards could be read, and were taken out; 0: something else, to be left as it is. */
static int strip_netdev(struct stripped *s, json_t *netdev)
{
    const char *type = json_string_value(json_object_get(netdev, "type")), *id = json_string_value(json_object_get(netdev, "id"));
    const json_t *rules = json_object_get(netdev, "hostfwd"), *rule;
    size_t i;

    if (!type || !streq(type, "user") || !id || (rules && !json_is_array(rules)))
        return 0;
    json_array_foreach (rules, i, rule)
        if (!json_is_string(json_object_get(rule, "str")) || json_object_size(rule) != 1)
            return 0;
    json_array_foreach (rules, i, rule)
        if (take_forward(s, id, json_string_value(json_object_get(rule, "str"))) < 0)
            return -ENOMEM;
    json_object_del(netdev, "hostfwd");
    return 1;
}

static int strip_word(struct stripped *s, const char *option, const char *word)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    int r = 0;

    if (option && streq(option, "-netdev") && word[0] == '{')
        r = json_parse(word, strlen(word), &json, NULL);
    if (r == -ENOMEM)
        return r;
    r = json ? strip_netdev(s, json) : 0;
    if (r > 0)
        r = json_format(json, &text, NULL);
    if (r < 0)
        return r;
    strv_push(&s->words, text ? text : word);
    return s->words.failed ? -ENOMEM : 0;
}

static int strip(char *const *argv, struct stripped *ret)
{
    for (size_t i = 0; argv && argv[i]; i++) {
        int r = strip_word(ret, i > 0 ? argv[i - 1] : NULL, argv[i]);

        if (r < 0)
            return r;
    }
    return 0;
}

static bool has_forward(const struct stripped *s, const struct forward *f)
{
    for (size_t i = 0; i < s->n_forwards; i++)
        if (streq(s->forwards[i].netdev, f->netdev) && streq(s->forwards[i].rule, f->rule))
            return true;
    return false;
}

static bool same_forwards(const struct stripped *a, const struct stripped *b)
{
    if (a->n_forwards != b->n_forwards)
        return false;
    for (size_t i = 0; i < a->n_forwards; i++)
        if (!streq(a->forwards[i].netdev, b->forwards[i].netdev) || !streq(a->forwards[i].rule, b->forwards[i].rule))
            return false;
    return true;
}

static json_t *rules_of(const struct stripped *s)
{
    json_t *rules = json_array();

    for (size_t i = 0; i < s->n_forwards; i++)
        if (json_array_append_new(rules, json_string(s->forwards[i].rule)) < 0) {
            json_decref(rules);
            return NULL;
        }
    return rules;
}

static int compare_forwards(const struct stripped *old, const struct stripped *new, struct plan_diff *diff)
{
    auto_json json_t *from = NULL, *to = NULL;
    int r = 0;

    if (same_forwards(old, new))
        return 0;
    from = rules_of(old);
    to = rules_of(new);
    if (!from || !to)
        return -ENOMEM;
    r = add_json_change(diff, PLAN_CHANGE_FORWARDS, true, from, to);
    for (size_t i = 0; i < old->n_forwards && r >= 0; i++)
        if (!has_forward(new, &old->forwards[i]))
            r = add_step(diff, old->forwards[i].netdev, old->forwards[i].rule, false);
    for (size_t i = 0; i < new->n_forwards &&r >= 0; i++)
        if (!has_forward(old, &new->forwards[i]))
            r = add_step(diff, new->forwards[i].netdev, new->forwards[i].rule, true);
    return r;
}

/* ---- the rest of the argv ---- */

static size_t count(char *const *words, size_t n, const char *word)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++)
        found += streq(words[i], word);
    return found;
}

/* The words that `words` has oftener than `others`, in one line; all of them when it is just their order. */
static char *only_in(const struct strv *words, const struct strv *others, bool all)
{
    auto_strv struct strv found = { 0 };
    char *line = NULL;

    for (size_t i = 0; i < words->n; i++)
        if (all || count(words->items, i + 1, words->items[i]) > count(others->items, others->n, words->items[i]))
            strv_push(&found, words->items[i]);
    if (found.failed)
        return NULL;
    line = strv_to_shell(strv_argv(&found));
    return line;
}

static bool same_words(const struct strv *a, const struct strv *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!streq(a->items[i], b->items[i]))
            return false;
    return true;
}

static int compare_argv(const struct plan *old, const struct plan *new, struct plan_diff *diff)
{
    auto_stripped struct stripped from = { 0 }, to = { 0 };
    auto_free char *gone = NULL, *come = NULL;
    int r = strip(old->qemu.argv, &from);

    if (r >= 0)
        r = strip(new->qemu.argv, &to);
    if (r >= 0)
        r = compare_forwards(&from, &to, diff);
    if (r < 0 || same_words(&from.words, &to.words))
        return r;
    gone = only_in(&from.words, &to.words, false);
    come = only_in(&to.words, &from.words, false);
    if (gone && come && !*gone && !*come) {
        free(gone);
        free(come);
        gone = only_in(&from.words, &to.words, true);
        come = only_in(&to.words, &from.words, true);
    }
    if (!gone || !come)
        return -ENOMEM;
    return add_change_consume(diff, PLAN_CHANGE_ARGV, false, steal_ptr(&gone), steal_ptr(&come));
}

/* ---- the plan as JSON, key by key ---- */

/* QEMU keeps what it was given, so to need less is no change to it; to be given more it must be started. */
static bool all_in(const json_t *these, const json_t *those)
{
    const json_t *one, *other;
    size_t i, k;

    json_array_foreach (these, i, one) {
        bool found = false;

        json_array_foreach (those, k, other)
            found = found || json_equal(one, other);
        if (!found)
            return false;
    }
    return true;
}

static int compare_value(struct plan_diff *diff, const char *prefix, const char *key, const json_t *old, const json_t *new)
{
    auto_free char *what = NULL;
    bool live = !*prefix && is_live_key(key);

    if ((!old && !new) || (old && new &&json_equal(old, new)))
        return 0;
    if (str_format(&what, "%s/%s", prefix, key) < 0)
        return -ENOMEM;
    if (streq(what, PLAN_CHANGE_CAPABILITIES))
        live = all_in(new, old);
    return add_json_change(diff, what, live, old, new);
}

static bool is_compared_elsewhere(const char *prefix, const char *key)
{
    return *prefix ? streq(key, "argv") : streq(key, "qemu") || streq(key, "restore");
}

static int compare_keys(struct plan_diff *diff, const char *prefix, const json_t *old, const json_t *new)
{
    const char *key;
    json_t *value;
    int r = 0;

    json_object_foreach ((json_t *)(uintptr_t)old, key, value) {
        if (!is_compared_elsewhere(prefix, key) && r >= 0)
            r = compare_value(diff, prefix, key, value, json_object_get(new, key));
    }
    json_object_foreach ((json_t *)(uintptr_t) new, key, value) {
        if (!is_compared_elsewhere(prefix, key) && !json_object_get(old, key) && r >= 0)
            r = compare_value(diff, prefix, key, NULL, value);
    }
    return r;
}

int plan_compare(const struct plan *old, const struct plan *new, struct plan_diff *ret_diff)
{
    auto_plan_diff struct plan_diff diff = { 0 };
    auto_json json_t *from = NULL, *to = NULL;
    int r = plan_to_json(old, &from);

    if (r >= 0)
        r = plan_to_json(new, &to);
    if (r >= 0)
        r = compare_keys(&diff, "", from, to);
    if (r >= 0)
        r = compare_keys(&diff, "/qemu", json_object_get(from, "qemu"), json_object_get(to, "qemu"));
    if (r >= 0)
        r = compare_argv(old, new, &diff);
    if (r < 0)
        return r;
    *ret_diff = diff;
    diff = (struct plan_diff){ 0 };
    return 0;
}

const struct plan_change *plan_diff_obstacle(const struct plan_diff *diff)
{
    for (size_t i = 0; i < diff->n_changes; i++)
        if (!diff->changes[i].live)
            return &diff->changes[i];
    return NULL;
}

const struct plan_change *plan_diff_find(const struct plan_diff *diff, const char *what)
{
    for (size_t i = 0; i < diff->n_changes; i++)
        if (streq(diff->changes[i].what, what))
            return &diff->changes[i];
    return NULL;
}

void plan_diff_clear(struct plan_diff *diff)
{
    for (size_t i = 0; i < diff->n_changes; i++) {
        free(diff->changes[i].what);
        free(diff->changes[i].old);
        free(diff->changes[i].new);
    }
    free(diff->changes);
    for (size_t i = 0; i < diff->n_steps; i++) {
        free(diff->steps[i].netdev);
        free(diff->steps[i].rule);
    }
    free(diff->steps);
    *diff = (struct plan_diff){ 0 };
}
