/* What the tables of the sp-vm format can't say, and what of the format this version can't honour: to ignore that would start a VM
 * without what its operator asked for. Each such problem says how to go without. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"
#include "lib/spec/spvm_internal.h"

#define RUN "/run_configuration/"
#define QEMU "/qemu_configuration/"

static void check_build(const struct spvm *vm, struct problems *p)
{
    if (vm->run.build_dir && vm->run.vm_build)
        problem_add(p, RUN "vm_build: not together with \"build_dir\"");
    else if (vm->run.vm_build && !version_is_valid(vm->run.vm_build))
        problem_add(p, RUN "vm_build: '%s' is neither \"auto\" nor the name of a release: %s", vm->run.vm_build, VERSION_RULE);
}

/* One word of the kernel's command line. */
static void check_word(const char *key, const char *word, struct problems *p)
{
    bool good = !word || *word;

    for (const char *c = word; c && *c; c++)
        good = good && isgraph((unsigned char)*c) && *c != '"';
    if (!good)
        problem_add(p, RUN "%s: expected one word without quotes, for the kernel's command line, got '%s'", key, word);
}

static void check_provider_config(const struct spvm *vm, struct problems *p)
{
    const char *configmap = vm->run.provider_config.configmap, *challenge = vm->run.provider_config.challenge;
    const char *folder = vm->run.provider_config_directory;

    spec_check_path(p, RUN "provider_config/execution_controller_tee_prov_configmap", configmap);
    spec_check_path(p, RUN "provider_config/sp_pki_challenge_secret", challenge);
    spec_check_path(p, RUN "provider_config_directory", folder);
    if (folder && (configmap || challenge))
        problem_add(p, RUN "provider_config_directory: not together with \"provider_config\"");
}

static void check_gpus(const struct spvm *vm, struct problems *p)
{
    if (spec_check_gpus(p, QEMU "gpus", vm->qemu.gpus) < 0)
        p->paths.failed = true;
}

struct port {
    const char *key;
    const char *address;
    uint64_t port;
    bool udp;
};

static bool ports_collide(const struct port *a, const struct port *b)
{
    static const char any[] = "0.0.0.0";

    return a->port && a->port == b->port && a->udp == b->udp &&
           (streq(a->address, b->address) || streq(a->address, any) || streq(b->address, any));
}

static void check_ports(const struct spvm *vm, struct problems *p)
{
    const char *address = vm->qemu.ip_address ? vm->qemu.ip_address : "0.0.0.0";
    const struct port ports[] = {
        { "ssh_port", "127.0.0.1", vm->run.debug ? vm->qemu.ssh_port : 0, false },
        { "wg_port", address, vm->qemu.wg_port, true },
        { "http_port", address, vm->qemu.http_port, false },
        { "https_port", address, vm->qemu.https_port, false },
    };
    struct in_addr parsed;

    if (inet_pton(AF_INET, address, &parsed) != 1) {
        problem_add(p, QEMU "ip_address: expected an IPv4 address like \"0.0.0.0\", got '%s'", address);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(ports); i++)
        for (size_t k = 0; k < i; k++)
            if (ports_collide(&ports[i], &ports[k])) {
                problem_add(p, QEMU "%s: %d is taken by /qemu_configuration/%s", ports[i].key, (int)ports[i].port, ports[k].key);
                break;
            }
}

void spvm_check(const struct spvm *vm, struct problems *p)
{
    check_build(vm, p);
    check_word("argo_branch", vm->run.argo_branch, p);
    check_word("argo_sp_env", vm->run.argo_sp_env, p);
    check_provider_config(vm, p);
    check_gpus(vm, p);
    spec_check_path(p, QEMU "cache_dir", vm->qemu.cache_dir);
    check_ports(vm, p);
}
