/* For tests that start programs. */
#pragma once

#include "tests/unit/fixture.h"

#define ARGV(...) ((char *const[]){ __VA_ARGS__, NULL })
#define W(s) ((char[]){ s })

static inline void make_pipe(int fds[2]) { ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0); }
