"""M, and C for memory: at every step of a snapshot and of a restore the manager is killed, the shim is killed or stands still, both
die, or QEMU is killed. Afterwards the guest that was saved has noticed nothing, the one that is restored has not one wrong byte in memory
or on disk, nothing half is left, and the next snapshot or restore works. One line a failpoint."""
import os
import re
import signal

from fault import alive, is_stopped, main, send, shims, wait_for
from memory_case import MemoryTest

SNAPSHOT, RESTORE = "snapshot", "restore"
POINTS = [
    # point, the operation it lies in, whether the guest that is restored runs by then
    ("shim.snapshot-begun", SNAPSHOT, True),
    ("shim.snapshot-protecting", SNAPSHOT, True),
    ("shim.snapshot-after-stop", SNAPSHOT, True),
    ("shim.snapshot-after-state", SNAPSHOT, True),
    ("shim.snapshot-after-cont", SNAPSHOT, True),
    ("shim.snapshot-copying", SNAPSHOT, True),
    ("shim.snapshot-before-rename", SNAPSHOT, True),
    ("shim.restore-before-incoming", RESTORE, False),
    ("shim.restore-before-cont", RESTORE, False),
    ("shim.restore-1", RESTORE, True),
    ("shim.restore-50", RESTORE, True),
    ("shim.restore-99", RESTORE, True),
]
SURVIVORS = ("kill_manager", "stop_shim")  # faults after which the shim that began goes on


class MemoryCrash(MemoryTest):
    @classmethod
    def begin(cls):
        cls.FAILPOINTS = ",".join(f"{point}=stop@{cls.armed(point)}" for point, _, _ in POINTS)
        cls.start_manager()
        cls.shared.boot("base")
        cls.shared.vmctl("snapshot", "create", "base", "one")

    @classmethod
    def armed(cls, point):
        return os.path.join(cls.shared.root, "armed-" + point)

    def reach(self, point, vm, *words):
        """Brings the VM's shim to stand still at the point; returns vmctl, which waits for it."""
        with open(self.armed(point), "w"):
            pass
        vmctl = self.background(*words)
        try:
            wait_for(lambda: not os.path.exists(self.armed(point)), f"{point} to be reached ({self.host.shim_logs()})", 30)
        except AssertionError:
            os.unlink(self.armed(point))  # or the next test would meet it
            raise
        wait_for(lambda: any(is_stopped(pid) for pid in shims(self.host, vm)), f"the shim of {vm} to stand still at {point}", 10)
        return vmctl

    # ---- the faults ----

    def kill_manager(self, vm):
        self.host.kill_manager()
        send(signal.SIGCONT, *shims(self.host, vm))

    def kill_shim(self, vm):
        """The manager learns of it in its own time; until then it shows the VM as it was."""
        victims = shims(self.host, vm)
        send(signal.SIGKILL, *victims)
        wait_for(lambda: not any(alive(pid) for pid in victims), "the shim to be gone", 10)
        wait_for(lambda: self.host.list().get(vm, {}).get("shim_pid") not in victims, "the manager to see that it is gone", 10)

    def stop_shim(self, vm):
        """Nobody else waits for it meanwhile."""
        self.host.vmctl("list")
        send(signal.SIGCONT, *shims(self.host, vm))

    def kill_both(self, vm):
        victims = shims(self.host, vm)
        send(signal.SIGKILL, *victims)
        self.host.kill_manager()
        wait_for(lambda: not any(alive(pid) for pid in victims), "the shim to be gone", 10)

    def kill_qemu(self, vm):
        send(signal.SIGKILL, *self.host.qemus(vm))
        send(signal.SIGCONT, *shims(self.host, vm))

    # ---- what must hold ----

    def settled(self, vmctl):
        if self.host.manager is None:
            self.start_manager()
        wait_for(self.host.manager_answers, "a manager that answers", 20)
        vmctl.wait(90)

    def few_layers(self):
        """Each snapshot is a layer on the disk for ever, and there can be 32."""
        cls = type(self)
        cls.layers = getattr(cls, "layers", 0) + 3
        if cls.layers > 24:
            cls.layers = 3
            self.host.vmctl("delete", "base", "--force", "--purge")
            self.host.boot("base")

    def snapshot(self, point, fault):
        self.few_layers()
        if self.host.state("base") != "running":
            self.host.boot("base")
        self.host.wait_ticks("base")
        before, since = self.host.vm("base"), self.host.mark("base")
        self.addCleanup(self.drop, "base/s")
        vmctl = self.reach(point, "base", "snapshot", "create", "base", "s")
        fault(self, "base")
        self.settled(vmctl)
        after = self.host.wait_state("base", "running")
        self.assertEqual((after["qemu_pid"], after["incarnation"]), (before["qemu_pid"], before["incarnation"]))
        self.host.wait_checked("base", self.host.mark("base"))
        self.assertNotIn("WRONG", self.host.console("base", since))
        self.assertOnwards("base", since)
        if fault.__name__ in SURVIVORS:
            wait_for(lambda: "base/s" in self.host.snapshots(), "the snapshot, which its shim goes on with", 60)
        else:
            self.assertNotIn("base/s", self.host.snapshots())
        wait_for(lambda: not self.host.half_snapshots(), f"no half snapshot ({self.host.half_snapshots()})", 60)
        self.drop("base/s")
        self.host.vmctl("snapshot", "create", "base", "s")
        self.host.vmctl("snapshot", "verify", "base/s")
        self.restore("proof", "base/s")
        self.assertRestored("proof")

    def restored(self, point, fault, runs):
        name = re.sub(r"\W", "-", f"{point}-{fault.__name__}")
        self.addCleanup(self.forget, name)
        vmctl = self.reach(point, name, "restore", name, "base/one", "--mode", "lazy")
        qemus = self.host.qemus(name)
        fault(self, name)
        self.settled(vmctl)
        state = wait_for(lambda: (lambda s: s if s in (None, "running", "stopped", "failed") else None)(self.host.state(name)),
                         f"{name} in a state that stays ({self.host.list().get(name)})", 60, 0.05)
        if fault.__name__ in SURVIVORS or (runs and fault.__name__ != "kill_qemu"):
            self.assertEqual((state, self.host.qemus(name)), ("running", qemus), "the guest goes on in the QEMU it began in")
        if fault.__name__ == "kill_qemu":
            self.assertFalse(any(alive(pid) for pid in qemus))
            self.forget(name)  # what its policy made of it
        elif state == "running":
            self.assertRestored(name)
            self.host.wait_complete(name)
        else:
            self.assertNothingOf(name)
        self.forget(name)
        self.assertNothingOf(name)
        self.restore(name, mode="lazy")
        self.assertRestored(name)


