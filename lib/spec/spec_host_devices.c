/* What only this host can say of a spec's devices and of what keeps it out of the guest. */
#include <errno.h>
#include <stdio.h>

#include "lib/base/util.h"
#include "lib/host/host.h"
#include "lib/host/vfio.h"
#include "lib/spec/spec_internal.h"

static int check_confidential(const struct spec *spec, const char *root, struct problems *p)
{
    struct host host;

    if (spec->confidential != CONFIDENTIAL_TDX && spec->confidential != CONFIDENTIAL_SEV_SNP)
        return 0; /* "auto" is what the host offers, whatever that is */
    int r = host_read(root, host_cpuid_native, &host);
    if (r < 0)
        return r;
    if (spec->confidential == CONFIDENTIAL_TDX && !host.tdx)
        problem_add(p, "/confidential: " HOST_LACKS_TDX);
    if (spec->confidential == CONFIDENTIAL_SEV_SNP && !host.sev_snp)
        problem_add(p, "/confidential: " HOST_LACKS_SEV_SNP);
    return 0;
}

int spec_check_host_devices(const struct spec *spec, const char *root, void (*report)(void *arg, const struct err *err), void *arg)
{
    auto_problems struct problems p = { .report = report, .arg = arg };
    int r = check_confidential(spec, root, &p);

    for (size_t i = 0; r >= 0 && i < spec_n_gpus(spec); i++) {
        struct pci_device device;
        struct err err = ERR_INIT;

        r = vfio_check(root, spec->gpus[i], spec->gpus, NULL, &device, &err);
        if (r < 0 && r != -ENOMEM) {
            problem_add(&p, "/gpus/%zu: %s", i, err.text);
            r = 0;
        }
    }
    if (r < 0)
        return r;
    return p.paths.failed ? -ENOMEM : p.n;
}
