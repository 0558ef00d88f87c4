#include "lib/manager/call.h"

#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/manager/state.h"

struct shim_call {
    struct shim_call *next, **prev_next;
    struct vm *vm;
    struct varlink_peer *peer;
    void (*done)(void *arg, struct vm *vm, const struct varlink_reply *r);
    void *arg;
};

static void call_free(struct shim_call *c)
{
    *c->prev_next = c->next;
    if (c->next)
        c->next->prev_next = c->prev_next;
    varlink_peer_free(c->peer);
    vm_unref(c->vm);
    free(c);
}

static void on_reply(void *arg, const struct varlink_reply *r)
{
    struct shim_call *c = arg;

    if (c->done)
        c->done(c->arg, c->vm, r);
    if (r->failure < 0 || !r->continues)
        call_free(c);
}

/* The call was told before, and on_reply() has freed everything. */
static void on_closed(void *arg, int error) {}

/* `what`: vm, done and arg. */
static int begin(const struct shim_call *what, const char *method, json_t *parameters, unsigned flags, uint64_t timeout_ms)
{
    auto_json json_t *owned = parameters;
    struct vm *vm = what->vm;
    struct manager *m = vm->manager;
    struct varlink_peer *peer = NULL;
    char path[VM_PATH_MAX];
    auto_fd int fd = -1;
    struct shim_call *c;
    int r;

    fd = socket_connect(m->run_vms_fd, vm_path(vm, FILE_SHIM_SOCKET, path));
    if (fd < 0)
        return fd;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    r = varlink_peer_new_take(m->loop, fd, m->shim_interface, on_closed, c, &peer);
    if (r < 0) {
        free(c);
        return r;
    }
    steal_fd(&fd);
    *c = (struct shim_call){
        .next = m->calls, .prev_next = &m->calls, .vm = vm_ref(vm), .peer = peer, .done = what->done, .arg = what->arg
    };
    if (c->next)
        c->next->prev_next = &c->next;
    m->calls = c;
    r = varlink_peer_call_consume(peer, method, steal_ptr(&owned), flags, timeout_ms, on_reply, c);
    if (r < 0)
        call_free(c);
    return r;
}

int shim_call_consume(struct vm *vm, const char *method, json_t *parameters, uint64_t timeout_ms,
                      void (*done)(void *arg, struct vm *vm, const struct varlink_reply *r), void *arg)
{
    return begin(&(struct shim_call){ .vm = vm, .done = done, .arg = arg }, method, parameters, 0, timeout_ms);
}

int shim_call_more_consume(struct vm *vm, const char *method, json_t *parameters,
                           void (*done)(void *arg, struct vm *vm, const struct varlink_reply *r), void *arg)
{
    return begin(&(struct shim_call){ .vm = vm, .done = done, .arg = arg }, method, parameters, VARLINK_MORE, 0);
}

void shim_calls_clear(struct manager *m)
{
    while (m->calls)
        on_reply(m->calls, &(struct varlink_reply){ .failure = -ECANCELED });
}
