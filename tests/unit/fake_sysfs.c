#include "tests/unit/fake_sysfs.h"

#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOOK_EVERY_US = 500 };

static pthread_t kernel;
static bool kernel_runs; /* atomically */
static int root = -1;    /* the fixture's symbols are each file's own */

static void make_folders(const char *path)
{
    if (root < 0)
        return;
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        auto_free char *folder = strndup(path, (size_t)(slash - path));
        ck_assert(mkdirat(root, folder, 0700) == 0 || errno == EEXIST);
    }
}

void fake_root(int fd) { root = fd; }

void fake_file(const char *path, const char *text)
{
    make_folders(path);
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fd_write_all(fd, text, strlen(text)), 0);
    fd_close(fd);
}

void fake_driver(const char *name)
{
    char path[PATH_MAX];

    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s/%s", name, i ? "bind" : "unbind");
        if (faccessat(root, path, F_OK, 0) < 0)
            fake_file(path, "");
    }
}

/* In the device's folder. */
static void link_to(const char *target, const char *address, const char *name)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/%s", address, name);
    make_folders(path);
    ck_assert(symlinkat(target, root, path) == 0 || errno == EEXIST);
}

static void bind_to(const char *address, const char *driver)
{
    char target[PATH_MAX];

    snprintf(target, sizeof(target), "../../../../bus/pci/drivers/%s", driver);
    link_to(target, address, "driver");
}

void fake_device(const char *address, const char *class, const char *driver, int group)
{
    const struct {
        const char *name, *text;
    } files[] = { { "class", class }, { "vendor", "0x10de\n" }, { "driver_override", "(null)\n" } };
    char path[PATH_MAX], target[PATH_MAX];

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/%s", address, files[i].name);
        fake_file(path, files[i].text);
    }
    fake_file("sys/bus/pci/drivers_probe", "");
    if (driver) {
        fake_driver(driver);
        bind_to(address, driver);
    }
    if (group < 0)
        return;
    snprintf(path, sizeof(path), "sys/kernel/iommu_groups/%d/devices/%s", group, address);
    make_folders(path);
    ck_assert_int_eq(symlinkat("../../../../bus/pci/devices", root, path), 0);
    snprintf(target, sizeof(target), "../../../../kernel/iommu_groups/%d", group);
    link_to(target, address, "iommu_group");
}

void fake_remove_device(const char *address)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s", address);
    ck_assert_int_eq(dir_remove_tree(root, path), 0);
}

const char *fake_driver_of(const char *address)
{
    static char target[PATH_MAX];
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", address);
    ssize_t n = readlinkat(root, path, target, sizeof(target) - 1);
    if (n < 0)
        return "";
    target[n] = '\0';
    return strrchr(target, '/') + 1;
}

const char *fake_override_of(const char *address)
{
    static char text[64];
    auto_free char *data = NULL;
    char path[PATH_MAX];
    size_t len;

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver_override", address);
    ck_assert_int_eq(file_read(root, path, sizeof(text) - 1, &data, &len), 0);
    data[strcspn(data, "\n")] = '\0';
    memcpy(text, data, strlen(data) + 1);
    return text;
}

/* ---- the kernel ---- */

/* What was written to a file since, which is emptied. */
static bool take(const char *path, char text[64])
{
    auto_fd int fd = -1;
    struct stat st;
    ssize_t n;

    /* A FIFO isn't even opened: that would let go on who waits for its reader. */
    if (fstatat(root, path, &st, 0) < 0 || !S_ISREG(st.st_mode))
        return false;
    fd = openat(root, path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || (n = read(fd, text, 63)) <= 0)
        return false;
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return ftruncate(fd, 0) == 0;
}

static void unbind(const char *address)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", address);
    (void)unlinkat(root, path, 0);
}

static void look_at_driver(const char *name)
{
    char path[PATH_MAX], address[64];

    snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s/unbind", name);
    if (take(path, address) && strcmp(fake_driver_of(address), name) == 0)
        unbind(address);
    snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s/bind", name);
    if (take(path, address))
        bind_to(address, name);
}

static void look(void)
{
    char address[64];
    DIR *dir;
    int fd = openat(root, "sys/bus/pci/drivers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    dir = fd < 0 ? NULL : fdopendir(fd);
    for (const struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            look_at_driver(e->d_name);
    if (dir)
        closedir(dir);
    if (take("sys/bus/pci/drivers_probe", address) && !*fake_driver_of(address) && streq(fake_override_of(address), "vfio-pci"))
        bind_to(address, "vfio-pci");
}

static void *run(void *arg)
{
    while (__atomic_load_n(&kernel_runs, __ATOMIC_ACQUIRE)) {
        look();
        usleep(LOOK_EVERY_US);
    }
    return NULL;
}

void fake_kernel_start(void)
{
    __atomic_store_n(&kernel_runs, true, __ATOMIC_RELEASE);
    ck_assert_int_eq(pthread_create(&kernel, NULL, run, NULL), 0);
}

void fake_kernel_stop(void)
{
    __atomic_store_n(&kernel_runs, false, __ATOMIC_RELEASE);
    pthread_join(kernel, NULL);
}
