/* Confidential guests: QEMU docs/system/confidential-guest-support.rst. Which mode it is, what it needs of host and QEMU, and its part of the command
 * line. A mode that was asked for and can't be had is an error: a guest that runs in less than it was promised is worse than one that doesn't. */
#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/argv.h"

#define TDX_OBJECT "tdx"
#define SEV_OBJECT "sev0"

enum {
    QUOTE_CID = 2, /* the host: vsock(7) */
    SEV_REDUCED_PHYS_BITS = 1,
    /* SMT is allowed, and the bit that must be 1: the SEV-SNP firmware ABI, "guest policy". No debugging, no migration agent. */
    SEV_POLICY = 0x30000,
};
#define QUOTE_PORT "4050" /* where Intel's quote generation service listens */

/* ---- the choice ---- */

static const struct mode {
    const char *object; /* of QEMU's */
    const char *host_lacks;
    const char *since; /* of which QEMU on */
} modes[] = {
    [CONFIDENTIAL_TDX] = { "tdx-guest", HOST_LACKS_TDX, "10.1 does" },
    [CONFIDENTIAL_SEV_SNP] = { "sev-snp-guest", HOST_LACKS_SEV_SNP, "9.1 does" },
};

static const char *mode_name(int mode) { return enum_to_string(&confidential_mode_names, mode); }

/* "confidential is \"auto\", which on this host is \"tdx\"" */
static void describe(const struct argv *a, int mode, char text[96])
{
    if (a->in->spec->confidential == CONFIDENTIAL_AUTO)
        snprintf(text, 96, "confidential is \"auto\", which is \"%s\" on this host", mode_name(mode));
    else
        snprintf(text, 96, "confidential is \"%s\"", mode_name(mode));
}
#define OR_WITHOUT "or say \"none\" (in an sp-vm file \"untrusted\") to run without"

static bool host_offers(const struct host *host, int mode) { return host && (mode == CONFIDENTIAL_TDX ? host->tdx : host->sev_snp); }

static int check_host(const struct argv *a, int mode, const char *what, struct err *err)
{
    const struct host *host = a->in->host;

    if (!host_offers(host, mode))
        return err_set(err, ENODEV, "no-confidential", "%s, but %s, " OR_WITHOUT, what, modes[mode].host_lacks);
    if (!a->kvm)
        return err_set(err, ENODEV, "no-confidential",
                       "%s, which needs KVM, and accel is \"tcg\" or KVM can't be used: say \"kvm\", " OR_WITHOUT, what);
    if (a->family != MACHINE_Q35)
        return err_set(err, EINVAL, "no-confidential", "%s, which is for x86 machines: " OR_WITHOUT, what);
    if (mode != CONFIDENTIAL_SEV_SNP)
        return 0;
    if (host->cbitpos == 0 || host->phys_bits == 0 || !host_epyc_model(host))
        return err_set(err, ENODEV, "no-confidential",
                       "%s, but this host's processor doesn't tell its %s: update its firmware and kernel, " OR_WITHOUT, what,
                       host->cbitpos == 0     ? "C-bit (CPUID 8000001F)"
                       : host->phys_bits == 0 ? "physical address bits (/proc/cpuinfo)"
                                              : "family, or it is none that has SEV-SNP (/proc/cpuinfo)");
    return 0;
}

static int needs(const struct argv *a, const char *feature, const char *what, const char *since, struct err *err)
{
    if (qemu_capabilities_has(a->in->capabilities, feature))
        return 0;
    return err_set(err, EOPNOTSUPP, "old-qemu", "%s, but %s (QEMU %s) knows no %s: set qemu.path to one that does (%s), " OR_WITHOUT, what,
                   a->in->qemu_path, a->in->capabilities->version, feature, since);
}

static int check_qemu(const struct argv *a, int mode, const char *what, struct err *err)
{
    const struct spec *spec = a->in->spec;

    int r = needs(a, modes[mode].object, what, modes[mode].since, err);
    if (r >= 0 && mode == CONFIDENTIAL_SEV_SNP)
        r = needs(a, host_epyc_model(a->in->host), what, modes[mode].since, err);
    if (r >= 0 && spec_n_gpus(spec) > 0)
        r = needs(a, "iommufd", what, "9.0 and later, built with it", err);
    if (r >= 0 && !spec->boot.firmware)
        r = err_set(err, EINVAL, "no-firmware",
                    "%s, and such a guest doesn't start by QEMU's own BIOS: give boot.firmware, an OVMF built for it", what);
    return r;
}