class MissingPages(MemoryTest):
    """The shim dies while pages are missing and nobody else can bring them: the guest waits for its successor, however often."""

    @classmethod
    def begin(cls):
        cls.start_manager()
        cls.shared.boot("base", pattern="40,hold")
        cls.shared.vmctl("snapshot", "create", "base", "one")
        cls.shared.vmctl("stop", "base", "--force")
        cls.shared.configure(prefetch=False)

    def kill_shim(self, name):
        before = self.host.vm(name)
        send(signal.SIGKILL, before["shim_pid"])
        wait_for(lambda: not alive(before["shim_pid"]), "the shim to be gone", 10)
        return before

    def wait_replaced(self, before):
        after = wait_for(lambda: (lambda vm: vm if vm["shim_pid"] not in (None, before["shim_pid"]) and vm["state"] == "running" else None)(
            self.host.vm(before["name"])), "another shim", 30)
        self.assertEqual((after["qemu_pid"], after["incarnation"]), (before["qemu_pid"], before["incarnation"]))

    def test_the_replacement_serves_on(self):
        self.restore("wait", mode="lazy")
        for _ in range(3):
            missing = self.host.memory("wait")
            self.assertLess(missing["present"], missing["total"])
            self.wait_replaced(self.kill_shim("wait"))
            memory = self.host.memory("wait")
            self.assertEqual((memory["mode"], memory["snapshot"]), ("lazy", "base/one"))
        self.host.ask("wait", "go", "pattern goes on")
        self.assertRestored("wait", "lazy")

    def test_killed_while_the_guest_asks(self):
        """Faults are outstanding whenever it dies: the pattern is being read for the first time."""
        self.restore("busy", mode="lazy")
        self.host.say("busy", "go")
        for _ in range(5):
            self.wait_replaced(self.kill_shim("busy"))
        self.assertRestored("busy")

    def test_no_manager_for_a_while(self):
        """Nobody is there to start a successor. The guest stands still where a page is missing, and loses nothing."""
        self.restore("alone", mode="lazy")
        self.host.say("alone", "go")
        before = self.host.vm("alone")
        self.host.kill_manager()
        send(signal.SIGKILL, before["shim_pid"])
        wait_for(lambda: not alive(before["shim_pid"]), "the shim to be gone", 10)
        self.assertTrue(alive(before["qemu_pid"]))
        self.start_manager()
        self.wait_replaced(before)
        self.assertRestored("alone")

    def test_stopped_and_killed_with_pages_missing(self):
        """A guest that waits for a page can still be ended."""
        for words in (("stop", "--force"), ("kill",)):
            self.restore("end", mode="lazy")
            vm = self.host.vm("end")
            send(signal.SIGSTOP, vm["shim_pid"])
            self.host.wait_state("end", "unresponsive", deadline=20)
            send(signal.SIGCONT, vm["shim_pid"])
            self.host.wait_state("end", "running", deadline=20)
            self.host.vmctl(words[0], "end", *words[1:])
            self.assertNothingOf("end")
            self.assertFalse(alive(vm["qemu_pid"]))


def make(point, operation, runs, fault):
    def test(self):
        if operation == SNAPSHOT:
            self.snapshot(point, fault)
        else:
            self.restored(point, fault, runs)
    return test


for _point, _operation, _runs in POINTS:
    _faults = [MemoryCrash.kill_manager, MemoryCrash.kill_shim, MemoryCrash.stop_shim, MemoryCrash.kill_both]
    for _fault in _faults + ([MemoryCrash.kill_qemu] if _operation == RESTORE else []):
        setattr(MemoryCrash, "test_" + re.sub(r"\W", "_", f"{_point}_{_fault.__name__}"), make(_point, _operation, _runs, _fault))


if __name__ == "__main__":
    main()
