/* Threads beside a loop. */
#pragma once

#include <pthread.h>
#include <stddef.h>

/* Starts a joinable thread with a stack of that many bytes (at least PTHREAD_STACK_MIN) and all signals blocked: they are the loop's, and
 * a thread begins with the mask of its maker (pthread_sigmask(3)). 0 or -errno of pthread_create(3); *ret_thread is untouched then. */
int thread_start(size_t stack_size, void *(*run)(void *arg), void *arg, pthread_t *ret_thread);
