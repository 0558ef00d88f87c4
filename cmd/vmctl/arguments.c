#include "cmd/vmctl/arguments.h"

#include <getopt.h>

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

enum {
    FLAGS_MAX = 32,     /* of a verb and the global ones together; checked below */
    LONG_VALUE = 0x100, /* getopt_long's value of flag number 0 */
};

/* A verb's flags and the global ones, as getopt_long(3) wants them. */
struct option_set {
    const struct flag *flags[FLAGS_MAX];
    size_t n;
    struct option longs[FLAGS_MAX + 1];
    char shorts[FLAGS_MAX * 2 + 3];
};

static void option_set_add(struct option_set *set, const struct flag *flags)
{
    size_t len = strlen(set->shorts);

    for (; flags && flags->name && set->n < FLAGS_MAX; flags++) {
        int has_arg = flags->kind == FLAG_SET ? no_argument : required_argument;
        set->longs[set->n] = (struct option){ flags->name, has_arg, NULL, LONG_VALUE + (int)set->n };
        set->flags[set->n++] = flags;
        if (flags->letter) {
            set->shorts[len++] = flags->letter;
            if (has_arg == required_argument)
                set->shorts[len++] = ':';
        }
    }
}

/* `order`: "+" ends at the first argument, "" collects arguments from anywhere. */
static void option_set_init(struct option_set *set, const char *order, const struct flag *flags)
{
    *set = (struct option_set){ 0 };
    snprintf(set->shorts, sizeof(set->shorts), "%s:", order);
    option_set_add(set, flags);
    option_set_add(set, global_flags);
}

static const struct flag *option_set_find(const struct option_set *set, int value)
{
    if (value >= LONG_VALUE)
        return set->flags[value - LONG_VALUE];
    for (size_t i = 0; i < set->n; i++)
        if (set->flags[i]->letter == value)
            return set->flags[i];
    return NULL;
}

static enum outcome set_flag(struct invocation *in, const struct flag *flag, const char *value)
{
    char *slot = (char *)in + flag->offset;
    uint64_t n;

    switch (flag->kind) {
    case FLAG_SET:
        *(bool *)slot = true;
        break;
    case FLAG_TEXT:
        if (!*value)
            return complain_usage(in->verb, "--%s: empty value", flag->name);
        *(const char **)slot = value;
        break;
    case FLAG_DURATION:
        if (parse_duration(value, &n) < 0 || n > INT32_MAX)
            return complain_usage(in->verb, "--%s: expected a duration like 30s or 5m, got \"%s\"", flag->name, value);
        *(int64_t *)slot = (int64_t)n;
        break;
    case FLAG_NUMBER:
        if (parse_u64(value, 0, INT64_MAX, &n) < 0)
            return complain_usage(in->verb, "--%s: expected a number, got \"%s\"", flag->name, value);
        *(int64_t *)slot = (int64_t)n;
        break;
    }
    return OUTCOME_DONE;
}

static enum outcome complain_unknown(const struct invocation *in, const struct option_set *set, const char *word)
{
    const char *name = word, *best = NULL;

    if (!has_prefix(word, "--") || optopt > 0)
        return complain_usage(in->verb, "unknown option -%c", optopt > 0 && optopt < 0x7f ? optopt : '?');
    name += 2;
    auto_free char *bare = must(strndup(name, strcspn(name, "=")));
    unsigned limit = text_typo_limit(bare) + 1;
    for (size_t i = 0; i < set->n; i++) {
        unsigned d = text_distance(bare, set->flags[i]->name);
        if (d < limit) {
            best = set->flags[i]->name;
            limit = d;
        }
    }
    if (best)
        return complain_usage(in->verb, "unknown option --%s (did you mean --%s?)", bare, best);
    return complain_usage(in->verb, "unknown option --%s", bare);
}

static enum outcome parse_options(struct invocation *in, const struct option_set *set, int argc, char **argv)
{
    opterr = 0;
    optind = 0; /* glibc: begin anew, and look at the first character of the short options again */
    for (;;) {
        int value = getopt_long(argc, argv, set->shorts, set->longs, NULL);
        if (value == -1)
            return OUTCOME_DONE;
        /* Of no use for a cluster of letters, but for those optopt tells. */
        const char *word = argv[optind - 1];
        if (value == ':') {
            const struct flag *flag = option_set_find(set, optopt);
            return complain_usage(in->verb, "--%s needs a value", flag ? flag->name : word);
        }
        if (value == '?') {
            const struct flag *known = optopt >= LONG_VALUE ? option_set_find(set, optopt) : NULL;
            if (known)
                return complain_usage(in->verb, "--%s takes no value", known->name);
            return complain_unknown(in, set, word);
        }
        const struct flag *flag = option_set_find(set, value);
        enum outcome outcome = set_flag(in, flag, optarg);
        if (outcome != OUTCOME_DONE)
            return outcome;
    }
}

static enum outcome complain_verb(char *const *words)
{
    auto_free char *both = NULL;
    const char *typed = words[0], *near;

    if (verb_is_family(words[0]) && !words[1]) {
        complain("%s what? (see: vmctl %s --help)", words[0], words[0]);
        return OUTCOME_USAGE;
    }
    if (verb_is_family(words[0])) {
        if (str_format(&both, "%s %s", words[0], words[1]) < 0)
            must(NULL);
        typed = both;
    }
    near = verb_nearest(typed);
    if (near) {
        complain("unknown verb \"%s\" (did you mean: vmctl %s?)", typed, near);
        return OUTCOME_USAGE;
    }
    return complain_usage(NULL, "unknown verb \"%s\"", typed);
}

static enum outcome check_count(const struct invocation *in)
{
    const struct verb *verb = in->verb;

    if (in->n_args < verb->min_args)
        return complain_usage(verb, "%s needs %s", verb->name, verb->args);
    if (in->n_args > verb->max_args)
        return complain_usage(verb, "%s: unexpected argument \"%s\"", verb->name, in->args[verb->max_args]);
    return OUTCOME_DONE;
}

enum outcome arguments_parse(int argc, char **argv, struct invocation *in)
{
    struct option_set set;
    size_t used;

    in->timeout_ms = in->since = in->lines = in->backlog = in->count = in->pid = -1;
    option_set_init(&set, "+", NULL);
    enum outcome outcome = parse_options(in, &set, argc, argv);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (optind >= argc)
        return in->help || in->version ? OUTCOME_DONE : complain_usage(NULL, "what shall be done?");

    char **words = argv + optind;
    in->verb = verb_find(words, &used);
    if (!in->verb) {
        /* `vmctl shim --help` shows the verbs of the family. */
        if (verb_is_family(words[0]) && (in->help || (words[1] && (streq(words[1], "--help") || streq(words[1], "-h"))))) {
            in->help = true;
            in->args = words;
            in->n_args = 1;
            return OUTCOME_DONE;
        }
        return complain_verb(words);
    }
    /* The word before the options is skipped by getopt as the program's name. */
    int skipped = optind + (int)used - 1;
    option_set_init(&set, "", in->verb->flags);
    outcome = parse_options(in, &set, argc - skipped, argv + skipped);
    if (outcome != OUTCOME_DONE)
        return outcome;
    in->args = argv + skipped + optind;
    in->n_args = (size_t)(argc - skipped - optind);
    return in->help ? OUTCOME_DONE : check_count(in);
}
