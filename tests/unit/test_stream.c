#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/loop/stream.h"
#include "tests/unit/loop_test.h"

enum { FRAMES_MAX = 64 };

/* One stream under test, the other end of its socket, and what its callbacks were told. */
static struct fixture {
    struct loop *loop;
    struct stream *stream;
    int fd; /* the other end, nonblocking */
    char *frames[FRAMES_MAX];
    size_t n_frames, bytes;
    bool closed, drained;
    int error;
    bool free_in_frame, pause_in_frame, detach_in_frame, free_in_close, flush_in_frame;
    int detached_fd;
    char *rest;
    size_t rest_len;
} f;
static int fds_before;

static void on_frame(void *arg, char *data, size_t len)
{
    ck_assert_ptr_eq(arg, &f);
    ck_assert(!f.closed);
    ck_assert_uint_lt(f.n_frames, FRAMES_MAX);
    ck_assert_int_eq(data[len], '\0');
    f.frames[f.n_frames++] = strndup(data, len);
    f.bytes += len;
    if (f.free_in_frame) {
        stream_free(steal_ptr(&f.stream));
        ck_assert_uint_eq(strlen(data), len); /* still there until we return */
    } else if (f.detach_in_frame) {
        ck_assert_int_eq(stream_detach(f.stream, &f.detached_fd, &f.rest, &f.rest_len), 0);
        f.stream = NULL;
    } else if (f.flush_in_frame) {
        stream_close_after_flush(f.stream);
    } else if (f.pause_in_frame) {
        stream_pause(f.stream, true);
    }
}

static void on_close(void *arg, int error)
{
    ck_assert(!f.closed);
    f.closed = true;
    f.error = error;
    if (f.free_in_close)
        stream_free(steal_ptr(&f.stream));
}

static void on_drained(void *arg) { f.drained = true; }

static void start(int delimiter, size_t in_max, size_t out_max, uint64_t timeout_ms)
{
    int pair[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    f.fd = pair[1];
    ck_assert_int_eq(stream_new_take(f.loop, pair[0],
                                     &(struct stream_config){
                                         .delimiter = delimiter,
                                         .in_max = in_max,
                                         .out_max = out_max,
                                         .frame_timeout_ms = timeout_ms,
                                         .on_frame = on_frame,
                                         .on_close = on_close,
                                         .on_drained = on_drained,
                                         .arg = &f,
                                     },
                                     &f.stream),
                     0);
}

static void setup(void)
{
    fds_before = count_fds();
    f = (struct fixture){ .fd = -1, .detached_fd = -1 };
    ck_assert_int_eq(loop_new(&f.loop), 0);
}

static void teardown(void)
{
    stream_free(f.stream);
    loop_free(f.loop);
    fd_close(f.fd);
    fd_close(f.detached_fd);
    for (size_t i = 0; i < f.n_frames; i++)
        free(f.frames[i]);
    free(f.rest);
    ck_assert_int_eq(count_fds(), fds_before);
}

static void feed(const char *data, size_t len) { ck_assert_int_eq(write(f.fd, data, len), (ssize_t)len); }

START_TEST(frames_are_cut)
{
    start('\n', 100, 100, 0);
    feed("one\ntwo\n\nthr", 12);
    run_until(f.loop, f.n_frames == 3);
    feed("ee\n", 3);
    run_until(f.loop, f.n_frames == 4);
    ck_assert_str_eq(f.frames[0], "one");
    ck_assert_str_eq(f.frames[1], "two");
    ck_assert_str_eq(f.frames[2], "");
    ck_assert_str_eq(f.frames[3], "three");
    f.fd = fd_close(f.fd);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, 0);
}
END_TEST

START_TEST(byte_by_byte)
{
    static const char text[] = "alpha\0beta\0";

    start('\0', 5, 100, 0);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        feed(text + i, 1);
        run_settled(f.loop);
    }
    ck_assert_uint_eq(f.n_frames, 2);
    ck_assert_str_eq(f.frames[0], "alpha");
    ck_assert_str_eq(f.frames[1], "beta");
}
END_TEST

