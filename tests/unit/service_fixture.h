/* A Varlink service of one small interface in a temporary folder, and a client of few words: what the tests of lib/varlink/service.h share.
 * Both run in the test's own loop. */
#pragma once

#include <check.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/loop/loop.h"
#include "lib/varlink/service.h"

struct service_fixture {
    char dir[32];
    int dirfd;
    struct loop *loop;
    struct varlink_interface *interface;
    struct varlink_service *service;
    struct varlink_call *held[16]; /* calls of Later, Flood and Broken that aren't ended yet */
    size_t n_held, gone, ran;
    bool upgraded;
    int raw_fd;
    char *rest;
    size_t rest_len;
    int last_result;
    char seen[256]; /* texts Echo was called with */
};
extern struct service_fixture f;

enum { SERVICE_METHODS = 7 };
extern const struct varlink_method service_methods[SERVICE_METHODS];

/* Listens on "sock" in the folder; what `extra` leaves out is filled in. */
void service_start(const struct varlink_service_config *extra);

/* A connection; the test closes it. */
int client(void);
void say(int fd, const char *text);
/* The next message; NULL at the end of the connection. */
json_t *hear(int fd);
/* The next message must be this one, in compact form with sorted keys; NULL: the connection must end. */
void expect(int fd, const char *wanted);
/* Runs the loop until the service has no connection. */
void all_gone(void);

int service_main(const char *name, void (*add_tests)(TCase *tc));
