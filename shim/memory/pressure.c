#include "shim/memory/pressure.h"

#include <fcntl.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"

bool pressure_text_is_high(const char *text)
{
    static const char before[] = "some avg10=";
    const char *p = strstr(text, before);
    unsigned percent = 0;

    if (!p)
        return false;
    for (p += sizeof(before) - 1; *p >= '0' && *p <= '9' && percent <= 100; p++)
        percent = percent * 10 + (unsigned)(*p - '0');
    return percent >= PRESSURE_PERCENT;
}

static bool file_is_high(const char *path)
{
    char text[256];
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n <= 0)
        return false;
    text[n] = '\0';
    return pressure_text_is_high(text);
}

bool pressure_is_high(void) { return file_is_high("/proc/pressure/memory") || file_is_high("/proc/pressure/io"); }
