/* Whom QEMU runs as (DESIGN §6): looked up when a plan is made, so that the plan holds numbers. */
#pragma once

#include "lib/base/err.h"
#include "lib/qemu/resolve.h"

#define QEMU_USER_DEFAULT "holdfast-qemu"

/* `wanted`: a name or a number; NULL: holdfast-qemu or, where there is none, a number that is nobody's. *ret_user->name stays NULL when QEMU
 * is to be what we are: "root" was wanted, or we aren't root, who alone can start it as another. May ask a directory service: not for the
 * loop's thread. */
int qemu_user_find(const char *wanted, struct qemu_user *ret_user, struct err *err);
void qemu_user_clear(struct qemu_user *u);
#define auto_qemu_user auto_cleanup(qemu_user_clear)

/* For the log of a manager that starts: one line with the remedy when there is no user for QEMU. */
void qemu_user_warn(const char *wanted);

/* The number, as text, of the group that may open /dev/kvm when not everybody may; NULL: none. malloc'ed. */
char *kvm_group_find(void);
