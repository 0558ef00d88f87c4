"""Restores in each mode: where the memory comes from differs, what the guest finds in it doesn't. And what is refused before any guest
runs."""
import contextlib
import json
import os
import re
import signal

from harness import alive, main, wait_for
from memory_case import MIB, MODES, PAGE, MemoryTest, remove_tree


def cut(data):
    return data[:len(data) - len(data) // 3 or 1]


def flip(at):
    def change(data):
        place = at if at >= 0 else len(data) + at
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1:]
    return change


class Modes(MemoryTest):
    def events(self, name):
        with open(self.host.path("state", name, "events.jsonl")) as f:
            return [json.loads(line) for line in f]

    def test_each_mode(self):
        for mode in MODES:
            self.restore(mode, mode=mode)
            self.assertRestored(mode, mode)
            memory = self.host.memory(mode)
            self.assertEqual((memory["snapshot"], memory["total"]), ("base/one", 128 * MIB))
            if mode != "mapped":
                self.host.wait_complete(mode)

    def test_the_host_says_the_mode(self):
        self.addCleanup(self.host.configure)
        for mode in MODES:
            self.host.configure(mode=mode)
            self.restore(f"by-{mode}")
            self.assertRestored(f"by-{mode}", mode)
            self.forget(f"by-{mode}")

    def test_a_later_start_boots(self):
        """A snapshot is how one start begins, not what the VM is."""
        self.restore("later")
        self.host.wait_checked("later", 0)
        self.host.vmctl("restart", "later")
        self.host.wait_said("later", "holdfast-guest: ready")  # in the log of a boot, which begins anew with each
        self.assertEqual(self.host.memory("later")["mode"], "plain")
        self.assertFalse(self.host.vm("later")["changed"], "a restore is no change of what the VM is")

    def test_crash_after_restore_boots(self):
        """The policy's restart finds no snapshot in the plan either."""
        self.restore("crash")
        self.host.wait_checked("crash", 0)
        os.kill(self.host.vm("crash")["qemu_pid"], signal.SIGKILL)
        self.host.wait_said("crash", "holdfast-guest: ready")

    def test_into_the_same_vm(self):
        self.host.vmctl("start", "base")
        try:
            before = self.host.vm("base")
            self.assertRefused(self.host.vmctl("restore", "base", "one", check=False), "--force")
            self.assertEqual(self.host.vm("base")["qemu_pid"], before["qemu_pid"], "the old one is untouched")
            since = self.host.mark("base")
            self.host.vmctl("restore", "base", "one", "--force")
            after = self.host.vm("base")
            self.assertEqual(after["incarnation"], before["incarnation"] + 1)
            self.assertFalse(alive(before["qemu_pid"]))
            self.host.wait_checked("base", since)
            self.assertOneQemu("base")
            self.host.vmctl("stop", "base", "--force")
            since = self.host.mark("base")
            self.host.vmctl("restore", "base", "one")  # a second time: the snapshot's disk wasn't written to
            self.assertRestored("base", since=since)
        finally:
            self.host.vmctl("stop", "base", "--force")

    def test_no_such(self):
        for words in (("restore", "x", "base/none"), ("restore", "x", "nobody/one"), ("restore", "x", "one"),
                      ("snapshot", "verify", "base/none"), ("snapshot", "delete", "nobody/one"), ("snapshot", "warm", "base/none"),
                      ("clone", "base/none", "--count", "2", "--name", "x-%d")):
            done = self.host.vmctl(*words, check=False)
            self.assertEqual(done.returncode, 3, f"{words}: {done.stdout}{done.stderr}")
        self.assertEqual(self.host.vmctl("restore", "x", "base/one", "--mode", "quick", check=False).returncode, 2)
        self.assertNothingOf("x")

    def test_userfaultfd_turned_off(self):
        """New restores are mapped, and the event log says why; running ones aren't touched."""
        self.restore("before", mode="lazy")
        self.host.kill_manager(signal.SIGTERM)
        self.start_manager(HOLDFAST_UFFD="0")
        try:
            self.restore("off", mode="lazy")
            self.assertRestored("off", "mapped")
            self.assertTrue([e for e in self.events("off") if "mapped" in e["text"]], "said in the event log")
            self.assertRestored("before", "lazy")
        finally:
            self.host.kill_manager(signal.SIGTERM)
            self.start_manager()

    def test_without_prefetch(self):
        """The pager alone: what nobody asks for stays in the snapshot, and nothing is recorded."""
        self.addCleanup(self.host.configure)
        self.addCleanup(self.drop, "base/plain")
        self.host.copy_snapshot("base", "one", "plain")
        with contextlib.suppress(FileNotFoundError):  # what an earlier restore of the original has learned
            os.unlink(os.path.join(self.host.folder("base", "plain"), "working-set"))
        self.host.configure(prefetch=False)
        self.restore("slow", "base/plain", mode="lazy")
        self.assertRestored("slow", "lazy")
        memory = self.host.memory("slow")
        self.assertGreater(memory["faults"], 0)
        self.assertEqual(memory["prefetched"], 0)
        self.assertFalse(self.host.snapshots("base")["base/plain"]["working_set"])

    def test_delete_is_refused_while_a_vm_maps_it(self):
        self.addCleanup(self.drop, "base/held")
        self.host.copy_snapshot("base", "one", "held")
        self.restore("maps", "base/held", "mapped")
        self.assertRefused(self.host.vmctl("snapshot", "delete", "base/held", check=False), "maps")
        self.assertEqual(self.host.snapshots("base")["base/held"]["in_use_by"], ["maps"])
        self.assertRestored("maps", "mapped")
        self.host.kill_manager()
        self.start_manager()  # which knows it without having seen the restore
        self.assertRefused(self.host.vmctl("snapshot", "delete", "base/held", check=False), "maps")
        self.forget("maps")
        self.host.vmctl("snapshot", "delete", "base/held")

    def test_manager_killed_in_a_restore(self):
        """The shim restores without it: the VM runs and is right, or nothing of it is there."""
        caller = self.background("restore", "orphan", "base/one", "--mode", "lazy")
        self.addCleanup(self.forget, "orphan")
        wait_for(lambda: self.processes("orphan") or caller.poll() is not None, "a shim", 30, 0.001)
        self.host.kill_manager()
        caller.wait(30)
        self.start_manager()
        wait_for(lambda: (self.host.list().get("orphan") or {"state": "stopped"})["state"] in ("running", "stopped", "failed"),
                 "the VM to be in some state", 60)
        if self.host.state("orphan") != "running":
            self.assertNothingOf("orphan")
            self.restore("orphan")
        self.assertRestored("orphan")