/* What passed-through devices and vsock need of QEMU in any mode; of a QEMU that wasn't asked nothing is said. */
static int check_devices(const struct argv *a, struct err *err)
{
    const struct qemu_capabilities *c = a->in->capabilities;

    if (spec_n_gpus(a->in->spec) > 0 && !qemu_capabilities_has(c, "vfio-pci"))
        return err_set(err, EOPNOTSUPP, "old-qemu", "/gpus: %s (QEMU %s) knows no vfio-pci: set qemu.path to one built with VFIO",
                       a->in->qemu_path, c->version);
    if (c->features && a->in->spec->vsock.wanted && !qemu_capabilities_has(c, "vhost-vsock-pci"))
        return err_set(err, EOPNOTSUPP, "old-qemu", "/vsock: %s (QEMU %s) knows no vhost-vsock-pci: set qemu.path to one built with it",
                       a->in->qemu_path, c->version);
    return 0;
}

bool plan_needs_features(const struct spec *spec) { return spec->confidential != CONFIDENTIAL_NONE || spec_n_gpus(spec) > 0; }

int tee_choose(struct argv *a, struct err *err)
{
    int mode = a->in->spec->confidential;
    char what[96];

    if (mode == CONFIDENTIAL_AUTO)
        mode = host_offers(a->in->host, CONFIDENTIAL_TDX)       ? CONFIDENTIAL_TDX
               : host_offers(a->in->host, CONFIDENTIAL_SEV_SNP) ? CONFIDENTIAL_SEV_SNP
                                                                : CONFIDENTIAL_NONE;
    int r = check_devices(a, err);
    if (r >= 0 && mode != CONFIDENTIAL_NONE) {
        describe(a, mode, what);
        r = check_host(a, mode, what, err);
        if (r >= 0)
            r = check_qemu(a, mode, what, err);
    }
    if (r >= 0)
        a->confidential = mode;
    return r;
}

/* ---- the command line ---- */

/* The memory backend's id is "ram" in every mode: what an id is called the guest doesn't see. vmport=off is said for all of our machines.
 * kernel_irqchip=split is what TDX can do at all, and what guests with passed-through devices get for their interrupts' sake; others keep the
 * default, since the device states saved of them are of that. */
const char *tee_machine_options(const struct argv *a)
{
    switch ((enum confidential_mode)a->confidential) {
    case CONFIDENTIAL_TDX:
        return ",kernel_irqchip=split,confidential-guest-support=" TDX_OBJECT;
    case CONFIDENTIAL_SEV_SNP: /* the kernel's interrupt controller, as measured launches of the reference have it */
        return ",confidential-guest-support=" SEV_OBJECT;
    case CONFIDENTIAL_NONE:
    case CONFIDENTIAL_AUTO:
        break;
    }
    return a->family == MACHINE_Q35 && a->kvm && spec_n_gpus(a->in->spec) > 0 ? ",kernel_irqchip=split" : "";
}

int tee_cpu(const struct argv *a, char **ret_cpu)
{
    if (a->confidential != CONFIDENTIAL_SEV_SNP)
        return 0;
    return str_format(ret_cpu, "%s,phys-bits=%u", host_epyc_model(a->in->host), a->in->host->phys_bits);
}

/* QEMU opens /dev/sev, which its user may not; KVM is all that TDX needs. */
static void push_sev(struct argv *a)
{
    char device[32];

    snprintf(device, sizeof device, "/dev/fdset/%d", PLAN_FD_SEV);
    argv_push_fdset(a, FILE_WRITE, PLAN_FD_SEV, "/dev/sev");
    argv_push_json(a, "-object",
                   json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:b}", "qom-type", "sev-snp-guest", "id", SEV_OBJECT, "sev-device", device,
                             "cbitpos", (int)a->in->host->cbitpos, "reduced-phys-bits", SEV_REDUCED_PHYS_BITS, "policy", SEV_POLICY,
                             "kernel-hashes", 1));
}

static void push_tdx(struct argv *a)
{
    char cid[16];

    snprintf(cid, sizeof cid, "%d", QUOTE_CID);
    argv_push_json(a, "-object",
                   json_pack("{s:s, s:s, s:{s:s, s:s, s:s}}", "qom-type", "tdx-guest", "id", TDX_OBJECT, "quote-generation-socket", "type",
                             "vsock", "cid", cid, "port", QUOTE_PORT));
}

void tee_push_object(struct argv *a)
{
    if (a->confidential == CONFIDENTIAL_TDX)
        push_tdx(a);
    else if (a->confidential == CONFIDENTIAL_SEV_SNP)
        push_sev(a);
}
