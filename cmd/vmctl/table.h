/* Tables for people: as wide as they need to be, but on a terminal no wider than that; there the less important columns go first. */
#pragma once

#include <stddef.h>

#include "cmd/vmctl/verb.h"

enum { TABLE_COLUMNS_MAX = 12 };

struct table_column {
    const char *title;
    unsigned rank; /* 0: always shown; else the highest goes first when there is no room */
    bool right;    /* aligned to the right */
    bool cut;      /* may be cut at the end of the line */
};

struct table {
    const struct table_column *columns;
    size_t n_columns;
    char **cells; /* n_rows * n_columns */
    const char **colors;
    size_t n_rows;
};

void table_init(struct table *t, const struct table_column *columns, size_t n_columns);
void table_clear(struct table *t);
#define auto_table auto_cleanup(table_clear)

/* A new last row; every cell is "". */
void table_add_row(struct table *t);
/* A cell of the last row; copied. `color`: a name smartcols knows ("green"), or NULL. */
void table_set(struct table *t, size_t column, const char *text, const char *color);
void table_set_int(struct table *t, size_t column, long long value);

enum outcome table_print(const struct table *t, const struct invocation *in);
