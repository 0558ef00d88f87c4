#include "lib/qemu/changes.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"
#include "proto/plan_diff.h"

#define WHY_CAPABILITY "a port below 1024 needs a right that QEMU is given only at its start"

/* Keys of a spec that become a change of the plan which can be made live. */
static const struct {
    const char *pointer; /* "*": any index */
    const char *change;
} live_places[] = {
    { "/restart", "/restart" },
    { "/health", "/health" },
    { "/stop", "/stop" },
    { "/logs", "/logs" },
    { "/network/*/forward", PLAN_CHANGE_FORWARDS },
};

struct changes {
    const struct changes_input *in;
    struct plan_diff diff;
    json_t *list;
    bool told[ARRAY_LEN(live_places)]; /* some key of the spec explains this change */
    bool told_restart;                 /* some key explains the rest */
};

/* Whether `pointer` is the place `pattern` or lies in it. */
static bool is_within(const char *pointer, const char *pattern)
{
    while (*pattern) {
        if (*pattern == '*') {
            pointer += strspn(pointer, "0123456789");
            pattern++;
        } else if (*pointer++ != *pattern++) {
            return false;
        }
    }
    return *pointer == '\0' || *pointer == '/';
}

/* Strings as they are, the rest as JSON; NULL stays NULL. */
static int text_of(const json_t *value, char **ret_text)
{
    if (!value)
        return 0;
    return json_is_string(value) ? str_set(ret_text, json_string_value(value)) : json_format(value, ret_text, NULL);
}

/* A member that may be NULL. By hand, since json_pack() takes a string it has no memory for to be absent. */
static int set_text(json_t *one, const char *key, const char *text)
{
    return text && json_object_set_new(one, key, json_string(text)) < 0 ? -ENOMEM : 0;
}

/* One line of the list. `old` and `new` may be NULL. */
static int add(struct changes *c, const char *what, const char *old, const char *new, bool live)
{
    bool forward = live && is_within(what, "/network/*/forward");
    const struct plan_change *more = forward ? plan_diff_find(&c->diff, PLAN_CHANGE_CAPABILITIES) : NULL;
    bool possible = live && (!more || more->live);
    auto_json json_t *one = json_pack("{s:s, s:b}", "what", what, "live", (int)possible);

    if (!one || set_text(one, "old", old) < 0 || set_text(one, "new", new) < 0 ||
        set_text(one, "why", live && !possible ? WHY_CAPABILITY : NULL) < 0 || json_array_append(c->list, one) < 0)
        return -ENOMEM;
    return 0;
}

/* ---- the specs ---- */

/* A place that is to be looked at yet; there are as many as the specs have members, so a list will do for the recursion. */
struct place {
    char *pointer;
    const json_t *old, *new;
};

struct places {
    struct place *items;
    size_t n;
};

static void places_clear(struct places *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->items[i].pointer);
    free(p->items);
}
#define auto_places auto_cleanup(places_clear)

static int push(struct places *p, const json_t *old, const json_t *new, const char *outer, const char *key)
{
    struct place *items;

    if (old && new &&json_equal(old, new))
        return 0;
    items = reallocarray(p->items, p->n + 1, sizeof(*items));
    if (!items)
        return -ENOMEM;
    p->items = items;
    items[p->n] = (struct place){ .old = old, .new = new };
    if (str_format(&items[p->n].pointer, "%s/%s", outer, key) < 0)
        return -ENOMEM;
    p->n++;
    return 0;
}

static int push_index(struct places *p, const json_t *old, const json_t *new, const char *outer, size_t i)
{
    char key[24];

    (void)snprintf(key, sizeof(key), "%zu", i);
    return push(p, old, new, outer, key);
}

static int open_object(struct places *p, const json_t *old, const json_t *new, const char *pointer)
{
    const char *key;
    json_t *value;
    int r = 0;

    json_object_foreach ((json_t *)(uintptr_t)old, key, value) {
        if (r >= 0)
            r = push(p, value, json_object_get(new, key), pointer, key);
    }
    json_object_foreach ((json_t *)(uintptr_t) new, key, value) {
        if (r >= 0 && !json_object_get(old, key))
            r = push(p, NULL, value, pointer, key);
    }
    return r;
}

