/* Logs that are cut under their writer: what readers see is every byte once, whatever is killed when. */
#include "shim/logs.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/log_reader.h"
#include "shim/log_cut.h"
#include "tests/unit/fixture.h"

enum { MAX = 64 * 1024, KEEP = 3, TMPFS = 0x01021994 };

/* Numbered lines of `from` … `to`, appended as a guest's would be. */
static void say(int dir, const char *name, unsigned from, unsigned to)
{
    int fd = log_file_open(dir, name);
    char line[32];

    ck_assert_int_ge(fd, 0);
    for (unsigned i = from; i < to; i++) {
        int n = snprintf(line, sizeof(line), "tick %u\n", i);
        ck_assert_int_eq(write(fd, line, (size_t)n), n);
    }
    fd_close(fd);
}

/* Reads on from *position and checks that lines go on from number *next. */
static void check_on(struct log_reader *r, uint64_t *position, unsigned *next, char *part, size_t *part_len)
{
    char block[3000];
    ssize_t n;

    while ((n = log_reader_read(r, *position, block, sizeof(block))) > 0) {
        *position += (uint64_t)n;
        for (ssize_t i = 0; i < n; i++) {
            if (block[i] != '\n') {
                ck_assert_uint_lt(*part_len, 31);
                part[(*part_len)++] = block[i];
                continue;
            }
            char wanted[32];
            (void)snprintf(wanted, sizeof(wanted), "tick %u", (*next)++);
            part[*part_len] = '\0';
            ck_assert_str_eq(part, wanted);
            *part_len = 0;
        }
    }
    ck_assert_int_eq(n, 0);
}

static void check_whole_of(int dir, const char *name, unsigned count)
{
    struct log_reader r;
    uint64_t start, end;
    unsigned next = 0;
    size_t part_len = 0;
    char part[32];

    ck_assert_int_eq(log_reader_open(&r, dir, name), 0);
    ck_assert_int_eq(log_reader_range(&r, &start, &end), 0);
    ck_assert_uint_eq(start, 0);
    check_on(&r, &start, &next, part, &part_len);
    ck_assert_uint_eq(start, end);
    ck_assert_uint_eq(next, count);
    log_reader_close(&r);
}

static void check_whole(unsigned count) { check_whole_of(fixture.dir, "console.log", count); }

static off_t size_of(int dir, const char *name)
{
    struct stat st;

    ck_assert_int_eq(fstatat(dir, name, &st, 0), 0);
    return st.st_size;
}

START_TEST(cut_keeps_every_line)
{
    unsigned said = 0;

    ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 0); /* missing */
    say(fixture.dir, "console.log", 0, 10);
    ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 0); /* small */
    for (said = 10; said < 30000; said += 10000) {
        say(fixture.dir, "console.log", said, said + 10000);
        ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 1);
        ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 0);
        ck_assert_int_le(size_of(fixture.dir, "console.log"), 8192);
    }
    say(fixture.dir, "console.log", said, said + 5);
    check_whole(said + 5);
}
END_TEST

START_TEST(oldest_pieces_go)
{
    struct log_piece *pieces = NULL;
    struct log_reader r;
    uint64_t start, end, total = 0;
    char byte;
    size_t n;

    for (unsigned i = 0; i < 6; i++) {
        say(fixture.dir, "console.log", 0, 10000);
        total += 10 * 7 + 90 * 8 + 900 * 9 + 9000 * 10;
        ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, 2), 1);
    }
    ck_assert_int_eq(log_pieces_list(fixture.dir, "console.log", &pieces, &n), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    ck_assert_int_eq(log_reader_range(&r, &start, &end), 0);
    ck_assert_uint_eq(end, total);
    ck_assert_uint_eq(start, pieces[0].start);
    ck_assert_int_eq(log_reader_read(&r, 5, &byte, 1), -ERANGE);
    ck_assert_uint_eq(log_reader_next(&r, 5), start);
    log_reader_close(&r);
    free(pieces);
}
END_TEST

START_TEST(none_kept)
{
    struct log_reader r;
    uint64_t start, end, last;

    for (unsigned i = 0; i < 3; i++) {
        say(fixture.dir, "console.log", 0, 10000);
        ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, 0), 1);
        ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
        ck_assert_int_eq(log_reader_range(&r, &start, &end), 0);
        ck_assert_uint_eq(end, (i + 1) * (uint64_t)(10 * 7 + 90 * 8 + 900 * 9 + 9000 * 10));
        log_reader_close(&r);
    }
    last = end;
    /* … and some again, from now on. */
    say(fixture.dir, "console.log", 0, 10000);
    ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, 2), 1);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    ck_assert_int_eq(log_reader_range(&r, &start, &end), 0);
    ck_assert_uint_lt(start, last);
    ck_assert_uint_gt(end, last);
    log_reader_close(&r);
}
END_TEST

