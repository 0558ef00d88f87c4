#include "cmd/vmctl/completion.h"

static void print_value_options(const struct flag *flags, const char **separator)
{
    for (; flags && flags->name; flags++) {
        if (flags->kind == FLAG_SET)
            continue;
        printf("%s--%s", *separator, flags->name);
        if (flags->letter)
            printf("|-%c", flags->letter);
        *separator = "|";
    }
}

static void bash_verb(const struct verb *v)
{
    static const char *const takes[] = {
        [TAKES_NOTHING] = "",
        [TAKES_VMS] = "take=vms",
        [TAKES_ONE_VM] = "((n == 0)) && take=vms",
        [TAKES_SNAPSHOTS] = "take=snapshots",
        [TAKES_ONE_SNAPSHOT] = "((n == 0)) && take=snapshots",
        [TAKES_VM_AND_SNAPSHOT] = "((n == 0)) && take=vms; ((n == 1)) && take=snapshots",
        [TAKES_IMAGES] = "take=images",
        [TAKES_ONE_IMAGE] = "((n == 0)) && take=images",
        [TAKES_IMAGE_AND_FOLDER] = "((n == 0)) && take=images; ((n == 1)) && take=files",
        [TAKES_FILES] = "take=files",
        [TAKES_VMS_AND_FILES] = "take=vms; compopt -o default 2>/dev/null",
        [TAKES_SHELL] = "words+=' bash zsh fish'",
        [TAKES_VERB] = "words+=\" $verbs\"",
    };

    printf("    '%s') words='", v->name);
    completion_options(v->flags);
    completion_options(global_flags);
    printf("'; %s%s;;\n", takes[v->takes], *takes[v->takes] ? " " : "");
    for (const struct flag *f = v->flags; f && f->name; f++)
        if (f->choices)
            printf("    '%s --%s') words='%s' ;;\n", v->name, f->name, f->choices);
}

void completion_bash(void)
{
    const char *separator = "";
    int len;

    printf("# bash completion for vmctl, made by: vmctl completion bash\n"
           "_vmctl()\n"
           "{\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= words= take= i n=0 w verbs value=\n"
           "    verbs='");
    completion_first_words();
    printf("'\n"
           "    COMPREPLY=()\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        w=${COMP_WORDS[i]}\n"
           "        case $w in\n"
           "        ");
    print_value_options(global_flags, &separator);
    for (size_t i = 0; verb_table[i]; i++)
        print_value_options(verb_table[i]->flags, &separator);
    printf(")\n"
           "            ((++i == COMP_CWORD)) && value=$w ;;\n"
           "        -*) ;;\n"
           "        *)\n"
           "            case $verb in\n"
           "            '') verb=$w ;;\n");
    for (size_t i = 0; verb_table[i]; i++)
        if (completion_first_word(i, &len) && verb_table[i]->name[len])
            printf("            %.*s) verb+=\" $w\" ;;\n", len, verb_table[i]->name);
    printf("            *) ((++n)) ;;\n"
           "            esac ;;\n"
           "        esac\n"
           "    done\n"
           "    if [[ $value == --*-dir ]]; then\n"
           "        compopt -o dirnames 2>/dev/null\n"
           "        return\n"
           "    fi\n"
           "    case $verb${value:+ $value} in\n"
           "    '') words=\"$verbs");
    completion_options(global_flags);
    printf("\" ;;\n");
    for (size_t i = 0; verb_table[i]; i++) {
        if (completion_first_word(i, &len) && verb_table[i]->name[len]) {
            printf("    '%.*s') words='", len, verb_table[i]->name);
            completion_second_words(i, len);
            printf("' ;;\n");
        }
        bash_verb(verb_table[i]);
    }
    printf("    esac\n"
           "    if [[ $take == vms && $cur != -* ]]; then\n"
           "        words=$(vmctl list -q 2>/dev/null)\n"
           "    elif [[ $take == snapshots && $cur != -* ]]; then\n"
           "        words=$(vmctl snapshot list -q 2>/dev/null)\n"
           "    elif [[ $take == images && $cur != -* ]]; then\n"
           "        words=$(vmctl image list -q 2>/dev/null)\n"
           "    elif [[ $take == files && $cur != -* ]]; then\n"
           "        compopt -o default 2>/dev/null\n"
           "        return\n"
           "    fi\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
           "}\n"
           "complete -F _vmctl vmctl\n");
}
