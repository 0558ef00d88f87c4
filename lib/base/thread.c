#include "lib/base/thread.h"

#include <signal.h>

int thread_start(size_t stack_size, void *(*run)(void *arg), void *arg, pthread_t *ret_thread)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    int r = pthread_attr_init(&attr);

    if (r != 0)
        return -r;
    r = pthread_attr_setstacksize(&attr, stack_size);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    if (r == 0)
        r = pthread_create(&thread, &attr, run, arg);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attr);
    if (r == 0)
        *ret_thread = thread;
    return -r;
}
