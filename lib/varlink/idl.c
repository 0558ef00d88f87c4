#include "lib/varlink/idl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/varlink/nodes.h"

enum { NESTING_MAX = 32 };

struct parser {
    const char *text;
    size_t pos, len;
    struct node *nodes;
    size_t n, cap;
    struct err *err;
};

static int fail(const struct parser *p, size_t pos, const char *what, const char *name, size_t name_len)
{
    unsigned line = 1;

    for (size_t i = 0; i < pos && i < p->len; i++)
        line += p->text[i] == '\n';
    return err_set(p->err, EINVAL, "bad-interface", "line %u: %s%s%.*s%s", line, what, name ? " '" : "", (int)name_len, name ? name : "",
                   name ? "'" : "");
}

static int fail_here(const struct parser *p, const char *what) { return fail(p, p->pos, what, NULL, 0); }

static char peek(const struct parser *p) { return p->pos < p->len ? p->text[p->pos] : '\0'; }

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool is_alnum(char c) { return is_digit(c) || is_lower(c) || is_upper(c); }

static void skip_space(struct parser *p)
{
    for (; p->pos < p->len; p->pos++) {
        char c = p->text[p->pos];

        if (c == '#') {
            while (p->pos + 1 < p->len && p->text[p->pos + 1] != '\n')
                p->pos++;
        } else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
            return;
        }
    }
}

/* Takes `word` if it is next; one that ends in a letter must not go on. */
static bool accept(struct parser *p, const char *word)
{
    size_t len = strlen(word);

    if (p->len - p->pos < len || memcmp(p->text + p->pos, word, len) != 0)
        return false;
    if (is_alnum(word[len - 1]) && p->pos + len < p->len && is_alnum(p->text[p->pos + len]))
        return false;
    p->pos += len;
    return true;
}

static int add_node(struct parser *p, enum node_kind kind, size_t name, size_t name_len, uint16_t *ret)
{
    if (p->n >= UINT16_MAX)
        return fail_here(p, "the interface is too large");
    if (name_len > IDL_NAME_MAX)
        return fail(p, name, "name too long", NULL, 0);
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 128;
        struct node *bigger = realloc(p->nodes, cap * sizeof(*bigger));

        if (!bigger)
            return err_set(p->err, ENOMEM, "no-memory", "out of memory");
        p->nodes = bigger;
        p->cap = cap;
    }
    p->nodes[p->n] = (struct node){ .name = (uint32_t)name, .name_len = (uint8_t)name_len, .kind = (uint8_t)kind };
    *ret = (uint16_t)p->n++;
    return 0;
}

/* A member's name: [A-Z][A-Za-z0-9]*. */
static int read_type_name(struct parser *p, size_t *ret_pos, size_t *ret_len)
{
    size_t start = p->pos;

    if (!is_upper(peek(p)))
        return fail_here(p, "expected a name that begins with a capital letter");
    while (is_alnum(peek(p)))
        p->pos++;
    *ret_pos = start;
    *ret_len = p->pos - start;
    return 0;
}

/* A field's name: [A-Za-z]([_]?[A-Za-z0-9])*. */
static int read_field_name(struct parser *p, size_t *ret_pos, size_t *ret_len)
{
    size_t start = p->pos;

    if (!is_lower(peek(p)) && !is_upper(peek(p)))
        return fail_here(p, "expected a field name");
    while (is_alnum(peek(p)) || (peek(p) == '_' && p->pos + 1 < p->len && is_alnum(p->text[p->pos + 1])))
        p->pos++;
    *ret_pos = start;
    *ret_len = p->pos - start;
    return 0;
}

