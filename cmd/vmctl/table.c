#include "cmd/vmctl/table.h"

#include <libsmartcols.h>
#include <locale.h>

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/terminal.h"
#include "lib/base/util.h"

enum { GAP = 1, CUT_WIDTH_MIN = 12 };

void table_init(struct table *t, const struct table_column *columns, size_t n_columns)
{
    *t = (struct table){ .columns = columns, .n_columns = n_columns };
}

void table_clear(struct table *t)
{
    for (size_t i = 0; i < t->n_rows * t->n_columns; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t->colors);
    *t = (struct table){ 0 };
}

void table_add_row(struct table *t)
{
    size_t old = t->n_rows * t->n_columns, n = old + t->n_columns;

    /* Doubled, so that a thousand rows are copied a few times only. */
    if ((t->n_rows & (t->n_rows - 1)) == 0) {
        size_t room = (t->n_rows ? t->n_rows * 2 : 1) * t->n_columns;
        t->cells = must(realloc(t->cells, room * sizeof(*t->cells)));
        t->colors = must(realloc(t->colors, room * sizeof(*t->colors)));
    }
    for (size_t i = old; i < n; i++) {
        t->cells[i] = NULL;
        t->colors[i] = NULL;
    }
    t->n_rows++;
}

void table_set(struct table *t, size_t column, const char *text, const char *color)
{
    size_t i = (t->n_rows - 1) * t->n_columns + column;

    if (str_set(&t->cells[i], text) < 0)
        must(NULL);
    t->colors[i] = color;
}

void table_set_int(struct table *t, size_t column, long long value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", value);
    table_set(t, column, text, NULL);
}

/* Bytes are taken for columns of the terminal: at worst a column goes that had found room. */
static size_t natural_width(const struct table *t, size_t column)
{
    size_t width = strlen(t->columns[column].title);

    if (t->columns[column].cut)
        return width > CUT_WIDTH_MIN ? width : CUT_WIDTH_MIN;
    for (size_t row = 0; row < t->n_rows; row++) {
        const char *cell = t->cells[row * t->n_columns + column];
        if (cell && strlen(cell) > width)
            width = strlen(cell);
    }
    return width;
}

static void choose_columns(const struct table *t, unsigned width, bool show[TABLE_COLUMNS_MAX])
{
    size_t widths[TABLE_COLUMNS_MAX], total = 0;

    for (size_t c = 0; c < t->n_columns; c++) {
        show[c] = true;
        widths[c] = natural_width(t, c) + GAP;
        total += widths[c];
    }
    while (width && total > width + GAP) {
        size_t worst = 0;
        for (size_t c = 1; c < t->n_columns; c++)
            if (show[c] && (!show[worst] || t->columns[c].rank > t->columns[worst].rank))
                worst = c;
        if (t->columns[worst].rank == 0)
            return;
        show[worst] = false;
        total -= widths[worst];
    }
}

static int fill_row(struct libscols_table *out, const struct table *t, size_t row, const bool show[TABLE_COLUMNS_MAX])
{
    struct libscols_line *line = scols_table_new_line(out, NULL);
    size_t shown = 0;

    if (!line)
        return -1;
    for (size_t c = 0; c < t->n_columns; c++) {
        size_t i = row * t->n_columns + c;
        if (!show[c])
            continue;
        if (scols_line_set_data(line, shown, t->cells[i] ? t->cells[i] : "") < 0)
            return -1;
        if (t->colors[i])
            scols_cell_set_color(scols_line_get_cell(line, shown), t->colors[i]);
        shown++;
    }
    return 0;
}

static int fill(struct libscols_table *out, const struct table *t, const struct invocation *in)
{
    bool show[TABLE_COLUMNS_MAX];
    unsigned width = terminal_width(STDOUT_FILENO);

    choose_columns(t, width, show);
    scols_table_enable_colors(out, color_wanted(in, STDOUT_FILENO));
    scols_table_set_termforce(out, width ? SCOLS_TERMFORCE_ALWAYS : SCOLS_TERMFORCE_NEVER);
    if (width)
        scols_table_set_termwidth(out, width);
    for (size_t c = 0; c < t->n_columns; c++) {
        int flags = (t->columns[c].right ? SCOLS_FL_RIGHT : 0) | (t->columns[c].cut ? SCOLS_FL_TRUNC : 0);
        if (show[c] && !scols_table_new_column(out, t->columns[c].title, 0, flags))
            return -1;
    }
    for (size_t row = 0; row < t->n_rows; row++)
        if (fill_row(out, t, row, show) < 0)
            return -1;
    return scols_print_table(out);
}

enum outcome table_print(const struct table *t, const struct invocation *in)
{
    /* So that names and reasons in UTF-8 are measured as they are shown. */
    setlocale(LC_CTYPE, "");
    struct libscols_table *out = must(scols_new_table());
    int r = fill(out, t, in);
    scols_unref_table(out);
    if (r < 0 && !ferror(stdout)) {
        complain("the table could not be made");
        return OUTCOME_FAILED;
    }
    return OUTCOME_DONE;
}
