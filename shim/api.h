/* What the files with methods of io.holdfast.Shim share. */
#pragma once

#include <stdbool.h>

#include "lib/varlink/service.h"

struct vm;

/* Whether the call names the incarnation that runs; else it is answered. */
bool api_means_us(const struct vm *vm, struct varlink_call *call, const json_t *parameters);
void api_reply_failed(struct varlink_call *call, const char *id, const char *reason);

typedef void api_handler(struct varlink_call *call, const json_t *parameters, void *userdata);
api_handler api_update;                                        /* update.c */
api_handler api_get_memory, api_snapshot, api_cancel_snapshot; /* api_memory.c */
