#include "cmd/vmctl/completion.h"

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/util.h"

/* The first word of verb i, when no verb before it begins with that word. */
bool completion_first_word(size_t i, int *ret_len)
{
    size_t len = strcspn(verb_table[i]->name, " ");

    for (size_t j = 0; j < i; j++)
        if (strncmp(verb_table[j]->name, verb_table[i]->name, len) == 0 && (!verb_table[j]->name[len] || verb_table[j]->name[len] == ' '))
            return false;
    *ret_len = (int)len;
    return true;
}

void completion_first_words(void)
{
    int len;

    for (size_t i = 0; verb_table[i]; i++)
        if (completion_first_word(i, &len))
            printf("%s%.*s", i ? " " : "", len, verb_table[i]->name);
}

/* "list status events call" for the family of verb i: its first `len` letters. */
void completion_second_words(size_t i, int len)
{
    const char *family = verb_table[i]->name;

    for (size_t j = i; verb_table[j]; j++)
        if (strncmp(verb_table[j]->name, family, (size_t)len) == 0 && verb_table[j]->name[len] == ' ')
            printf("%s%s", j > i ? " " : "", verb_table[j]->name + len + 1);
}

void completion_options(const struct flag *flags)
{
    for (; flags && flags->name; flags++)
        printf(" --%s", flags->name);
}

/* Single quotes end nothing inside: for summaries, which are ours. */
void completion_quoted(const char *s)
{
    putchar('\'');
    for (; *s; s++) {
        if (*s == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*s);
    }
    putchar('\'');
}

static enum outcome run(const struct invocation *in)
{
    static const struct {
        const char *shell;
        void (*print)(void);
    } shells[] = { { "bash", completion_bash }, { "zsh", completion_zsh }, { "fish", completion_fish } };

    for (size_t i = 0; i < ARRAY_LEN(shells); i++) {
        if (streq(shells[i].shell, in->args[0])) {
            shells[i].print();
            return OUTCOME_DONE;
        }
    }
    return complain_usage(in->verb, "\"%s\": bash, zsh and fish are known", in->args[0]);
}

const struct verb verb_completion = {
    .name = "completion",
    .args = "SHELL",
    .group = "about",
    .summary = "print completion for bash, zsh or fish",
    .example = "source <(vmctl completion bash)\nvmctl completion fish | source",
    .takes = TAKES_SHELL,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
