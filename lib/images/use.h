/* STATE/vms/VM/image.json: the release a VM was started with last, so that it isn't pruned while the VM is stopped. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/strv.h"
#include "lib/base/util.h"
#include "lib/images/store.h"

enum { IMAGE_USE_SCHEMA = 1 };

#define FILE_IMAGE_USE "image.json"

struct image_use {
    uint64_t schema;
    char *name, *version;
};
extern const struct record_type image_use_type;

int image_use_from_json(const json_t *json, struct image_use *ret_use, struct err *err);
void image_use_clear(struct image_use *use);
#define auto_image_use auto_cleanup(image_use_clear)

/* `state_vms_fd` is STATE/vms; the VM's folder must be there. Read: -ENOENT when the VM has none. Write: durably. */
int image_use_read(int state_vms_fd, const char *vm, struct image_use *ret_use, struct err *err);
int image_use_write(int state_vms_fd, const char *vm, const char *name, const char *version);
/* One that isn't there is fine. */
int image_use_remove(int state_vms_fd, const char *vm);

/* The VMs whose record names the release. A record that can't be read counts as naming every release, since nobody knows: its VM is
 * among them, and *ret_unclear (may be NULL) says so. `state_vms_fd` -1: there are no VMs. */
int image_users(int state_vms_fd, const char *name, const char *version, struct strv *ret_vms, bool *ret_unclear);

/* The same of snapshots, "VM/SNAPSHOT" in STATE/snapshots beside STATE/vms: those with a disk that is a file of the release. */
int image_snapshots(int state_vms_fd, const struct image_store *store, const char *name, const char *version, struct strv *ret_snapshots,
                    bool *ret_unclear);
