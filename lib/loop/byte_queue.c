#include "lib/loop/byte_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CAP_MIN = 1024 };
static const size_t cap_max = (size_t)1 << 31;

int byte_queue_reserve(struct byte_queue *q, size_t len)
{
    size_t queued = byte_queue_len(q), cap = q->cap < CAP_MIN ? CAP_MIN : q->cap;
    char *bigger;

    if (len > cap_max - queued)
        return -ENOBUFS;
    if (q->pos > 0 && q->cap - q->len < len) {
        memmove(q->data, q->data + q->pos, queued);
        q->pos = 0;
        q->len = (uint32_t)queued;
    }
    if (q->cap - q->len >= len)
        return 0;
    while (cap - q->len < len)
        cap *= 2;
    bigger = realloc(q->data, cap);
    if (!bigger)
        return -ENOMEM;
    q->data = bigger;
    q->cap = (uint32_t)cap;
    return 0;
}

void byte_queue_append(struct byte_queue *q, const void *data, size_t len)
{
    if (len == 0)
        return;
    memcpy(q->data + q->len, data, len);
    q->len += (uint32_t)len;
}

void byte_queue_consume(struct byte_queue *q, size_t len)
{
    q->pos += (uint32_t)len;
    if (q->pos == q->len)
        byte_queue_clear(q);
}

void byte_queue_clear(struct byte_queue *q)
{
    free(q->data);
    *q = (struct byte_queue){ 0 };
}
