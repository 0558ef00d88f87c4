#include "lib/images/template.h"

#include <errno.h>

#include "lib/base/util.h"

static const struct template_value *find(const struct template_value *values, size_t n, const char *key, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(values[i].key) == len && memcmp(values[i].key, key, len) == 0)
            return &values[i];
    return NULL;
}

/* The unreserved characters of RFC 3986, and the slash between the parts of a path. */
static bool stands_for_itself(char c) { return isalnum((unsigned char)c) || (c && strchr("-._~/", c)); }

static void put(FILE *f, const char *value, bool url)
{
    for (; *value; value++) {
        if (!url || stands_for_itself(*value))
            fputc(*value, f);
        else
            fprintf(f, "%%%02X", (unsigned)(unsigned char)*value);
    }
}

static int expand(FILE *f, const char *text, const struct template_value *values, size_t n, bool url, struct err *err)
{
    for (;;) {
        const char *open = strchrnul(text, '{'), *close;
        const struct template_value *value;

        (void)fwrite(text, 1, (size_t)(open - text), f);
        if (!*open)
            return 0;
        close = strchr(open, '}');
        if (!close)
            return err_set(err, EINVAL, "bad-config", "\"%s\": a '{' without its '}'", text);
        value = find(values, n, open + 1, (size_t)(close - open - 1));
        if (!value)
            return err_set(err, EINVAL, "bad-config", "%.*s stands for nothing here", (int)(close - open + 1), open);
        if (value->value)
            put(f, value->value, url);
        text = close + 1;
    }
}

int template_expand(const char *text, const struct template_value *values, size_t n, bool url, char **ret_text, struct err *err)
{
    auto_free char *whole = NULL;
    size_t len;
    FILE *f = open_memstream(&whole, &len);
    int r;

    if (!f)
        return -ENOMEM;
    r = expand(f, text, values, n, url, err);
    if (fclose(f) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0)
        return r;
    *ret_text = steal_ptr(&whole);
    return 0;
}
