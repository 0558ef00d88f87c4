/* Any text as an interface description; what parses must also stand up to being used, and to being parsed again. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/varlink/idl.h"
#include "tests/fuzz/fuzz.h"

static void use_method(void *arg, const char *method)
{
    static const char *const values[] = { "{}", "{\"name\":\"x\"}", "{\"a\":[{\"b\":[1,null]}],\"c\":{\"d\":1.5}}", "[]" };
    const struct varlink_interface *i = arg;
    char member[64];

    if (!varlink_interface_has_method(i, method))
        abort();
    for (size_t n = 0; n < ARRAY_LEN(values); n++) {
        json_t auto_json *value = NULL;

        if (json_parse(values[n], strlen(values[n]), &value, NULL) < 0)
            abort();
        varlink_check(i, method, VARLINK_IN, value, n % 2, member, NULL);
        varlink_check(i, method, VARLINK_OUT, value, n % 2, NULL, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct varlink_interface *i = NULL;
    struct err err = ERR_INIT;
    char *text = malloc(size + 1);
    int r;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    r = varlink_interface_parse(text, &i, &err);
    if ((r < 0) != err_is_set(&err) || (r < 0) != (i == NULL))
        abort();
    if (i) {
        varlink_interface_methods(i, use_method, i);
        varlink_interface_free(i);
    }
    free(text);
    return 0;
}
