"""Many VMs from one snapshot: each another machine with a disk of its own, and the same memory to begin with."""
import json
import os

from harness import main, wait_for
from memory_case import LONG, MemoryTest

COUNT = 8 if LONG else 3


class Clones(MemoryTest):
    def clone(self, count, pattern, *words):
        names = [pattern.replace("%d", str(n)) for n in range(1, count + 1)]
        self.addCleanup(self.forget, *names)
        self.host.vmctl("clone", "base/one", "--count", count, "--name", pattern, *words)
        return names

    def mac(self, name):
        argv = self.host.ask_manager("Inspect", name=name)["next_plan"]["qemu"]["argv"]
        return next(word["mac"] for word in (json.loads(w) for w in argv if w.startswith("{")) if "mac" in word)

    def test_all_at_once(self):
        names = self.clone(COUNT, "web-%d")
        vms = self.host.list()
        self.assertEqual([vms[name]["state"] for name in names], ["running"] * COUNT)
        for name in names:
            self.assertRestored(name)
        macs = [self.mac(name) for name in ("base", *names)]
        self.assertEqual(len(set(macs)), COUNT + 1, macs)
        identities = {self.host.ask(name, "vmgenid", r"vmgenid: ([0-9a-f-]{36}|none.*)").group(1) for name in names}
        self.assertEqual(len(identities), COUNT, f"each guest is told that it is another machine: {identities}")
        self.assertFalse([i for i in identities if i.startswith("none")], identities)
        # One that is deleted takes nothing from the others.
        self.forget(names[0])
        for name in names[1:]:
            self.host.wait_checked(name, self.host.mark(name))
        self.assertEqual(self.host.half_snapshots(), [])

    def test_each_mode(self):
        for mode in ("mapped", "eager"):
            names = self.clone(2, f"{mode}-%d", "--mode", mode)
            for name in names:
                self.assertRestored(name, mode)
            self.forget(*names)

    def test_of_a_guest_that_runs_on(self):
        """The original and its clones write to the same blocks of what was one disk."""
        self.host.vmctl("restore", "base", "one")
        try:
            since = self.host.mark("base")
            names = self.clone(2, "beside-%d")
            for name in names:
                self.assertRestored(name)
            self.assertRestored("base", since=since)
        finally:
            self.host.vmctl("stop", "base", "--force")

    def test_nothing_is_begun_unless_all_can_be(self):
        self.addCleanup(self.forget, "half-2")
        self.host.apply(self.host.fake_spec("half-2"))
        before = self.host.vm("half-2")
        done = self.host.vmctl("clone", "base/one", "--count", "3", "--name", "same", check=False)
        self.assertEqual(done.returncode, 2, "three VMs can't have one name")
        done = self.host.vmctl("clone", "base/one", "--count", "3", "--name", "half-%d", check=False)
        self.assertRefused(done, "half-2")
        self.assertEqual(self.host.vm("half-2")["qemu_pid"], before["qemu_pid"])
        for name in ("half-1", "half-3"):
            self.assertNotIn(name, self.host.list())
            self.assertNothingOf(name)
        for words in (("--count", "0", "--name", "x-%d"), ("--count", "2", "--name", "../x-%d"), ("--count", "2", "--name", "x-%s"),
                      ("--count", "-1", "--name", "x-%d")):
            self.assertIn(self.host.vmctl("clone", "base/one", *words, check=False).returncode, (2, 6), words)

    def test_manager_killed_in_between(self):
        """Of the clones that were begun each runs and is right, or isn't there; and the rest can be made."""
        names = [f"cut-{n}" for n in range(1, COUNT + 1)]
        self.addCleanup(self.forget, *names)
        caller = self.background("clone", "base/one", "--count", str(COUNT), "--name", "cut-%d")
        wait_for(lambda: any(self.processes(name) for name in names) or caller.poll() is not None, "a first clone", 30, 0.001)
        self.host.kill_manager()
        caller.wait(30)
        self.start_manager()
        for name in names:
            state = wait_for(lambda name=name: (lambda s: s if s in (None, "running", "stopped", "failed", "exited") else None)(
                self.host.state(name)), f"{name} to be in some state", 60)
            if state == "running":
                self.assertRestored(name)
            else:
                self.assertNothingOf(name)
                self.forget(name)
                self.restore(name)
                self.assertRestored(name)

    def test_snapshot_is_kept_while_a_clone_needs_its_disks(self):
        self.addCleanup(self.drop, "base/two")
        self.host.copy_snapshot("base", "one", "two")
        self.addCleanup(self.forget, "needs-1")
        self.host.vmctl("clone", "base/two", "--count", "1", "--name", "needs-%d")
        done = self.host.vmctl("snapshot", "delete", "base/two", check=False)
        self.assertRestored("needs-1")
        if done.returncode != 0:
            self.assertRefused(done, "needs-1")
        self.host.vmctl("restart", "needs-1", "--force")
        self.host.wait_said("needs-1", "disk filled", deadline=60)
        self.assertTrue(os.path.isdir(self.host.folder("base", "one")))


if __name__ == "__main__":
    main()
