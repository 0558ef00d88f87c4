/* The monitor: the few commands a supervisor uses, answered in the words of QEMU 7.2. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "tests/fake/fake.h"

#define VERSION "{\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"fake\"}"
#define GREETING "{\"QMP\": {\"version\": " VERSION ", \"capabilities\": [\"oob\"]}}"

static void put_line(struct fake *f, const char *text, size_t len, enum bad_at at)
{
    if (f->behaviour.garbage_qmp == at) {
        static const char garbage[] = "\x01\x02{]\"\xff\xfe nonsense\n";
        channel_put(&f->qmp, garbage, sizeof(garbage) - 1);
    } else if (f->behaviour.half_qmp == at) {
        channel_put(&f->qmp, text, len / 2);
    } else {
        channel_put(&f->qmp, text, len);
        channel_put(&f->qmp, "\r\n", 2);
    }
}

static void put_consume(struct fake *f, json_t *message)
{
    auto_free char *text = json_dumps(message, JSON_ENSURE_ASCII);
    json_decref(message);
    if (!text)
        abort();
    put_line(f, text, strlen(text), BAD_REPLY);
}

void qmp_greet(struct fake *f)
{
    f->capabilities_done = false;
    put_line(f, GREETING, sizeof(GREETING) - 1, BAD_GREETING);
}

void qmp_event(struct fake *f, const char *name, json_t *data_take)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    json_t *event =
        json_pack("{s{sIsI}ss}", "timestamp", "seconds", (json_int_t)now.tv_sec, "microseconds", (json_int_t)now.tv_usec, "event", name);
    if (data_take)
        json_object_set_new(event, "data", data_take);
    if (f->qmp.client >= 0 && f->capabilities_done)
        put_consume(f, event);
    else
        json_decref(event);
}

static json_t *do_capabilities(struct fake *f)
{
    f->capabilities_done = true;
    return json_object();
}

static json_t *do_cont(struct fake *f)
{
    if (f->behaviour.refuse_cont)
        return NULL;
    if (!f->running) {
        f->running = true;
        qmp_event(f, "RESUME", NULL);
        guest_cont(f);
    }
    return json_object();
}

static json_t *do_stop(struct fake *f)
{
    if (f->running) {
        f->running = false;
        qmp_event(f, "STOP", NULL);
    }
    return json_object();
}

static json_t *do_powerdown(struct fake *f)
{
    qmp_event(f, "POWERDOWN", NULL);
    guest_powerdown(f);
    return json_object();
}

static json_t *do_reset(struct fake *f)
{
    qmp_event(f, "RESET", json_pack("{sbss}", "guest", 0, "reason", "host-qmp-system-reset"));
    return json_object();
}

static json_t *do_status(struct fake *f)
{
    const char *status = f->running ? "running" : f->ever_ran ? "paused" : "prelaunch";
    return json_pack("{sssbsb}", "status", status, "singlestep", 0, "running", f->running);
}

static json_t *do_version(struct fake *f)
{
    (void)f;
    return json_loads(VERSION, 0, NULL);
}

static json_t *do_kvm(struct fake *f)
{
    (void)f;
    return json_pack("{sbsb}", "enabled", 0, "present", 1);
}

static json_t *do_list(struct fake *f)
{
    (void)f;
    return json_array();
}

/* About as long as QEMU's own, which is one line of 207 KB. */
static json_t *do_schema(struct fake *f)
{
    (void)f;
    json_t *schema = json_array();
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "%d", i);
        json_array_append_new(schema, json_pack("{sss[{ssss}{ssssso}{ssss}]ssss}", "name", name, "members", "name", "arguments", "type",
                                                "str", "name", "device-identity", "type", "int", "default", json_null(), "name",
                                                "node-name", "type", "str", "meta-type", "object", "ret-type", "17"));
    }
    return schema;
}

/* Its reply comes after the SHUTDOWN event, and is the last thing QEMU says. */
static json_t *do_quit(struct fake *f)
{
    if (!f->behaviour.ignore_quit)
        qmp_event(f, "SHUTDOWN", json_pack("{sbss}", "guest", 0, "reason", "host-qmp-quit"));
    return json_object();
}

static const struct command {
    const char *name;
    json_t *(*run)(struct fake *f);
    bool ends;
} commands[] = {
    { "qmp_capabilities", do_capabilities, false },
    { "cont", do_cont, false },
    { "stop", do_stop, false },
    { "system_powerdown", do_powerdown, false },
    { "system_reset", do_reset, false },
    { "quit", do_quit, true },
    { "query-status", do_status, false },
    { "query-version", do_version, false },
    { "query-kvm", do_kvm, false },
    { "query-block", do_list, false },
    { "query-chardev", do_list, false },
    { "query-qmp-schema", do_schema, false },
};

static void reply(struct fake *f, json_t *id, const char *key, json_t *value)
{
    json_t *message = json_object();
    json_object_set_new(message, key, value);
    if (id)
        json_object_set(message, "id", id);
    put_consume(f, message);
}

static void reply_error(struct fake *f, json_t *id, const char *class, const char *text, const char *what)
{
    char desc[256];
    snprintf(desc, sizeof(desc), "%s%s%s", text, what ? ": " : "", what ? what : "");
    reply(f, id, "error", json_pack("{ssss}", "class", class, "desc", desc));
}

static void execute(struct fake *f, const char *name, json_t *id)
{
    if (f->capabilities_done == streq(name, "qmp_capabilities")) {
        reply_error(f, id, "CommandNotFound",
                    f->capabilities_done ? "Capabilities negotiation is already complete, command ignored"
                                         : "Expecting capabilities negotiation with 'qmp_capabilities'",
                    NULL);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (!streq(name, commands[i].name))
            continue;
        json_t *value = commands[i].run(f);
        if (!value) {
            reply_error(f, id, "GenericError", "Told to refuse this command", name);
            return;
        }
        reply(f, id, "return", value);
        if (commands[i].ends && !f->behaviour.ignore_quit) {
            channel_drain(&f->qmp);
            exit(0);
        }
        return;
    }
    reply_error(f, id, "CommandNotFound", "The command has not been found", name);
}

void qmp_line(void *arg, char *line, size_t len)
{
    struct fake *f = arg;
    if (len == 0)
        return;
    auto_json json_t *message = json_loadb(line, len, 0, NULL);
    const char *name = json_string_value(json_object_get(message, "execute"));
    if (!name) {
        reply_error(f, json_object_get(message, "id"), "GenericError", "JSON parse error, or no 'execute'", NULL);
        return;
    }
    execute(f, name, json_object_get(message, "id"));
}
