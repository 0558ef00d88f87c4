#include "cmd/vmctl/help.h"

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

enum { LABEL_MAX = 64 };

static void print_flags(const struct flag *flags)
{
    for (; flags && flags->name; flags++) {
        char label[LABEL_MAX], letter[] = "    ";
        if (flags->letter) {
            letter[0] = '-';
            letter[1] = flags->letter;
            letter[2] = ',';
        }
        snprintf(label, sizeof(label), "%s--%s%s%s", letter, flags->name, flags->value ? " " : "", flags->value ? flags->value : "");
        printf("  %-26s %s\n", label, flags->summary);
    }
}

static void print_verbs(const char *family)
{
    const char *group = NULL;
    size_t len = family ? strlen(family) : 0;

    for (size_t i = 0; verb_table[i]; i++) {
        const struct verb *v = verb_table[i];
        char label[LABEL_MAX];
        if (family && (strncmp(v->name, family, len) != 0 || v->name[len] != ' '))
            continue;
        if (!group || !streq(group, v->group))
            printf("%s%c%s:\n", i && !family ? "\n" : "", v->group[0] - 'a' + 'A', v->group + 1);
        group = v->group;
        snprintf(label, sizeof(label), "%s%s%s", v->name, *v->args ? " " : "", v->args);
        printf("  %-30s %s\n", label, v->summary);
    }
}

static void print_examples(const char *example)
{
    const char *end;

    printf("\nExample:\n");
    for (; *example; example = *end ? end + 1 : end) {
        end = example + strcspn(example, "\n");
        printf("  %.*s\n", (int)(end - example), example);
    }
}

static void print_verb(const struct verb *v)
{
    printf("Usage: vmctl %s%s%s%s\n\n", v->name, v->flags ? " [OPTION]..." : "", *v->args ? " " : "", v->args);
    printf("%c%s.\n", v->summary[0] >= 'a' && v->summary[0] <= 'z' ? v->summary[0] - 'a' + 'A' : v->summary[0], v->summary + 1);
    if (v->details)
        printf("%s\n", v->details);
    printf("\nOptions:\n");
    print_flags(v->flags);
    print_flags(global_flags);
    print_examples(v->example);
}

static void print_all(const char *family)
{
    if (family) {
        printf("Usage: vmctl %s VERB [OPTION]... [ARGUMENT]...\n\n", family);
        print_verbs(family);
        printf("\nMore on each: vmctl %s VERB --help\n", family);
        return;
    }
    printf("Usage: vmctl [OPTION]... VERB [OPTION]... [ARGUMENT]...\n\n"
           "Runs virtual machines that don't go down with what manages them.\n\n");
    print_verbs(NULL);
    printf("\nOptions of every verb:\n");
    print_flags(global_flags);
    printf("\nExit status: 0 done, 1 failed, 2 usage, 3 not there, 4 manager unreachable, 5 timed out, 6 refused\n"
           "More on each: vmctl VERB --help\n");
    print_examples("vmctl apply web.json\nvmctl list\nvmctl console web");
}

static json_t *flags_json(const struct flag *flags)
{
    json_t *list = must_json(json_array());

    for (; flags && flags->name; flags++) {
        char letter[] = { flags->letter, '\0' };
        json_array_append_new(list, must_json(json_pack("{s:s, s:s?, s:s?, s:s}", "name", flags->name, "letter", *letter ? letter : NULL,
                                                        "value", flags->value, "summary", flags->summary)));
    }
    return list;
}

/* The whole table, for the programs that check man page and completion against it. */
static json_t *table_json(void)
{
    json_t *verbs = must_json(json_array());

    for (size_t i = 0; verb_table[i]; i++) {
        const struct verb *v = verb_table[i];
        json_array_append_new(verbs, must_json(json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s, s:o}", "name", v->name, "args", v->args, "group",
                                                         v->group, "summary", v->summary, "details", v->details, "example", v->example,
                                                         "flags", flags_json(v->flags))));
    }
    return must_json(json_pack("{s:o, s:o}", "verbs", verbs, "flags", flags_json(global_flags)));
}

enum outcome help_print(const struct invocation *in, const struct verb *verb, const char *family)
{
    if (in->json) {
        auto_json json_t *table = table_json();
        put_json(table);
    } else if (verb) {
        print_verb(verb);
    } else {
        print_all(family);
    }
    return OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    size_t used;

    if (!in->n_args)
        return help_print(in, NULL, NULL);
    char *words[] = { in->args[0], in->n_args > 1 ? in->args[1] : NULL, NULL };
    const struct verb *verb = verb_find(words, &used);
    if (verb && used == in->n_args)
        return help_print(in, verb, NULL);
    if (in->n_args == 1 && verb_is_family(words[0]))
        return help_print(in, NULL, words[0]);
    return complain_usage(NULL, "no help for \"%s\"", in->args[in->n_args - 1]);
}

const struct verb verb_help = {
    .name = "help",
    .args = "[VERB]",
    .group = "about",
    .summary = "print this help, or a verb's",
    .details = "With --json the whole table of verbs and options.",
    .example = "vmctl help stop",
    .takes = TAKES_VERB,
    .max_args = 2,
    .run = run,
};
