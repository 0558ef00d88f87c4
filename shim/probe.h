/* One attempt of a health probe: begins, and says once whether it went well. Nothing blocks, every attempt is bounded, and an attempt may
 * be called off at any time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/plan.h"

struct vm;
struct probe_attempt;

/* Begins an attempt of `probe` (which must outlive it). `done` is called once from the loop, unless the attempt is freed before, and the
 * owner frees the attempt then or later. `why` is one line about a failure, NULL when it went well. -errno when it can't even begin, which is a
 * failure of the probe too. */
int probe_begin(struct vm *vm, const struct plan_probe *probe, void (*done)(void *arg, const char *why), void *arg,
                struct probe_attempt **ret_attempt);
void probe_free(struct probe_attempt *a);
