/* Process 1 of the test guest: a static program that is the whole userland but for busybox.
 *
 * It loads the modules listed in /modules/order, says "holdfast-guest: ready" on the first serial port, and from then on prints "tick N",
 * N = 1, 2, 3 …, ten times a second, each with one write(2), so that a reader of the console can prove that no time was lost. It powers
 * off when the ACPI power button is pressed, and obeys lines on the serial port:
 *
 *   poweroff | reboot | panic     what they say
 *   noacpi | acpi                 ignore the power button from now on; heed it again
 *   flood N                       N KiB of output in lines of 64 bytes, ticks in between, then "flooded N"
 *   tick MS                       another interval for the heartbeat, 0: none
 *   deaf                          the guest agent answers no more
 *   echo TEXT                     prints TEXT
 *   sh COMMAND                    busybox sh -c COMMAND, its output on the serial port, then "sh: exit CODE"
 *   pattern SEED MIB [hold]       fills MIB MiB (0: nearly all there is) with a pattern, rewrites and checks it from then on: pattern.c
 *   hold | go                     the pattern stands still, goes on
 *   touch MIB [KIB]               reads a few words of each page of so many MiB of it and says how long that took: in no order, in areas
 *                                 of KIB (default 4, a page) that lie anywhere
 *   stain WORD MIB                writes the word to the head of each page of MIB MiB
 *   unstain                       frees them
 *   disk PATH                     writes to a disk and checks it against memory from then on: disk.c
 *   vmgenid                       the machine's generation identifier
 *   verity DEVICE                 mounts a release's root file system at /mnt, verified: verity.c
 *
 * Kernel command line (passed by the kernel as environment variables): tick=MS sets the first interval, pattern=SEED,MIB[,hold] and
 * disk=PATH begin these. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/guest/work.h"

enum {
    BUTTONS_MAX = 8,
    LINE_MAX_LEN = WORK_LINE_MAX,
    TICK_MS = 100,
    FLOOD_LINE = 64,
    WORK_NICE = 10, /* the heartbeat comes first */
    AGENT_LOOK_MS = 50,
};

struct guest {
    int tty;
    pid_t stain; /* the process that has stained pages, 0: none */
    int pattern; /* a pipe to the process that has one, -1: none was begun */
    int agent;   /* the guest agent's channel, -1: there is none */
    char agent_line[LINE_MAX_LEN];
    size_t agent_len;
    bool agent_deaf, agent_alone; /* nobody on the host has its channel open: poll(2) would not wait then */
    int buttons[BUTTONS_MAX];
    int n_buttons;
    bool ignore_button;
    unsigned long long tick;  /* the last one printed */
    unsigned long interval;   /* between ticks, ms; 0: none */
    long long next_tick;      /* monotonic ms */
    unsigned long flood_left; /* lines */
    unsigned long flood_kib;
    char line[LINE_MAX_LEN];
    size_t line_len;
};

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

void tell(int tty, const char *fmt, ...)
{
    char line[LINE_MAX_LEN + 64];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof(line) - 1 ? (size_t)n : sizeof(line) - 2;
    line[len++] = '\n';
    for (size_t done = 0; done < len;) {
        ssize_t w = write(tty, line + done, len - done);
        if (w <= 0)
            return;
        done += (size_t)w;
    }
}

bool number(const char *s, unsigned long *ret)
{
    unsigned long v = 0;
    if (!*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > 100000000)
            return false;
        v = v * 10 + (unsigned long)(*s - '0');
    }
    *ret = v;
    return true;
}

static void mount_all(void)
{
    static const struct {
        const char *type, *where;
    } mounts[] = { { "devtmpfs", "/dev" }, { "proc", "/proc" }, { "sysfs", "/sys" }, { "tmpfs", "/tmp" } };
    for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        mkdir(mounts[i].where, 0755);
        mount(mounts[i].type, mounts[i].where, mounts[i].type, 0, NULL);
    }
}

/* A module the kernel refuses is no reason not to boot: the test that needs it will say so better. */
static void load_modules(struct guest *g)
{
    FILE *order = fopen("/modules/order", "re");
    if (!order)
        return;
    char name[128], path[160];
    while (fgets(name, sizeof(name), order)) {
        name[strcspn(name, "\n")] = '\0';
        snprintf(path, sizeof(path), "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
            tell(g->tty, "holdfast-guest: module %s: %m", name);
        if (fd >= 0)
            close(fd);
    }
    fclose(order);
}

static void open_tty(struct guest *g)
{
    g->tty = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (g->tty < 0)
        g->tty = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios t;
    if (g->tty >= 0 && tcgetattr(g->tty, &t) == 0) {
        t.c_iflag &= ~(tcflag_t)(IXON | ICRNL);
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG | IEXTEN);
        tcsetattr(g->tty, TCSANOW, &t);
    }
}