class WorkingSet(MemoryTest):
    def wait_learned(self, snapshot):
        wait_for(lambda: self.host.snapshots("base")[snapshot]["working_set"], "the working set to be recorded", 60, 0.05)

    def copy(self, name):
        self.addCleanup(self.drop, f"base/{name}")
        self.host.copy_snapshot("base", "one", name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.host.folder("base", name), "working-set"))
        return f"base/{name}"

    def test_first_restore_learns_and_the_next_uses_it(self):
        snapshot = self.copy("learn")
        self.restore("first", snapshot, "lazy")
        self.assertRestored("first", "lazy")
        self.wait_learned(snapshot)
        shown = self.host.ask_manager("SnapshotShow", vm="base", snapshot="learn")
        self.assertGreater(shown["working_set_pages"], 0)
        self.assertEqual((len(shown["present"]), len(shown["working_set"])), (64, 64))
        self.host.vmctl("snapshot", "verify", snapshot)
        self.restore("second", snapshot, "lazy")
        self.assertRestored("second", "lazy")
        self.assertGreater(self.host.memory("second")["prefetched"], 0)

    def test_damaged_one_is_done_without(self):
        """It is advice: a restore that can't have it is slower, and right."""
        for name, damage in (("cut", cut), ("flip", flip(-9)), ("empty", lambda data: b"")):
            snapshot = self.copy(name)
            self.host.vmctl("snapshot", "warm", snapshot)
            path = os.path.join(self.host.folder("base", name), "working-set")
            with open(path, "rb") as f:
                data = f.read()
            with open(path, "wb") as f:
                f.write(damage(data))
            self.restore(f"without-{name}", snapshot, "lazy")
            self.assertRestored(f"without-{name}", "lazy")
            self.forget(f"without-{name}")

    def test_warm_leaves_no_vm(self):
        snapshot = self.copy("warm")
        before = set(self.host.list())
        self.host.vmctl("snapshot", "warm", snapshot)
        self.assertTrue(self.host.snapshots("base")[snapshot]["working_set"])
        self.assertEqual(set(self.host.list()), before)
        wait_for(lambda: not self.warmers(), f"nothing of the warming to run ({self.warmers()})", 20)

    def warmers(self):
        """Every QEMU and shim: no other VM runs in these tests when this is asked."""
        return [found for found in self.host.left_behind() if "guest=" in found[1] or "holdfast-shim" in found[1]]

    def test_manager_killed_while_warming(self):
        snapshot = self.copy("killed")
        self.forget("first", "second")
        before = set(self.host.list())
        caller = self.background("snapshot", "warm", snapshot)
        wait_for(self.warmers, "a VM that records", 30, 0.001)
        self.host.kill_manager()
        caller.wait(30)
        wait_for(lambda: not self.warmers(), f"nothing of the warming to run, with no manager ({self.warmers()})", 60)
        self.start_manager()
        self.assertEqual(set(self.host.list()), before)
        run, state = os.path.join(self.host.dirs["run"], "vms"), os.path.join(self.host.dirs["state"], "vms")
        self.assertEqual([name for folder in (run, state) for name in os.listdir(folder) if name not in before], [], "folders are left")
        self.host.vmctl("snapshot", "warm", snapshot)


