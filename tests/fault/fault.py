"""What the fault tests share: who is who among the processes of a host, and the invariants that must hold after every fault."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

# pylint: disable=wrong-import-position,unused-import
from harness import (BIN, SOURCE, Host, HostTest, Varlink, alive, gaps, main, processes_of, program, start_time, wait_for)  # noqa: E402,F401

LONG = bool(os.environ.get("HOLDFAST_LONG"))
MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def process_state(pid):
    """The letter of /proc/PID/stat, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def is_stopped(pid):
    return process_state(pid) in ("T", "t")


def send(sig, *pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def shims(host, name=None):
    """Pids of the shims of this host (of one VM)."""
    which = re.compile(rf"/holdfast-shim(-\w+)? .* {re.escape(name) if name else '[^ ]+'}$")
    return [pid for pid, line in processes_of(host.root) if which.search(line)]


def qemus(host, name):
    """Pids of the QEMUs of a VM, without what they have forked: a helper, or a child on its way to exec."""
    return [pid for pid in host.qemus(name) if process_state(pid) != "Z" and is_leader(pid)]


def is_leader(pid):
    try:
        return os.getpgid(pid) == pid
    except OSError:
        return False


def cgroups_of(host):
    """The cgroups of this host's VMs: the name ends with a hash of the run folder, so it is looked for by what the shims' records say."""
    found = []
    for mount in MOUNTS:
        for folder, folders, _ in os.walk(mount):
            folders[:] = [f for f in folders if os.path.exists(os.path.join(folder, f, "cgroup.procs"))]
            for name in folders:
                vm = re.fullmatch(r"holdfast-vm-(.+)\.([0-9a-f]{8})", name)
                if vm and vm[2] == f"{fnv(host.path('run', vm[1])):08x}":
                    found.append(os.path.join(folder, name))
    return found


def sockets_left(host):
    """Sockets of shims that have left. One that was killed leaves its folder as it was, for its VM's next start (DESIGN §2.3: only who holds
    shim.lock unlinks): its status record tells."""
    left = []
    for folder, _, files in os.walk(os.path.join(host.dirs["run"], "vms")):
        left += [os.path.join(folder, f) for f in files if f.endswith(".sock") and "status.json" not in files]
    return left


def fnv(text):
    """hash_bytes() of lib/base, the lower half."""
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return value & 0xffffffff


class FaultTest(HostTest):
    """A test that ends with the invariants: nothing of the host is left, no process, socket or cgroup."""

    def finish(self):
        self.stopEverything()
        self.assertClean()

    def assertClean(self):
        wait_for(lambda: not cgroups_of(self.host), f"no cgroup left ({cgroups_of(self.host)})", 10)
        self.assertEqual(sockets_left(self.host), [], "sockets are left")

    def running(self, name):
        """The VM, which runs as exactly one QEMU."""
        vm = self.host.wait_state(name, "running")
        self.assertEqual(qemus(self.host, name), [vm["qemu_pid"]])
        return vm

    def same(self, before, after=None):
        """The VM is still the very process it was."""
        after = after or self.host.vm(before["name"])
        self.assertEqual((after["qemu_pid"], after["incarnation"]), (before["qemu_pid"], before["incarnation"]))
        self.assertTrue(alive(before["qemu_pid"]))

    def list_quickly(self):
        """The list, which one hung VM doesn't hold up: it comes within a second (in one of a few tries: this machine may be busy)."""
        took = []
        for _ in range(5):
            begin = time.monotonic()
            vms = self.host.list()
            took.append(time.monotonic() - begin)
            if took[-1] < 1.0:
                return vms
        raise AssertionError(f"vmctl list takes {min(took):.2f} s and longer")

    def background(self, *words):
        """A vmctl that may be held up by the fault."""
        child = subprocess.Popen([program("vmctl"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env=self.host.environment())
        self.addCleanup(self.end, child)
        return child

    @staticmethod
    def end(child):
        if child.poll() is None:
            child.kill()
        child.wait()

    def exits(self, name):
        """The exits the manager has seen of a VM, from events.jsonl."""
        return [e for e in self.host.events(name) if e.get("type") == "exit"]

    def kill_shim(self, name):
        send(signal.SIGKILL, *shims(self.host, name))
