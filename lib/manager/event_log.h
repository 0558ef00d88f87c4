/* STATE/vms/NAME/events.jsonl: what the manager has seen of a VM's events, one JSON object a line, cut to its newer half when it has
 * grown to EVENT_LOG_MAX. Numbers that are missing between two lines were lost. No state, no loop: for the writer's thread. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { EVENT_LOG_MAX = 1024 * 1024 };

/* `dirfd`: STATE/vms/NAME. Appends one line (given without its newline). A line that a crash left unfinished is ended first. */
int event_log_append(int dirfd, const char *line, size_t len);

/* The number of the newest whole line, 0 when there is none; -errno. */
int event_log_newest(int dirfd, const char *file, uint64_t *ret_seq);

/* Calls `each` for every line with seq > since, oldest first; lines that don't parse are passed over. A missing file has no lines. */
int event_log_read(int dirfd, const char *file, uint64_t since, void (*each)(void *arg, json_t *event), void *arg);
