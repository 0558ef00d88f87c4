#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/varlink/idl.h"
#include "lib/varlink/nodes.h"

/* One object or array on the way from the parameters to the value in hand. The stack replaces recursion, and is what the
 * path in an error message is made of. */
struct frame {
    const json_t *value;
    uint16_t type;   /* NODE_STRUCT, NODE_MAP or NODE_ARRAY */
    uint16_t field;  /* struct: the field in hand */
    const char *key; /* struct, map: where we are; not NUL-ended in a struct */
    size_t key_len;
    void *iter;   /* map */
    size_t index; /* array: the next element; struct: members seen */
};

struct checker {
    const struct varlink_interface *i;
    bool lenient;
    struct err *err;
    size_t depth;
    struct frame stack[JSON_DEPTH_MAX + 1];
};

static const char *json_type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "real";
    case JSON_TRUE:
    case JSON_FALSE:
        return "bool";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

static const char *node_type_name(enum node_kind kind)
{
    switch (kind) {
    case NODE_BOOL:
        return "bool";
    case NODE_INT:
        return "integer";
    case NODE_FLOAT:
        return "number";
    case NODE_STRING:
        return "string";
    case NODE_ENUM:
        return "string of an enum";
    case NODE_ARRAY:
        return "array";
    case NODE_STRUCT:
    case NODE_MAP:
        return "object";
    case NODE_OBJECT:
    case NODE_MAYBE:
    case NODE_ALIAS:
    case NODE_TYPE:
    case NODE_METHOD:
    case NODE_ERROR:
    case NODE_FIELD:
        break;
    }
    return "value";
}

/* "vms[3].state", cut when it is longer than the buffer. */
static void format_path(const struct checker *c, char *buf, size_t size)
{
    size_t used = 0;

    buf[0] = '\0';
    for (size_t d = 0; d < c->depth && used + 1 < size; d++) {
        const struct frame *f = &c->stack[d];
        int n = 0;

        if (c->i->nodes[f->type].kind == NODE_ARRAY)
            n = snprintf(buf + used, size - used, "[%zu]", f->index - 1);
        else if (f->key)
            n = snprintf(buf + used, size - used, "%s%.*s", d > 0 ? "." : "", (int)(f->key_len > 64 ? 64 : f->key_len), f->key);
        if (n > 0)
            used += (size_t)n;
    }
}

static int fail(const struct checker *c, const char *what, const char *got)
{
    char path[256];

    format_path(c, path, sizeof(path));
    return err_set(c->err, EINVAL, "bad-parameter", "%s: %s%s", path[0] ? path : "parameters", what, got);
}

static int fail_type(const struct checker *c, enum node_kind expected, const json_t *v)
{
    char what[64];

    snprintf(what, sizeof(what), "expected %s, got ", node_type_name(expected));
    return fail(c, what, json_type_name(v));
}

/* The type behind aliases and "?"; *ret_maybe says whether null and absence are allowed. */
static uint16_t real_type(const struct varlink_interface *i, uint16_t type, bool *ret_maybe)
{
    *ret_maybe = false;
    for (;;) {
        const struct node *n = &i->nodes[type];

        if (n->kind == NODE_MAYBE)
            *ret_maybe = true;
        else if (n->kind == NODE_ALIAS)
            n = &i->nodes[n->child]; /* the NODE_TYPE, whose child is the struct or enum */
        else
            return type;
        type = n->child;
    }
}

static int check_value(struct checker *c, uint16_t type, const json_t *v)
{
    bool maybe, fits = false;
    const struct node *n;

    type = real_type(c->i, type, &maybe);
    n = &c->i->nodes[type];
    if (json_is_null(v) && maybe)
        return 0;
    switch ((enum node_kind)n->kind) {
    case NODE_BOOL:
        fits = json_is_boolean(v);
        break;
    case NODE_INT:
        fits = json_is_integer(v);
        break;
    case NODE_FLOAT:
        fits = json_is_number(v);
        break;
    case NODE_STRING:
        fits = json_is_string(v);
        break;
    case NODE_OBJECT:
        fits = true;
        break;
    case NODE_ENUM:
        fits = json_is_string(v);
        if (fits && node_find(c->i, n->child, NODE_FIELD, json_string_value(v), json_string_length(v)) == NODE_NONE)
            return fail(c, "not one of the enum's names", "");
        break;
    case NODE_ARRAY:
        fits = json_is_array(v);
        break;
    case NODE_MAP:
    case NODE_STRUCT:
        fits = json_is_object(v);
        break;
    case NODE_MAYBE:
    case NODE_ALIAS:
    case NODE_TYPE:
    case NODE_METHOD:
    case NODE_ERROR:
    case NODE_FIELD:
        break;
    }
    if (!fits)
        return fail_type(c, n->kind, v);
    if (n->kind != NODE_ARRAY && n->kind != NODE_MAP && n->kind != NODE_STRUCT)
        return 0;
    if (c->depth == ARRAY_LEN(c->stack))
        return fail(c, "nested too deeply", "");
    c->stack[c->depth++] = (struct frame){ .value = v, .type = type, .field = n->child };
    return 0;
}

