/* A memory index from disk: refused with its words, or whole, and then the same when written again. */
#include "tests/fuzz/image_target.h"

enum { HEADER = 64 };

static void walk(const struct memory_index *index)
{
    uint64_t present = 0, page = 0, first = 0, count = 0;

    for (bool wanted = true; page < memory_index_pages(index); wanted = !wanted) {
        if (!memory_index_run(index, page, wanted, &first, &count))
            break;
        require(count > 0 && first >= page && first + count <= memory_index_pages(index));
        require(memory_index_has(index, first) == wanted && memory_index_has(index, first + count - 1) == wanted);
        present += wanted ? count : 0;
        page = first + count;
    }
    require(present == memory_index_present(index));
}

static void try_index(const uint8_t *data, size_t size)
{
    struct memory_index auto_memory_index *index = NULL, *quick = NULL;
    auto_free void *again = NULL;
    struct err err = ERR_INIT;
    size_t len = 0;
    bool fine = memory_index_decode(data, size, true, &index, &err) == 0;

    require(fine == !err_is_set(&err));
    if (memory_index_decode(data, size, false, &quick, NULL) == 0)
        walk(quick);
    else
        require(!fine);
    if (!fine)
        return;
    walk(index);
    require(memory_index_encode(index, &again, &len) == 0);
    require(len == size && memcmp(again, data, len) == 0);
}

static void mend(uint8_t *data, size_t size)
{
    uint64_t head = size < HEADER ? 0 : memory_index_head_size(get_number(data + 16));

    if (head == 0 || head > size)
        return;
    put_sum(data + 40, data + HEADER, head - HEADER);
    put_sum(data + 48, data + head, size - head);
    put_sum(data + 56, data, 56);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_both(data, size, try_index, mend);
    return 0;
}