static bool contains(const json_t *array, const json_t *value)
{
    const json_t *one;
    size_t i;

    json_array_foreach (array, i, one)
        if (json_equal(one, value))
            return true;
    return false;
}

/* Element by element; of arrays of different length only what one of them lacks, so that one forward more is one line. */
static int open_array(struct places *p, const json_t *old, const json_t *new, const char *pointer)
{
    size_t n_old = json_array_size(old), n_new = json_array_size(new);
    int r = 0;

    for (size_t i = 0; i < n_old && r >= 0; i++) {
        const json_t *one = json_array_get(old, i);

        if (n_old == n_new)
            r = push_index(p, one, json_array_get(new, i), pointer, i);
        else if (!contains(new, one))
            r = push_index(p, one, NULL, pointer, i);
    }
    for (size_t i = 0; i < n_new && n_old != n_new && r >= 0; i++)
        if (!contains(old, json_array_get(new, i)))
            r = push_index(p, NULL, json_array_get(new, i), pointer, i);
    return r;
}

/* Lists of words are one thing, and so is a forward. An empty list may be absent. */
static bool is_leaf(const struct place *place)
{
    const json_t *old = place->old, *new = place->new;

    if (json_is_object(old) && json_is_object(new))
        return is_within(place->pointer, "/network/*/forward/*");
    if ((json_is_array(old) || !old) && (json_is_array(new) || !new))
        return json_is_string(json_array_get(old, 0)) || json_is_string(json_array_get(new, 0));
    return true;
}

/* What a spec says and the plan doesn't have for a difference isn't one: it comes to the same, or was made already. */
static int add_leaf(struct changes *c, const struct place *place)
{
    auto_free char *old = NULL, *new = NULL;
    bool live = false, real = c->in->old == NULL;

    for (size_t i = 0; i < ARRAY_LEN(live_places) && !live; i++) {
        if (!is_within(place->pointer, live_places[i].pointer))
            continue;
        live = true;
        if (plan_diff_find(&c->diff, live_places[i].change))
            real = c->told[i] = true;
    }
    if (!live && plan_diff_obstacle(&c->diff))
        real = c->told_restart = true;
    if (!real)
        return 0;
    if (text_of(place->old, &old) < 0 || text_of(place->new, &new) < 0)
        return -ENOMEM;
    return add(c, place->pointer, old, new, live && c->in->old);
}

static int walk(struct changes *c, const char *pointer, const json_t *old, const json_t *new)
{
    auto_places struct places p = { 0 };
    int r = open_object(&p, old, new, pointer);

    /* The list grows while it is gone through. */
    for (size_t i = 0; i < p.n && r >= 0; i++) {
        const struct place place = p.items[i];

        if (streq(place.pointer, "/enabled")) /* a wish, which the plan says nothing of */
            continue;
        if (is_leaf(&place)) {
            r = add_leaf(c, &place);
            continue;
        }
        size_t before = p.n;
        r = json_is_object(place.old) ? open_object(&p, place.old, place.new, place.pointer)
                                      : open_array(&p, place.old, place.new, place.pointer);
        if (r >= 0 && p.n == before) /* the same elements oftener, or in another order */
            r = add_leaf(c, &place);
    }
    return r;
}

/* ---- what no spec explains ---- */

/* "net0" -> "/network/0/forward". */
static int add_step(struct changes *c, const struct forward_step *step)
{
    auto_free char *what = NULL;

    if (str_format(&what, "/network/%s/forward", has_prefix(step->netdev, "net") ? step->netdev + 3 : step->netdev) < 0)
        return -ENOMEM;
    return add(c, what, step->add ? NULL : step->rule, step->add ? step->rule : NULL, true);
}

