/* An exit record from disk, and any object as the one a shim of another version sends: both can be told in words and sent on. */
#include "proto/exit.h"

#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(exit, struct exit_record)

static void tell(const struct exit_record *exit)
{
    auto_free char *words = exit_describe(exit);

    require(words && words[0] && !strchr(words, '\n'));
}

static void from_the_wire(const uint8_t *data, size_t size)
{
    auto_json json_t *json = NULL;
    auto_exit struct exit_record exit = { 0 };

    if (json_parse((const char *)data, size, &json, NULL) < 0)
        return;
    if (exit_from_wire(json, &exit) >= 0)
        tell(&exit);
    else
        require(!json_is_object(json));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_exit struct exit_record exit = { 0 }, back = { 0 };
    auto_json json_t *wire = NULL;

    from_the_wire(data, size);
    if (use_exit(data, size, &exit) < 0)
        return 0;
    tell(&exit);
    wire = exit_to_wire(&exit);
    require(wire && exit_from_wire(wire, &back) == 0);
    require(back.kind == exit.kind && back.signal == exit.signal && back.at / 1000 == exit.at / 1000 &&
            streq_opt(back.detail, exit.detail));
    return 0;
}