START_TEST(large_frame_across_reads)
{
    size_t len = 200 * 1000, sent = 0;
    char *big = malloc(len + 1);

    memset(big, 'x', len);
    big[len] = '\0';
    start('\0', len, 100, 0);
    while (sent < len + 1) {
        ssize_t n = write(f.fd, big + sent, len + 1 - sent);

        if (n > 0)
            sent += (size_t)n;
        ev_run(loop_ev(f.loop), EVRUN_NOWAIT);
    }
    run_until(f.loop, f.n_frames == 1);
    ck_assert_str_eq(f.frames[0], big);
    free(big);
}
END_TEST

START_TEST(too_long_closes)
{
    start('\n', 8, 100, 0);
    feed("12345678\n", 9);
    run_until(f.loop, f.n_frames == 1);
    feed(_i ? "123456789\n" : "123456789", _i ? 10 : 9);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, -EMSGSIZE);
    ck_assert_uint_eq(f.n_frames, 1);
}
END_TEST

START_TEST(half_a_frame_times_out)
{
    start('\n', 100, 100, 30);
    run_settled(f.loop);
    feed("whole\nhal", 9);
    run_until(f.loop, f.n_frames == 1);
    ck_assert(!f.closed);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, -ETIMEDOUT);
}
END_TEST

static void drip(struct ev_loop *ev, ev_timer *w, int revents)
{
    if (!f.closed)
        feed("x", 1);
}

/* A byte now and then doesn't extend the deadline. */
START_TEST(dripping_times_out)
{
    ev_timer timer;

    start('\n', 100000, 100, 60);
    ev_timer_init(&timer, drip, 0., 0.005);
    ev_timer_start(loop_ev(f.loop), &timer);
    run_until(f.loop, f.closed);
    ev_timer_stop(loop_ev(f.loop), &timer);
    ck_assert_int_eq(f.error, -ETIMEDOUT);
}
END_TEST

static void elapsed(struct ev_loop *ev, ev_timer *w, int revents) { w->data = NULL; }

START_TEST(whole_frames_do_not_time_out)
{
    ev_timer timer;

    start('\n', 100, 100, 20);
    feed("a\n", 2);
    ev_timer_init(&timer, elapsed, 0.1, 0.);
    timer.data = &timer;
    ev_timer_start(loop_ev(f.loop), &timer);
    run_until(f.loop, !timer.data);
    ck_assert(!f.closed);
    ck_assert_uint_eq(f.n_frames, 1);
}
END_TEST

START_TEST(end_in_a_frame_is_no_orderly_end)
{
    start('\n', 100, 100, 0);
    feed("half", 4);
    f.fd = fd_close(f.fd);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, -ECONNRESET);
}
END_TEST

START_TEST(raw_hands_on_what_comes)
{
    start(STREAM_RAW, 0, 100, 10);
    feed("a\0b", 3);
    run_until(f.loop, f.n_frames == 1);
    ck_assert_uint_eq(f.bytes, 3);
    ck_assert_int_eq(stream_send(f.stream, "xyz", 3), 0);
    char buf[8];
    ck_assert_int_eq(read(f.fd, buf, sizeof(buf)), 3);
    f.fd = fd_close(f.fd);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, 0);
}
END_TEST

START_TEST(free_inside_callbacks)
{
    f.free_in_frame = _i == 0;
    f.free_in_close = _i == 1;
    start('\n', 100, 100, 0);
    feed("one\ntwo\n", 8);
    f.fd = fd_close(f.fd);
    run_until(f.loop, !f.stream);
    run_settled(f.loop);
    ck_assert_uint_eq(f.n_frames, _i == 0 ? 1 : 2);
    ck_assert_int_eq(f.closed, _i == 1);
}
END_TEST

/* Reads everything from the other end, `step` bytes at a time, until `want` bytes or the end. */
static size_t drain(char *buf, size_t want, size_t step)
{
    size_t got = 0;

    for (int spins = 0; got < want && spins < 1000000; spins++) {
        ssize_t n = read(f.fd, buf + got, step < want - got ? step : want - got);

        if (n > 0)
            got += (size_t)n;
        else if (n == 0)
            break;
        ev_run(loop_ev(f.loop), EVRUN_NOWAIT);
    }
    return got;
}

