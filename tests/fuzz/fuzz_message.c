/* Any text as a call and as a reply: what parses is checked against a description with every kind of type, and what is formed from
 * it again must parse to the same. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/varlink/idl.h"
#include "lib/varlink/message.h"
#include "tests/fuzz/fuzz.h"

static const char text[] =
    "interface org.example.fuzz\n"
    "type Color (red, green)\n"
    "type Tree (name: string, color: ?Color, children: ?[]Tree)\n"
    "method Do(tree: Tree, map: ?[string]int, many: ?[][]?bool, any: ?object, ratio: ?float) -> (tree: ?Tree, n: ?int)\n"
    "error Bad (reason: string, at: ?(line: int, kind: (x, y)))\n";

static void same(const json_t *a, const char *formed, size_t len, struct varlink_message *m, bool call)
{
    int r = call ? varlink_message_parse_call(formed, len, m, NULL) : varlink_message_parse_reply(formed, len, m, NULL);

    if (r < 0 || !json_equal(a, m->parameters))
        abort();
}

static void use_call(const struct varlink_interface *i, const struct varlink_message *m)
{
    struct varlink_message auto_varlink_message again = { 0 };
    char auto_free *formed = NULL;
    char member[64];
    struct err err = ERR_INIT;
    size_t len = 0;
    int strict = varlink_check(i, "Do", VARLINK_IN, m->parameters, false, member, &err);
    int lenient = varlink_check(i, "Do", VARLINK_IN, m->parameters, true, NULL, NULL);

    /* What is strictly right is also leniently right, and an error has its words. */
    if ((strict == 0 && lenient < 0) || (strict < 0) != err_is_set(&err))
        abort();
    if (varlink_message_format_call(NULL, m->method, m->parameters, m->more, m->oneway, m->upgrade, &formed, &len) < 0)
        abort();
    same(m->parameters, formed, len, &again, true);
    if (!streq(again.method, m->method) || again.more != m->more || again.oneway != m->oneway || again.upgrade != m->upgrade)
        abort();
}

static void use_reply(const struct varlink_interface *i, const struct varlink_message *m)
{
    struct varlink_message auto_varlink_message again = { 0 };
    char auto_free *formed = NULL;
    size_t len = 0;

    if (m->error)
        varlink_check_error(i, m->error, m->parameters, true, NULL);
    varlink_check_error(i, "Bad", m->parameters, false, NULL);
    varlink_check(i, "Do", VARLINK_OUT, m->parameters, true, NULL, NULL);
    if (varlink_message_format_reply(m->error, m->parameters, m->continues, &formed, &len) < 0)
        abort();
    same(m->parameters, formed, len, &again, false);
    if (!streq_opt(again.error, m->error) || again.continues != m->continues)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct varlink_message m = { 0 };
    struct varlink_interface auto_varlink_interface *i = NULL;

    if (varlink_interface_parse(text, &i, NULL) < 0)
        abort();
    if (varlink_message_parse_call((const char *)data, size, &m, NULL) == 0)
        use_call(i, &m);
    varlink_message_clear(&m);
    if (varlink_message_parse_reply((const char *)data, size, &m, NULL) == 0)
        use_reply(i, &m);
    varlink_message_clear(&m);
    return 0;
}
