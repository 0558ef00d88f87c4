/* The identifier that a restored or cloned machine gets anew. The guest's kernel has no driver for it, so it is read where the ACPI table
 * says: SSDT "VMGENID" names an address VGIA, and 40 bytes further lies the GUID (QEMU docs/specs/vmgenid.txt). */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/guest/work.h"

enum {
    PAGE = 4096,
    TABLE_MAX = 64 * 1024,
    GUID_OFFSET = 40,
    GUID_LEN = 16,
    DWORD_PREFIX = 0x0c, /* AML: four bytes, little endian */
};

static const char folder[] = "/sys/firmware/acpi/tables";

static bool address_in(const unsigned char *table, size_t len, uint32_t *ret)
{
    static const unsigned char name[] = { 'V', 'G', 'I', 'A', DWORD_PREFIX };

    const unsigned char *at = memmem(table, len, name, sizeof(name));
    if (!at || (size_t)(at - table) + sizeof(name) + sizeof(*ret) > len)
        return false;
    memcpy(ret, at + sizeof(name), sizeof(*ret));
    return true;
}

static bool find_address(uint32_t *ret)
{
    static unsigned char table[TABLE_MAX];
    bool found = false;
    DIR *dir = opendir(folder);

    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        if (strncmp(e->d_name, "SSDT", 4) != 0)
            continue;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, table, sizeof(table)) : 0;
        found = n > 0 && address_in(table, (size_t)n, ret);
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
    return found;
}

int vmgenid_run(int tty, const char *arguments)
{
    uint32_t address = 0;
    unsigned char g[GUID_LEN];

    (void)arguments;
    if (!find_address(&address)) {
        tell(tty, "vmgenid: none, no ACPI table tells of one");
        return 1;
    }
    int fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
    /* Mapped, since read(2) of the device refuses what firmware has reserved. */
    const unsigned char *page = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (off_t)(address & ~(PAGE - 1U)));
    bool found = page != MAP_FAILED;
    if (found)
        memcpy(g, page + address % PAGE + GUID_OFFSET, sizeof(g));
    if (found) /* the first three fields are little endian */
        tell(tty, "vmgenid: %02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", g[3], g[2], g[1], g[0], g[5], g[4], g[7],
             g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]);
    else
        tell(tty, "vmgenid: none, /dev/mem can't be mapped at %x: %m", address);
    if (fd >= 0)
        close(fd);
    return !found;
}