static void open_buttons(struct guest *g)
{
    DIR *dir = opendir("/dev/input");
    for (struct dirent *e; dir && (e = readdir(dir)) && g->n_buttons < BUTTONS_MAX;) {
        if (strncmp(e->d_name, "event", 5) != 0)
            continue;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            g->buttons[g->n_buttons++] = fd;
    }
    if (dir)
        closedir(dir);
}

static void power_off(struct guest *g)
{
    tell(g->tty, "holdfast-guest: powering off");
    tcdrain(g->tty);
    sync();
    reboot(RB_POWER_OFF);
}

static void read_button(struct guest *g, int fd)
{
    struct input_event e;
    while (read(fd, &e, sizeof(e)) == (ssize_t)sizeof(e)) {
        if (e.type != EV_KEY || e.code != KEY_POWER || e.value != 1)
            continue;
        tell(g->tty, "holdfast-guest: power button%s", g->ignore_button ? ", ignored" : "");
        if (!g->ignore_button)
            power_off(g);
    }
}

/* Runs busybox sh -c COMMAND with the serial port as its stdin, stdout and stderr; its child when `wait` is false. */
static void shell(struct guest *g, const char *command, bool wait)
{
    pid_t pid = fork();
    if (pid == 0) {
        dup2(g->tty, 0);
        dup2(g->tty, 1);
        dup2(g->tty, 2);
        execl("/bin/busybox", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    if (pid > 0 && wait && waitpid(pid, &status, 0) == pid)
        tell(g->tty, "sh: exit %d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* A child that does one of the works of work.h and nothing else. */
static pid_t begin_work(struct guest *g, int (*work)(int tty, const char *arguments), const char *arguments)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(nice(WORK_NICE) < 0 ? 1 : work(g->tty, arguments));
    return pid;
}

static void unstain(struct guest *g)
{
    if (g->stain > 0 && kill(g->stain, SIGKILL) == 0)
        waitpid(g->stain, NULL, 0);
    g->stain = 0;
    tell(g->tty, "unstained");
}

static void begin_pattern(struct guest *g, const char *arguments)
{
    int ends[2];
    if (g->pattern >= 0 || pipe2(ends, O_CLOEXEC) < 0) {
        tell(g->tty, "holdfast-guest: no pattern beside the one there is");
        return;
    }
    if (fork() == 0) {
        close(ends[1]);
        _exit(nice(WORK_NICE) < 0 ? 1 : pattern_run(g->tty, ends[0], arguments));
    }
    close(ends[0]);
    g->pattern = ends[1];
}

static void order_pattern(struct guest *g, const char *order, const char *arg)
{
    if (g->pattern < 0 || dprintf(g->pattern, "%s%s%s\n", order, *arg ? " " : "", arg) < 0)
        tell(g->tty, "holdfast-guest: there is no pattern");
}

/* Whether it was one of the commands about memory and disk. */
static bool obey_work(struct guest *g, const char *command, const char *arg)
{
    if (strcmp(command, "pattern") == 0)
        begin_pattern(g, arg);
    else if (strcmp(command, "hold") == 0 || strcmp(command, "go") == 0 || strcmp(command, "touch") == 0)
        order_pattern(g, command, arg);
    else if (strcmp(command, "stain") == 0)
        g->stain = begin_work(g, stain_run, arg);
    else if (strcmp(command, "unstain") == 0)
        unstain(g);
    else if (strcmp(command, "disk") == 0)
        begin_work(g, disk_run, arg);
    else if (strcmp(command, "verity") == 0)
        begin_work(g, verity_run, arg);
    else if (strcmp(command, "vmgenid") == 0)
        begin_work(g, vmgenid_run, arg);
    else
        return false;
    return true;
}

static void do_panic(struct guest *g)
{
    int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "c", 1) != 1)
        tell(g->tty, "holdfast-guest: can't panic: %m");
    if (fd >= 0)
        close(fd);
}

static void obey(struct guest *g, char *line)
{
    char *arg = strchr(line, ' ');
    if (arg)
        *arg++ = '\0';
    else
        arg = line + strlen(line);

    if (strcmp(line, "poweroff") == 0) {
        power_off(g);
    } else if (strcmp(line, "reboot") == 0) {
        sync();
        reboot(RB_AUTOBOOT);
    } else if (strcmp(line, "panic") == 0) {
        do_panic(g);
    } else if (strcmp(line, "noacpi") == 0 || strcmp(line, "acpi") == 0) {
        g->ignore_button = line[0] == 'n';
        tell(g->tty, "holdfast-guest: power button %s", g->ignore_button ? "off" : "on");
    } else if (strcmp(line, "flood") == 0 && number(arg, &g->flood_kib)) {
        g->flood_left = g->flood_kib * (1024 / FLOOD_LINE);
    } else if (strcmp(line, "tick") == 0 && number(arg, &g->interval)) {
        g->next_tick = now_ms();
    } else if (strcmp(line, "deaf") == 0) {
        g->agent_deaf = true;
        tell(g->tty, "holdfast-guest: agent is deaf");
    } else if (strcmp(line, "echo") == 0) {
        tell(g->tty, "%s", arg);
    } else if (strcmp(line, "sh") == 0) {
        shell(g, arg, true);
    } else if (line[0] && !obey_work(g, line, arg)) {
        tell(g->tty, "holdfast-guest: unknown command: %s", line);
    }
}

static void read_tty(struct guest *g)
{
    char buf[256];
    ssize_t n = read(g->tty, buf, sizeof(buf));
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] == '\n' || buf[i] == '\r') {
            g->line[g->line_len] = '\0';
            g->line_len = 0;
            obey(g, g->line);
        } else if (g->line_len < sizeof(g->line) - 1) {
            g->line[g->line_len++] = buf[i];
        }
    }
}

