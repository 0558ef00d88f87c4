/* Any bytes as a VM's events.jsonl: what is read from it is numbered, the newest number is one that is read, and a line put behind comes
 * out whole, whatever the one before it looks like. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/manager/event_log.h"
#include "proto/launch.h"
#include "tests/fuzz/fuzz.h"

struct seen {
    uint64_t since, last;
    size_t n;
};

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void each(void *arg, json_t *event)
{
    struct seen *seen = arg;
    json_int_t seq = json_integer_value(json_object_get(event, "seq"));

    require(seq > 0 && (uint64_t)seq > seen->since);
    seen->last = (uint64_t)seq;
    seen->n++;
}

/* One folder for the whole run; it goes with the process. */
static char folder[] = "/tmp/holdfast-fuzz-XXXXXX";
static int dirfd_of_run = -1;

static void remove_folder(void)
{
    unlinkat(dirfd_of_run, FILE_EVENTS, 0);
    fd_close(dirfd_of_run);
    rmdir(folder);
}

static void open_folder(void)
{
    if (dirfd_of_run >= 0)
        return;
    require(mkdtemp(folder) != NULL);
    dirfd_of_run = dir_open(AT_FDCWD, folder);
    require(dirfd_of_run >= 0 && atexit(remove_folder) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char line[] = "{\"seq\":9007199254740991,\"type\":\"test\"}";
    struct seen all = { 0 }, later = { 0 }, more = { 0 };
    uint64_t newest = 0;

    if (size > EVENT_LOG_MAX / 2)
        return 0; /* appending would cut it */
    open_folder();
    require(file_write(dirfd_of_run, FILE_EVENTS, data, size, 0600, 0) == 0);
    require(event_log_read(dirfd_of_run, FILE_EVENTS, 0, each, &all) == 0);
    require(event_log_newest(dirfd_of_run, FILE_EVENTS, &newest) == 0);
    require(newest == all.last);
    later.since = newest;
    require(event_log_read(dirfd_of_run, FILE_EVENTS, newest, each, &later) == 0);
    require(later.n <= all.n);
    require(event_log_append(dirfd_of_run, line, sizeof(line) - 1) == 0);
    require(event_log_read(dirfd_of_run, FILE_EVENTS, 0, each, &more) == 0);
    require(more.last == 9007199254740991 && more.n >= all.n + 1 && more.n <= all.n + 2);
    require(event_log_newest(dirfd_of_run, FILE_EVENTS, &newest) == 0 && newest == more.last);
    return 0;
}
