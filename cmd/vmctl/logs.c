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

/* "console.log", or of an earlier boot "console-3.log". malloc'ed. */
static char *file_name(const struct invocation *in, const struct place *place)
{
    const char *current = in->qemu ? FILE_QEMU_LOG : in->shim ? FILE_SHIM_LOG : FILE_CONSOLE_LOG;
    char *name = NULL;
    int r;

    if (in->boot < 0 || in->boot == place->incarnation)
        r = str_format(&name, "%s", current);
    else
        r = str_format(&name, "%.*s-%lld.log", (int)strcspn(current, "."), current, (long long)in->boot);
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
    auto_free char *file = file_name(in, place);
    struct log_file log = { .fd = -1 };

    if (dirfd < 0 && errno == ENOENT) {
        complain("%s: no such VM: there is no %s (see: vmctl list)", name, place->dir);
        return OUTCOME_NO_SUCH;
    }
    if (dirfd < 0)
        return complain_read(place, name, "", -errno);
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
    if (in->boot >= 0 && in->shim)
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
    { "boot", 0, FLAG_NUMBER, "N", "of the earlier boot with that incarnation number", offsetof(struct invocation, boot), NULL },
    FLAGS_END,
};

const struct verb verb_logs = {
    .name = "logs",
    .args = "NAME",
    .group = "look",
    .summary = "print what a VM's console, QEMU or shim wrote",
    .details = "The files are read directly, so this works with no manager too. --follow goes on over restarts of the VM.",
    .example = "vmctl logs web --follow\nvmctl logs web --qemu -n 20",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