class Damaged(MemoryTest):
    """Snapshots that aren't what they were, and hardware that isn't: refused with the reason, and nothing comes of it."""

    # Name, file, what is done to it (None: it is gone), a word of the message. A flipped bit of the sums or of the memory itself is not
    # looked for by a restore: verify does that.
    FILES = [
        ("short-memory", "memory.raw", cut, "memory.raw"),
        ("no-memory", "memory.raw", None, "memory.raw"),
        ("short-index", "memory.index", cut, "memory.index|index"),
        ("empty-index", "memory.index", lambda data: b"", "memory.index|index"),
        ("no-index", "memory.index", None, "memory.index|index"),
        ("flipped-head", "memory.index", flip(9), "memory.index|index"),
        ("flipped-bitmap", "memory.index", flip(400), "memory.index|index"),
        ("short-state", "device.state", cut, "device.state"),
        ("no-state", "device.state", None, "device.state"),
        ("no-record", "snapshot.json", lambda data: b"{ nonsense", "snapshot.json|record"),
        ("other-schema", "snapshot.json", lambda data: re.sub(rb'"schema": *1', b'"schema": 9', data), "schema"),
    ]

    def damage(self, name, file, change):
        self.addCleanup(self.discard, name)
        folder = self.host.copy_snapshot("base", "one", name)
        path = os.path.join(folder, file)
        if change is None:
            os.unlink(path)
            return path
        if file == "memory.raw":
            os.truncate(path, os.path.getsize(path) - PAGE)
            return path
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(change(data))
        return path

    def discard(self, name):
        """By hand: what is damaged may be kept by a manager that can't tell what it is."""
        self.drop(f"base/{name}")
        remove_tree(self.host.folder("base", name))

    def test_files(self):
        for name, file, change, word in self.FILES:
            with self.subTest(name):
                self.damage(name, file, change)
                for mode in ("lazy", "mapped"):
                    self.assertRefused(self.restore("victim", f"base/{name}", mode, check=False), word)
                    self.assertNothingOf("victim")
                self.assertTrue(os.path.isdir(self.host.folder("base", name)), "nothing is destroyed for being damaged")
                if file == "snapshot.json":
                    self.assertTrue(self.host.snapshots("base")[f"base/{name}"]["damaged"])
                self.assertEqual(self.host.vmctl("snapshot", "verify", f"base/{name}", check=False).returncode == 0, False)
                self.discard(name)

    def test_verify_finds_one_bit(self):
        self.host.vmctl("snapshot", "verify", "base/one")
        for name, file in (("bit-of-memory", "memory.raw"), ("bit-of-state", "device.state"), ("bit-of-sums", "memory.index")):
            self.addCleanup(self.discard, name)
            path = os.path.join(self.host.copy_snapshot("base", "one", name), file)
            place = self.present_page(path) * PAGE + 77 if file == "memory.raw" else os.path.getsize(path) - 9
            with open(path, "r+b") as f:
                f.seek(place)
                byte = f.read(1)
                f.seek(place)
                f.write(bytes([byte[0] ^ 1]))
            done = self.host.vmctl("snapshot", "verify", f"base/{name}", check=False)
            self.assertEqual(done.returncode, 1, f"{name}: {done.stdout}{done.stderr}")
            if file == "memory.raw":
                self.assertIn(str(place // PAGE), done.stderr + done.stdout, "the page is named")

    def test_verify_misses_a_disk(self):
        self.addCleanup(self.discard, "no-disk")
        self.host.copy_snapshot("base", "one", "no-disk")
        gone = os.path.join(self.host.root, "gone.qcow2")
        self.host.edit_record("base", "no-disk", lambda record: record["disks"][0]["layers"][0].update(path=gone))
        done = self.host.vmctl("snapshot", "verify", "base/no-disk", check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"disk0: {gone}: No such file", done.stderr)

    @staticmethod
    def present_page(path):
        with open(path, "rb") as f:
            for page in range(os.path.getsize(path) // PAGE // 2, os.path.getsize(path) // PAGE):
                f.seek(page * PAGE)
                if f.read(PAGE).count(0) < PAGE:
                    return page
        raise AssertionError("memory.raw is empty")

    def test_other_hardware(self):
        """The VM has a spec of its own, which isn't the snapshot's machine."""
        for name, more, word in (("memory", {"memory": 256}, "memory"), ("cpus", {"cpus": 2}, "[Cc]PU|cpus"),
                                 ("device", {"qemu": {"extra_args": ["-device", "virtio-balloon-pci,addr=0x1d"]}}, "device|balloon")):
            with self.subTest(name):
                self.addCleanup(self.forget, name)
                spec = self.host.memory_spec(name, enabled=False, **more)
                self.host.apply(spec)
                self.assertRefused(self.restore(name, check=False), word)
                self.assertNothingOf(name)

    def test_other_machine_cpu_and_qemu(self):
        """The snapshot comes from another kind of host."""
        for name, change, word in (("machine", {"machine": "pc-q35-9.9"}, "machine"), ("cpu", {"cpu": "Cascadelake-Server"}, "CPU|cpu"),
                                   ("accel", {"accel": "kvm"}, "kvm|accel"), ("qemu", {"qemu_version": "99.1.0"}, "QEMU")):
            with self.subTest(name):
                self.addCleanup(self.discard, name)
                self.host.copy_snapshot("base", "one", name)
                self.host.edit_record("base", name, lambda record, change=change: record["hardware"].update(change))
                self.assertRefused(self.restore("victim", f"base/{name}", check=False), word)
                self.assertNothingOf("victim")

    def test_running_vm_is_untouched_by_a_restore_that_is_refused(self):
        self.restore("old")
        before, since = self.host.vm("old"), self.host.mark("old")
        self.damage("bad", "memory.index", cut)
        self.assertRefused(self.restore("old", "base/bad", words=("--force",), check=False), "index")
        self.assertEqual(self.host.vm("old")["qemu_pid"], before["qemu_pid"])
        self.assertRestored("old", since=since)


if __name__ == "__main__":
    main()
