/* The terminal: raw while a console is attached, a status line while something takes its time. */
#pragma once

#include <stdbool.h>
#include <termios.h>

/* Shows `text` in the last line of stderr, over what the last call showed; NULL wipes it. Only for a stderr that is a terminal; else
 * nothing happens. Cut to the terminal's width. */
void terminal_status_line(const char *text);

/* Columns of the terminal `fd` is; 0 when it is none or doesn't say. */
unsigned terminal_width(int fd);

struct raw_mode {
    int fd; /* -1: not raw */
    struct termios saved;
};

/* Every key goes through as it is: no echo, no signals, no line editing. 0 also when `fd` is no terminal (nothing happens then). */
int raw_mode_enter(struct raw_mode *raw, int fd);
/* As it was before. Safe to call again. */
void raw_mode_leave(struct raw_mode *raw);