/* Of a file system that can punch but not collapse. */
START_TEST(without_collapse)
{
    char path[] = "/dev/shm/holdfast-unit-XXXXXX";
    struct statfs fs;
    struct stat st;
    int dir;

    ck_assert_ptr_nonnull(mkdtemp(path));
    dir = dir_open(AT_FDCWD, path);
    ck_assert_int_eq(fstatfs(dir, &fs), 0);
    ck_assert_int_eq(fs.f_type, TMPFS);
    for (unsigned i = 0; i < 3; i++) {
        say(dir, "console.log", i * 10000, (i + 1) * 10000);
        ck_assert_int_eq(log_cut(dir, "console.log", MAX, KEEP), 1);
        ck_assert_int_eq(log_cut(dir, "console.log", MAX, KEEP), 0);
    }
    ck_assert_int_eq(fstatat(dir, "console.log", &st, 0), 0);
    ck_assert_int_gt(st.st_size, MAX);
    ck_assert_int_le(st.st_blocks * 512, 8192);
    check_whole_of(dir, "console.log", 30000);
    fd_close(dir);
    ck_assert_int_eq(dir_remove_tree(AT_FDCWD, path), 0);
}
END_TEST

#ifdef HOLDFAST_FAILPOINTS
static const char *const cut_points[] = { "shim.log-copied", "shim.log-committed", "shim.log-punched", "shim.log-named" };

static void die_at(const char *point, int (*what)(void))
{
    char value[64];
    int wstatus;
    pid_t pid = fork();

    if (pid == 0) {
        (void)snprintf(value, sizeof(value), "%s=kill", point);
        (void)setenv("HOLDFAST_FAILPOINT", value, 1);
        _exit(what() < 0);
    }
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    ck_assert_msg(WIFSIGNALED(wstatus) && WTERMSIG(wstatus) == SIGKILL, "not killed at %s", point);
}

static int cut(void) { return log_cut(fixture.dir, "console.log", MAX, KEEP); }
static int begin_boot(void) { return logs_begin_boot(fixture.dir, 7, KEEP); }

/* Killed after each step; the guest goes on; a reader that was there, one that comes then, and one after the recovery see it all. */
START_TEST(killed_at_each_step)
{
    struct log_reader r;
    uint64_t position = 0;
    unsigned next = 0;
    size_t part_len = 0;
    char part[32];

    say(fixture.dir, "console.log", 0, 10000);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    check_on(&r, &position, &next, part, &part_len);
    die_at(cut_points[_i], cut);
    say(fixture.dir, "console.log", 10000, 10100);
    check_whole(10100);
    check_on(&r, &position, &next, part, &part_len);
    ck_assert_uint_eq(next, 10100);
    ck_assert_int_eq(log_cut_recover(fixture.dir, "console.log", KEEP), 0);
    check_whole(10100);
    say(fixture.dir, "console.log", 10100, 20000);
    ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 1);
    check_on(&r, &position, &next, part, &part_len);
    ck_assert_uint_eq(next, 20000);
    log_reader_close(&r);
    check_whole(20000);
    ck_assert(!fixture_exists("console.log.cut"));
}
END_TEST

/* Two cuts in a row killed, over output in which every block is like the next: nothing may be told from the bytes. */
START_TEST(killed_over_uniform_output)
{
    struct log_reader r;
    uint64_t start, end, total = 0;
    char block[4096];
    int fd;

    memset(block, 'x', sizeof(block));
    for (int round = 0; round < 2; round++) {
        fd = log_file_open(fixture.dir, "console.log");
        for (int i = 0; i < 40; i++, total += sizeof(block))
            ck_assert_int_eq(fd_write_all(fd, block, sizeof(block)), 0);
        fd_close(fd);
        die_at(cut_points[_i], cut);
    }
    ck_assert_int_eq(log_cut_recover(fixture.dir, "console.log", KEEP), 0);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    ck_assert_int_eq(log_reader_range(&r, &start, &end), 0);
    ck_assert_uint_eq(end - start, total);
    log_reader_close(&r);
}
END_TEST

START_TEST(killed_while_put_away)
{
    say(fixture.dir, "console.log", 0, 10000);
    ck_assert_int_eq(cut(), 1);
    die_at("shim.log-put-away", begin_boot);
    /* The next shim gives the next boot a number of its own; the pieces stay with theirs. */
    ck_assert_int_eq(logs_begin_boot(fixture.dir, 8, KEEP), 0);
    say(fixture.dir, "console.log", 0, 3);
    check_whole(3);
    check_whole_of(fixture.dir, "console-7.log", 10000);
}
END_TEST
#endif

