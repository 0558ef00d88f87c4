/* How a parsed interface lies in memory: shared by the parser (idl.c) and the checker (check.c), nobody else's business. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/varlink/idl.h"

enum node_kind {
    /* members of an interface: name; next: the following member */
    NODE_TYPE,   /* child: its struct or enum */
    NODE_METHOD, /* child: its in struct, whose next is the out struct */
    NODE_ERROR,  /* child: its struct */
    /* one entry of a struct or enum: name; next: the following entry; child: its type, none in an enum */
    NODE_FIELD,
    /* types */
    NODE_BOOL,
    NODE_INT,
    NODE_FLOAT,
    NODE_STRING,
    NODE_OBJECT,
    NODE_MAYBE,  /* child: the type it may be */
    NODE_ARRAY,  /* child: the elements' type */
    NODE_MAP,    /* child: the values' type */
    NODE_STRUCT, /* child: first field */
    NODE_ENUM,   /* child: first name */
    NODE_ALIAS,  /* name; child: the NODE_TYPE it names */
};

enum {
    NODE_NONE = 0, /* index 0 is never used, so 0 means "none" */
    IDL_NAME_MAX = 255,
    IDL_TEXT_MAX = 512 * 1024,
};

struct node {
    uint32_t name; /* offset into the text */
    uint8_t name_len;
    uint8_t kind;
    uint16_t next, child;
};

struct varlink_interface {
    const char *text;
    uint16_t first; /* member */
    uint16_t n;
    uint16_t name_len;
    struct node nodes[]; /* n of them, then the interface's name with its NUL */
};

/* A node by kind and name among `first` and its followers; NODE_NONE when there is none. */
uint16_t node_find(const struct varlink_interface *i, uint16_t first, enum node_kind kind, const char *name, size_t len);
