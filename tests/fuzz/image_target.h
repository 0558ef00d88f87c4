/* What the targets of a snapshot's binary files share: sums made right, which no fuzzer guesses. */
#pragma once

#include "proto/memory_image.h"
#include "tests/fuzz/record_target.h"

static inline void put_number(uint8_t *at, uint64_t n)
{
    for (size_t i = 0; i < 8; i++)
        at[i] = (uint8_t)(n >> 8 * i);
}

static inline uint64_t get_number(const uint8_t *at)
{
    uint64_t n = 0;
    for (size_t i = 0; i < 8; i++)
        n |= (uint64_t)at[i] << 8 * i;
    return n;
}

static inline void put_sum(uint8_t *at, const uint8_t *data, size_t len)
{
    struct stream_sum auto_stream_sum *sum = NULL;
    char text[STREAM_SUM_TEXT_MAX];
    uint64_t n = 0;

    require(stream_sum_new(&sum) == 0);
    stream_sum_add(sum, data, len);
    stream_sum_text(sum, text);
    for (const char *c = text; *c; c++)
        n = n << 4 | (uint64_t)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
    put_number(at, n);
}

/* As it came, and with its sums made right by `mend`, in a block of just its size. */
static inline void try_both(const uint8_t *data, size_t size, void (*try)(const uint8_t *data, size_t size),
                            void (*mend)(uint8_t *data, size_t size))
{
    auto_free uint8_t *copy = malloc(size ? size : 1);

    require(copy != NULL);
    try(data, size);
    if (size)
        memcpy(copy, data, size);
    mend(copy, size);
    try(copy, size);
}
