/* The words one may type next, in the shell's own language, all from the table of verbs. Names of VMs are asked of the manager
 * when they are needed. */
#pragma once

#include "cmd/vmctl/verb.h"

void completion_bash(void);
void completion_fish(void);
void completion_zsh(void);

/* Whether verb i of the table is the first to begin with its first word, and how long that is. */
bool completion_first_word(size_t i, int *ret_len);
/* "check apply … shim …" */
void completion_first_words(void);
/* "list status events call" for the family of verb i, the first `len` letters of its name. */
void completion_second_words(size_t i, int len);
/* " --all --force" */
void completion_options(const struct flag *flags);
/* In single quotes, as all three shells understand them when there is no backslash. */
void completion_quoted(const char *s);
