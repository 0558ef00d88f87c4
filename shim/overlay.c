#include "shim/overlay.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"

enum {
    CLUSTER_BITS = 16,
    CLUSTER = 1 << CLUSTER_BITS,
    SECTOR = 512,
    HEADER_LEN = 104,
    BACKING_NAME_MAX = 1023,
    REFCOUNT_ORDER = 4, /* 16 bit each */
    /* Where things are, in clusters. */
    AT_REFCOUNT_TABLE = 1,
    AT_REFCOUNT_BLOCK = 2,
    AT_L1 = 3,
    L1_SHARE = CLUSTER / 8, /* clusters one entry stands for: a table of this many */
    L1_ENTRIES_MAX = 4 * 1024 * 1024,
};

#define MAGIC UINT32_C(0x514649fb)
#define EXTENSION_BACKING_FORMAT UINT32_C(0xe2792aca)

/* All numbers are big-endian. */
struct header {
    uint32_t magic, version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size, cluster_bits;
    uint64_t size;
    uint32_t crypt_method, l1_size;
    uint64_t l1_table_offset, refcount_table_offset;
    uint32_t refcount_table_clusters, nb_snapshots;
    uint64_t snapshots_offset, incompatible_features, compatible_features, autoclear_features;
    uint32_t refcount_order, header_length;
    /* The extension with the format of the backing file, and the one that ends them. */
    uint32_t format_type, format_len;
    char format[8];
    uint32_t end_type, end_len;
    char backing_file[BACKING_NAME_MAX];
};
_Static_assert(offsetof(struct header, format_type) == HEADER_LEN, "the header of version 3 has 104 bytes");
_Static_assert(sizeof(struct header) <= CLUSTER, "the header is one cluster");

static void make_header(const struct snapshot_layer *base, uint64_t size, uint32_t l1_entries, struct header *h)
{
    size_t name_len = strlen(base->path), format_len = strlen(base->format);

    *h = (struct header){
        .magic = htobe32(MAGIC),
        .version = htobe32(3),
        .backing_file_offset = htobe64(offsetof(struct header, backing_file)),
        .backing_file_size = htobe32((uint32_t)name_len),
        .cluster_bits = htobe32(CLUSTER_BITS),
        .size = htobe64(size),
        .l1_size = htobe32(l1_entries),
        .l1_table_offset = htobe64((uint64_t)AT_L1 * CLUSTER),
        .refcount_table_offset = htobe64((uint64_t)AT_REFCOUNT_TABLE * CLUSTER),
        .refcount_table_clusters = htobe32(1),
        .refcount_order = htobe32(REFCOUNT_ORDER),
        .header_length = htobe32(HEADER_LEN),
        .format_type = htobe32(EXTENSION_BACKING_FORMAT),
        .format_len = htobe32((uint32_t)format_len),
    };
    memcpy(h->format, base->format, format_len);
    memcpy(h->backing_file, base->path, name_len);
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset)
{
    ssize_t n = pwrite(fd, data, len, (off_t)offset);

    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -ENOSPC;
}

/* An L1 table of nothing but zeros: every cluster is the base's. All that isn't written is a hole. */
static int fill(int fd, const struct snapshot_layer *base, uint64_t size)
{
    uint64_t l1_entries = (size + (uint64_t)CLUSTER * L1_SHARE - 1) / ((uint64_t)CLUSTER * L1_SHARE);
    uint64_t clusters = AT_L1 + (l1_entries * 8 + CLUSTER - 1) / CLUSTER;
    uint64_t block = htobe64((uint64_t)AT_REFCOUNT_BLOCK * CLUSTER);
    uint16_t counts[AT_L1 + L1_ENTRIES_MAX * 8 / CLUSTER];
    struct header header;
    int r;

    make_header(base, size, (uint32_t)l1_entries, &header);
    for (size_t i = 0; i < clusters; i++)
        counts[i] = htobe16(1);
    if (ftruncate(fd, (off_t)(clusters * CLUSTER)) < 0)
        return -errno;
    r = write_at(fd, &header, sizeof(header), 0);
    if (r >= 0)
        r = write_at(fd, &block, sizeof(block), (uint64_t)AT_REFCOUNT_TABLE * CLUSTER);
    if (r >= 0)
        r = write_at(fd, counts, clusters * sizeof(counts[0]), (uint64_t)AT_REFCOUNT_BLOCK * CLUSTER);
    return r;
}

static int check(const struct snapshot_layer *base, uint64_t size, struct err *err)
{
    if (size == 0 || size % SECTOR != 0 || size / CLUSTER / L1_SHARE >= L1_ENTRIES_MAX)
        return err_set(err, EINVAL, "bad-disk", "%s: a disk of %" PRIu64 " bytes can't have an overlay", base->path, size);
    if (strlen(base->path) > BACKING_NAME_MAX)
        return err_set(err, ENAMETOOLONG, "bad-disk",
                       "%.64s…: the name has more than the %d bytes that a qcow2 image can hold; move the file to a shorter path",
                       base->path, BACKING_NAME_MAX);
    if (strlen(base->format) > sizeof(((struct header *)0)->format))
        return err_set(err, EINVAL, "bad-disk", "%s: no such format: %s", base->path, base->format);
    return 0;
}

int overlay_create(int folder_fd, const char *name, const struct snapshot_layer *base, uint64_t size, struct err *err)
{
    auto_fd int fd = -1;
    int r = check(base, size, err);

    if (r < 0)
        return r;
    fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_set_errno(err, errno, "no-overlay", "can't make %s on %s", name, base->path);
    r = fill(fd, base, size);
    if (r < 0) {
        (void)unlinkat(folder_fd, name, 0);
        return err_set_errno(err, -r, "no-overlay", "can't write %s on %s", name, base->path);
    }
    return steal_fd(&fd);
}
