#include "cmd/vmctl/completion.h"

#include "cmd/vmctl/output.h"
#include "lib/base/util.h"

static void zsh_flags(const struct flag *flags)
{
    for (; flags && flags->name; flags++) {
        auto_free char *spec = NULL;
        int r;
        if (flags->kind == FLAG_SET)
            r = str_format(&spec, "--%s[%s]", flags->name, flags->summary);
        else if (flags->choices)
            r = str_format(&spec, "--%s=[%s]:%s:(%s)", flags->name, flags->summary, flags->value, flags->choices);
        else
            r = str_format(&spec, "--%s=[%s]:%s:%s", flags->name, flags->summary, flags->value,
                           streq(flags->value, "DIR") ? "_files -/" : "");
        if (r < 0)
            must(NULL);
        /* A colon ends a field; brackets end the description. */
        for (char *p = strchr(spec, '[') + 1, *end = strrchr(spec, ']'); p < end; p++)
            if (*p == ':' || *p == '[' || *p == ']')
                *p = ',';
        printf(" ");
        completion_quoted(spec);
    }
}

static void zsh_verb_list(void)
{
    int len;

    printf("_vmctl_verbs() {\n"
           "    local -a verbs=(");
    for (size_t i = 0; verb_table[i]; i++) {
        const struct verb *v = verb_table[i];
        auto_free char *word = NULL;
        if (!completion_first_word(i, &len))
            continue;
        if (str_format(&word, "%.*s:%s", len, v->name, v->name[len] ? v->group : v->summary) < 0)
            must(NULL);
        printf(" ");
        completion_quoted(word);
    }
    printf(")\n"
           "    _describe verb verbs\n"
           "}\n");
}

/* The second word of a family becomes part of the verb. */
static void zsh_families(void)
{
    int len;

    for (size_t i = 0; verb_table[i]; i++) {
        if (!completion_first_word(i, &len) || !verb_table[i]->name[len])
            continue;
        printf("    %.*s)\n"
               "        if ((CURRENT == 2)); then\n"
               "            compadd -- ",
               len, verb_table[i]->name);
        completion_second_words(i, len);
        printf("\n"
               "            return\n"
               "        fi\n"
               "        verb+=\" $words[2]\"\n"
               "        shift words\n"
               "        ((CURRENT--)) ;;\n");
    }
}

static void zsh_verb(const struct verb *v)
{
    static const char *const takes[] = {
        [TAKES_NOTHING] = "",
        [TAKES_VMS] = "'*:VM:_vmctl_vms'",
        [TAKES_ONE_VM] = "'1:VM:_vmctl_vms'",
        [TAKES_SNAPSHOTS] = "'*:snapshot:_vmctl_snapshots'",
        [TAKES_ONE_SNAPSHOT] = "'1:snapshot:_vmctl_snapshots'",
        [TAKES_VM_AND_SNAPSHOT] = "'1:VM:_vmctl_vms' '2:snapshot:_vmctl_snapshots'",
        [TAKES_IMAGES] = "'*:image:_vmctl_images'",
        [TAKES_ONE_IMAGE] = "'1:image:_vmctl_images'",
        [TAKES_IMAGE_AND_FOLDER] = "'1:image:_vmctl_images' '2:folder:_files -/'",
        [TAKES_FILES] = "'*:spec:_files'",
        [TAKES_VMS_AND_FILES] = "'*:VM or spec:_vmctl_vms_and_files'",
        [TAKES_SHELL] = "'1:shell:(bash zsh fish)'",
        [TAKES_VERB] = "'*:verb:_vmctl_verbs'",
    };

    printf("    '%s') _arguments", v->name);
    zsh_flags(v->flags);
    zsh_flags(global_flags);
    printf(" %s;;\n", takes[v->takes]);
}

void completion_zsh(void)
{
    printf("#compdef vmctl\n"
           "# zsh completion for vmctl, made by: vmctl completion zsh\n"
           "_vmctl_vms() { compadd -- ${(f)\"$(vmctl list -q 2>/dev/null)\"} }\n"
           "_vmctl_vms_and_files() { _vmctl_vms; _files }\n"
           "_vmctl_snapshots() { compadd -- ${(f)\"$(vmctl snapshot list -q 2>/dev/null)\"} }\n"
           "_vmctl_images() { compadd -- ${(f)\"$(vmctl image list -q 2>/dev/null)\"} }\n");
    zsh_verb_list();
    printf("_vmctl() {\n"
           "    local verb\n"
           "    if ((CURRENT == 2)); then\n"
           "        _vmctl_verbs\n"
           "        return\n"
           "    fi\n"
           "    verb=$words[2]\n"
           "    shift words\n"
           "    ((CURRENT--))\n"
           "    case $verb in\n");
    zsh_families();
    printf("    esac\n"
           "    case $verb in\n");
    for (size_t i = 0; verb_table[i]; i++)
        zsh_verb(verb_table[i]);
    printf("    esac\n"
           "}\n"
           "if [[ $funcstack[1] == _vmctl ]]; then\n"
           "    _vmctl \"$@\"\n"
           "else\n"
           "    compdef _vmctl vmctl\n"
           "fi\n");
}
