/* What goes onto a disk that is made of files: collected, digested, copied. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/disk/content.h"
#include "lib/disk/recipe.h"
#include "lib/spec/limits.h"
#include "tests/unit/fixture.h"

/* In the test's folder; the text is overwritten by the eighth call after it. */
static const char *at(const char *name)
{
    static char texts[8][sizeof(fixture.path) + 64];
    static unsigned next;
    char *text = texts[next++ % ARRAY_LEN(texts)];

    snprintf(text, sizeof(texts[0]), "%s/%s", fixture.path, name);
    return text;
}

static const char *digest_of(const char *path, const char *what)
{
    static char digests[8][MADE_DIGEST_LEN + 1];
    static unsigned next;
    auto_content struct content c = { 0 };
    char *digest = digests[next++ % ARRAY_LEN(digests)];
    struct err err = ERR_INIT;

    ck_assert_msg(content_add_file(&c, path, at("a"), &err) == 0, "%s", err.text);
    ck_assert_int_eq(content_finish(&c, &err), 0);
    ck_assert_int_eq(content_digest(&c, what, -1, digest, NULL, &err), 0);
    return digest;
}

START_TEST(a_digest_is_of_paths_permissions_and_bytes)
{
    const struct timespec then[] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
    const char *first;

    fixture_write("a", "one");
    first = digest_of("x", "w");
    ck_assert_uint_eq(strlen(first), MADE_DIGEST_LEN);
    ck_assert_int_eq(utimensat(fixture.dir, "a", then, 0), 0);
    ck_assert_str_eq(digest_of("x", "w"), first);
    ck_assert_str_ne(digest_of("y", "w"), first);
    ck_assert_str_ne(digest_of("x", "v"), first);
    ck_assert_int_eq(fchmodat(fixture.dir, "a", 0640, 0), 0);
    ck_assert_str_ne(digest_of("x", "w"), first);
    ck_assert_int_eq(fchmodat(fixture.dir, "a", 0600, 0), 0);
    ck_assert_str_eq(digest_of("x", "w"), first);
    fixture_write("a", "two");
    ck_assert_str_ne(digest_of("x", "w"), first);
}
END_TEST

static void tree(struct content *c)
{
    struct err err = ERR_INIT;

    ck_assert_int_eq(mkdirat(fixture.dir, "tree", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "tree/sub", 0750), 0);
    fixture_write("tree/sub/file", "deep");
    fixture_write("elsewhere", "linked");
    ck_assert_int_eq(symlinkat(at("elsewhere"), fixture.dir, "tree/link"), 0);
    ck_assert_msg(content_add_folder(c, at("tree"), &err) == 0, "%s", err.text);
}

static const struct content_item *item(const struct content *c, const char *path)
{
    for (size_t i = 0; i < c->n; i++)
        if (streq(c->items[i].path, path))
            return &c->items[i];
    ck_abort_msg("no %s", path);
}

