/* A guest that begins as a snapshot: QEMU waits for it (-incoming defer), its RAM is looked after by ram.h, and here its device state is loaded
 * and the guest let run. Whatever goes wrong before that ends the VM: half a restore is no guest. QEMU docs/devel/migration.rst. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct vm;

/* The plan says so, and it hasn't been done yet. */
bool vm_is_restoring(const struct vm *vm);

/* Off the loop: opens and checks the snapshot, makes the disks' overlays. vm_prepare_steps() follows, or the end. */
void restore_prepare(struct vm *vm);
/* What that found, the caller's from then on; only between VM_RESTORE and the fork. */
struct ram_source;
void restore_take_source(struct vm *vm, struct ram_source *ret_source);
/* The disks' layers this launch is for. NULL: of an adoption that found no record of them. */
struct disks;
const struct disks *restore_disks(const struct vm *vm);
/* Layers take the place of this file, so it needn't be made. */
bool restore_replaces(const struct vm *vm, const char *path);

/* Arguments of migrate-set-capabilities: RAM stays out of the stream, and its end is an event. A new reference, NULL: out of memory. */
json_t *migration_capabilities(void);

/* QEMU's monitor is there, of a launch or of an adoption. */
void restore_begin(struct vm *vm);
/* Something that may have been waited for has changed. */
void restore_poke(struct vm *vm);
/* QMP's MIGRATION event. */
void restore_migration(struct vm *vm, const char *status);
/* The guest runs: the plan is a plain one from here on. */
void restore_done(struct vm *vm);
/* The working set is known, and with it a VM that was only for that is done. */
void restore_settled(struct vm *vm);

/* Kills QEMU; its end is told with these words, and no policy starts it again. */
void vm_restore_failed(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Why, or NULL. */
const char *restore_failure(const struct vm *vm);
void restore_end(struct vm *vm);
