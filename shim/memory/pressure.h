/* Whether the host is short of memory or I/O: linux/Documentation/accounting/psi.rst. */
#pragma once

#include <stdbool.h>

enum { PRESSURE_PERCENT = 10 };

/* Some avg10 of memory or io above PRESSURE_PERCENT. False where the kernel doesn't tell. */
bool pressure_is_high(void);
/* The same of one such file's text. */
bool pressure_text_is_high(const char *text);
