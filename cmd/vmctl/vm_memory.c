#include "cmd/vmctl/vm_memory.h"

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "lib/base/json.h"

void vm_memory_add(struct varlink_client *client, json_t *vm)
{
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;
    int r = -1;

    /* A failure is no news: what is the matter with the VM is told by its state. */
    if (member_int(vm, "qemu_pid") > 0)
        r = varlink_client_call_consume(client, MANAGER_INTERFACE ".Memory", must_json(json_pack("{s:s}", "name", member_text(vm, "name"))),
                                        MANAGER_TIMEOUT_MS, &reply, &err);
    json_object_set_new(vm, "memory", r >= 0 ? json_incref(reply) : json_null());
}

char *vm_memory_words(const json_t *vm)
{
    const json_t *memory = json_object_get(vm, "memory");
    const char *mode = member_text(memory, "mode"), *snapshot = member_text(memory, "snapshot");
    uint64_t present = (uint64_t)member_int(memory, "present"), total = (uint64_t)member_int(memory, "total");
    char in[BYTES_MAX], all[BYTES_MAX];
    char *words = NULL;
    int r;

    if (!*mode || streq(mode, "plain"))
        r = str_format(&words, "%s", "");
    else if (present < total && !streq(mode, "mapped"))
        r = str_format(&words, "%s from %s, %s of %s in", mode, snapshot, text_bytes(present, in), text_bytes(total, all));
    else
        r = str_format(&words, "%s from %s%s", mode, snapshot, streq(mode, "mapped") ? "" : ", all in");
    return r < 0 ? must(NULL) : words;
}
