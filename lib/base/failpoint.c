#include "lib/base/failpoint.h"

#ifdef HOLDFAST_FAILPOINTS

#include <signal.h>

#include "lib/base/util.h"

static void act(const char *action, const char *file)
{
    /* unlink(2) succeeds for one process only: with a FILE it fires once however many come by. */
    if (file && unlink(file) < 0)
        return;
    if (streq(action, "kill")) {
        kill(getpid(), SIGKILL);
    } else if (streq(action, "exit")) {
        _exit(1);
    } else if (streq(action, "stop")) {
        raise(SIGSTOP);
    } else if (streq(action, "hang")) {
        for (;;)
            pause();
    } else {
        /* A test that misspells its action must not pass for want of a fault. */
        abort();
    }
}

void failpoint_hit(const char *name)
{
    const char *env = getenv("HOLDFAST_FAILPOINT");
    if (!env)
        return;
    auto_free char *copy = strdup(env);
    if (!copy)
        abort();
    char *rest = copy;
    for (char *point = strsep(&rest, ","); point; point = strsep(&rest, ",")) {
        char *action = point;
        const char *given = strsep(&action, "=");
        if (!action || !streq(given, name))
            continue;
        char *file = action;
        strsep(&file, "@");
        act(action, file);
    }
}

#endif
