#include "lib/base/json.h"

#include <errno.h>
#include <stdint.h>

/* Looks at nesting alone, the one thing that must be known before a recursive parser starts. What is not JSON is left to jansson. */
static int check_depth(const char *text, size_t len, struct err *err)
{
    int depth = 0, line = 1, column = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n') {
            line++;
            column = 0;
        } else if ((c & 0xc0) != 0x80) {
            column++;
        }
        if (in_string) {
            if (c == '\\') {
                i++;
                column++;
            } else if (c == '"' || c == '\n') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX)
                return err_set(err, EINVAL, "bad-json", "line %d, column %d: nested deeper than %d levels", line, column, JSON_DEPTH_MAX);
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return 0;
}

int json_parse(const char *text, size_t len, json_t **ret_json, struct err *err)
{
    int r = check_depth(text, len, err);
    if (r < 0)
        return r;
    json_error_t error;
    errno = 0;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!json) {
        /* Where memory ends inside a token or before the first one, jansson calls it a syntax error, or nothing. */
        if (errno == ENOMEM || json_error_code(&error) == json_error_out_of_memory)
            return err_set_errno(err, ENOMEM, "bad-json", "cannot parse JSON");
        if (error.line <= 0)
            return err_set(err, EINVAL, "bad-json", "%s", error.text);
        return err_set(err, EINVAL, "bad-json", "line %d, column %d: %s", error.line, error.column, error.text);
    }
    *ret_json = json;
    return 0;
}

int json_make_string(const char *text, json_t **ret_json)
{
    errno = 0; /* jansson answers NULL for both */
    json_t *json = json_string(text);
    if (!json)
        return errno == ENOMEM ? -ENOMEM : -EINVAL;
    *ret_json = json;
    return 0;
}

struct text {
    char *bytes;
    size_t len, size;
    bool failed;
};

/* jansson 2.14 goes on when an object's key couldn't be put down, so a failure must last. */
static int text_piece(const char *piece, size_t len, void *data)
{
    struct text *text = data;

    if (text->failed)
        return -1;
    if (text->size - text->len <= len) {
        size_t size = 2 * (text->len + len) + 64;
        char *bigger = realloc(text->bytes, size);
        if (!bigger) {
            text->failed = true;
            return -1;
        }
        text->bytes = bigger;
        text->size = size;
    }
    memcpy(text->bytes + text->len, piece, len);
    text->len += len;
    text->bytes[text->len] = '\0';
    return 0;
}

static int format(const json_t *json, size_t flags, char **ret_text, size_t *ret_len)
{
    struct text text = { 0 };
    if (json_dump_callback(json, text_piece, &text, flags | JSON_ENCODE_ANY) < 0 || text.failed) {
        free(text.bytes);
        return -ENOMEM;
    }
    *ret_text = text.bytes;
    if (ret_len)
        *ret_len = text.len;
    return 0;
}

int json_format(const json_t *json, char **ret_text, size_t *ret_len) { return format(json, JSON_COMPACT, ret_text, ret_len); }

int json_format_indented(const json_t *json, char **ret_text, size_t *ret_len) { return format(json, JSON_INDENT(2), ret_text, ret_len); }

static int digest_piece(const char *buffer, size_t size, void *data)
{
    uint64_t *hash = data;

    *hash = hash_bytes(*hash, buffer, size);
    return 0;
}

int json_digest(const json_t *json, char ret_hex[17])
{
    uint64_t hash = HASH_BEGIN;
    if (json_dump_callback(json, digest_piece, &hash, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS) < 0)
        return -ENOMEM;
    snprintf(ret_hex, 17, "%016" PRIx64, hash);
    return 0;
}
