#include "shim/memory/walk.h"

#include "shim/memory/pager_private.h"

enum { AHEAD = 32 }; /* chunks that are asked for before they are read: 8 MiB */

static bool advance(const struct walk *w, struct cursor *c, struct chunk *ret_chunk)
{
    for (; c->run < w->n_runs; c->run++, c->page = 0) {
        uint64_t begin = w->runs ? w->runs[c->run].page : 0, end = w->runs ? begin + w->runs[c->run].count : w->p->pages;

        for (c->page = c->page < begin ? begin : c->page;
             pager_next_run(w->p, &c->page, end, CHUNK, &ret_chunk->count, &ret_chunk->present);) {
            ret_chunk->page = c->page;
            c->page += ret_chunk->count;
            if (!ret_chunk->present && !w->runs)
                continue;
            c->chunks++;
            return true;
        }
    }
    return false;
}

bool walk_next(struct walk *w, struct chunk *ret_chunk)
{
    struct chunk later;

    if (!advance(w, &w->now, ret_chunk))
        return false;
    if (w->ahead.chunks < w->now.chunks)
        w->ahead = w->now;
    while (w->ahead.chunks < w->now.chunks + AHEAD && advance(w, &w->ahead, &later))
        if (later.present)
            source_will_need(w->p, later.page, later.count);
    return true;
}
