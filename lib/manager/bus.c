#include "lib/manager/bus.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/util.h"

/* So many messages at a time, then the others of the loop have their turn. */
enum { PROCESS_MAX = 32 };

void bus_close(struct bus *b)
{
    struct ev_loop *ev = loop_ev(b->loop);

    loop_undefer(&b->drop);
    if (!b->bus)
        return;
    ev_io_stop(ev, &b->io);
    ev_timer_stop(ev, &b->timer);
    ev_prepare_stop(ev, &b->prepare);
    sd_bus_close(b->bus);
    b->bus = sd_bus_unref(b->bus);
}

static void drop(void *arg)
{
    struct bus *b = arg;

    bus_close(b);
    b->lost(b, b->error);
}

/* From within sd-bus's own callbacks nothing may be freed. */
static void lose(struct bus *b, int error)
{
    b->error = error;
    loop_defer(b->loop, &b->drop, drop, b);
}

static void process(struct bus *b)
{
    for (int i = 0; i < PROCESS_MAX && b->bus; i++) {
        int r = sd_bus_process(b->bus, NULL);

        if (r < 0) {
            lose(b, r);
            return;
        }
        if (r == 0)
            return;
    }
}

static void on_io(struct ev_loop *ev, ev_io *w, int events) { process(container_of(w, struct bus, io)); }

static void on_timer(struct ev_loop *ev, ev_timer *w, int events) { process(container_of(w, struct bus, timer)); }

static int ev_events(int poll_events) { return (poll_events & POLLIN ? EV_READ : 0) | (poll_events & POLLOUT ? EV_WRITE : 0); }

/* Before each wait of the loop sd-bus is asked what it waits for, since every call of its functions may change that. */
static void on_prepare(struct ev_loop *ev, ev_prepare *w, int revents)
{
    struct bus *b = container_of(w, struct bus, prepare);
    int events = sd_bus_get_events(b->bus), fd = sd_bus_get_fd(b->bus), r;
    uint64_t until = UINT64_MAX, now;

    r = sd_bus_get_timeout(b->bus, &until);
    if (events < 0 || fd < 0 || r < 0) {
        lose(b, events < 0 ? events : fd < 0 ? fd : r);
        return;
    }
    if (fd != b->io.fd || ev_events(events) != (b->io.events & (EV_READ | EV_WRITE))) {
        ev_io_stop(ev, &b->io);
        ev_io_set(&b->io, fd, ev_events(events));
        ev_io_start(ev, &b->io);
    }
    ev_timer_stop(ev, &b->timer);
    if (until == UINT64_MAX)
        return;
    now = clock_mono_us();
    ev_now_update(ev);
    ev_timer_set(&b->timer, until > now ? (double)(until - now) / 1e6 : 0., 0.);
    ev_timer_start(ev, &b->timer);
}

void bus_init(struct bus *b, struct loop *l)
{
    b->loop = l;
    ev_init(&b->io, on_io);
    b->io.fd = -1;
    ev_init(&b->timer, on_timer);
    ev_prepare_init(&b->prepare, on_prepare);
}

static int open_at(const char *address, bool is_bus, sd_bus **ret_bus)
{
    sd_bus *bus = NULL;
    int r = sd_bus_new(&bus);

    if (r >= 0)
        r = sd_bus_set_address(bus, address);
    if (r >= 0 && is_bus)
        r = sd_bus_set_bus_client(bus, true);
    if (r >= 0)
        r = sd_bus_start(bus);
    if (r < 0) {
        sd_bus_unref(bus);
        return r;
    }
    *ret_bus = bus;
    return 0;
}

/* The user's bus: as the session says, or where systemd has it for users that linger; a unit with User= has no session. */
static int open_user(sd_bus **ret_bus)
{
    auto_free char *address = NULL;

    if (getenv("DBUS_SESSION_BUS_ADDRESS") || getenv("XDG_RUNTIME_DIR"))
        return sd_bus_open_user(ret_bus);
    if (str_format(&address, "unix:path=/run/user/%u/bus", (unsigned)geteuid()) < 0)
        return -ENOMEM;
    return open_at(address, true, ret_bus);
}

/* Root reaches systemd also where no message bus runs, as systemctl(1) does. */
static int open_system(sd_bus **ret_bus)
{
    int r = sd_bus_open_system(ret_bus);

    return r < 0 && r != -ENOMEM && open_at("unix:path=/run/systemd/private", false, ret_bus) >= 0 ? 0 : r;
}

int bus_connect(struct bus *b, struct err *err)
{
    bool root = geteuid() == 0;
    int r;

    if (b->bus)
        return 0;
    if (b->address)
        r = open_at(b->address, false, &b->bus);
    else
        r = root ? open_system(&b->bus) : open_user(&b->bus);
    if (r < 0) {
        b->bus = NULL;
        return err_set_errno(err, -r, "no-bus", root ? "can't reach systemd by D-Bus" : "can't reach the user's systemd by D-Bus");
    }
    r = b->ready(b);
    if (r < 0) {
        bus_close(b);
        return err_set_errno(err, -r, "no-bus", "can't follow systemd's jobs");
    }
    ev_prepare_start(loop_ev(b->loop), &b->prepare);
    return 0;
}
