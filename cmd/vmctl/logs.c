#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cmd/vmctl/log_file.h"
#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "proto/launch.h"

enum { ASK_TIMEOUT_MS = 1000, FOLLOW_LINES = 10 };

/* Where a VM's logs are: the manager knows, and without one the usual place will do. */
struct place {
    char *dir;
    json_int_t incarnation; /* 0: not known */
};

static enum outcome find_place(const struct invocation *in, const char *name, struct place *ret_place)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *socket = manager_socket(in);
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;
    json_t *parameters;
    int r = varlink_client_connect(socket, &client, NULL);

    if (r >= 0) {
        parameters = must_json(json_pack("{s:s}", "name", name));
        r = varlink_client_call_consume(client, MANAGER_INTERFACE ".Get", parameters, ASK_TIMEOUT_MS, &reply, &err);
    }
    /* A VM the manager doesn't know; any other failure is none of ours: the files are read directly. */
    if (r == -EREMOTEIO && outcome_of_call(r, varlink_client_error(client)) == OUTCOME_NO_SUCH) {
        complain_call(in, name, r, varlink_client_error(client), reply, &err);
        return OUTCOME_NO_SUCH;
    }
    const char *dir = r >= 0 ? member_text(json_object_get(reply, "paths"), "log") : "";
    if (*dir)
        ret_place->dir = must(strdup(dir));
    else if (str_format(&ret_place->dir, "%s/%s", in->dirs.log, name) < 0)
        must(NULL);
    ret_place->incarnation = r >= 0 ? member_int(json_object_get(reply, "vm"), "incarnation") : 0;
    return OUTCOME_DONE;
}

/* The number in "console-12.log" when `file` is an earlier boot's `current`; else 0. */
static uint64_t boot_of(const char *file, const char *current)
{
    size_t stem = strcspn(current, "."), len = strlen(file);
    char digits[24] = "";
    uint64_t n;

    if (strncmp(file, current, stem) != 0 || file[stem] != '-' || len < stem + 5 || !streq(file + len - 4, ".log"))
        return 0;
    len -= stem + 5;
    if (len >= sizeof(digits))
        return 0;
    memcpy(digits, file + stem + 1, len);
    return parse_u64(digits, 1, UINT64_MAX, &n) < 0 ? 0 : n;
}

/* The number of the `back`th newest earlier boot whose log is kept; 0: there are fewer. */
static uint64_t boot_back(int dirfd, const char *current, uint64_t back)
{
    auto_fd int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    uint64_t below = UINT64_MAX;
    struct dirent *d;

    if (!dir)
        return 0;
    steal_fd(&fd);
    for (; back > 0 && below > 0; back--) {
        uint64_t newest = 0;
        rewinddir(dir);
        while ((d = readdir(dir))) {
            uint64_t n = boot_of(d->d_name, current);
            if (n > newest && n < below)
                newest = n;
        }
        below = newest;
    }
    closedir(dir);
    return below;
}

/* "console.log", or of an earlier boot "console-3.log". malloc'ed; NULL: that boot's isn't kept. */
static char *file_name(const struct invocation *in, const struct place *place, int dirfd)
{
    const char *current = in->qemu ? FILE_QEMU_LOG : in->shim ? FILE_SHIM_LOG : FILE_CONSOLE_LOG;
    char *name = NULL;
    uint64_t n = 0;
    int r;

    if (in->boot && *in->boot == '-') {
        (void)parse_u64(in->boot + 1, 0, UINT64_MAX, &n);
        n = n > 0 ? boot_back(dirfd, current, n) : 0;
        if (n == 0)
            return NULL;
    } else if (in->boot) {
        (void)parse_u64(in->boot, 0, UINT64_MAX, &n);
    }
    if (n == 0 || n == (uint64_t)place->incarnation)
        r = str_format(&name, "%s", current);
    else
        r = str_format(&name, "%.*s-%llu.log", (int)strcspn(current, "."), current, (unsigned long long)n);
    return r < 0 ? must(NULL) : name;
}

