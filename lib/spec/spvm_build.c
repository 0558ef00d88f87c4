/* A build folder of sp-vm: the files of a release as they come out of its build. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"
#include "lib/spec/spvm_internal.h"

#define BUILD_POINTER "/run_configuration/build_dir"
#define HASH_FILE "rootfs_hash.txt"

enum { HASH_FILE_MAX = 4096, HASH_DIGITS_MAX = 128 /* of SHA-512 */ };

static bool is_image(const char *name)
{
    size_t n = strlen(name);

    return has_prefix(name, "sp-vm-") && n > 4 && streq(name + n - 4, ".img");
}

/* The one image. Two are a question only the operator can answer. */
static int find_image(int fd, const char *folder, struct problems *p, char **ret_image)
{
    int n = 0, r = 0, dup_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = dup_fd < 0 ? NULL : fdopendir(dup_fd);
    const struct dirent *entry = NULL;

    if (!dir)
        r = -errno;
    while (dir && r >= 0 && (errno = 0, entry = readdir(dir)))
        if (is_image(entry->d_name) && ++n == 1)
            r = str_format(ret_image, "%s/%s", folder, entry->d_name);
    if (dir && !entry)
        r = -errno;
    if (dir)
        closedir(dir);
    else
        fd_close(dup_fd);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        problem_add(p, BUILD_POINTER ": can't list %s: %s", folder, strerror(-r));
    else if (n == 0)
        problem_add(p, BUILD_POINTER ": there is no sp-vm-*.img in %s", folder);
    else if (n > 1)
        problem_add(p, BUILD_POINTER ": there are %d sp-vm-*.img in %s: leave one", n, folder);
    return 0;
}

/* It goes on the kernel's command line, so it must be nothing but a hash. */
static bool is_hash(const char *text)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if (!isxdigit((unsigned char)text[i]))
            return false;
    return n > 0 && n <= HASH_DIGITS_MAX;
}

static int read_hash(int fd, const char *folder, struct problems *p, char **ret_hash)
{
    auto_free char *text = NULL;
    /* Whatever a build linked it to. A pipe of that name must hold up nobody. */
    auto_fd int hash_fd = openat(fd, HASH_FILE, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    size_t len = 0;
    int r = hash_fd < 0 ? -errno : fd_read_all(hash_fd, HASH_FILE_MAX, &text, &len);

    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        problem_add(p, BUILD_POINTER ": can't read %s/" HASH_FILE ": %s", folder, strerror(-r));
        return 0;
    }
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = '\0';
    if (text && strlen(text) == len && is_hash(text))
        *ret_hash = steal_ptr(&text);
    else
        problem_add(p, BUILD_POINTER ": %s/" HASH_FILE " isn't one hash in hexadecimal digits", folder);
    return 0;
}

/* "/b/sp-vm-42.img" is of build 42. That goes on the kernel's command line too. */
static int name_build(struct spvm_build *build, struct problems *p)
{
    const char *name = strrchr(build->image, '/') + 1 + strlen("sp-vm-");
    int len = (int)(strlen(name) - strlen(".img"));

    for (int i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-+", name[i])) {
            problem_add(p, BUILD_POINTER ": '%s' is no name of a build's image: letters, digits, '.', '_', '-' and '+' are", build->image);
            return 0;
        }
    return str_format(&build->build, "%.*s", len, name);
}

int spvm_build_read(const char *root, const char *folder, bool amd, struct problems *p, struct spvm_build *ret_build)
{
    auto_free char *clean = strdup(folder), *below_root = NULL;
    auto_spvm_build struct spvm_build build = { 0 };
    auto_fd int fd = -1;

    if (!clean)
        return -ENOMEM;
    for (size_t n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--)
        clean[n - 1] = '\0';
    spec_check_path(p, BUILD_POINTER, clean);
    if (problem_under(p, BUILD_POINTER))
        return 0;
    if (str_format(&below_root, "%s%s", root ? root : "", clean) < 0)
        return -ENOMEM;
    fd = open(below_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        problem_add(p, BUILD_POINTER ": can't open %s: %s", clean, strerror(errno));
        return 0;
    }
    int r = find_image(fd, clean, p, &build.image);
    if (r >= 0)
        r = read_hash(fd, clean, p, &build.rootfs_hash);
    if (r >= 0)
        r = str_format(&build.kernel, "%s/vmlinuz", clean);
    if (r >= 0)
        r = str_format(&build.firmware, "%s/%s", clean, amd ? "OVMF_AMD.fd" : "OVMF.fd");
    if (r >= 0 && build.image)
        r = name_build(&build, p);
    if (r < 0)
        return r;
    *ret_build = build;
    build = (struct spvm_build){ 0 };
    return 0;
}

void spvm_build_clear(struct spvm_build *build)
{
    free(build->kernel);
    free(build->firmware);
    free(build->image);
    free(build->rootfs_hash);
    free(build->build);
    *build = (struct spvm_build){ 0 };
}