START_TEST(boots_take_their_pieces_along)
{
    struct log_piece *pieces = NULL;
    char name[32];
    size_t n;

    for (uint64_t boot = 1; boot <= 4; boot++) {
        say(fixture.dir, "console.log", 0, 10000);
        ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 1);
        ck_assert_int_eq(logs_begin_boot(fixture.dir, boot, 2), 0);
        ck_assert(!fixture_exists("console.log"));
    }
    for (int boot = 1; boot <= 4; boot++) {
        (void)snprintf(name, sizeof(name), "console-%d.log", boot);
        ck_assert_int_eq(log_pieces_list(fixture.dir, name, &pieces, &n), 0);
        ck_assert_uint_eq(n, boot > 2);
        ck_assert_int_eq(fixture_exists(name), boot > 2);
        if (boot > 2)
            check_whole_of(fixture.dir, name, 10000);
        free(pieces);
    }
}
END_TEST

/* A reader in the middle of a log that is put away reads it to its end. */
START_TEST(reader_of_a_boot_put_away)
{
    struct log_reader r;
    uint64_t position = 0;
    unsigned next = 0;
    size_t part_len = 0;
    char part[32], byte;

    say(fixture.dir, "console.log", 0, 10000);
    ck_assert_int_eq(log_cut(fixture.dir, "console.log", MAX, KEEP), 1);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    ck_assert_int_eq(log_reader_read(&r, 0, &byte, 1), 1);
    ck_assert_int_eq(logs_begin_boot(fixture.dir, 1, KEEP), 0);
    say(fixture.dir, "console.log", 77, 99);
    check_on(&r, &position, &next, part, &part_len);
    ck_assert_uint_eq(next, 10000);
    log_reader_close(&r);
}
END_TEST

/* A writer that never pauses, a cutter that never pauses, a reader that follows: three processes on one log. */
START_TEST(reader_keeps_up_with_a_flood)
{
    enum { LINES = 100000 };
    struct log_reader r;
    uint64_t position = 0;
    unsigned next = 0;
    size_t part_len = 0;
    char part[32];
    int wstatus;
    pid_t writer, cutter;

    say(fixture.dir, "console.log", 0, 1);
    writer = fork();
    if (writer == 0) {
        say(fixture.dir, "console.log", 1, LINES);
        _exit(0);
    }
    cutter = fork();
    if (cutter == 0)
        for (;;)
            if (log_cut(fixture.dir, "console.log", MAX, 1000) < 0)
                _exit(1);
    ck_assert_int_eq(log_reader_open(&r, fixture.dir, "console.log"), 0);
    while (next < LINES)
        check_on(&r, &position, &next, part, &part_len);
    ck_assert_int_eq(waitpid(writer, &wstatus, 0), writer);
    ck_assert_int_eq(wstatus, 0);
    ck_assert_int_eq(kill(cutter, SIGKILL), 0);
    ck_assert_int_eq(waitpid(cutter, &wstatus, 0), cutter);
    ck_assert(WIFSIGNALED(wstatus));
    log_reader_close(&r);
    ck_assert_int_eq(log_cut_recover(fixture.dir, "console.log", 1000), 0);
    check_whole(LINES);
}
END_TEST

START_TEST(tail_of_a_cut_log)
{
    auto_free char *tail = NULL;

    say(fixture.dir, "qemu.log", 0, 10000);
    ck_assert_int_eq(log_cut(fixture.dir, "qemu.log", MAX, KEEP), 1);
    tail = log_file_tail(fixture.dir, "qemu.log", 90000, 2);
    ck_assert_str_eq(tail, "tick 9998 | tick 9999");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, cut_keeps_every_line);
    tcase_add_test(tc, oldest_pieces_go);
    tcase_add_test(tc, none_kept);
    tcase_add_test(tc, without_collapse);
#ifdef HOLDFAST_FAILPOINTS
    tcase_add_loop_test(tc, killed_at_each_step, 0, (int)ARRAY_LEN(cut_points));
    tcase_add_loop_test(tc, killed_over_uniform_output, 0, (int)ARRAY_LEN(cut_points));
    tcase_add_test(tc, killed_while_put_away);
#endif
    tcase_add_test(tc, boots_take_their_pieces_along);
    tcase_add_test(tc, reader_of_a_boot_put_away);
    tcase_add_test(tc, reader_keeps_up_with_a_flood);
    tcase_add_test(tc, tail_of_a_cut_log);
}

int main(void) { return fixture_main("logs", add_tests); }