/* All fields are there: in strict mode nothing else may be. */
static int end_struct(struct checker *c, struct frame *f)
{
    const char *key;
    json_t *value;

    if (c->lenient || f->index == json_object_size(f->value))
        return 0;
    json_object_foreach ((json_t *)(uintptr_t)f->value, key, value) {
        size_t len = strlen(key);

        if (node_find(c->i, c->i->nodes[f->type].child, NODE_FIELD, key, len) != NODE_NONE)
            continue;
        f->key = key;
        f->key_len = len;
        return fail(c, "unknown member", "");
    }
    return 0;
}

/* Each step checks one more value of the innermost object or array. 1: there may be more, 0: it is done. */
static int step_struct(struct checker *c, struct frame *f)
{
    const struct node *field = &c->i->nodes[f->field];
    const json_t *v;
    bool maybe;

    if (f->field == NODE_NONE)
        return end_struct(c, f);
    f->key = c->i->text + field->name;
    f->key_len = field->name_len;
    f->field = field->next;
    v = json_object_getn(f->value, f->key, f->key_len);
    if (v) {
        int r;

        f->index++;
        r = check_value(c, field->child, v);
        return r < 0 ? r : 1;
    }
    real_type(c->i, field->child, &maybe);
    return maybe ? 1 : fail(c, "missing", "");
}

static int step_map(struct checker *c, struct frame *f)
{
    json_t *map = (json_t *)(uintptr_t)f->value;
    int r;

    f->iter = f->iter ? json_object_iter_next(map, f->iter) : json_object_iter(map);
    if (!f->iter)
        return 0;
    f->key = json_object_iter_key(f->iter);
    f->key_len = json_object_iter_key_len(f->iter);
    r = check_value(c, c->i->nodes[f->type].child, json_object_iter_value(f->iter));
    return r < 0 ? r : 1;
}

static int step_array(struct checker *c, struct frame *f)
{
    const json_t *v = json_array_get(f->value, f->index);
    int r;

    if (!v)
        return 0;
    f->index++;
    r = check_value(c, c->i->nodes[f->type].child, v);
    return r < 0 ? r : 1;
}

static int check_struct(const struct varlink_interface *i, uint16_t type, const json_t *parameters, bool lenient, char ret_member[64],
                        struct err *err)
{
    struct checker c;
    json_t *empty = NULL;
    int r;

    c.i = i;
    c.lenient = lenient;
    c.err = err;
    c.depth = 0;
    if (!parameters) {
        parameters = empty = json_object();
        if (!empty)
            return err_set(err, ENOMEM, "no-memory", "out of memory");
    }
    r = check_value(&c, type, parameters);
    while (r >= 0 && c.depth > 0) {
        struct frame *f = &c.stack[c.depth - 1];

        if (i->nodes[f->type].kind == NODE_STRUCT)
            r = step_struct(&c, f);
        else if (i->nodes[f->type].kind == NODE_MAP)
            r = step_map(&c, f);
        else
            r = step_array(&c, f);
        if (r == 0)
            c.depth--;
    }
    if (r < 0 && ret_member) {
        const struct frame *top = &c.stack[0];

        snprintf(ret_member, 64, "%.*s", c.depth > 0 && top->key ? (int)top->key_len : 10,
                 c.depth > 0 && top->key ? top->key : "parameters");
    }
    json_decref(empty);
    return r < 0 ? r : 0;
}

int varlink_check(const struct varlink_interface *i, const char *method, enum varlink_side side, const json_t *parameters, bool lenient,
                  char ret_member[64], struct err *err)
{
    uint16_t m = node_find(i, i->first, NODE_METHOD, method, strlen(method)), type;

    if (m == NODE_NONE)
        return err_set(err, EINVAL, "bad-parameter", "%s has no method %s", varlink_interface_name(i), method);
    type = i->nodes[m].child;
    if (side == VARLINK_OUT)
        type = i->nodes[type].next;
    return check_struct(i, type, parameters, lenient, ret_member, err);
}

/* Whether `name` is the interface's name, a dot and something. */
static bool is_own_name(const struct varlink_interface *i, const char *name)
{
    return has_prefix(name, varlink_interface_name(i)) && name[i->name_len] == '.';
}

bool varlink_interface_has_error(const struct varlink_interface *i, const char *error)
{
    return is_own_name(i, error) &&
           node_find(i, i->first, NODE_ERROR, error + i->name_len + 1, strlen(error + i->name_len + 1)) != NODE_NONE;
}

int varlink_check_error(const struct varlink_interface *i, const char *error, const json_t *parameters, bool lenient, struct err *err)
{
    uint16_t e;

    if (is_own_name(i, error))
        error += i->name_len + 1;
    e = node_find(i, i->first, NODE_ERROR, error, strlen(error));
    if (e == NODE_NONE)
        return err_set(err, EINVAL, "bad-parameter", "%s has no error %s", varlink_interface_name(i), error);
    return check_struct(i, i->nodes[e].child, parameters, lenient, NULL, err);
}
