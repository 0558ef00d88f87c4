/* The log sink: one line a message to stderr, and nowhere else. This is one of the two kinds of global state in the code base.
 *
 * Only cmd/, shim/, lib/manager and lib/images log; leaf libraries return errors. A function logs or returns, not both.
 * Under journald (JOURNAL_STREAM names our stderr) lines carry a "<N>" priority prefix, see sd-daemon(3); else a UTC
 * time stamp. Lines about a VM carry "vm=NAME". A full or closed stderr never blocks or kills the caller: the line is lost. */
#pragma once

#include <stdarg.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* `program` must outlive every later call (a literal). Level from the environment variable HOLDFAST_LOG_LEVEL
 * (error warning info debug) if set and valid, else `level`. */
void log_open(const char *program, enum log_level level);
void log_set_level(enum log_level level);
int log_level_from_string(const char *s, enum log_level *ret_level);

/* `vm` may be NULL. errno is preserved. */
void log_write(enum log_level level, const char *vm, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)
#define log_vm_error(vm, ...) log_write(LOG_LEVEL_ERROR, (vm), __VA_ARGS__)
#define log_vm_warning(vm, ...) log_write(LOG_LEVEL_WARNING, (vm), __VA_ARGS__)
#define log_vm_info(vm, ...) log_write(LOG_LEVEL_INFO, (vm), __VA_ARGS__)
#define log_vm_debug(vm, ...) log_write(LOG_LEVEL_DEBUG, (vm), __VA_ARGS__)