START_TEST(folders_come_whole_and_links_are_followed)
{
    auto_content struct content c = { 0 };
    struct err err = ERR_INIT;
    char digest[MADE_DIGEST_LEN + 1];
    uint64_t size = 0;
    struct stat st;

    tree(&c);
    ck_assert_int_eq(content_add_text(&c, "new/folder/text", "words"), 0);
    ck_assert_int_eq(content_finish(&c, &err), 0);
    ck_assert_uint_eq(c.n, 6);
    ck_assert(item(&c, "sub")->folder && item(&c, "sub")->mode == 0750);
    ck_assert(!item(&c, "link")->folder);
    ck_assert(item(&c, "new/folder")->folder && item(&c, "new/folder")->mode == 0755);
    for (size_t i = 1; i < c.n; i++)
        ck_assert_int_lt(strcmp(c.items[i - 1].path, c.items[i].path), 0);

    ck_assert_int_eq(mkdirat(fixture.dir, "copy", 0700), 0);
    auto_fd int copy = dir_open(fixture.dir, "copy");
    ck_assert_msg(content_digest(&c, "w", copy, digest, &size, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(size, strlen("deep") + strlen("linked") + strlen("words"));
    fixture_assert_content("copy/sub/file", "deep");
    fixture_assert_content("copy/link", "linked");
    fixture_assert_content("copy/new/folder/text", "words");
    ck_assert_int_eq(fstatat(fixture.dir, "copy/link", &st, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_int_eq(st.st_mode, S_IFREG | 0600);
    ck_assert_int_eq(fstatat(fixture.dir, "copy/sub", &st, AT_SYMLINK_NOFOLLOW), 0);
    ck_assert_int_eq(st.st_mode, S_IFDIR | 0700);

    char again[MADE_DIGEST_LEN + 1];
    ck_assert_int_eq(content_digest(&c, "w", -1, again, NULL, &err), 0);
    ck_assert_str_eq(digest, again);
}
END_TEST

START_TEST(what_can_not_be_is_refused)
{
    struct err err = ERR_INIT;

    fixture_write("a", "one");
    ck_assert_int_eq(mkfifoat(fixture.dir, "pipe", 0600), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "folder", 0700), 0);
    const struct {
        const char *paths[2];
        const char *source, *text;
    } cases[] = {
        { { "x", "x" }, at("a"), "x comes twice" },     { { "x", "x/y" }, at("a"), "x is a file" },
        { { "x", "x/y/z" }, at("a"), "x is a file" },   { { "x", NULL }, at("none"), "No such file" },
        { { "x", NULL }, at("pipe"), "is not a file" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_content struct content c = { 0 };
        int r = 0;

        for (size_t k = 0; k < 2 && cases[i].paths[k] && r >= 0; k++)
            r = content_add_file(&c, cases[i].paths[k], cases[i].source, &err);
        if (r >= 0)
            r = content_finish(&c, &err);
        ck_assert_msg(r < 0 && strstr(err.text, cases[i].text), "%zu: %d %s", i, r, err.text);
        ck_assert_str_eq(err.id, "bad-content");
    }
    auto_content struct content c = { 0 };
    ck_assert_int_lt(content_add_folder(&c, at("a"), &err), 0);
    ck_assert_int_lt(content_add_file(&c, "x", at("folder"), &err), 0);
}
END_TEST

START_TEST(no_more_than_the_limits)
{
    auto_content struct content large = { 0 }, many = { 0 }, loop = { 0 };
    char digest[MADE_DIGEST_LEN + 1];
    struct err err = ERR_INIT;
    int r = 0;

    fixture_write("a", "");
    ck_assert_int_eq(truncate(at("a"), (off_t)CONTENT_SIZE_MAX), 0);
    ck_assert_int_eq(content_add_file(&large, "x", at("a"), &err), 0);
    ck_assert_int_eq(content_digest(&large, "w", -1, digest, NULL, &err), 0);
    ck_assert_int_eq(truncate(at("a"), (off_t)CONTENT_SIZE_MAX + 1), 0);
    ck_assert_int_lt(content_digest(&large, "w", -1, digest, NULL, &err), 0);
    ck_assert_msg(strstr(err.text, "more than 64M"), "%s", err.text);

    for (int i = 0; i <= CONTENT_FILES_MAX && r >= 0; i++) {
        char name[16];

        snprintf(name, sizeof(name), "%d", i);
        r = content_add_file(&many, name, at("a"), &err);
    }
    ck_assert_int_lt(r, 0);
    ck_assert_uint_eq(many.n, CONTENT_FILES_MAX);

    /* A link to itself never ends; the depth does. */
    ck_assert_int_eq(mkdirat(fixture.dir, "loop", 0700), 0);
    ck_assert_int_eq(symlinkat(".", fixture.dir, "loop/again"), 0);
    ck_assert_int_lt(content_add_folder(&loop, at("loop"), &err), 0);
    ck_assert_msg(strstr(err.text, "folders in each other"), "%s", err.text);
}
END_TEST

START_TEST(a_disk_is_made_whole_or_not_at_all)
{
    struct pair files[] = { { (char[]){ "etc/a b\"c" }, NULL } };
    struct recipe recipe = { .kind = RECIPE_CONFIG, .label = "conf", .files = files, .n_files = 1 };
    char digest[MADE_DIGEST_LEN + 1], output[sizeof(fixture.path) + 16];
    struct err err = ERR_INIT;
    struct stat st;

    fixture_write("a", "content");
    files[0].value = (char *)(uintptr_t)at("a");
    snprintf(output, sizeof(output), "%s/disk.img", fixture.path);
    ck_assert_msg(recipe_check_tools(RECIPE_CONFIG, &err) == 0, "%s", err.text);
    ck_assert_int_eq(recipe_digest(&recipe, digest, &err), 0);
    fixture_write("a", "another");
    ck_assert_int_eq(recipe_make(&recipe, digest, output, &err), -EAGAIN);
    ck_assert(!fixture_exists("disk.img"));
    fixture_write("a", "content");
    ck_assert_msg(recipe_make(&recipe, digest, output, &err) == 0, "%s", err.text);
    ck_assert_int_eq(fstatat(fixture.dir, "disk.img", &st, 0), 0);
    ck_assert_int_eq(st.st_mode, S_IFREG | 0600);
    ck_assert_int_eq(st.st_size, 1 << 20);
    ck_assert_int_eq(unlinkat(fixture.dir, "disk.img", 0), 0);
    ck_assert_int_eq(unlinkat(fixture.dir, "a", 0), 0);
    ck_assert_int_eq(rmdir(fixture.path), 0); /* nothing else is left */
    ck_assert_int_eq(mkdir(fixture.path, 0700), 0);
}
END_TEST

START_TEST(an_instance_is_what_it_is_set_up_with)
{
    struct recipe recipe = { .kind = RECIPE_SEED, .label = SEED_LABEL, .vm = "web" };
    char first[MADE_DIGEST_LEN + 1], second[MADE_DIGEST_LEN + 1];
    struct err err = ERR_INIT;

    fixture_write("a", "#cloud-config");
    recipe.user_data = at("a");
    ck_assert_msg(recipe_digest(&recipe, first, &err) == 0, "%s", err.text);
    recipe.vm = "web2"; /* in its instance-id */
    ck_assert_int_eq(recipe_digest(&recipe, second, &err), 0);
    ck_assert_str_ne(first, second);
    fixture_write("b", "instance-id: x");
    recipe.meta_data = at("b");
    ck_assert_int_eq(recipe_digest(&recipe, first, &err), 0);
    recipe.vm = "web";
    ck_assert_int_eq(recipe_digest(&recipe, second, &err), 0);
    ck_assert_str_eq(first, second); /* not in one that is given */
    recipe.meta_data = at("none");
    ck_assert_int_lt(recipe_digest(&recipe, second, &err), 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_digest_is_of_paths_permissions_and_bytes);
    tcase_add_test(tc, folders_come_whole_and_links_are_followed);
    tcase_add_test(tc, what_can_not_be_is_refused);
    tcase_add_test(tc, no_more_than_the_limits);
    tcase_add_test(tc, a_disk_is_made_whole_or_not_at_all);
    tcase_add_test(tc, an_instance_is_what_it_is_set_up_with);
}

int main(void) { return fixture_main("content", add_tests); }
