/* Images as files: their size, and who has them open. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/disk/image.h"
#include "lib/disk/own_disks.h"
#include "proto/made_image.h"
#include "tests/unit/fixture.h"

static const char *path(void)
{
    static char text[sizeof(fixture.path) + 16];

    snprintf(text, sizeof(text), "%s/web.raw", fixture.path);
    return text;
}

static int make(off_t size)
{
    int fd = open(path(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, size), 0);
    return fd;
}

START_TEST(size_of_a_raw_image_is_its_own)
{
    auto_fd int fd = make(3 << 20);
    uint64_t size = 0;

    ck_assert_int_eq(image_size(fd, "raw", &size), 0);
    ck_assert_uint_eq(size, 3 << 20);
}
END_TEST

START_TEST(size_of_a_qcow2_image_is_in_its_header)
{
    struct {
        uint32_t magic, version;
        uint64_t offset;
        uint32_t length, bits;
        uint64_t size;
    } head = { htobe32(0x514649fb), htobe32(3), 0, 0, htobe32(16), htobe64(UINT64_C(20) << 30) };
    auto_fd int fd = make(0);
    uint64_t size = 1;

    ck_assert_int_eq(image_size(fd, "qcow2", &size), -EINVAL); /* empty */
    ck_assert_int_eq(pwrite(fd, &head, sizeof(head), 0), sizeof(head));
    ck_assert_int_eq(image_size(fd, "qcow2", &size), 0);
    ck_assert_uint_eq(size, UINT64_C(20) << 30);
    head.magic = 0;
    ck_assert_int_eq(pwrite(fd, &head, sizeof(head), 0), sizeof(head));
    ck_assert_int_eq(image_size(fd, "qcow2", &size), -EINVAL);
    ck_assert_uint_eq(size, UINT64_C(20) << 30);
}
END_TEST

