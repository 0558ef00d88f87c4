/* holdfast-mkdisk: makes one disk of files. A step of launch plans, run by shims; it needs no manager, no root and no mount. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/spawn.h"
#include "lib/disk/recipe.h"
#include "lib/spec/limits.h"

static const char usage_text[] =
    "holdfast-mkdisk: makes a disk for a VM of files on the host\n"
    "\n"
    "  holdfast-mkdisk config --label LABEL [--directory DIR] [--file PATH --from SOURCE]... DIGEST OUTPUT\n"
    "  holdfast-mkdisk seed --vm NAME --user-data FILE [--meta-data FILE] [--network-config FILE] DIGEST OUTPUT\n"
    "  holdfast-mkdisk ... print\n"
    "\n"
    "config is a labelled ext4, seed the ISO 9660 that cloud-init looks for. The disk is made only of what has the digest; print says which\n"
    "that is. Launch plans have the command: vmctl inspect NAME.\n"
    "\n"
    "Example: holdfast-mkdisk config --label conf --file etc/app.yaml --from /srv/app.yaml print\n";

static struct recipe arg_recipe;
static struct pair arg_files[CONTENT_FILES_MAX];

enum { OPT_LABEL = 256, OPT_DIRECTORY, OPT_FILE, OPT_VM, OPT_USER_DATA, OPT_META_DATA, OPT_NETWORK_CONFIG, OPT_FROM };

static const struct option options[] = {
    { "label", required_argument, NULL, OPT_LABEL },
    { "directory", required_argument, NULL, OPT_DIRECTORY },
    { "file", required_argument, NULL, OPT_FILE },
    { "from", required_argument, NULL, OPT_FROM },
    { "vm", required_argument, NULL, OPT_VM },
    { "user-data", required_argument, NULL, OPT_USER_DATA },
    { "meta-data", required_argument, NULL, OPT_META_DATA },
    { "network-config", required_argument, NULL, OPT_NETWORK_CONFIG },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 },
};

static int usage_error(const char *why)
{
    (void)fprintf(stderr, "holdfast-mkdisk: %s; see holdfast-mkdisk --help\n", why);
    return 2;
}

/* In pairs, so that a path may hold any character. */
static int take_file(void)
{
    if (arg_recipe.n_files == ARRAY_LEN(arg_files))
        return usage_error("too many files");
    arg_files[arg_recipe.n_files++].key = optarg;
    return -1;
}

static int take_source(void)
{
    if (arg_recipe.n_files == 0 || arg_files[arg_recipe.n_files - 1].value)
        return usage_error("each --from belongs to the --file in front of it");
    arg_files[arg_recipe.n_files - 1].value = optarg;
    return -1;
}

/* -1: go on, else the exit status. */
static int take_option(int option)
{
    static const char **const texts[] = {
        [OPT_LABEL - OPT_LABEL] = &arg_recipe.label,
        [OPT_DIRECTORY - OPT_LABEL] = &arg_recipe.directory,
        [OPT_VM - OPT_LABEL] = &arg_recipe.vm,
        [OPT_USER_DATA - OPT_LABEL] = &arg_recipe.user_data,
        [OPT_META_DATA - OPT_LABEL] = &arg_recipe.meta_data,
        [OPT_NETWORK_CONFIG - OPT_LABEL] = &arg_recipe.network_config,
    };

    switch (option) {
    case 'h':
        (void)fputs(usage_text, stdout);
        return 0;
    case 'V':
        (void)puts("holdfast-mkdisk " HOLDFAST_VERSION);
        return 0;
    case OPT_FILE:
        return take_file();
    case OPT_FROM:
        return take_source();
    case '?':
    case ':':
        (void)fputs("See holdfast-mkdisk --help\n", stderr);
        return 2;
    default:
        *texts[option - OPT_LABEL] = optarg;
        return -1;
    }
}

static int check_recipe(const char *kind)
{
    if (kind && streq(kind, "config")) {
        arg_recipe.kind = RECIPE_CONFIG;
        for (size_t i = 0; i < arg_recipe.n_files; i++)
            if (!arg_files[i].value)
                return usage_error("each --file needs a --from");
        return arg_recipe.label ? -1 : usage_error("config needs a --label");
    }
    if (!kind || !streq(kind, "seed"))
        return usage_error("what to make is config or seed");
    arg_recipe.kind = RECIPE_SEED;
    arg_recipe.label = SEED_LABEL;
    return arg_recipe.vm && arg_recipe.user_data ? -1 : usage_error("seed needs --vm and --user-data");
}

static int make(char **words, int n)
{
    char digest[MADE_DIGEST_LEN + 1];
    struct err err = ERR_INIT;
    bool print = n == 1 && streq(words[0], "print");
    int r;

    if (!print && (n != 2 || strlen(words[0]) != MADE_DIGEST_LEN))
        return usage_error("DIGEST and OUTPUT, or print, are expected last");
    r = print ? recipe_digest(&arg_recipe, digest, &err) : recipe_make(&arg_recipe, words[0], words[1], &err);
    if (r < 0) {
        (void)err_from(&err, r, "failed");
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    return print && puts(digest) == EOF ? 1 : 0;
}

int main(int argc, char **argv)
{
    int option, r;

    signals_reset();
    (void)umask(077); /* what is copied may be secret */
    arg_recipe.files = arg_files;
    if (fd_ensure_stdio() < 0)
        return 1;
    while ((option = getopt_long(argc, argv, "hV", options, NULL)) >= 0) {
        r = take_option(option);
        if (r >= 0)
            return r;
    }
    r = check_recipe(optind < argc ? argv[optind] : NULL);
    return r >= 0 ? r : make(argv + optind + 1, argc - optind - 1);
}
