/* Feeds files to a fuzz target, so that its corpus is a test in every build: replay FILE-or-FOLDER… */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/file.h"
#include "lib/base/util.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 16 * 1024 * 1024 };

static int feed(const char *path)
{
    char auto_free *data = NULL;
    uint8_t *exact;
    size_t len = 0;
    int r = file_read(AT_FDCWD, path, INPUT_MAX, &data, &len);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return r;
    }
    /* A block of just this size, so that a sanitizer sees the first byte read too far. */
    exact = malloc(len ? len : 1);
    if (!exact)
        abort();
    memcpy(exact, data, len);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    return 1;
}

static int feed_folder(const char *path)
{
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, NULL, alphasort), fed = 0, r = 0;

    for (int i = 0; i < n; i++) {
        char auto_free *file = NULL;

        if (r >= 0 && entries[i]->d_name[0] != '.') {
            r = str_format(&file, "%s/%s", path, entries[i]->d_name);
            r = r < 0 ? r : feed(file);
            fed += r > 0;
        }
        free(entries[i]);
    }
    free(entries);
    return r < 0 ? r : fed;
}

int main(int argc, char **argv)
{
    int fed = 0;

    for (int i = 1; i < argc; i++) {
        struct stat st;
        int r = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? feed_folder(argv[i]) : feed(argv[i]);

        if (r < 0)
            return EXIT_FAILURE;
        fed += r;
    }
    printf("%d inputs\n", fed);
    /* An empty corpus proves nothing. */
    return fed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
