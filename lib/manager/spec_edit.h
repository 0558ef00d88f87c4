/* VMs that run while their spec says something new: compared with what they were launched with, changed live, or restarted in turn. */
#pragma once

struct manager;
struct vm;

/* Goes through all VMs that are due (vm->edit_due), one at a time, in the background. */
void spec_edit_kick(struct manager *m);