/* A child with an OFD lock of this kind on these bytes, as QEMU takes them; it says when it has it. */
static pid_t holder(short type, off_t start, off_t len)
{
    int said[2];
    char byte;
    pid_t pid;

    ck_assert_int_eq(pipe2(said, O_CLOEXEC), 0);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
        int fd = open(path(), O_RDWR | O_CLOEXEC);

        if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) < 0 || write(said[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    close(said[1]);
    ck_assert_int_eq(read(said[0], &byte, 1), 1);
    close(said[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(locks_as_qemu_takes_them_are_seen)
{
    static const struct {
        off_t byte;
        int any, writer;
    } cases[] = {
        { 100, 1, 0 },              /* reads */
        { 101, 1, 1 },              /* writes */
        { 102, 1, 1 },              /* writes what is there already */
        { 103, 1, 1 },              /* resizes */
        { 201, 1, 0 },              /* lets nobody write */
        { 203, 1, 0 },              /* lets nobody resize */
        { 99, 0, 0 },  { 0, 0, 0 }, /* something else */
    };
    auto_fd int fd = make(4096);

    ck_assert_int_eq(image_in_use(fd, IMAGE_ANY), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        pid_t pid = holder(F_RDLCK, cases[i].byte, 1);

        ck_assert_msg(image_in_use(fd, IMAGE_ANY) == cases[i].any, "byte %d", (int)cases[i].byte);
        ck_assert_msg(image_in_use(fd, IMAGE_WRITER) == cases[i].writer, "byte %d", (int)cases[i].byte);
        end(pid);
        ck_assert_int_eq(image_in_use(fd, IMAGE_ANY), 0); /* the kernel has released it */
    }
}
END_TEST

START_TEST(the_user_is_named)
{
    auto_fd int fd = make(4096);
    struct err err = ERR_INIT;
    char wanted[64];
    pid_t pid;

    ck_assert_ptr_null(image_user(fd));
    ck_assert_int_eq(image_check_unused("web", path(), IMAGE_ANY, &err), 0);
    pid = holder(F_RDLCK, 100, 1);
    snprintf(wanted, sizeof(wanted), "disk web is in use by pid %d (test_disk)", (int)pid);
    ck_assert_int_eq(image_check_unused("web", path(), IMAGE_ANY, &err), -EBUSY);
    ck_assert_msg(strstr(err.text, wanted) && strstr(err.text, path()), "%s", err.text);
    ck_assert_str_eq(err.id, "in-use");
    ck_assert_int_eq(image_check_unused("web", path(), IMAGE_WRITER, &err), 0);
    end(pid);
    ck_assert_int_eq(image_check_unused("web", path(), IMAGE_ANY, NULL), 0);
    unlink(path());
    ck_assert_int_eq(image_check_unused("web", path(), IMAGE_ANY, NULL), 0); /* what isn't there nobody uses */
}
END_TEST

START_TEST(only_larger_disks_are_refused)
{
    struct err err = ERR_INIT;

    ck_assert_int_eq(own_disk_check_size("data", 1 << 20, 1 << 20, &err), 0);
    ck_assert_int_eq(own_disk_check_size("data", 1 << 20, 2 << 20, &err), 0);
    ck_assert_int_eq(own_disk_check_size("data", 2 << 20, 1 << 20, &err), -EINVAL);
    ck_assert_msg(strstr(err.text, "disk data has 2M, more than the 1M of the spec"), "%s", err.text);
}
END_TEST

static void count(void *arg, const struct err *err)
{
    ck_assert_msg(has_prefix(err->text, "/disks/1/size: disk web has 3M"), "%s", err->text);
    ++*(int *)arg;
}

START_TEST(disks_on_the_host_are_looked_at)
{
    struct spec_disk disks[] = { { .path = (char[]){ "/etc/passwd" }, .persistent = true },
                                 { .name = (char[]){ "web" }, .format = (char[]){ "raw" }, .size = 2 << 20, .persistent = true },
                                 { .name = (char[]){ "none" }, .size = 2 << 20, .persistent = true } };
    struct spec spec = { .disks = disks, .n_disks = ARRAY_LEN(disks) };
    int n = 0;

    fd_close(make(3 << 20));
    ck_assert_int_eq(own_disks_check(&spec, fixture.path, count, &n), 1);
    ck_assert_int_eq(n, 1);
    disks[1].persistent = false; /* it is made anew anyway */
    ck_assert_int_eq(own_disks_check(&spec, fixture.path, count, &n), 0);
    disks[1].persistent = true;
    disks[1].size = 3 << 20;
    ck_assert_int_eq(own_disks_check(&spec, fixture.path, count, &n), 0);
    ck_assert_int_eq(n, 1);
}
END_TEST

START_TEST(names_of_made_images)
{
    static const struct {
        const char *name;
        bool good;
    } cases[] = {
        { "provider_config-0123456789abcdef0123456789abcdef.img", true },
        { "a-b-0123456789abcdef0123456789abcdef.img", true },
        { "-0123456789abcdef0123456789abcdef.img", false },
        { "x-0123456789abcdef0123456789abcde.img", false },
        { "x-0123456789abcdef0123456789abcdeF.img", false },
        { "x-0123456789abcdef0123456789abcdef.raw", false },
        { "x0123456789abcdef0123456789abcdefx.img", false },
        { "data.qcow2", false },
        { "", false },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        ck_assert_msg(made_image_is_name(cases[i].name) == cases[i].good, "%s", cases[i].name);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, size_of_a_raw_image_is_its_own);
    tcase_add_test(tc, size_of_a_qcow2_image_is_in_its_header);
    tcase_add_test(tc, locks_as_qemu_takes_them_are_seen);
    tcase_add_test(tc, the_user_is_named);
    tcase_add_test(tc, only_larger_disks_are_refused);
    tcase_add_test(tc, disks_on_the_host_are_looked_at);
    tcase_add_test(tc, names_of_made_images);
}

int main(void) { return fixture_main("disk", add_tests); }