/* Labels of letters, digits and inner hyphens, at least two, the first one beginning with a letter. */
static int read_interface_name(struct parser *p, size_t *ret_pos, size_t *ret_len)
{
    size_t start = p->pos, dots = 0;

    if (!is_lower(peek(p)) && !is_upper(peek(p)))
        return fail_here(p, "expected the interface's name");
    while (is_alnum(peek(p)) || peek(p) == '-' || peek(p) == '.') {
        char c = peek(p), before = p->pos > start ? p->text[p->pos - 1] : 'a';

        if ((c == '.' && !is_alnum(before)) || (c == '-' && before == '.'))
            return fail_here(p, "malformed interface name");
        dots += c == '.';
        p->pos++;
    }
    if (dots == 0 || !is_alnum(p->text[p->pos - 1]) || p->pos - start > IDL_NAME_MAX)
        return fail(p, start, "malformed interface name", NULL, 0);
    *ret_pos = start;
    *ret_len = p->pos - start;
    return 0;
}

static bool same_name(const struct parser *p, const struct node *n, size_t name, size_t len)
{
    return n->name_len == len && memcmp(p->text + n->name, p->text + name, len) == 0;
}

/* One struct or enum being read: the node, and its newest field. */
struct open_struct {
    uint16_t node, last;
};

/* Reads "name" and, in a struct, ":", and appends the field to the innermost struct. 1: a type follows, 0: an enum's name. */
static int read_field(struct parser *p, struct open_struct *o)
{
    size_t name = 0, len = 0;
    uint16_t field = 0;
    bool first = o->last == NODE_NONE, typed;
    int r;

    skip_space(p);
    r = read_field_name(p, &name, &len);
    if (r < 0)
        return r;
    for (uint16_t f = p->nodes[o->node].child; f != NODE_NONE; f = p->nodes[f].next)
        if (same_name(p, &p->nodes[f], name, len))
            return fail(p, name, "name given twice:", p->text + name, len);
    r = add_node(p, NODE_FIELD, name, len, &field);
    if (r < 0)
        return r;
    skip_space(p);
    typed = accept(p, ":");
    if (first)
        p->nodes[o->node].kind = typed ? NODE_STRUCT : NODE_ENUM;
    else if (typed != (p->nodes[o->node].kind == NODE_STRUCT))
        return fail_here(p, typed ? "an enum's name has no type" : "expected ':' and a type");
    if (first)
        p->nodes[o->node].child = field;
    else
        p->nodes[o->last].next = field;
    o->last = field;
    skip_space(p);
    return typed;
}

/* Reads what stands before the innermost type: "?", "[]", "[string]". Each becomes a node, the child of the one before. */
static int read_prefixes(struct parser *p, uint16_t *parent)
{
    for (;;) {
        enum node_kind kind;
        uint16_t node = 0;
        int r;

        if (accept(p, "?"))
            kind = NODE_MAYBE;
        else if (accept(p, "[]"))
            kind = NODE_ARRAY;
        else if (accept(p, "[string]"))
            kind = NODE_MAP;
        else
            return 0;
        if (kind == NODE_MAYBE && p->nodes[*parent].kind == NODE_MAYBE)
            return fail_here(p, "'?' given twice");
        r = add_node(p, kind, 0, 0, &node);
        if (r < 0)
            return r;
        p->nodes[*parent].child = node;
        *parent = node;
    }
}

static int read_base(struct parser *p, uint16_t *ret_node)
{
    static const struct {
        const char *word;
        enum node_kind kind;
    } words[] = {
        { "bool", NODE_BOOL }, { "int", NODE_INT }, { "float", NODE_FLOAT }, { "string", NODE_STRING }, { "object", NODE_OBJECT },
    };
    size_t name = 0, len = 0;
    int r;

    if (accept(p, "("))
        return add_node(p, NODE_STRUCT, 0, 0, ret_node);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (accept(p, words[i].word))
            return add_node(p, words[i].kind, 0, 0, ret_node);
    if (!is_upper(peek(p)))
        return fail_here(p, "expected a type");
    r = read_type_name(p, &name, &len);
    return r < 0 ? r : add_node(p, NODE_ALIAS, name, len, ret_node);
}