static int add_live_change(struct changes *c, const struct plan_change *change)
{
    int r = 0;

    if (!streq(change->what, PLAN_CHANGE_FORWARDS))
        return add(c, change->what, change->old, change->new, true);
    for (size_t i = 0; i < c->diff.n_steps && r >= 0; i++)
        r = add_step(c, &c->diff.steps[i]);
    return c->diff.n_steps == 0 && r >= 0 ? add(c, "/network/0/forward", change->old, change->new, true) : r;
}

/* "pc-q35-7.2" of "-machine pc-q35-7.2,…": it goes by QEMU's version, no spec names it. */
static char *machine_of(const struct plan *plan)
{
    for (size_t i = 0; plan->qemu.argv[i] && plan->qemu.argv[i + 1]; i++)
        if (streq(plan->qemu.argv[i], "-machine"))
            return strndup(plan->qemu.argv[i + 1], strcspn(plan->qemu.argv[i + 1], ","));
    return strdup("");
}

/* Whether the words that differ are those of the machine alone, and these in nothing but its name. */
static bool is_just_machine(const struct plan_change *argv, const char *old, const char *new)
{
    size_t from = strlen(old), to = strlen(new);

    return from && to && argv->old && argv->new &&has_prefix(argv->old, old) && has_prefix(argv->new, new) &&
           streq(argv->old + from, argv->new + to) && !strchr(argv->old, ' ');
}

static int add_unexplained(struct changes *c, const struct plan_change *change)
{
    static const struct {
        const char *change, *word;
    } words[] = {
        { "/qemu/path", "QEMU" },        { "/qemu/user", "QEMU's user" },     { "/qemu/uid", "QEMU's user" },
        { "/qemu/gid", "QEMU's group" }, { "/qemu/groups", "QEMU's groups" }, { PLAN_CHANGE_ARGV, "holdfast's own command line" },
    };
    auto_free char *word = NULL;

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (streq(words[i].change, change->what))
            return add(c, words[i].word, change->old, change->new, false);
    if (str_format(&word, "holdfast's own plan: %s", change->what) < 0)
        return -ENOMEM;
    return add(c, word, change->old, change->new, false);
}

static int add_rest(struct changes *c)
{
    auto_free char *old = machine_of(c->in->old), *new = machine_of(c->in->new);
    bool machine = old && new && !streq(old, new);
    int r = !old || !new ? -ENOMEM : machine ? add(c, "QEMU's machine type", old, new, false) : 0;

    for (size_t i = 0; i < c->diff.n_changes && r >= 0; i++) {
        const struct plan_change *change = &c->diff.changes[i];
        bool told = c->told_restart; /* also what follows from it: an agent's channel brings a rung of the stop ladder */

        for (size_t k = 0; k < ARRAY_LEN(live_places); k++)
            told = told || (c->told[k] && streq(change->what, live_places[k].change));
        /* Its forwards tell of it, or QEMU keeps what it has no need of. */
        told = told || (streq(change->what, PLAN_CHANGE_CAPABILITIES) && (change->live || plan_diff_find(&c->diff, PLAN_CHANGE_FORWARDS)));
        told = told || (machine && streq(change->what, PLAN_CHANGE_ARGV) && is_just_machine(change, old, new));
        if (!told)
            r = change->live ? add_live_change(c, change) : add_unexplained(c, change);
    }
    return r;
}

int changes_list(const struct changes_input *in, json_t **ret_list)
{
    auto_json json_t *list = json_array();
    struct changes c = { .in = in, .list = list };
    int r = list ? 0 : -ENOMEM;

    if (r >= 0 && in->old)
        r = plan_compare(in->old, in->new, &c.diff);
    if (r >= 0 && in->old_spec && (!in->old || c.diff.n_changes > 0))
        r = walk(&c, "", in->old_spec, in->new_spec);
    if (r >= 0 && in->old)
        r = add_rest(&c);
    plan_diff_clear(&c.diff);
    if (r >= 0)
        *ret_list = steal_ptr(&list);
    return r;
}

bool changes_need_restart(const json_t *list)
{
    const json_t *one;
    size_t i;

    json_array_foreach (list, i, one)
        if (!json_is_true(json_object_get(one, "live")))
            return true;
    return false;
}
