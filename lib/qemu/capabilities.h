/* What one QEMU binary can do, and what this host's CPU can. Pure: callers run the binary and hand its words over. */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

struct qemu_capabilities {
    char *version;  /* "7.2.22" */
    char *machine;  /* versioned default for us: "pc-q35-7.2" on x86_64, "virt-7.2" on aarch64 */
    char *machines; /* all of that family, each with a space in front and behind; may be NULL */
    char *features; /* of those that confidential guests and passed-through devices need, likewise; NULL: not asked */
};

/* From the output of `-version` and `-machine help`. -EINVAL when either isn't QEMU's. */
int qemu_capabilities_parse(const char *version_text, const char *machine_text, struct qemu_capabilities *ret, struct err *err);
/* Whether it can be a machine of that name, one of the default's family: what was saved from an older QEMU needs the older machine. */
bool qemu_capabilities_has_machine(const struct qemu_capabilities *c, const char *machine);

/* Also takes what the binary says to `-object help`, `-device help` and `-cpu help`, which most VMs need not be asked for. 0 or -ENOMEM. */
int qemu_capabilities_parse_features(struct qemu_capabilities *c, const char *object_text, const char *device_text, const char *cpu_text);
/* Of "tdx-guest", "sev-snp-guest", "iommufd", "vfio-pci", "vhost-vsock-pci", "EPYC-v3" and "EPYC-v4"; false as long as it isn't asked. */
bool qemu_capabilities_has(const struct qemu_capabilities *c, const char *feature);
void qemu_capabilities_clear(struct qemu_capabilities *c);

/* /dev/kvm that opens is not a KVM that works: true when `cpuinfo` (the text of /proc/cpuinfo) has vmx or svm (x86), and the
 * device opens. On other architectures the device alone decides. */
bool qemu_kvm_usable(const char *cpuinfo, bool device_opens);

/* Absolute path of the default binary for this host's architecture, looked up in the usual bin folders; NULL when there is none. */
const char *qemu_default_path(void);
