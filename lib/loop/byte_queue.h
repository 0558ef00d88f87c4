/* Bytes waiting to be written, as one block that exists only while there are any. Internal to this folder. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Zeroed: empty. 32 bits wide, see struct stream. */
struct byte_queue {
    char *data;
    uint32_t pos, len, cap; /* data[pos … len) of cap */
};

static inline size_t byte_queue_len(const struct byte_queue *q) { return q->len - q->pos; }
static inline const char *byte_queue_head(const struct byte_queue *q) { return q->data + q->pos; }

/* Makes room, so that appends of `len` bytes in all can't fail. -ENOMEM, -ENOBUFS past 2 GiB. */
int byte_queue_reserve(struct byte_queue *q, size_t len);
/* Appends within what was reserved. */
void byte_queue_append(struct byte_queue *q, const void *data, size_t len);
/* Drops the first `len` bytes, and the block with the last of them. */
void byte_queue_consume(struct byte_queue *q, size_t len);
void byte_queue_clear(struct byte_queue *q);