START_TEST(short_writes_arrive_whole)
{
    size_t len = 300 * 1000, total = 3 * (len + 1);
    char *big = malloc(len), *got = malloc(total);
    int size = 2048;

    start('\0', 100, 4 * 1000 * 1000, 0);
    ck_assert_int_eq(setsockopt(stream_fd(f.stream), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    for (size_t i = 0; i < len; i++)
        big[i] = (char)('a' + i % 23);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(stream_send(f.stream, big, len), 0);
    ck_assert_uint_gt(stream_queued(f.stream), 0);
    ck_assert_uint_eq(drain(got, total, 777), total);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(memcmp(got + i * (len + 1), big, len), 0);
        ck_assert_int_eq(got[i * (len + 1) + len], '\0');
    }
    run_until(f.loop, f.drained);
    ck_assert_uint_eq(stream_queued(f.stream), 0);
    free(big);
    free(got);
}
END_TEST

START_TEST(slow_reader_is_cut_off)
{
    static char block[64 * 1024];
    int r = 0;

    start('\0', 100, 1024 * 1024, 0);
    for (int i = 0; i < 1000 && r == 0; i++)
        r = stream_send(f.stream, block, sizeof(block));
    ck_assert_int_eq(r, -ENOBUFS);
    ck_assert(!f.closed); /* not inside of the caller */
    ck_assert_int_eq(stream_send(f.stream, "x", 1), -EPIPE);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, -ENOBUFS);
}
END_TEST

START_TEST(last_words_are_read_after_a_failed_write)
{
    start('\n', 100, 100, 0);
    feed("why\n", 4);
    f.fd = fd_close(f.fd);
    ck_assert_int_eq(stream_send(f.stream, "hello", 5), -EPIPE);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, -EPIPE);
    ck_assert_uint_eq(f.n_frames, 1);
    ck_assert_str_eq(f.frames[0], "why");
}
END_TEST

START_TEST(pause_holds_frames_back)
{
    f.pause_in_frame = true;
    start('\n', 100, 100, 20);
    feed("one\ntwo\nthree\nfour", 18);
    run_until(f.loop, f.n_frames == 1);
    run_settled(f.loop);
    ck_assert_uint_eq(f.n_frames, 1);
    stream_pause(f.stream, false);
    ck_assert_uint_eq(f.n_frames, 1); /* by the loop, not by the call */
    run_until(f.loop, f.n_frames == 2);
    f.pause_in_frame = false;
    stream_pause(f.stream, false);
    run_until(f.loop, f.n_frames == 3);
    feed("\n", 1);
    run_until(f.loop, f.n_frames == 4);
    ck_assert_str_eq(f.frames[3], "four");
}
END_TEST

START_TEST(close_after_flush_delivers_all)
{
    size_t len = 500 * 1000;
    char *big = calloc(1, len), *got = malloc(len + 2);

    start('\0', 100, 1000 * 1000, 0);
    memset(big, 'y', len);
    ck_assert_int_eq(stream_send(f.stream, big, len), 0);
    ck_assert_uint_gt(stream_queued(f.stream), 0);
    stream_close_after_flush(f.stream);
    ck_assert_int_eq(stream_send(f.stream, "more", 4), -EPIPE);
    ck_assert_uint_eq(drain(got, len + 2, 65536), len + 1);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, 0);
    free(big);
    free(got);
}
END_TEST

START_TEST(close_after_flush_in_a_frame)
{
    f.flush_in_frame = true;
    start('\n', 100, 100, 0);
    feed("one\ntwo\n", 8);
    run_until(f.loop, f.closed);
    ck_assert_uint_eq(f.n_frames, 1);
    ck_assert_int_eq(f.error, 0);
}
END_TEST

