/* Which folders a path hangs on, and what is heard of them. */
#include "lib/manager/watch_set.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "lib/manager/spec_folder.h"
#include "lib/manager/watch_paths.h"
#include "tests/unit/fixture.h"

static char *below(const char *name)
{
    char *path = NULL;

    ck_assert_int_eq(str_format(&path, "%s/%s", fixture.path, name), 0);
    return path;
}

static void make_dir(const char *name) { ck_assert_int_eq(mkdirat(fixture.dir, name, 0700), 0); }
static void make_link(const char *target, const char *name) { ck_assert_int_eq(symlinkat(target, fixture.dir, name), 0); }
static void move(const char *from, const char *to) { ck_assert_int_eq(renameat(fixture.dir, from, fixture.dir, to), 0); }

/* ---- the places ---- */

static bool has(const struct watch_places *places, const char *folder, const char *name)
{
    auto_free char *path = *folder == '/' ? strdup(folder) : *folder ? below(folder) : strdup(fixture.path);

    for (size_t i = 0; i < places->n; i++) {
        if (streq(places->items[i].folder, path) && streq_opt(places->items[i].name, name))
            return true;
    }
    return false;
}

static bool walk(const char *name, struct watch_places *places)
{
    auto_free char *path = below(name);
    bool there = false;

    ck_assert_int_eq(watch_places_add(places, path, &there), 0);
    return there;
}

START_TEST(plain)
{
    auto_watch_places struct watch_places places = { 0 };

    make_dir("etc");
    make_dir("etc/vms");
    ck_assert(walk("etc/vms", &places));
    ck_assert(has(&places, "/", NULL));
    ck_assert(has(&places, "/tmp", NULL));
    ck_assert(!has(&places, "/tmp", fixture.path + strlen("/tmp/")));
    ck_assert(has(&places, "", NULL));
    ck_assert(has(&places, "etc", NULL));
    ck_assert(has(&places, "etc", "vms"));
    ck_assert_uint_eq(places.n, 5);
}
END_TEST

START_TEST(not_there_yet)
{
    auto_watch_places struct watch_places places = { 0 };

    ck_assert(!walk("etc/holdfast/vms", &places));
    ck_assert(has(&places, "", "etc")); /* the nearest that is there */
    ck_assert(!has(&places, "etc", NULL));
}
END_TEST

START_TEST(links)
{
    auto_watch_places struct watch_places places = { 0 };

    make_dir("a");
    make_dir("b");
    make_dir("b/c");
    fixture_write("b/c/file", "");
    make_link("../b/./c/", "a/link"); /* relative, with dots */
    ck_assert(walk("a//link/file", &places));
    ck_assert(has(&places, "a", "link"));
    ck_assert(has(&places, "b", NULL));
    ck_assert(has(&places, "b/c", "file"));
    ck_assert(!has(&places, "b", "c"));
}
END_TEST

START_TEST(absolute_link_to_nowhere)
{
    auto_watch_places struct watch_places places = { 0 };
    auto_free char *target = below("gone/x");

    make_link(target, "link");
    ck_assert(!walk("link", &places));
    ck_assert(has(&places, "", "link"));
    ck_assert(has(&places, "", "gone"));
}
END_TEST

START_TEST(loop)
{
    auto_watch_places struct watch_places places = { 0 };
    auto_free char *path = below("a");

    make_link("b", "a");
    make_link("a", "b");
    ck_assert_int_eq(watch_places_add(&places, path, NULL), -ELOOP);
    ck_assert(has(&places, "", "a"));
}
END_TEST

START_TEST(file_in_the_way)
{
    auto_watch_places struct watch_places places = { 0 };

    fixture_write("etc", "");
    ck_assert(!walk("etc/vms", &places));
    ck_assert(has(&places, "", NULL));
    ck_assert(has(&places, "", "etc"));
}
END_TEST

/* ---- the events ---- */

static unsigned heard(struct watch_set *set)
{
    struct pollfd pollfd = { .fd = watch_set_fd(set), .events = POLLIN };

    return poll(&pollfd, 1, 0) > 0 ? watch_set_read(set) : WATCH_NOTHING;
}

static struct watch_set *watching(const char *folder, int *ret_fd)
{
    auto_free char *path = below(folder), *config = below("holdfast.json");
    auto_spec_folder struct spec_folder specs = { 0 };
    struct watch_set *set = NULL;

    ck_assert_int_eq(watch_set_new(&set), 0);
    ck_assert_int_eq(watch_set_add_path(set, path, WATCH_PATHS | WATCH_SPECS), 0);
    ck_assert_int_eq(watch_set_add_path(set, config, WATCH_CONFIG), 0);
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd >= 0) {
        ck_assert_int_eq(watch_set_add_folder(set, *ret_fd), 0);
        ck_assert_int_eq(spec_folder_scan(*ret_fd, NULL, &specs, NULL), 0);
        ck_assert_int_eq(watch_set_add_links(set, path, &specs), 0);
    }
    ck_assert(!watch_set_is_incomplete(set));
    return set;
}

