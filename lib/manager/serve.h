/* When start-up is over: the socket, READY=1, and what is left to do in the background. */
#pragma once

struct manager;

/* Once; later calls do nothing. */
void serve_begin(struct manager *m);
