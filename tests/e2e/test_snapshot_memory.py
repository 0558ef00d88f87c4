"""Snapshots: what is saved is one instant of memory and disk, whatever the guest writes meanwhile, and the guest goes on."""
import json
import os
import signal
import subprocess

from harness import HostTest, alive, gaps, main, wait_for
from memory_case import LONG, MIB, PAGE, SHIM, MemoryHost, MemoryTest, small_file_system


class Snapshots(MemoryTest):
    """Of a guest that runs all the time, `base`."""

    @classmethod
    def begin(cls):
        cls.start_manager()
        cls.shared.boot("base", cpus=2)

    def create(self, vm="base", name="s", *words, check=True):
        self.addCleanup(self.drop, f"{vm}/{name}")
        return self.host.vmctl("snapshot", "create", vm, name, *words, check=check)

    def assertGoesOn(self, vm, since, before):
        """The guest that was saved has noticed nothing: the same QEMU, no heartbeat lost, nothing it holds wrong."""
        after = self.host.vm(vm)
        self.assertEqual((after["state"], after["qemu_pid"], after["incarnation"]), ("running", before["qemu_pid"], before["incarnation"]))
        mark = self.host.mark(vm)
        self.host.wait_checked(vm, mark)
        self.assertNotIn("WRONG", self.host.console(vm, since))
        self.assertEqual(gaps(self.host.ticks_since(vm, since)), [])

    def test_live_while_memory_is_rewritten(self):
        for mode in ("lazy", "eager"):
            before, since = self.host.vm("base"), self.host.mark("base")
            self.create(name=mode)
            self.assertGoesOn("base", since, before)
            self.restore(f"live-{mode}", f"base/{mode}", mode)
            self.assertRestored(f"live-{mode}", mode)
            self.forget(f"live-{mode}")
        self.assertEqual(self.host.half_snapshots(), [])

    def test_stopped(self):
        before, since = self.host.vm("base"), self.host.mark("base")
        self.create("base", "cold", "--stop")
        self.assertFalse(self.host.record("base", "cold")["live"])
        self.assertGoesOn("base", since, before)
        self.restore("from-cold", "base/cold")
        self.assertRestored("from-cold")

    def run_state(self, shim):
        answer = shim.call(SHIM + "Qmp", {"command": "query-status"})
        return answer["parameters"]["result"]["return"]["status"]

    def test_nobody_lets_it_run_or_pauses_it_in_between(self):
        """While a guest stands still for a cold snapshot; and one that was paused before."""
        for paused in (False, True):
            if paused:
                self.host.vmctl("pause", "base")
            name = f"still-{paused}"
            self.addCleanup(self.drop, f"base/{name}")
            incarnation = self.host.vm("base")["incarnation"]
            with self.host.shim("base") as shim:
                caller = self.background("snapshot", "create", "base", name, "--stop")
                wait_for(lambda: self.run_state(shim) in ("finish-migrate", "postmigrate"), "its device state to be saved", 20, 0.001)
                errors = [shim.call(SHIM + method, {"incarnation": incarnation}).get("error") for method in ("Pause", "Resume", "Reset")]
            self.assertEqual(errors, [SHIM + "WrongState"] * 3)
            self.assertEqual(caller.wait(60), 0)
            self.assertEqual(self.host.vm("base")["state"], "paused" if paused else "running")
        self.host.vmctl("resume", "base")
        self.host.wait_checked("base", self.host.mark("base"))

    def test_paused_or_resumed_before_it_is_stopped(self):
        """While disks and protection are prepared: what the operator wants then holds afterwards."""
        for first, then, state in (("resume", "pause", "paused"), ("pause", "resume", "running")):
            self.host.vmctl("resume", "base")
            self.host.vmctl(first, "base")
            self.addCleanup(self.drop, f"base/{then}d")
            incarnation = self.host.vm("base")["incarnation"]
            with self.host.shim("base") as caller, self.host.shim("base") as shim:
                caller.send(SHIM + "Snapshot", {"incarnation": incarnation, "folder": self.host.folder("base", then + "d"), "name": then + "d",
                                                "live": True}, more=True)
                begun = caller.receive()
                self.assertEqual(begun["parameters"].get("progress", {}).get("phase"), "disks", begun)
                self.assertNotIn("error", shim.call(SHIM + then.capitalize(), {"incarnation": incarnation}))
                while True:
                    answer = caller.receive()
                    if not answer.get("continues"):
                        break
                self.assertNotIn("error", answer)
                wait_for(lambda: (self.run_state(shim) == "running") == (state == "running"), f"it to be {state}", 5)
            wait_for(lambda: self.host.vm("base")["state"] == state, f"it to be shown as {state}", 5)
        self.host.wait_checked("base", self.host.mark("base"))

    def test_a_paused_one_that_is_resumed_and_paused_while_it_is_saved(self):
        self.addCleanup(self.drop, "base/paused")
        self.host.vmctl("pause", "base")
        with self.host.shim("base") as shim:
            caller = self.background("snapshot", "create", "base", "paused")
            wait_for(lambda: self.run_state(shim) == "postmigrate", "its device state to be saved", 20, 0.001)
            self.host.vmctl("resume", "base")
            self.host.vmctl("pause", "base")
            self.assertEqual(self.host.vm("base")["state"], "paused")
            self.assertEqual(self.run_state(shim), "paused")
        self.assertEqual(caller.wait(60), 0)
        self.host.vmctl("resume", "base")
        self.restore("from-paused", "base/paused")
        self.assertRestored("from-paused")

    def test_record_and_files(self):
        self.create()
        record, folder = self.host.record("base", "s"), self.host.folder("base", "s")
        self.assertEqual((record["name"], record["vm"], record["live"], record["page_size"]), ("s", "base", True, PAGE))
        self.assertEqual(record["ram_size"], 128 * MIB)
        self.assertGreater(record["pause_us"], 0)
        self.assertTrue(40 * MIB // PAGE < record["present_pages"] < record["ram_size"] // PAGE, record["present_pages"])
        self.assertEqual(os.path.getsize(os.path.join(folder, "memory.raw")), record["ram_size"])
        self.assertEqual(os.path.getsize(os.path.join(folder, "device.state")), record["state_size"])
        self.assertLess(os.stat(os.path.join(folder, "memory.raw")).st_blocks * 512, record["ram_size"], "pages of zeros take no room")
        for file in ("snapshot.json", "memory.raw", "memory.index", "device.state"):
            self.assertEqual(os.stat(os.path.join(folder, file)).st_mode & 0o077, 0, f"{file}: memory is nobody else's to read")
        told = self.host.snapshots("base")["base/s"]
        self.assertEqual((told["ram_size"], told["present"], told["pause_us"], told.get("damaged")),
                         (record["ram_size"], record["present_pages"] * PAGE, record["pause_us"], None))
        listed = json.loads(self.host.vmctl("snapshot", "list", "base", "--json").stdout)
        self.assertEqual([(s["vm"], s["name"]) for s in listed], [("base", "s")])
        self.assertIn("s", self.host.vmctl("snapshot", "list").stdout)
        self.assertIn(record["id"], self.host.vmctl("snapshot", "show", "base/s", "--json").stdout)
        self.host.vmctl("snapshot", "verify", "base/s")
        self.host.vmctl("snapshot", "delete", "base/s")
        self.assertFalse(os.path.exists(folder))
        self.assertEqual(self.host.vmctl("snapshot", "show", "base/s", check=False).returncode, 3)
        self.assertEqual(self.host.vmctl("snapshot", "create", "nobody", "s", check=False).returncode, 3)

    def test_names(self):
        self.create()
        identity = self.host.record("base", "s")["id"]
        self.assertEqual(self.host.vmctl("snapshot", "create", "base", "s", check=False).returncode, 6, "the name is taken")
        self.assertEqual(self.host.record("base", "s")["id"], identity)
        for name in ("../x", ".hidden", "a/b", "-x", "a" * 65, "a\nb"):
            done = self.host.vmctl("snapshot", "create", "base", "--", name, check=False)
            self.assertNotEqual(done.returncode, 0, name)
        before = set(self.host.snapshots("base"))
        self.host.vmctl("snapshot", "create", "base")  # the name is the time
        made = set(self.host.snapshots("base")) - before
        self.assertEqual(len(made), 1)
        self.assertRegex(made.pop(), r"^base/20\d{6}-\d{6}")
        self.host.vmctl("snapshot", "delete", *(set(self.host.snapshots("base")) - before))

    def test_of_a_paused_guest(self):
        """It stays paused, and what comes of the snapshot runs."""
        self.host.vmctl("pause", "base")
        try:
            self.create(name="paused")
            self.assertEqual(self.host.state("base"), "paused")
        finally:
            since = self.host.mark("base")
            self.host.vmctl("resume", "base")
        self.host.wait_checked("base", since)
        self.assertEqual(gaps(self.host.ticks_since("base", since)), [])
        self.restore("from-paused", "base/paused")
        self.assertRestored("from-paused")

    def test_caller_goes_away(self):
        """vmctl is killed while the snapshot is made: it is made all the same, and whole."""
        before, since = self.host.vm("base"), self.host.mark("base")
        self.addCleanup(self.drop, "base/alone")
        caller = self.background("snapshot", "create", "base", "alone")
        wait_for(lambda: self.host.half_snapshots() or "base/alone" in self.host.snapshots(), "the snapshot to be begun", 30, 0.001)
        caller.kill()
        wait_for(lambda: "base/alone" in self.host.snapshots(), "the snapshot to be made", 60)
        self.host.vmctl("snapshot", "verify", "base/alone")
        self.assertGoesOn("base", since, before)
        self.assertEqual(self.host.half_snapshots(), [])

    def test_manager_killed(self):
        """The manager dies while the shim makes the snapshot: it is made, or nothing of it is left."""
        before, since = self.host.vm("base"), self.host.mark("base")
        self.addCleanup(self.drop, "base/orphan")
        caller = self.background("snapshot", "create", "base", "orphan")
        wait_for(lambda: self.host.half_snapshots() or "base/orphan" in self.host.snapshots(), "the snapshot to be begun", 30, 0.001)
        self.host.kill_manager()
        caller.wait(30)
        self.start_manager()
        wait_for(lambda: not self.host.half_snapshots(), "no half snapshot", 60)
        self.assertGoesOn("base", since, before)
        if "base/orphan" in self.host.snapshots():
            self.host.vmctl("snapshot", "verify", "base/orphan")
        else:
            self.create(name="orphan")

    def test_qemu_killed(self):
        """The guest's end is the snapshot's: it fails, and nothing of it is left."""
        self.addCleanup(self.forget, "victim")
        self.host.apply(self.host.memory_spec("victim", restart={"policy": "never"}))
        self.host.wait_said("victim", r"pattern pass \d+ ok")
        caller = self.background("snapshot", "create", "victim", "s")
        self.addCleanup(self.drop, "victim/s")
        wait_for(lambda: self.host.half_snapshots() or "victim/s" in self.host.snapshots(), "the snapshot to be begun", 30, 0.001)
        os.kill(self.host.vm("victim")["qemu_pid"], signal.SIGKILL)
        caller.wait(60)
        self.host.wait_state("victim", "failed")
        wait_for(lambda: not self.host.half_snapshots(), "no half snapshot", 20)
        if "victim/s" in self.host.snapshots():
            self.host.vmctl("snapshot", "verify", "victim/s")
        else:
            self.assertNotEqual(caller.returncode, 0)


class Restored(MemoryTest):
    """Snapshots of what was itself restored."""

    def again(self, first, mode, *words):
        """Saves `first`, restores that, and has both checked."""
        self.addCleanup(self.drop, f"{first}/two")
        self.host.vmctl("snapshot", "create", first, "two", *words)
        self.restore(f"{first}-2", f"{first}/two", mode)
        self.assertRestored(f"{first}-2", mode)
        self.assertRestored(first)

    def test_after_lazy_that_is_complete(self):
        self.restore("whole", mode="lazy")
        self.host.wait_complete("whole")
        self.again("whole", "lazy")

    def test_at_once_after_lazy(self):
        """Most of the memory is still in the first snapshot alone."""
        self.restore("early", mode="lazy")
        self.again("early", "eager")

    def test_while_pages_are_missing_for_good(self):
        """Nothing loads them ahead, and the guest touches none: the second snapshot has to take them from the first."""
        self.addCleanup(self.drop, "hold/one")
        self.addCleanup(self.forget, "hold")
        self.host.boot("hold", pattern="40,hold")
        self.host.vmctl("snapshot", "create", "hold", "one")
        self.host.vmctl("stop", "hold", "--force")
        self.addCleanup(self.host.configure)
        self.host.configure(prefetch=False)
        self.restore("part", "hold/one", "lazy")
        memory = self.host.memory("part")
        self.assertLess(memory["present"], memory["total"] - 20 * MIB, memory)
        self.addCleanup(self.drop, "part/two")
        self.host.vmctl("snapshot", "create", "part", "two")
        self.host.vmctl("snapshot", "verify", "part/two")
        self.assertEqual(self.host.state("part"), "running")
        self.restore("part-2", "part/two", "lazy")
        for name in ("part-2", "part"):
            since = self.host.mark(name)
            self.host.ask(name, "go", "pattern goes on")
            self.host.wait_checked(name, since)

    def test_mapped_is_saved_stopped_or_says_so(self):
        self.restore("mapped", mode="mapped")
        since = self.host.mark("mapped")
        done = self.host.vmctl("snapshot", "create", "mapped", "live", check=False)
        if done.returncode != 0:
            self.assertRefused(done, "--stop")
        self.addCleanup(self.drop, "mapped/live")
        self.assertEqual(self.host.state("mapped"), "running")
        self.again("mapped", "lazy", "--stop")
        self.assertRestored("mapped", "mapped", since)

    def test_chain(self):
        """Each link is restored from the one before while that is still being written to, in every mode in turn."""
        links = 10 if LONG else 3
        modes = ["lazy", "eager", "lazy", "mapped"]
        last, first = "base/one", None
        for link in range(1, links + 1):
            name, mode = f"link{link}", modes[link % len(modes)]
            self.restore(name, last, mode)
            self.assertRestored(name, mode)
            first = first or self.host.ticks_since(name, 0)[0]
            self.assertGreaterEqual(self.host.ticks_since(name, 0)[0], first, "time goes on along the chain")
            self.addCleanup(self.drop, f"{name}/s")
            self.host.vmctl("snapshot", "create", name, "s", *(["--stop"] if mode == "mapped" else []))
            self.host.vmctl("stop", name, "--force")
            last = f"{name}/s"
        self.restore("end", last)
        self.assertRestored("end")


class NoRoom(HostTest):
    """The file system of the state folder is full in the middle of a snapshot."""

    def setUp(self):
        self.host = MemoryHost()
        self.addCleanup(self.host.destroy)

    def test_guest_goes_on_and_nothing_half_is_left(self):
        small_file_system(self, self.host.dirs["state"], 24)
        self.host.start_manager()
        self.host.boot("web")
        before, since = self.host.vm("web"), self.host.mark("web")
        for words in ((), ("--stop",)):
            done = self.host.vmctl("snapshot", "create", "web", "s", *words, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr, "[Nn]o space")
            self.assertEqual((self.host.snapshots(), self.host.half_snapshots()), ({}, []))
            after = self.host.vm("web")
            self.assertEqual((after["state"], after["qemu_pid"]), ("running", before["qemu_pid"]))
            self.host.wait_checked("web", self.host.mark("web"))
        self.assertEqual(gaps(self.host.ticks_since("web", since)), [])
        subprocess.run(["mount", "-o", "remount,size=256m", self.host.dirs["state"]], check=True)
        self.host.vmctl("snapshot", "create", "web", "s")
        self.host.vmctl("snapshot", "verify", "web/s")
        # Its disk went through three attempts and is still one disk.
        self.host.vmctl("restart", "web")
        self.host.wait_said("web", "disk pass 1 ok, .*", self.host.mark("web"))
        self.assertTrue(alive(self.host.vm("web")["qemu_pid"]))
        self.stopEverything()


if __name__ == "__main__":
    main()
