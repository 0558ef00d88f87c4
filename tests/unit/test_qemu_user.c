/* Needs no user of its own on the host: root, nobody and a number stand for all. Run as root, one gives it up for a while. */
#include "lib/manager/qemu_user.h"

#include <errno.h>
#include <unistd.h>

#include "tests/unit/fixture.h"

START_TEST(root_stays_root)
{
    static const char *const names[] = { "root", "0" };
    struct err err = ERR_INIT;

    if (geteuid() != 0)
        return;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_qemu_user struct qemu_user u = { 0 };

        ck_assert_int_eq(qemu_user_find(names[i], &u, &err), 0);
        ck_assert_ptr_null(u.name);
    }
}
END_TEST

START_TEST(names_and_numbers)
{
    auto_qemu_user struct qemu_user named = { 0 }, numbered = { 0 }, nobodys = { 0 };
    struct err err = ERR_INIT;

    if (geteuid() != 0)
        return;
    ck_assert_int_eq(qemu_user_find("nobody", &named, &err), 0);
    ck_assert_str_eq(named.name, "nobody");
    ck_assert_uint_eq(named.uid, 65534);
    ck_assert_uint_ne(named.gid, 0);
    ck_assert_int_eq(qemu_user_find("64999", &numbered, &err), 0);
    ck_assert_uint_eq(numbered.uid, 64999);
    ck_assert_uint_eq(numbered.gid, 64999);
    ck_assert_str_eq(numbered.name, "64999");
    ck_assert_int_eq(qemu_user_find(NULL, &nobodys, &err), 0); /* holdfast-qemu or a number */
    ck_assert_ptr_nonnull(nobodys.name);
    ck_assert_uint_ne(nobodys.uid, 0);
    ck_assert_uint_ne(nobodys.gid, 0);
}
END_TEST

START_TEST(unknown)
{
    struct qemu_user u = { .uid = 5 };
    struct err err = ERR_INIT;

    ck_assert_int_eq(qemu_user_find("no-such-user", &u, &err), -ENOENT);
    ck_assert_str_eq(err.id, "no-user");
    ck_assert_ptr_nonnull(strstr(err.text, "no-such-user"));
    ck_assert_uint_eq(u.uid, 5);
    ck_assert_int_lt(qemu_user_find("", &u, &err), 0);
    ck_assert_int_lt(qemu_user_find("-1", &u, &err), 0);
    ck_assert_int_lt(qemu_user_find("4294967295", &u, &err), 0); /* (uid_t)-1: setresuid() would leave it as it is */
}
END_TEST

START_TEST(rootless)
{
    auto_qemu_user struct qemu_user u = { 0 };
    struct err err = ERR_INIT;

    if (getuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);
    ck_assert_int_eq(qemu_user_find(NULL, &u, &err), 0);
    ck_assert_ptr_null(u.name);
    ck_assert_int_eq(qemu_user_find("64999", &u, &err), -EPERM);
    ck_assert_int_eq(qemu_user_find("root", &u, &err), -EPERM);
    ck_assert_ptr_null(u.name);
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, root_stays_root);
    tcase_add_test(tc, names_and_numbers);
    tcase_add_test(tc, unknown);
    tcase_add_test(tc, rootless);
}

int main(void) { return fixture_main("qemu_user", add_tests); }
