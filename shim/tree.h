/* The VM's process tree: QEMU and whatever it started, down to helpers that double-forked and called setsid. The shim is their
 * subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)), so orphans become its children; where cgroup v2 can be written they also share a cgroup
 * below the shim's (cgroups(7)), which holds even those of a QEMU that an earlier shim had started. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/loop/loop.h"

enum { TREE_EXPECTED_MAX = 4 };

struct tree {
    struct loop *loop;
    ev_signal child;                   /* SIGCHLD: strays are reaped as they die */
    ev_timer poll;                     /* while a cgroup empties: its populated flag has no pidfd */
    pid_t expected[TREE_EXPECTED_MAX]; /* children that somebody else here waits for */
    char *cgroup;                      /* absolute path of the folder, NULL: none */
    int cgroup_fd;                     /* the folder, while there is one; 0: none */
    bool killing;
    void (*emptied)(void *arg);
    void *arg;
};

/* Becomes subreaper and begins reaping strays. `emptied` is told when a tree_kill() has left nothing behind. */
int tree_start(struct tree *t, struct loop *l, void (*emptied)(void *arg), void *arg);
void tree_stop(struct tree *t); /* leaves living processes alone; fine on a zeroed one */

/* Makes the cgroup of VM `name` below our own, if that can be done; 0 also when not (t->cgroup is NULL then). `run_dir` tells VMs of one
 * name apart where several instances of Holdfast share a host. What is left in it by an earlier life is killed: the caller holds
 * the VM's lock, so it can't be a QEMU anybody counts on. */
int tree_make_cgroup(struct tree *t, const char *name, const char *run_dir);
/* Takes over the cgroup that an earlier shim's record names. */
int tree_take_cgroup(struct tree *t, const char *folder);
void tree_remove_cgroup(struct tree *t); /* a populated one stays */
/* The cgroup's folder, for spawn_child(); 0 when there is none. */
int tree_cgroup_fd(const struct tree *t);
/* Puts a child that was born elsewhere into the cgroup, before it is let go. */
int tree_add(struct tree *t, pid_t pid);

/* SIGKILLs all that is in the cgroup, QEMU too. false: there is no cgroup. */
bool tree_kill_cgroup(struct tree *t);

/* Somebody here waits for this child himself: it is neither reaped nor killed as a stray. */
void tree_expect(struct tree *t, pid_t pid);
void tree_forget(struct tree *t, pid_t pid);

/* SIGKILLs what is left of the tree. `emptied` follows, from the loop or at once, when all of it is gone: that takes as long as the
 * kernel takes. */
void tree_kill(struct tree *t);
