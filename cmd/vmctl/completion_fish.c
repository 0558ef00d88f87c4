#include "cmd/vmctl/completion.h"

#include "lib/base/util.h"

/* For whom a line of fish completion is meant: a verb of one word or two. */
static void fish_condition(const char *name) { printf("-n 'test \"$(__vmctl_verb)\" = \"%s\"' ", name); }

static void fish_flags(const struct flag *flags, const char *name)
{
    for (; flags && flags->name; flags++) {
        printf("complete -c vmctl ");
        if (name)
            fish_condition(name);
        if (flags->letter)
            printf("-s %c ", flags->letter);
        printf("-l %s -d ", flags->name);
        completion_quoted(flags->summary);
        if (flags->choices)
            printf(" -x -a '%s'", flags->choices);
        else if (flags->kind != FLAG_SET)
            printf(" %s", streq(flags->value, "DIR") ? "-r -F" : "-x");
        putchar('\n');
    }
}

static void fish_verb(const struct verb *v)
{
    static const char *const takes[] = {
        [TAKES_NOTHING] = NULL,
        [TAKES_VMS] = "-a '(vmctl list -q 2>/dev/null)'",
        [TAKES_ONE_VM] = "-a '(vmctl list -q 2>/dev/null)'",
        [TAKES_SNAPSHOTS] = "-a '(vmctl snapshot list -q 2>/dev/null)'",
        [TAKES_ONE_SNAPSHOT] = "-a '(vmctl snapshot list -q 2>/dev/null)'",
        [TAKES_VM_AND_SNAPSHOT] = "-a '(vmctl list -q 2>/dev/null; vmctl snapshot list -q 2>/dev/null)'",
        [TAKES_IMAGES] = "-a '(vmctl image list -q 2>/dev/null)'",
        [TAKES_ONE_IMAGE] = "-a '(vmctl image list -q 2>/dev/null)'",
        [TAKES_IMAGE_AND_FOLDER] = "-F -a '(vmctl image list -q 2>/dev/null)'",
        [TAKES_FILES] = "-F",
        [TAKES_VMS_AND_FILES] = "-F -a '(vmctl list -q 2>/dev/null)'",
        [TAKES_SHELL] = "-a 'bash zsh fish'",
        [TAKES_VERB] = "-a '(__vmctl_verbs)'",
    };

    if (takes[v->takes]) {
        printf("complete -c vmctl ");
        fish_condition(v->name);
        printf("%s\n", takes[v->takes]);
    }
    fish_flags(v->flags, v->name);
}

/* The shell's function that finds out which verb is being typed: "stop", "shim status", "shim", or "none" before any. */
static void fish_functions(void)
{
    int len;

    printf("# fish completion for vmctl, made by: vmctl completion fish\n"
           "function __vmctl_verb\n"
           "    set -l verb none\n"
           "    set -l skip no\n"
           "    for w in (commandline -opc)[2..-1]\n"
           "        if test $skip = yes\n"
           "            set skip no\n"
           "        else if contains -- $w");
    for (const struct flag *f = global_flags; f->name; f++)
        if (f->kind != FLAG_SET)
            printf(" --%s", f->name);
    printf("\n"
           "            set skip yes\n"
           "        else if not string match -q -- '-*' $w\n"
           "            test $verb = none; and set verb $w; or set verb \"$verb $w\"\n"
           "            contains -- $verb");
    for (size_t i = 0; verb_table[i]; i++)
        if (completion_first_word(i, &len) && verb_table[i]->name[len])
            printf(" %.*s", len, verb_table[i]->name);
    printf("; or break\n"
           "        end\n"
           "    end\n"
           "    echo $verb\n"
           "end\n"
           "function __vmctl_verbs\n"
           "    string split ' ' '");
    completion_first_words();
    printf("'\n"
           "end\n");
}

void completion_fish(void)
{
    int len;

    fish_functions();
    printf("complete -c vmctl -f\n");
    fish_flags(global_flags, NULL);
    for (size_t i = 0; verb_table[i]; i++) {
        const struct verb *v = verb_table[i];
        int first = (int)strcspn(v->name, " ");
        if (completion_first_word(i, &len)) {
            printf("complete -c vmctl -n 'test \"$(__vmctl_verb)\" = none' -a %.*s -d ", len, v->name);
            completion_quoted(v->name[len] ? v->group : v->summary);
            putchar('\n');
        }
        if (v->name[first]) {
            printf("complete -c vmctl -n 'test \"$(__vmctl_verb)\" = %.*s' -a %s -d ", first, v->name, v->name + first + 1);
            completion_quoted(v->summary);
            putchar('\n');
        }
        fish_verb(v);
    }
}
