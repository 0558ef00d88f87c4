#include "shim/agent_call.h"

#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/loop/stream.h"
#include "proto/launch.h"
#include "shim/vm.h"

enum { ANSWER_MAX = 64 * 1024 };

struct agent_call {
    struct stream *stream;
    void (*done)(void *arg, const char *why);
    void *arg;
};

static void on_line(void *arg, char *line, size_t len)
{
    struct agent_call *c = arg;
    auto_json json_t *json = NULL;
    const char *why;

    /* What an agent says that isn't JSON is the rest of somebody else's answer. */
    if (json_parse(line, len, &json, NULL) < 0)
        return;
    why = json_string_value(json_object_get(json_object_get(json, "error"), "desc"));
    c->done(c->arg, json_object_get(json, "return") ? NULL : why ? why : "the agent answered nonsense");
}

static void on_close(void *arg, int error)
{
    struct agent_call *c = arg;

    c->done(c->arg, "the agent's channel hung up");
}

int agent_call(struct vm *vm, const char *command, void (*done)(void *arg, const char *why), void *arg, struct agent_call **ret_call)
{
    auto_free char *line = NULL;
    struct agent_call *c;
    int r, fd;

    /* 0xFF makes the agent drop what half-command it may still hold. */
    r = str_format(&line, "\xff{\"execute\":\"%s\"}", command);
    if (r < 0)
        return r;
    fd = socket_connect(vm->run_fd, FILE_AGENT_SOCKET);
    if (fd < 0)
        return fd;
    c = calloc(1, sizeof(*c));
    r = !c ? -ENOMEM
           : stream_new_take(vm->loop, fd,
                             &(struct stream_config){
                                 .delimiter = '\n',
                                 .in_max = ANSWER_MAX,
                                 .out_max = 4096,
                                 .on_frame = on_line,
                                 .on_close = on_close,
                                 .arg = c,
                             },
                             &c->stream);
    if (r < 0) {
        fd_close(fd);
        free(c);
        return r;
    }
    c->done = done;
    c->arg = arg;
    r = stream_send(c->stream, line, strlen(line));
    if (r < 0) {
        agent_call_free(c);
        return r;
    }
    *ret_call = c;
    return 0;
}

void agent_call_free(struct agent_call *c)
{
    if (!c)
        return;
    stream_free(c->stream);
    free(c);
}
