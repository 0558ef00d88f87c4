/* Every verb there is; each is defined in the file of its name. */
#pragma once

#include "cmd/vmctl/verb.h"

extern const struct verb verb_apply, verb_check, verb_clone, verb_completion, verb_console, verb_convert, verb_delete, verb_diff,
    verb_doctor, verb_drain, verb_events, verb_health, verb_help, verb_image_delete, verb_image_import, verb_image_list, verb_image_prune,
    verb_image_pull, verb_image_show, verb_inspect, verb_kill, verb_list, verb_logs, verb_pause, verb_qmp, verb_reset, verb_restart,
    verb_restore, verb_resume, verb_shim_adopt, verb_shim_call, verb_shim_events, verb_shim_list, verb_shim_status, verb_snapshot_create,
    verb_snapshot_delete, verb_snapshot_list, verb_snapshot_show, verb_snapshot_verify, verb_snapshot_warm, verb_start, verb_status,
    verb_stop, verb_version, verb_wait;
