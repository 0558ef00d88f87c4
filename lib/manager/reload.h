/* The host config is read again when its file was changed, or on SIGHUP; what is wrong with it leaves the old one in force. */
#pragma once

struct manager;

void reload_begin(struct manager *m);
