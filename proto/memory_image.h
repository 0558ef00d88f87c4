/* A snapshot's memory beside the bytes themselves: memory.index says which pages of memory.raw are the guest's, working-set which of them
 * a restored guest needed first. Pure: on buffers, no I/O. How both look on disk, all numbers little-endian:
 *
 *   memory.index
 *      0  8  "HFMEMIDX"                      32  8  pages present
 *      8  4  version, 1                      40  8  XXH3-64 of the bitmap
 *     12  4  page size, 4096                 48  8  XXH3-64 of the sums
 *     16  8  size of the guest's RAM         56  8  XXH3-64 of bytes 0 to 55
 *     24  8  pages: RAM size / page size
 *     64     bitmap: 64-bit words, page N is bit N % 64 of word N / 64; bits behind the last page are 0
 *            sums: 32 bits a page, the low half of XXH3-64 of its 4096 bytes; 0 for a page that isn't present
 *
 *   working-set
 *      0  8  "HFWRKSET"                      56  8  number of runs
 *      8  4  version, 1                      64  8  XXH3-64 of the runs
 *     12  4  page size, 4096                 72  8  XXH3-64 of bytes 0 to 71
 *     16  8  size of the guest's RAM         80     runs: 32 bits first page, 32 bits number of pages
 *     24 32  the snapshot's id, in hex
 *
 * A page that isn't present is all zeros. The bitmap is the only evidence of that: not the holes of memory.raw, which a copy may fill or
 * make, and not a sum of 0. XXH3 (https://xxhash.com, seed 0) finds damage; it is no protection against an adversary. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

enum { IMAGE_PAGE = 4096 };
enum { SNAPSHOT_ID_LEN = 32, STREAM_SUM_TEXT_MAX = 17 };

/* So that a page's number fits in 32 bits. */
#define IMAGE_RAM_MAX (UINT64_C(16) << 40)

/* Is there an image of so much RAM? A multiple of IMAGE_PAGE from one page to IMAGE_RAM_MAX. */
bool image_ram_size_is_valid(uint64_t ram_size);

/* ---- one page ---- */

uint32_t memory_page_sum(const void *page);
bool memory_page_is_zero(const void *page);

/* ---- which pages are present ---- */

struct memory_index;

/* With no page present. -EINVAL: image_ram_size_is_valid() says no; -ENOMEM. */
int memory_index_new(uint64_t ram_size, struct memory_index **ret);
void memory_index_free(struct memory_index *index);
DEFINE_CLEANUP(struct memory_index *, memory_index, memory_index_free)
#define auto_memory_index auto_cleanup(memory_index_cleanup)

uint64_t memory_index_ram_size(const struct memory_index *index);
uint64_t memory_index_pages(const struct memory_index *index);
uint64_t memory_index_present(const struct memory_index *index); /* counts them: no field that writers of different words would share */

/* `page` below is less than memory_index_pages(). Threads may set pages at the same time if no two of them are in the same group of 64
 * (page / 64); who reads meanwhile sees some of it. */
bool memory_index_has(const struct memory_index *index, uint64_t page);
void memory_index_set(struct memory_index *index, uint64_t page, uint32_t sum);
void memory_index_set_absent(struct memory_index *index, uint64_t page);
uint32_t memory_index_sum(const struct memory_index *index, uint64_t page); /* 0 when sums weren't decoded */

/* The next run of pages that are all present (or all not) at or after `from`, as long as it can be; false: there is none. */
bool memory_index_run(const struct memory_index *index, uint64_t from, bool present, uint64_t *ret_first, uint64_t *ret_count);

/* malloc'ed. -EINVAL when the index was decoded without sums, -ENOMEM. */
int memory_index_encode(const struct memory_index *index, void **ret, size_t *ret_len);

/* `data` is a whole file. Without sums the bytes up to memory_index_head_size() are enough, and if there are more they must be a whole
 * file's; the sums are then not looked at. Needs memory in proportion to `len` alone. -EINVAL with id "bad-image" when anything is wrong,
 * -ENOMEM. */
int memory_index_decode(const void *data, size_t len, bool with_sums, struct memory_index **ret, struct err *err);

/* The file's size, and where its sums begin. 0 when image_ram_size_is_valid() says no. */
uint64_t memory_index_file_max(uint64_t ram_size);
uint64_t memory_index_head_size(uint64_t ram_size);

/* ---- which are needed first ---- */

struct page_run {
    uint32_t page, count;
};

struct working_set {
    char snapshot_id[SNAPSHOT_ID_LEN + 1]; /* lower-case hex: of the snapshot whose restores it was learned from */
    uint64_t ram_size;
    struct page_run *runs; /* in the order they were first needed; they may overlap; no more of them than there are pages */
    size_t n_runs;
};

/* malloc'ed. -EINVAL when working_set_decode() would refuse it, -ENOMEM. */
int working_set_encode(const struct working_set *set, void **ret, size_t *ret_len);
/* `data` is a whole file of a recording that was finished: one that is cut short is damaged. -EINVAL with id "bad-working-set" when
 * anything is wrong, -ENOMEM. Whether it is of this snapshot is the caller's to compare. */
int working_set_decode(const void *data, size_t len, struct working_set *ret, struct err *err);
/* The same pages sorted, overlaps and gaps of up to `gap` pages merged; *ret is malloc'ed, or NULL when there are none. -ENOMEM. */
int working_set_compact(const struct working_set *set, uint32_t gap, struct page_run **ret, size_t *ret_n);
void working_set_clear(struct working_set *set);
#define auto_working_set auto_cleanup(working_set_clear)

/* What no such file is longer than; 0 when image_ram_size_is_valid() says no. */
uint64_t working_set_file_max(uint64_t ram_size);

/* ---- the sum of a file that comes in pieces: device.state ---- */

struct stream_sum;

int stream_sum_new(struct stream_sum **ret);
void stream_sum_free(struct stream_sum *sum);
DEFINE_CLEANUP(struct stream_sum *, stream_sum, stream_sum_free)
#define auto_stream_sum auto_cleanup(stream_sum_cleanup)
void stream_sum_add(struct stream_sum *sum, const void *data, size_t len);
/* XXH3-64 of all that was added, as 16 hex digits; more may be added afterwards. Returns buf. */
const char *stream_sum_text(const struct stream_sum *sum, char buf[STREAM_SUM_TEXT_MAX]);
