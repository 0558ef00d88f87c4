#include "lib/manager/reload.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/log.h"
#include "lib/manager/hold.h"
#include "lib/manager/image_update.h"
#include "lib/manager/planner.h"
#include "lib/manager/qemu_user.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/state.h"

struct reload_job {
    struct job job;
    struct manager *manager;
    char *config_dir;
    struct host_config config;
    struct err err;
    int r;
};

static void run(struct job *job)
{
    struct reload_job *j = container_of(job, struct reload_job, job);

    j->r = host_config_read(j->config_dir, &j->config, &j->err);
}

static bool same(const struct host_config *a, const struct host_config *b)
{
    auto_json json_t *left = NULL, *right = NULL;

    return record_emit(&host_config_type, a, &left) >= 0 && record_emit(&host_config_type, b, &right) >= 0 && json_equal(left, right);
}

/* Puts what the old config says in the place of what can't be changed while we run. */
static void keep(const char *key, char **slot, const char *in_force)
{
    auto_free char *said = steal_ptr(slot);

    (void)str_set(slot, in_force);
    if (!streq_opt(said, in_force))
        log_warning("host config: %s is changed by a restart of holdfastd (the VMs run on); until then it is %s", key,
                    in_force ? in_force : "the default");
}

static void set_log_level(const struct manager *m)
{
    enum log_level level = LOG_LEVEL_INFO;

    if (m->log_level_given)
        return;
    if (m->config.log_level)
        (void)log_level_from_string(m->config.log_level, &level);
    log_set_level(level);
}

static void apply(struct manager *m, struct host_config *config)
{
    struct host_config *old = calloc(1, sizeof(*old));
    bool user_changed = !streq_opt(m->config.qemu_user, config->qemu_user);

    if (!old) {
        log_error("host config: out of memory: the old one stays in force");
        return;
    }
    keep("/group", &config->group, m->config.group);
    keep("/vm_config/configs_dir", &config->vm_config.configs_dir, m->config.vm_config.configs_dir);
    /* Threads may be reading in the old one: it is kept until the end. */
    *old = m->config;
    old->older = m->old_configs;
    m->old_configs = old;
    m->config = *config;
    *config = (struct host_config){ 0 };
    set_log_level(m);
    log_info("host config: the new one is in force");
    image_updates_schedule(m);
    hold_freed(m); /* there may be more room now */
    if (user_changed)
        qemu_user_warn(m->config.qemu_user);
    /* By another user, for one, a VM has another plan, which is shown; and what an edit means may be another matter now. */
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        vm->check_due = vm->check_due || vm->has_spec;
        vm->edit_due = true;
    }
    planner_check(m);
    spec_edit_kick(m);
}

static void done(struct job *job)
{
    struct reload_job *j = container_of(job, struct reload_job, job);
    struct manager *m = j->manager;

    m->reloading = false;
    if (m->stopping) {
        /* the next manager reads it */
    } else if (j->r < 0) {
        log_error("host config: %s: the old one stays in force", err_is_set(&j->err) ? j->err.text : strerror(-j->r));
    } else if (!j->config.found && m->config.found) {
        log_warning("host config: there is none any more in %s: what it said stays in force until a restart of holdfastd", j->config_dir);
    } else if (!same(&m->config, &j->config)) {
        apply(m, &j->config);
    }
    host_config_clear(&j->config);
    free(j->config_dir);
    free(j);
    if (m->reload_again && !m->stopping) {
        m->reload_again = false;
        reload_begin(m);
    }
}

void reload_begin(struct manager *m)
{
    struct reload_job *j;

    if (m->reloading) { /* it may have read the file before it was changed */
        m->reload_again = true;
        return;
    }
    j = calloc(1, sizeof(*j));
    if (!j || str_set(&j->config_dir, m->dirs.config) < 0) {
        free(j);
        log_error("host config: out of memory: not read again");
        return;
    }
    j->manager = m;
    j->job.run = run;
    j->job.done = done;
    m->reloading = true;
    worker_add(m->watcher, &j->job);
}