/* Behind a whole type (or an enum's name): "," and the next field, or ")" which ends a whole type again. 1: a type follows in the
 * innermost struct, 0: nothing is open any more. */
static int read_separators(struct parser *p, struct open_struct *stack, size_t *depth, bool empty)
{
    while (*depth > 0) {
        skip_space(p);
        if (accept(p, ")")) {
            (*depth)--;
            empty = false;
            continue;
        }
        if (!empty && !accept(p, ","))
            return fail_here(p, "expected ',' or ')'");
        int r = read_field(p, &stack[*depth - 1]);

        if (r != 0)
            return r;
        empty = false;
    }
    return 0;
}

/* Reads one type and hangs it below `parent`. Nested structs are kept on a stack of our own. */
static int read_type(struct parser *p, uint16_t parent)
{
    struct open_struct stack[NESTING_MAX];
    size_t depth = 0;
    int r;

    do {
        uint16_t node = 0;
        bool open;

        r = read_prefixes(p, &parent);
        if (r < 0)
            return r;
        r = read_base(p, &node);
        if (r < 0)
            return r;
        p->nodes[parent].child = node;
        open = p->nodes[node].kind == NODE_STRUCT;
        if (open && depth == NESTING_MAX)
            return fail_here(p, "nested too deeply");
        if (open)
            stack[depth++] = (struct open_struct){ .node = node };
        r = read_separators(p, stack, &depth, open);
        if (r > 0)
            parent = stack[depth - 1].last;
    } while (r > 0);
    return r;
}

static int read_struct(struct parser *p, uint16_t member, const char *what)
{
    skip_space(p);
    if (peek(p) != '(')
        return fail_here(p, what);
    return read_type(p, member);
}

static int read_method(struct parser *p, uint16_t member)
{
    uint16_t in, out;
    int r = read_struct(p, member, "expected '(' and what the method takes");

    if (r < 0)
        return r;
    in = p->nodes[member].child;
    skip_space(p);
    if (!accept(p, "->"))
        return fail_here(p, "expected '->'");
    r = read_struct(p, member, "expected '(' and what the method returns");
    if (r < 0)
        return r;
    out = p->nodes[member].child;
    if (p->nodes[in].kind != NODE_STRUCT || p->nodes[out].kind != NODE_STRUCT)
        return fail_here(p, "a method takes and returns structs");
    p->nodes[member].child = in;
    p->nodes[in].next = out;
    return 0;
}

static int read_member(struct parser *p, uint16_t first, uint16_t *ret_member)
{
    enum node_kind kind;
    size_t name = 0, len = 0;
    uint16_t member = 0;
    int r;

    if (accept(p, "type"))
        kind = NODE_TYPE;
    else if (accept(p, "method"))
        kind = NODE_METHOD;
    else if (accept(p, "error"))
        kind = NODE_ERROR;
    else
        return fail_here(p, "expected 'type', 'method' or 'error'");
    skip_space(p);
    r = read_type_name(p, &name, &len);
    if (r < 0)
        return r;
    for (uint16_t m = first; m != NODE_NONE; m = p->nodes[m].next)
        if (same_name(p, &p->nodes[m], name, len))
            return fail(p, name, "name given twice:", p->text + name, len);
    r = add_node(p, kind, name, len, &member);
    if (r < 0)
        return r;
    if (kind == NODE_METHOD)
        r = read_method(p, member);
    else
        r = read_struct(p, member, "expected '('");
    if (r < 0)
        return r;
    if (kind == NODE_ERROR && p->nodes[p->nodes[member].child].kind != NODE_STRUCT)
        return fail_here(p, "an error's parameters are a struct");
    *ret_member = member;
    return 0;
}

