/* A word with the monitor of a QEMU before there is a loop: one command at a time, each with a deadline. */
#pragma once

#include <jansson.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

struct talk;

/* Connects and negotiates. The errors are for the operator; -ETIMEDOUT most often means that another program holds the monitor. */
int talk_open(const char *path, struct talk **ret_talk, struct err *err);
void talk_free(struct talk *t);
DEFINE_CLEANUP(struct talk *, talk, talk_free)
#define auto_talk auto_cleanup(talk_cleanup)

/* What QEMU returns; ret_data may be NULL. `arguments` consumed, NULL: none. A descriptor goes along unless `fd` is -1; it stays the
 * caller's. -EREMOTEIO: QEMU refused. */
int talk_call_consume(struct talk *t, const char *command, json_t *arguments, int fd, json_t **ret_data, struct err *err);
