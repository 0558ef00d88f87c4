/* The GPUs of a spec, each by itself and against each other. Whether the host has them is lib/host's to say. */
#include <errno.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/limits.h"
#include "lib/spec/spec_internal.h"

size_t spec_n_gpus(const struct spec *spec)
{
    size_t n = 0;

    while (spec->gpus && spec->gpus[n])
        n++;
    return n;
}

static size_t find(char *const *gpus, size_t n, const char *address)
{
    size_t i = 0;

    while (i < n && !streq(gpus[i], address))
        i++;
    return i;
}

int spec_check_gpus(struct problems *p, const char *pointer, char **gpus)
{
    for (size_t i = 0; gpus && gpus[i]; i++) {
        char address[PCI_TEXT_MAX];

        if (i == GPUS_MAX) { /* and each would be compared with each */
            problem_add(p, "%s: more than %d devices", pointer, GPUS_MAX);
            return 0;
        }
        if (parse_pci_address(gpus[i], address) < 0) {
            problem_add(p, "%s/%zu: expected a PCI address like \"c1:00.0\" or \"0000:c1:00.0\", got '%s'", pointer, i, gpus[i]);
            continue;
        }
        size_t other = find(gpus, i, address);
        if (other < i)
            problem_add(p, "%s/%zu: '%s' is the same device as %s/%zu", pointer, i, gpus[i], pointer, other);
        if (str_set(&gpus[i], address) < 0)
            return -ENOMEM;
    }
    return 0;
}
