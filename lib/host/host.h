/* What this host's processor offers to confidential guests, read from files below a root, so that tests can make one up. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The CPUID instruction: fills eax, ebx, ecx and edx of `leaf` and returns whether the processor knows it. */
typedef bool host_cpuid(uint32_t leaf, uint32_t ret_registers[4]);

/* The processor this runs on; on others than x86 no leaf is known. */
bool host_cpuid_native(uint32_t leaf, uint32_t ret_registers[4]);

struct host {
    bool tdx;           /* KVM runs TDX guests: /sys/module/kvm_intel/parameters/tdx */
    bool sev_snp;       /* KVM runs SEV-SNP guests: /sys/module/kvm_amd/parameters/sev_snp */
    bool amd;           /* the first processor of /proc/cpuinfo: its vendor is AMD, … */
    unsigned family;    /* … its family, 0: not told */
    unsigned phys_bits; /* of a physical address, 0: not told */
    unsigned model;
    unsigned cbitpos; /* of the bit that says "encrypted" in a page table: CPUID 8000001F EBX[5:0], AMD's manual, volume 3; 0: not told */
};

/* What to say where it isn't. */
#define HOST_LACKS_TDX                                                                                                      \
    "this host offers no TDX (/sys/module/kvm_intel/parameters/tdx is not Y): turn it on in the firmware's setup and load " \
    "kvm_intel with tdx=1"
#define HOST_LACKS_SEV_SNP                                                                                                        \
    "this host offers no SEV-SNP (/sys/module/kvm_amd/parameters/sev_snp is not Y): turn it on in the firmware's setup and load " \
    "kvm_amd with sev_snp=1"

/* What can't be read is not offered. `root` is put in front of /sys and /proc, NULL: nothing. -ENOMEM, else 0. */
int host_read(const char *root, host_cpuid *cpuid, struct host *ret_host);

/* The model of QEMU's that an SEV-SNP guest gets on this host, so that guests of one generation measure the same: "EPYC-v3" on Milan,
 * "EPYC-v4" on what came later. NULL: no processor that has SEV-SNP. */
const char *host_epyc_model(const struct host *host);
