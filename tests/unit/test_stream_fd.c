/* Descriptors that go along with a frame. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/socket.h"
#include "lib/loop/stream.h"
#include "tests/unit/loop_test.h"

static void on_frame(void *arg, char *data, size_t len) {}
static void on_close(void *arg, int error) {}

static struct stream *stream_on(struct loop *l, int fd)
{
    const struct stream_config config = {
        .delimiter = '\n', .in_max = 1024, .out_max = 4 * 1024 * 1024, .on_frame = on_frame, .on_close = on_close
    };
    struct stream *s = NULL;

    ck_assert_int_eq(stream_new_take(l, fd, &config, &s), 0);
    return s;
}

START_TEST(goes_along_and_is_the_same_file)
{
    auto_loop struct loop *l = NULL;
    auto_fd int file = fd_from_data("passed", "words", 5), other = -1, passed = -1;
    char buffer[64] = "";
    int pair[2];

    ck_assert_int_eq(loop_new(&l), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    other = pair[1];
    struct stream *s auto_cleanup(stream_cleanup) = stream_on(l, pair[0]);
    ck_assert_int_eq(stream_send_fd(s, "take this", 9, file), 0);
    ck_assert_int_eq(socket_receive_fd(other, buffer, 10, &passed), 9); /* the kernel ends a read where a descriptor's data end */
    ck_assert_str_eq(buffer, "take this");
    ck_assert_int_ge(passed, 0);
    ck_assert_int_eq(read(passed, buffer, sizeof(buffer)), 5);
    ck_assert_mem_eq(buffer, "words", 5);
    ck_assert_int_eq(read(other, buffer, 1), 1);
    ck_assert_int_eq(buffer[0], '\n');
    /* Without one it is a frame like any other. */
    ck_assert_int_eq(stream_send_fd(s, "plain", 5, -1), 0);
    ck_assert_int_eq(socket_receive_fd(other, buffer, sizeof(buffer), &passed), 6);
}
END_TEST

START_TEST(waits_for_no_queue)
{
    auto_loop struct loop *l = NULL;
    auto_fd int file = fd_from_data("passed", "words", 5), other = -1;
    static char much[1024 * 1024];
    int pair[2];

    ck_assert_int_eq(loop_new(&l), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    other = pair[1];
    struct stream *s auto_cleanup(stream_cleanup) = stream_on(l, pair[0]);
    memset(much, 'x', sizeof(much));
    ck_assert_int_eq(stream_send(s, much, sizeof(much)), 0);
    ck_assert_uint_gt(stream_queued(s), 0);
    ck_assert_int_eq(stream_send_fd(s, "take this", 9, file), -EBUSY);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stream_fd");
    TCase *tc = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_test(tc, goes_along_and_is_the_same_file);
    tcase_add_test(tc, waits_for_no_queue);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
