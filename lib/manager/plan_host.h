/* What plans need to know of this host, looked up once for many. */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"
#include "lib/manager/qemu_user.h"

struct plan_host {
    bool kvm_usable;
    char *kvm_group, *qemu_img; /* NULL: none */
    struct qemu_user user;      /* of QEMUs whose spec names none; name NULL: ours */
    int user_r;                 /* -errno and user_err where that can't be told */
    struct err user_err;
};

/* `default_user`: the host config's, may be NULL. Blocks. -ENOMEM. */
int plan_host_look(const char *default_user, struct plan_host *ret_host);
void plan_host_clear(struct plan_host *host);
#define auto_plan_host auto_cleanup(plan_host_clear)