START_TEST(half_closed_client_gets_the_queue)
{
    size_t len = 500 * 1000;
    char *big = calloc(1, len), *got = malloc(len + 2);

    start('\0', 100, 1000 * 1000, 0);
    ck_assert_int_eq(stream_send(f.stream, big, len), 0);
    ck_assert_int_eq(shutdown(f.fd, SHUT_WR), 0);
    run_settled(f.loop);
    ck_assert(!f.closed);
    ck_assert_uint_eq(drain(got, len + 2, 65536), len + 1);
    run_until(f.loop, f.closed);
    ck_assert_int_eq(f.error, 0);
    free(big);
    free(got);
}
END_TEST

START_TEST(detach_gives_fd_and_rest)
{
    f.detach_in_frame = true;
    start('\n', 100, 100, 0);
    feed("up\nraw bytes", 12);
    run_until(f.loop, f.detached_fd >= 0);
    run_settled(f.loop);
    ck_assert_uint_eq(f.rest_len, 9);
    ck_assert_str_eq(f.rest, "raw bytes");
    ck_assert(!f.closed);
    ck_assert_int_eq(write(f.detached_fd, "ok", 2), 2);
}
END_TEST

START_TEST(detach_of_a_busy_stream_is_refused)
{
    static char block[900 * 1000];
    int fd;
    char *rest;
    size_t len;

    start('\0', 100, sizeof(block) + 1, 0);
    ck_assert_int_eq(stream_send(f.stream, block, sizeof(block)), 0);
    ck_assert_int_eq(stream_detach(f.stream, &fd, &rest, &len), -EBUSY);
}
END_TEST

START_TEST(pipes_work_too)
{
    int in[2];

    ck_assert_int_eq(pipe2(in, O_CLOEXEC | O_NONBLOCK), 0);
    f.fd = in[0];
    ck_assert_int_eq(
        stream_new_take(f.loop, in[1],
                        &(struct stream_config){ .delimiter = '\n', .out_max = 100, .on_frame = on_frame, .on_close = on_close, .arg = &f },
                        &f.stream),
        0);
    char buf[8];
    ck_assert_int_eq(stream_send(f.stream, "line", 4), 0);
    ck_assert_int_eq(read(f.fd, buf, sizeof(buf)), 5);
}
END_TEST

START_TEST(bad_arguments)
{
    struct stream *s = NULL;
    struct stream_config c = { .delimiter = '\n', .on_frame = on_frame, .on_close = on_close };

    ck_assert_int_eq(stream_new_take(f.loop, -1, &c, &s), -EINVAL);
    c.delimiter = 256;
    ck_assert_int_eq(stream_new_take(f.loop, 0, &c, &s), -EINVAL);
    c.delimiter = '\n';
    ck_assert_int_eq(stream_new_take(f.loop, 1000, &c, &s), -EBADF);
    stream_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stream");
    TCase *tc = tcase_create("stream");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, frames_are_cut);
    tcase_add_test(tc, byte_by_byte);
    tcase_add_test(tc, large_frame_across_reads);
    tcase_add_loop_test(tc, too_long_closes, 0, 2);
    tcase_add_test(tc, half_a_frame_times_out);
    tcase_add_test(tc, dripping_times_out);
    tcase_add_test(tc, whole_frames_do_not_time_out);
    tcase_add_test(tc, end_in_a_frame_is_no_orderly_end);
    tcase_add_test(tc, raw_hands_on_what_comes);
    tcase_add_loop_test(tc, free_inside_callbacks, 0, 2);
    tcase_add_test(tc, short_writes_arrive_whole);
    tcase_add_test(tc, slow_reader_is_cut_off);
    tcase_add_test(tc, last_words_are_read_after_a_failed_write);
    tcase_add_test(tc, pause_holds_frames_back);
    tcase_add_test(tc, close_after_flush_delivers_all);
    tcase_add_test(tc, close_after_flush_in_a_frame);
    tcase_add_test(tc, half_closed_client_gets_the_queue);
    tcase_add_test(tc, detach_gives_fd_and_rest);
    tcase_add_test(tc, detach_of_a_busy_stream_is_refused);
    tcase_add_test(tc, pipes_work_too);
    tcase_add_test(tc, bad_arguments);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