START_TEST(files)
{
    struct watch_set *set;
    auto_fd int fd = -1;

    make_dir("vms");
    fixture_write("vms/old.json", "{}");
    set = watching("vms", &fd);
    ck_assert_uint_eq(heard(set), WATCH_NOTHING);
    fixture_write("vms/old.json", "{ }");
    ck_assert_uint_eq(heard(set), WATCH_SPECS);
    fixture_write("vms/.old.json.swp", "x");
    fixture_write("vms/4913", "x");
    move("vms/old.json", "vms/old.json~");
    ck_assert_uint_eq(heard(set), WATCH_SPECS);
    move("vms/old.json~", "vms/other~");
    ck_assert_uint_eq(heard(set), WATCH_NOTHING);
    move("vms/other~", "vms/new.json");
    ck_assert_uint_eq(heard(set), WATCH_SPECS);
    ck_assert_int_eq(unlinkat(fixture.dir, "vms/new.json", 0), 0);
    ck_assert_uint_eq(heard(set), WATCH_SPECS);
    make_link("nowhere", "vms/link.json");
    ck_assert_uint_eq(heard(set), WATCH_BEGUN);
    fixture_write("holdfast.json", "{}");
    ck_assert_uint_eq(heard(set), WATCH_CONFIG);
    fixture_write("holdfast.json.bak", "{}");
    ck_assert_uint_eq(heard(set), WATCH_NOTHING);
    watch_set_free(set);
}
END_TEST

START_TEST(file_being_written)
{
    struct watch_set *set;
    auto_fd int fd = -1, file = -1;

    make_dir("vms");
    set = watching("vms", &fd);
    file = openat(fixture.dir, "vms/a.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_uint_eq(heard(set), WATCH_BEGUN);
    ck_assert_int_eq(write(file, "{", 1), 1);
    ck_assert_uint_eq(heard(set), WATCH_NOTHING);
    file = fd_close(file);
    ck_assert_uint_eq(heard(set), WATCH_SPECS);
    watch_set_free(set);
}
END_TEST

START_TEST(folder_comes_and_goes)
{
    struct watch_set *set;
    auto_fd int fd = -1;

    set = watching("vms", &fd);
    ck_assert_int_lt(fd, 0);
    make_dir("vms");
    ck_assert_uint_eq(heard(set), WATCH_PATHS | WATCH_SPECS);
    watch_set_free(set);
    set = watching("vms", &fd);
    move("vms", "away");
    ck_assert(heard(set) & WATCH_PATHS);
    watch_set_free(set);
}
END_TEST

START_TEST(parent_moved)
{
    struct watch_set *set;
    auto_fd int fd = -1;

    make_dir("a");
    make_dir("a/b");
    make_dir("a/b/vms");
    set = watching("a/b/vms", &fd);
    move("a", "z");
    ck_assert(heard(set) & WATCH_PATHS);
    watch_set_free(set);
}
END_TEST

START_TEST(behind_links)
{
    struct watch_set *set;
    auto_fd int fd = -1;

    make_dir("vms");
    make_dir("real");
    make_dir("real/1");
    make_dir("real/2");
    make_link("1", "real/now");
    fixture_write("real/1/web.json", "{}");
    make_link("../real/now/web.json", "vms/web.json");
    set = watching("vms", &fd);
    fixture_write("real/1/web.json", "{ }");
    ck_assert(heard(set) & WATCH_SPECS);
    make_link("2", "real/next");
    ck_assert_uint_eq(heard(set), WATCH_NOTHING);
    move("real/next", "real/now");
    ck_assert(heard(set) & WATCH_PATHS);
    watch_set_free(set);
}
END_TEST

START_TEST(overflow)
{
    auto_free char *text = NULL;
    struct watch_set *set;
    auto_fd int fd = -1;
    uint64_t limit = 0;
    size_t len;

    fd = open("/proc/sys/fs/inotify", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_ge(file_read(fd, "max_queued_events", 32, &text, &len), 0);
    for (const char *p = text; *p >= '0' && *p <= '9'; p++)
        limit = limit * 10 + (uint64_t)(*p - '0');
    fd = fd_close(fd);
    make_dir("vms");
    set = watching("vms", &fd);
    fixture_write("vms/a", "");
    for (uint64_t i = 0; i <= limit / 4; i++) { /* of names nobody cares for */
        move("vms/a", "vms/b");
        move("vms/b", "vms/a");
    }
    ck_assert_uint_eq(heard(set), WATCH_PATHS | WATCH_SPECS | WATCH_CONFIG);
    watch_set_free(set);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, plain);
    tcase_add_test(tc, not_there_yet);
    tcase_add_test(tc, links);
    tcase_add_test(tc, absolute_link_to_nowhere);
    tcase_add_test(tc, loop);
    tcase_add_test(tc, file_in_the_way);
    tcase_add_test(tc, files);
    tcase_add_test(tc, file_being_written);
    tcase_add_test(tc, folder_comes_and_goes);
    tcase_add_test(tc, parent_moved);
    tcase_add_test(tc, behind_links);
    tcase_add_test(tc, overflow);
}

int main(void) { return fixture_main("watch_set", add_tests); }
