/* How a page gets in, and how it is known that it is.
 *
 * A page is marked in `settled` after it was installed, or when it is read that the guest gave it back; never before. Whoever is killed with
 * SIGKILL between any two instructions leaves a state from which a successor goes on without a wrong byte:
 *  - Installed and not marked: the successor installs it again, which the kernel refuses (EEXIST), whatever the guest wrote there since;
 *    and it is marked.
 *  - Installed, not marked, and then given back: so that the old content comes back the successor would have to install it without knowing
 *    of the removal. While the event is unread every ioctl fails with EAGAIN. It is read straight into `batch` in the state, which stays
 *    in memory (mlock), so that nothing can stop the kernel between taking it off its list and having it there; and it stays in the batch
 *    until the pages are marked. A successor marks what it finds in the batch before it installs anything. Marking twice changes nothing:
 *    what was given back is not loaded again, and what was in is in.
 *  - Marked is only what was installed or given back. So a marked page that faults was given back, and reads as zeros.
 *
 * Within one process: removals are read and marked under faults_lock(), and who installs on another thread looks at the marks and
 * installs under it, too. The events' thread reads the events itself, so no removal can be read between its look and its ioctl.
 * A removal takes effect after its event was read, so a page that is installed before is still taken out.
 *
 * Before anybody may fault, pages are written into the memfd plainly and marked then; `attached` in the state tells a successor that it
 * must not. */
#include <errno.h>

#include "lib/base/failpoint.h"
#include "shim/memory/pager_private.h"

static const char zero_page[UFFD_PAGE];

#ifdef HOLDFAST_FAILPOINTS
/* Of what was missing when the guest began to run. */
static void hit_failpoints(const struct pager *p, uint64_t fresh)
{
    uint64_t all = atomic_load(&p->left_at_attach), left = atomic_load(&p->left), before, after;

    if (all == 0 || left > all || left < fresh)
        return;
    before = (all - left) * 100 / all;
    after = (all - left + fresh) * 100 / all;
    if (before < 1 && after >= 1)
        FAILPOINT("shim.restore-1");
    if (before < 50 && after >= 50)
        FAILPOINT("shim.restore-50");
    if (before < 99 && after >= 99)
        FAILPOINT("shim.restore-99");
}
#else
static void hit_failpoints(const struct pager *p, uint64_t fresh) {}
#endif

void pager_settle_pages(struct pager *p, uint64_t page, uint64_t count)
{
    uint64_t fresh = state_settle(&p->state, page, count, p->present);

    if (fresh > 0)
        hit_failpoints(p, fresh);

    if (fresh > 0 && atomic_fetch_sub(&p->left, fresh) == fresh)
        pager_wake_loader(p);
}

/* While somebody watches for writes, pages come protected: else what the guest writes to them would be missed. ZEROPAGE can't do that. */
static struct uffd_progress put(struct pager *p, uint64_t page, uint64_t count, const void *buf)
{
    uint64_t addr = pager_addr(p, page);

    if (!(faults_modes(p->faults) & UFFDIO_REGISTER_MODE_WP))
        return buf ? uffd_copy(p->uffd, addr, buf, count * UFFD_PAGE) : uffd_zero(p->uffd, addr, count * UFFD_PAGE);
    return buf ? uffd_copy_protected(p->uffd, addr, buf, count * UFFD_PAGE) : uffd_copy_protected(p->uffd, addr, zero_page, UFFD_PAGE);
}

int pager_install(struct pager *p, uint64_t page, uint64_t count, const void *buf, atomic_ulong *count_in)
{
    uint64_t most = count;

    while (count > 0) {
        struct uffd_progress w = put(p, page, count < most ? count : most, buf);
        uint64_t in = w.done / UFFD_PAGE;

        if (w.r == -EEXIST && in == 0) {
            /* Somebody was faster, and may have slept through the wakeup. */
            (void)uffd_wake(p->uffd, pager_addr(p, page), UFFD_PAGE);
            in = 1;
        } else if (in > 0) {
            atomic_fetch_add_explicit(&p->bytes_installed, w.done, memory_order_relaxed);
            if (count_in)
                atomic_fetch_add_explicit(count_in, in, memory_order_relaxed);
        } else if (w.r == -ENOENT && most > 1) {
            most = 1; /* across two mappings: nothing was done */
        } else {
            return w.r ? w.r : -EIO;
        }
        pager_settle_pages(p, page, in);
        page += in;
        count -= in;
        buf = buf ? (const char *)buf + in * UFFD_PAGE : NULL;
    }
    return 0;
}

bool pager_next_run(const struct pager *p, uint64_t *page, uint64_t end, uint64_t max, uint64_t *ret_count, bool *ret_present)
{
    uint64_t at = *page, n;

    while (at < end && state_is_settled(&p->state, at))
        at += at % 64 == 0 && atomic_load_explicit(&p->state.settled[at / 64], memory_order_acquire) == ~UINT64_C(0) ? 64 : 1;
    if (at >= end)
        return false;
    *ret_present = pager_has(p, at);
    for (n = 1; n < max && at + n < end && !state_is_settled(&p->state, at + n) && pager_has(p, at + n) == *ret_present; n++)
        ;
    *page = at;
    *ret_count = n;
    return true;
}
