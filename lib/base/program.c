#include "lib/base/program.h"

#include <errno.h>
#include <limits.h>

#include "lib/base/util.h"

int program_find(const char *name, char **ret_path, struct err *err)
{
    static const char *const folders[] = { "", "../libexec/holdfast/" };
    char self[PATH_MAX], *slash;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0)
        return err_set_errno(err, errno, "no-program", "/proc/self/exe");
    self[n] = '\0';
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        auto_free char *path = NULL;
        char *found;

        if (str_format(&path, "%s/%s%s", self, folders[i], name) < 0)
            return -ENOMEM;
        found = realpath(path, NULL);
        if (found) {
            *ret_path = found;
            return 0;
        }
    }
    return err_set(err, ENOENT, "no-program", "%s is neither in %s nor in ../libexec/holdfast from there", name, self);
}