/* The guest agent's channel is the virtio port of that name. */
static void open_agent(struct guest *g)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    for (struct dirent *e; dir && (e = readdir(dir)) && g->agent < 0;) {
        char path[300], name[64] = "";
        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (read(fd, name, sizeof(name) - 1) > 0 && strncmp(name, "org.qemu.guest_agent.0", 22) == 0) {
            snprintf(path, sizeof(path), "/dev/%s", e->d_name);
            g->agent = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
        close(fd);
    }
    if (dir)
        closedir(dir);
}

/* As much of qemu-ga as Holdfast speaks: guest-ping and guest-shutdown. */
static void obey_agent(struct guest *g, const char *line)
{
    static const char answer[] = "{\"return\": {}}\n", unknown[] = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"unknown\"}}\n";
    bool ping = strstr(line, "guest-ping"), shutdown = strstr(line, "guest-shutdown");
    const char *reply = ping ? answer : unknown;
    if (g->agent_deaf)
        return;
    if (shutdown) {
        tell(g->tty, "holdfast-guest: the agent was told to shut down");
        power_off(g);
    }
    if (write(g->agent, reply, strlen(reply)) < 0)
        tell(g->tty, "holdfast-guest: agent: %m");
}

static void read_agent(struct guest *g)
{
    char buf[256];
    ssize_t n = read(g->agent, buf, sizeof(buf));
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] == '\n') {
            g->agent_line[g->agent_len] = '\0';
            obey_agent(g, g->agent_line);
            g->agent_len = 0;
        } else if (g->agent_len < sizeof(g->agent_line) - 1) {
            g->agent_line[g->agent_len++] = buf[i];
        }
    }
}

static void flood_step(struct guest *g)
{
    /* ONLCR adds the 64th byte. */
    tell(g->tty, "flood %-*lu", FLOOD_LINE - 2 - (int)strlen("flood "), g->flood_left);
    if (--g->flood_left == 0)
        tell(g->tty, "flooded %lu", g->flood_kib);
}

static int time_to_next(const struct guest *g)
{
    if (g->flood_left)
        return 0;
    long long left = g->interval ? g->next_tick - now_ms() : -1;
    if (g->agent_alone && (left > AGENT_LOOK_MS || !g->interval))
        return AGENT_LOOK_MS;
    return !g->interval ? -1 : left > 0 ? (int)left : 0;
}

static void run(struct guest *g)
{
    for (;;) {
        struct pollfd fds[2 + BUTTONS_MAX] = { { .fd = g->tty, .events = POLLIN },
                                               { .fd = g->agent_alone ? -1 : g->agent, .events = POLLIN } };
        g->agent_alone = false;
        for (int i = 0; i < g->n_buttons; i++)
            fds[2 + i] = (struct pollfd){ .fd = g->buttons[i], .events = POLLIN };
        if (poll(fds, (nfds_t)(2 + g->n_buttons), time_to_next(g)) > 0) {
            if (fds[0].revents)
                read_tty(g); /* first, so that "noacpi" counts for a button pressed right after it */
            if (fds[1].revents & POLLIN)
                read_agent(g);
            g->agent_alone = fds[1].revents == POLLHUP;
            for (int i = 0; i < g->n_buttons; i++)
                if (fds[2 + i].revents)
                    read_button(g, g->buttons[i]);
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (g->flood_left)
            flood_step(g);
        if (g->interval && now_ms() >= g->next_tick) {
            tell(g->tty, "tick %llu", ++g->tick);
            g->next_tick = now_ms() + (long long)g->interval;
        }
    }
}

int main(void)
{
    struct guest g = { .tty = -1, .pattern = -1, .agent = -1, .interval = TICK_MS };
    mount_all();
    open_tty(&g);
    load_modules(&g);
    open_buttons(&g);
    open_agent(&g);
    const char *tick = getenv("tick");
    if (tick)
        number(tick, &g.interval);
    if (access("/sys/class/net/eth0", F_OK) == 0)
        shell(&g, "exec sh /etc/network", false);
    tell(g.tty, "holdfast-guest: ready");
    if (getenv("pattern"))
        begin_pattern(&g, getenv("pattern"));
    if (getenv("disk"))
        begin_work(&g, disk_run, getenv("disk"));
    run(&g);
}
