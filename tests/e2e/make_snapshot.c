/* make_snapshot --working-set FOLDER: a small working set for the snapshot there.
 *
 * make_snapshot FOLDER VM NAME PLAN [SPEC]: a small snapshot that is whole, of a VM that runs by the launch plan in the file PLAN: every other
 * of its first 1024 pages has something in it. For tests of those who keep and read snapshots, with no guest and no QEMU. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/qemu/hardware.h"
#include "proto/launch.h"
#include "proto/memory_image.h"
#include "proto/snapshot.h"

enum { PRESENT_STEP = 2, PRESENT_END = 1024 };

static const char state[] = "this would be QEMU's device state";

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "make_snapshot: %s: %s\n", what, strerror(-r));
    exit(1);
}

static void read_json(const char *path, json_t **ret)
{
    auto_free char *text = NULL;
    size_t len;

    check(file_read(AT_FDCWD, path, RECORD_MAX, &text, &len), path);
    check(json_parse(text, len, ret, NULL), path);
}

static void write_memory(int folder, struct snapshot *s)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_fd int fd = openat(folder, FILE_MEMORY, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    auto_free void *data = NULL;
    char page[IMAGE_PAGE];
    size_t len;

    check(memory_index_new(s->ram_size, &index), FILE_MEMORY_INDEX);
    check(ftruncate(fd, (off_t)s->ram_size), FILE_MEMORY);
    for (uint64_t i = 0; i < PRESENT_END && i < memory_index_pages(index); i += PRESENT_STEP) {
        memset(page, (int)(i % 255) + 1, sizeof(page));
        if (pwrite(fd, page, sizeof(page), (off_t)(i * IMAGE_PAGE)) != IMAGE_PAGE)
            check(-errno, FILE_MEMORY);
        memory_index_set(index, i, memory_page_sum(page));
    }
    s->present_pages = memory_index_present(index);
    check(memory_index_encode(index, &data, &len), FILE_MEMORY_INDEX);
    check(file_write(folder, FILE_MEMORY_INDEX, data, len, 0640, FILE_ATOMIC), FILE_MEMORY_INDEX);
}

static void write_state(int folder, struct snapshot *s, char sum_text[STREAM_SUM_TEXT_MAX])
{
    auto_stream_sum struct stream_sum *sum = NULL;

    check(stream_sum_new(&sum), FILE_DEVICE_STATE);
    stream_sum_add(sum, state, sizeof(state));
    s->state_size = sizeof(state);
    s->state_sum = strdup(stream_sum_text(sum, sum_text));
    check(file_write(folder, FILE_DEVICE_STATE, state, sizeof(state), 0640, FILE_ATOMIC), FILE_DEVICE_STATE);
}

static void make_id(char id[SNAPSHOT_ID_LEN + 1])
{
    unsigned char random[SNAPSHOT_ID_LEN / 2];

    check(getrandom(random, sizeof(random), 0) == sizeof(random) ? 0 : -EIO, "id");
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
}

static int write_working_set(const char *path)
{
    struct page_run run = { 0, 2 };
    struct working_set set = { .runs = &run, .n_runs = 1 };
    auto_fd int folder = dir_open(AT_FDCWD, path);
    auto_json json_t *json = NULL;
    auto_snapshot struct snapshot s = { 0 };
    auto_free char *text = NULL;
    auto_free void *data = NULL;
    size_t len;

    check(folder, path);
    check(file_read(folder, FILE_SNAPSHOT, RECORD_MAX, &text, &len), FILE_SNAPSHOT);
    check(json_parse(text, len, &json, NULL), FILE_SNAPSHOT);
    check(snapshot_from_json(json, &s, NULL), FILE_SNAPSHOT);
    snprintf(set.snapshot_id, sizeof(set.snapshot_id), "%s", s.id);
    set.ram_size = s.ram_size;
    check(working_set_encode(&set, &data, &len), FILE_WORKING_SET);
    check(file_write(folder, FILE_WORKING_SET, data, len, 0640, FILE_ATOMIC), FILE_WORKING_SET);
    return 0;
}

int main(int argc, char **argv)
{
    auto_json json_t *plan_json = NULL, *spec = NULL, *json = NULL;
    auto_free char *text = NULL;
    auto_plan struct plan plan = { 0 };
    auto_snapshot struct snapshot s = { .schema = SNAPSHOT_SCHEMA, .created = clock_real_us(), .incarnation = 1, .live = true };
    char sum[STREAM_SUM_TEXT_MAX], id[SNAPSHOT_ID_LEN + 1];
    auto_fd int folder = -1;
    size_t len;

    if (argc == 3 && streq(argv[1], "--working-set"))
        return write_working_set(argv[2]);
    if (argc < 5)
        return 2;
    check(dir_make(argv[1], 0750, NULL), argv[1]);
    folder = dir_open(AT_FDCWD, argv[1]);
    check(folder, argv[1]);
    read_json(argv[4], &plan_json);
    check(plan_from_json(plan_json, &plan, NULL), "plan");
    check(hardware_from_plan(&plan, "7.2.0", &s.hardware), "hardware");
    make_id(id);
    s.id = strdup(id);
    s.vm = strdup(argv[2]);
    s.name = strdup(argv[3]);
    s.ram_size = plan.ram.size;
    s.page_size = IMAGE_PAGE;
    s.pause_us = 11800;
    if (argc > 5) {
        read_json(argv[5], &spec);
        check(json_format(spec, &s.spec, NULL), "spec");
    }
    write_memory(folder, &s);
    write_state(folder, &s, sum);
    check(snapshot_to_json(&s, &json), "record");
    check(json_format_indented(json, &text, &len), "record");
    check(file_write(folder, FILE_SNAPSHOT, text, len, 0640, FILE_ATOMIC), FILE_SNAPSHOT);
    return 0;
}