static enum outcome complain_read(const struct place *place, const char *name, const char *file, int r)
{
    if (r == -ENOENT)
        complain("%s: no log %s/%s yet", name, place->dir, file);
    else
        complain("%s: %s/%s: %s", name, place->dir, file, strerror(-r));
    return r == -EACCES ? OUTCOME_REFUSED : OUTCOME_FAILED;
}

static enum outcome print_log(const struct invocation *in, const char *name, const struct place *place)
{
    auto_fd int dirfd = open(place->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_free char *file = NULL;
    struct log_file log;

    if (dirfd < 0 && errno == ENOENT) {
        complain("%s: no such VM: there is no %s (see: vmctl list)", name, place->dir);
        return OUTCOME_NO_SUCH;
    }
    if (dirfd < 0)
        return complain_read(place, name, "", -errno);
    file = file_name(in, place, dirfd);
    if (!file) {
        complain("%s: no log of boot %s is kept in %s", name, in->boot, place->dir);
        return OUTCOME_FAILED;
    }
    int r = log_file_open(&log, dirfd, file);
    if (r < 0 && !(r == -ENOENT && in->follow))
        return complain_read(place, name, file, r);
    if (r == 0 && (in->lines >= 0 || in->follow))
        r = log_file_seek_lines(&log, in->lines >= 0 ? (uint64_t)in->lines : FOLLOW_LINES);
    else
        r = 0;
    if (r == 0)
        r = in->follow ? log_file_follow(&log, STDOUT_FILENO) : log_file_copy(&log, STDOUT_FILENO);
    log_file_close(&log);
    if (r == 0 || r == -EPIPE)
        return OUTCOME_DONE;
    if (r == -ENOENT && in->follow) {
        complain("%s: the folder %s is gone", name, place->dir);
        return OUTCOME_FAILED;
    }
    return complain_read(place, name, file, r);
}

static enum outcome run(const struct invocation *in)
{
    struct place place = { 0 };

    if (in->qemu + in->shim + in->console > 1)
        return complain_usage(in->verb, "--console, --qemu and --shim: one of them");
    uint64_t boot;
    if (in->boot && parse_u64(in->boot + (*in->boot == '-'), *in->boot == '-' ? 1 : 0, INT64_MAX, &boot) < 0)
        return complain_usage(in->verb, "--boot: expected -1 for the previous boot, -2 …, or an incarnation number, got \"%s\"", in->boot);
    if (in->boot && in->shim)
        return complain_usage(in->verb, "--boot: the shim's log isn't kept by boot");
    enum outcome outcome = name_check(in, in->args[0]);
    if (outcome == OUTCOME_DONE)
        outcome = find_place(in, in->args[0], &place);
    if (outcome == OUTCOME_DONE)
        outcome = print_log(in, in->args[0], &place);
    free(place.dir);
    return outcome;
}

static const struct flag flags[] = {
    FLAG_FOLLOW,
    { "lines", 'n', FLAG_NUMBER, "LINES", "only the last lines (all; with --follow 10)", offsetof(struct invocation, lines), NULL },
    { "console", 0, FLAG_SET, NULL, "what the guest wrote to its console (the default)", offsetof(struct invocation, console), NULL },
    { "qemu", 0, FLAG_SET, NULL, "what QEMU said", offsetof(struct invocation, qemu), NULL },
    { "shim", 0, FLAG_SET, NULL, "what the VM's shim said", offsetof(struct invocation, shim), NULL },
    { "boot", 0, FLAG_TEXT, "N", "of an earlier boot: -1 the previous one, -2 …, or an incarnation number",
      offsetof(struct invocation, boot), NULL },
    FLAGS_END,
};

const struct verb verb_logs = {
    .name = "logs",
    .args = "NAME",
    .group = "look",
    .summary = "print what a VM's console, QEMU or shim wrote",
    .details =
        "The files are read directly, so this works with no manager too. --follow goes on over rotations and over restarts of the VM.",
    .example = "vmctl logs web --follow\nvmctl logs web --boot -1\nvmctl logs web --qemu -n 20",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
