#include "cmd/vmctl/terminal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

unsigned terminal_width(int fd)
{
    struct winsize size;

    return isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void terminal_status_line(const char *text)
{
    unsigned width;

    if (!isatty(STDERR_FILENO))
        return;
    (void)fflush(stdout);
    if (!text) {
        fputs("\r\033[K", stderr);
        return;
    }
    width = terminal_width(STDERR_FILENO);
    /* Not the last column: a terminal that wraps there would make a second line. */
    fprintf(stderr, "\r\033[K%.*s", width > 1 ? (int)width - 1 : 79, text);
}

int raw_mode_enter(struct raw_mode *raw, int fd)
{
    struct termios t;

    raw->fd = -1;
    if (!isatty(fd))
        return 0;
    if (tcgetattr(fd, &raw->saved) < 0)
        return -errno;
    t = raw->saved;
    cfmakeraw(&t);
    if (tcsetattr(fd, TCSADRAIN, &t) < 0)
        return -errno;
    raw->fd = fd;
    return 0;
}

void raw_mode_leave(struct raw_mode *raw)
{
    if (raw->fd >= 0)
        tcsetattr(raw->fd, TCSADRAIN, &raw->saved);
    raw->fd = -1;
}
