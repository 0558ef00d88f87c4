/* What every fuzz target shows to whoever feeds it: libFuzzer (HOLDFAST_FUZZ) or replay.c. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
