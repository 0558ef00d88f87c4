# What may become of VMs and of their data when the package goes: put into prerm and postrm, which share no file (see rules).
#
# Said by the environment (HOLDFAST_REMOVE, HOLDFAST_PURGE), else by lines "remove=…" and "purge=…" of /etc/holdfast/package-policy. Not by
# debconf: a machine that removes a package unattended couldn't answer, and this is never guessed.

# Names of the VMs that run, in one line. A VM's lock is held as long as its QEMU or its shim lives, whoever else died: the kernel's own
# evidence. One that can't be looked at counts as held.
running_vms()
{
    names=
    for lock in "$@"; do
        [ -e "$lock" ] || continue
        flock --nonblock --shared "$lock" true 2>/dev/null || names="$names $(basename "$(dirname "$lock")")"
    done
    echo "${names# }"
}

# policy KEY SAID DEFAULT: one word; SAID is what the environment says.
policy()
{
    said=$2
    if [ -z "$said" ] && [ -r /etc/holdfast/package-policy ]; then
        said=$(sed -n "s/^ *$1 *= *\([a-z]*\) *\$/\1/p" /etc/holdfast/package-policy | tail -n 1)
    fi
    echo "${said:-$3}"
}
