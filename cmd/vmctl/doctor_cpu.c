/* Hardware virtualization, and guests whose memory the host can't read. */
#include <errno.h>
#include <fcntl.h>

#include "cmd/vmctl/doctor.h"
#include "lib/base/fd.h"
#include "lib/qemu/capabilities.h"

void doctor_check_kvm(struct doctor *d)
{
    auto_free char *cpuinfo = doctor_text(d, "/proc/cpuinfo"), *path = doctor_path(d, "/dev/kvm");
    auto_fd int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int e = fd < 0 ? errno : 0;

    if (qemu_kvm_usable(cpuinfo ? cpuinfo : "", fd >= 0)) {
        doctor_find(d, VERDICT_OK, NULL, "/dev/kvm opens and the CPU can virtualize");
        return;
    }
    if (!qemu_kvm_usable(cpuinfo ? cpuinfo : "", true))
        doctor_find(d, VERDICT_WARNING, "turn virtualization on in the firmware, or nested virtualization on the host of this host",
                    "the CPU shows neither vmx nor svm%s: VMs are emulated (accel tcg), many times slower",
                    fd >= 0 ? ", though /dev/kvm opens" : "");
    else if (e == EACCES || e == EPERM)
        doctor_find(d, VERDICT_WARNING, "add the user the manager runs as to the group kvm, or run this as root",
                    "/dev/kvm may not be opened: VMs are emulated (accel tcg), many times slower");
    else
        doctor_find(d, VERDICT_WARNING, "modprobe kvm_intel, or kvm_amd", "/dev/kvm: %s: VMs are emulated (accel tcg), many times slower",
                    strerror(e));
}

/* What says that a kind of guest can be run: the module's parameter, as the kernel shows it once it has set it up. */
static const struct tee {
    const char *name;
    const char *parameter;
    const char *cpu_flag; /* in /proc/cpuinfo, where the CPU could */
    const char *device;   /* needed besides, NULL: none */
    const char *remedy;
} tees[] = {
    { "TDX", "/sys/module/kvm_intel/parameters/tdx", "tdx_host_platform", NULL,
      "turn TDX on in the firmware and boot with kvm_intel.tdx=1 (Linux 6.16 or later)" },
    { "SEV-SNP", "/sys/module/kvm_amd/parameters/sev_snp", "sev_snp", "/dev/sev",
      "turn SEV-SNP and the RMP on in the firmware and boot with kvm_amd.sev_snp=1 (Linux 6.11 or later)" },
};

static bool cpu_has(const char *cpuinfo, const char *flag)
{
    size_t len = strlen(flag);
    const char *at = cpuinfo ? strstr(cpuinfo, flag) : NULL;

    while (at && !(at > cpuinfo && at[-1] == ' ' && strchr(" \n", at[len])))
        at = strstr(at + 1, flag);
    return at != NULL;
}

void doctor_check_tee(struct doctor *d)
{
    auto_free char *cpuinfo = doctor_text(d, "/proc/cpuinfo");
    bool any = false;

    for (size_t i = 0; i < ARRAY_LEN(tees); i++) {
        const struct tee *tee = &tees[i];
        auto_free char *value = doctor_text(d, tee->parameter);
        bool on = value && strchr("Yy1", *value) && *value;

        if (on && tee->device && !doctor_exists(d, tee->device))
            doctor_find(d, VERDICT_WARNING, "modprobe ccp, and see what dmesg says of it",
                        "%s: on, but %s is missing: such VMs don't start", tee->name, tee->device);
        else if (on)
            doctor_find(d, VERDICT_OK, NULL, "%s: the kernel can run such VMs", tee->name);
        else if (cpu_has(cpuinfo, tee->cpu_flag))
            doctor_find(d, VERDICT_NOTE, tee->remedy, "%s: the CPU could, but the kernel has it turned off", tee->name);
        else
            continue;
        any = true;
    }
    if (!any)
        doctor_find(d, VERDICT_NOTE, NULL, "neither TDX nor SEV-SNP: confidential VMs can't run here, others aren't affected");
}
