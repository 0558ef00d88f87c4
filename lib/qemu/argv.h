/* QEMU's command line, built option by option. Used by resolve.c only.
 *
 * Whatever holds a name or path an operator chose is given as JSON where QEMU takes JSON (-blockdev, -device, -netdev, -object), and with
 * commas doubled in the one option that doesn't (-chardev), so that no value can end and begin another option. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/base/strv.h"
#include "lib/qemu/resolve.h"

enum machine_family { MACHINE_Q35, MACHINE_VIRT };

struct argv {
    struct strv words;
    const struct resolve_input *in;
    enum machine_family family;
    bool kvm;
    int confidential;        /* enum confidential_mode, as it is on this host: never CONFIDENTIAL_AUTO */
    struct plan_file *files; /* what the words name by number */
    size_t n_files;
};

/* Has `path` opened as `fd` for QEMU. argv_push_fdset() also says so to QEMU, which then finds it as /dev/fdset/FD: the way for whatever
 * QEMU opens with its own qemu_open(); what it opens with libc's open() is named /proc/self/fd/FD. */
void argv_push_file(struct argv *a, enum file_kind kind, int fd, const char *path);
void argv_push_fdset(struct argv *a, enum file_kind kind, int fd, const char *path);

/* `option`, then `json` in one line. Consumes `json`; NULL, as json_pack() returns it, counts as out of memory. */
void argv_push_json(struct argv *a, const char *option, json_t *json);

/* PCI address "SLOT.FUNCTION" on the root bus. Each kind of device has slots of its own (argv_devices.c), so that adding one moves no
 * other. */
void argv_push_disks(struct argv *a);
void argv_push_networks(struct argv *a);
void argv_push_extras(struct argv *a); /* vsock, random numbers, panic notification */
void argv_push_gpus(struct argv *a);
json_t *argv_pci_device(const char *driver, const char *id, int slot, int function);
/* Adds to a device that may be NULL already; what can't be added makes it NULL. Consumes both. */
json_t *argv_with(json_t *device, const char *key, json_t *value);

/* What keeps the host out of the guest (argv_tee.c): chooses a->confidential, or says what host or QEMU lack for it and for what else is asked
 * of them; never one mode instead of another. */
int tee_choose(struct argv *a, struct err *err);
const char *tee_machine_options(const struct argv *a); /* each with a comma in front */
void tee_push_object(struct argv *a);
/* The processor; NULL: as without. */
int tee_cpu(const struct argv *a, char **ret_cpu);

/* Guest memory that only QEMU maps: of confidential guests, and of those whose memory devices reach, which pin it. */
bool argv_memory_is_private(const struct argv *a);
/* How much of it QEMU must be able to pin; 0: nothing. */
uint64_t argv_memlock(const struct argv *a);

/* Path of a disk of ours. 0 or -ENOMEM. */
int disk_path(const struct resolve_input *in, const struct spec_disk *disk, char **ret_path);

/* The whole command line, program first. 0, or -ENOMEM. */
int argv_build(struct argv *a);
