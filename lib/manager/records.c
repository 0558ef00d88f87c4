#include "lib/manager/records.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/manager/state.h"

/* Reads FOLDER/NAME/FILE as JSON. -EINVAL: it doesn't parse. */
static int read_json(int folder_fd, const char *name, const char *file, json_t **ret_json, struct err *err)
{
    char path[VM_PATH_MAX];
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(folder_fd, name_path(name, file, path), RECORD_MAX, &text, &len);
    if (r == -EFBIG)
        return err_set(err, EINVAL, "bad-record", "larger than %d bytes", RECORD_MAX);
    if (r < 0)
        return r == -ENOENT ? r : err_set_errno(err, -r, "unreadable", "can't be read");
    return json_parse(text, len, ret_json, err);
}

/* Keeps what doesn't parse for people to look at, and says so in one line. */
static int set_aside(int folder_fd, const char *name, const char *file, const struct err *err, char **ret_why)
{
    auto_free char *new_name = NULL;
    auto_fd int fd = -1;
    int r;

    fd = dir_open(folder_fd, name);
    r = fd < 0 ? fd : file_set_aside(fd, file, &new_name);
    if (r < 0)
        return str_format(ret_why, "%s doesn't parse: %s (and can't be set aside: %s)", file, err->text, strerror(-r));
    return str_format(ret_why, "%s doesn't parse: %s (kept as %s)", file, err->text, new_name);
}

struct reading {
    int folder_fd;
    const char *name, *file;
    int (*parse)(const json_t *json, void *record, struct err *err);
    void *record;
};

static int parse_status(const json_t *json, void *record, struct err *err) { return status_from_json(json, record, err); }
static int parse_exit(const json_t *json, void *record, struct err *err) { return exit_from_json(json, record, err); }
static int parse_wanted(const json_t *json, void *record, struct err *err) { return wanted_from_json(json, record, err); }

/* 1 read, 0 absent, -EINVAL and *ret_why. */
static int read_record(const struct reading *in, char **ret_why)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    int r, q;

    r = read_json(in->folder_fd, in->name, in->file, &json, &err);
    if (r == -ENOENT || r == -ENOTDIR)
        return 0;
    if (r == 0)
        r = in->parse(json, in->record, &err);
    if (r >= 0)
        return 1;
    if (r == -ENOMEM)
        return r;
    if (r == -EINVAL)
        q = set_aside(in->folder_fd, in->name, in->file, &err, ret_why);
    else
        q = str_format(ret_why, "%s: %s", in->file, err_is_set(&err) ? err.text : strerror(-r));
    return q < 0 ? q : -EINVAL;
}

static int misfit(struct records *r, const char *file, const char *name)
{
    r->unclear = true;
    return r->why ? 0 : str_format(&r->why, "%s is a record of another VM, \"%s\"", file, name ? name : "");
}

int records_read(const struct record_dirs *dirs, const char *name, struct records *ret_records)
{
    struct records found = { 0 };
    const struct reading status = { dirs->run_vms_fd, name, FILE_STATUS, parse_status, &found.status };
    const struct reading exit = { dirs->state_vms_fd, name, FILE_LAST_EXIT, parse_exit, &found.exit };
    char *why = NULL;
    int r;

    r = read_record(&status, &found.why);
    found.has_status = r > 0;
    if (r == -EINVAL)
        found.unclear = true;
    else if (r < 0)
        goto fail;

    r = read_record(&exit, &why);
    found.has_exit = r > 0;
    if (r == -EINVAL) {
        found.unclear = true;
        if (found.why)
            free(why);
        else
            found.why = why;
    } else if (r < 0) {
        goto fail;
    }

    r = 0;
    if (found.has_status && !streq_opt(found.status.name, name))
        r = misfit(&found, FILE_STATUS, found.status.name);
    if (r == 0 && found.has_exit && !streq_opt(found.exit.name, name))
        r = misfit(&found, FILE_LAST_EXIT, found.exit.name);
    if (r < 0)
        goto fail;
    *ret_records = found;
    return 0;
fail:
    records_clear(&found);
    return r;
}

void records_clear(struct records *r)
{
    status_clear(&r->status);
    exit_clear(&r->exit);
    free(r->why);
    *r = (struct records){ 0 };
}

int records_read_status(const struct record_dirs *dirs, const char *name, struct status *ret_status)
{
    auto_json json_t *json = NULL;
    int r;

    r = read_json(dirs->run_vms_fd, name, FILE_STATUS, &json, NULL);
    return r < 0 ? r : status_from_json(json, ret_status, NULL);
}

int records_read_wanted(const struct record_dirs *dirs, const char *name, struct wanted *ret_wanted, char **ret_why)
{
    struct wanted wanted = { 0 };
    const struct reading reading = { dirs->state_vms_fd, name, FILE_WANTED, parse_wanted, &wanted };
    int r = read_record(&reading, ret_why);

    if (r > 0)
        *ret_wanted = wanted;
    else
        wanted_clear(&wanted);
    return r;
}

bool records_qemu_lives(const struct status *status, const char *boot_id)
{
    auto_pidref struct pidref ref = PIDREF_NONE;

    if (status->qemu.pid == 0 || !streq_opt(status->boot_id, boot_id))
        return false;
    return pidref_open_identity((pid_t)status->qemu.pid, status->qemu.start_time, &ref) != -ESRCH;
}

bool records_vm_may_live(const struct record_dirs *dirs, const char *name)
{
    static const char *const locks[] = { FILE_SHIM_LOCK, FILE_VM_LOCK };
    auto_status struct status status = { 0 };
    char path[VM_PATH_MAX], boot_id[BOOT_ID_LEN + 1];

    for (size_t i = 0; i < ARRAY_LEN(locks); i++) {
        int r = lock_is_held(dirs->run_vms_fd, name_path(name, locks[i], path));
        if (r != 0 && r != -ENOENT && r != -ENOTDIR)
            return true;
    }
    int r = records_read_status(dirs, name, &status);
    if (r == -ENOENT || r == -ENOTDIR)
        return false;
    return r < 0 || boot_id_read(boot_id) < 0 || records_qemu_lives(&status, boot_id);
}

int records_state_dir(const struct record_dirs *dirs, const char *name)
{
    bool made = false;

    if (mkdirat(dirs->state_vms_fd, name, FOLDER_MODE) == 0)
        made = true;
    else if (errno != EEXIST)
        return -errno;
    /* What is written in it durably is lost all the same when its own name is. */
    if (made && fsync(dirs->state_vms_fd) < 0)
        return -errno;
    return dir_open(dirs->state_vms_fd, name);
}

int records_write_exit(const struct record_dirs *dirs, const char *name, const struct exit_record *exit)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int fd = -1;
    size_t len;
    int r;

    r = record_emit(&exit_type, exit, &json);
    if (r < 0)
        return r;
    r = json_format(json, &text, &len);
    if (r < 0)
        return r;
    fd = records_state_dir(dirs, name);
    if (fd < 0)
        return fd;
    return file_write(fd, FILE_LAST_EXIT, text, len, FILE_MODE, FILE_DURABLE);
}