static int resolve_aliases(struct parser *p, uint16_t first)
{
    for (size_t i = 1; i < p->n; i++) {
        struct node *n = &p->nodes[i];

        if (n->kind != NODE_ALIAS)
            continue;
        for (uint16_t m = first; m != NODE_NONE && n->child == NODE_NONE; m = p->nodes[m].next)
            if (p->nodes[m].kind == NODE_TYPE && same_name(p, &p->nodes[m], n->name, n->name_len))
                n->child = m;
        if (n->child == NODE_NONE)
            return fail(p, n->name, "unknown type", p->text + n->name, n->name_len);
    }
    return 0;
}

static int read_interface(struct parser *p, uint16_t *ret_first, size_t *ret_name, size_t *ret_name_len)
{
    uint16_t first = NODE_NONE, last = NODE_NONE, none = 0;
    int r;

    skip_space(p);
    if (!accept(p, "interface"))
        return fail_here(p, "expected 'interface'");
    skip_space(p);
    r = read_interface_name(p, ret_name, ret_name_len);
    if (r < 0)
        return r;
    r = add_node(p, NODE_FIELD, 0, 0, &none); /* index 0 */
    if (r < 0)
        return r;
    for (skip_space(p); p->pos < p->len; skip_space(p)) {
        uint16_t member = 0;

        r = read_member(p, first, &member);
        if (r < 0)
            return r;
        if (first == NODE_NONE)
            first = member;
        else
            p->nodes[last].next = member;
        last = member;
    }
    *ret_first = first;
    return resolve_aliases(p, first);
}

int varlink_interface_parse(const char *text, struct varlink_interface **ret_interface, struct err *err)
{
    struct parser p = { .text = text, .len = strlen(text), .err = err };
    struct varlink_interface *i;
    size_t name = 0, name_len = 0;
    uint16_t first = NODE_NONE;
    int r;

    if (p.len > IDL_TEXT_MAX)
        return err_set(err, EINVAL, "bad-interface", "the interface description is longer than %d bytes", IDL_TEXT_MAX);
    r = read_interface(&p, &first, &name, &name_len);
    if (r < 0) {
        free(p.nodes);
        return r;
    }
    assert(p.nodes); /* with node 0 at least */
    i = malloc(sizeof(*i) + p.n * sizeof(struct node) + name_len + 1);
    if (!i) {
        free(p.nodes);
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    }
    *i = (struct varlink_interface){ .text = text, .first = first, .n = (uint16_t)p.n, .name_len = (uint16_t)name_len };
    memcpy(i->nodes, p.nodes, p.n * sizeof(struct node));
    memcpy(&i->nodes[p.n], text + name, name_len);
    ((char *)&i->nodes[p.n])[name_len] = '\0';
    free(p.nodes);
    *ret_interface = i;
    return 0;
}

void varlink_interface_free(struct varlink_interface *i) { free(i); }

const char *varlink_interface_name(const struct varlink_interface *i) { return (const char *)&i->nodes[i->n]; }

const char *varlink_interface_text(const struct varlink_interface *i) { return i->text; }

uint16_t node_find(const struct varlink_interface *i, uint16_t first, enum node_kind kind, const char *name, size_t len)
{
    uint16_t n;

    for (n = first; n != NODE_NONE; n = i->nodes[n].next)
        if (i->nodes[n].kind == kind && i->nodes[n].name_len == len && memcmp(i->text + i->nodes[n].name, name, len) == 0)
            break;
    return n;
}

bool varlink_interface_has_method(const struct varlink_interface *i, const char *method)
{
    return node_find(i, i->first, NODE_METHOD, method, strlen(method)) != NODE_NONE;
}

void varlink_interface_methods(const struct varlink_interface *i, void (*each)(void *arg, const char *method), void *arg)
{
    for (uint16_t n = i->first; n != NODE_NONE; n = i->nodes[n].next) {
        char name[IDL_NAME_MAX + 1];

        if (i->nodes[n].kind != NODE_METHOD)
            continue;
        memcpy(name, i->text + i->nodes[n].name, i->nodes[n].name_len);
        name[i->nodes[n].name_len] = '\0';
        each(arg, name);
    }
}
