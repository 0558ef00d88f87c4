#!/usr/bin/env python3
"""Snapshots, restores and clones as the manager and vmctl do them, with a shim that has no QEMU (fake_shim.py): what is kept, refused,
remembered over the manager's death, and said."""
import fcntl
import glob
import json
import os
import signal

from harness import HERE, HostTest, Varlink, main, wait_for


class WithFakeShim(HostTest):
    def setUp(self):
        super().setUp()
        options = self.host.options
        self.host.options = lambda: [*options(), "--shim", os.path.join(HERE, "fake_shim.py")]
        self.host.start_manager()

    def behave(self, name, **behaviour):
        folder = self.host.path("state", name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "fake-shim.json"), "w") as f:
            json.dump(behaviour, f)

    def store(self, *parts):
        return os.path.join(self.host.dirs["state"], "snapshots", *parts)

    def web_with_snapshot(self, **more):
        self.host.apply(self.host.fake_spec("web", **more))
        self.host.vmctl("snapshot", "create", "web", "before")

    def expect(self, code, *words, err=None, out=None, **more):
        done = self.host.vmctl(*words, check=False, **more)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}{self.host.manager_log()}")
        if err is not None:
            self.assertIn(err, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1 if err else 0, done.stderr)
        if out is not None:
            self.assertIn(out, done.stdout)
        return done

    def snapshots(self):
        return {f"{s['vm']}/{s['name']}": s for s in json.loads(self.host.vmctl("snapshot", "list", "--json").stdout)}

    def wanted(self, name):
        return self.host.read_json("state", name, "wanted.json")

    def call(self, method, **parameters):
        with Varlink(os.path.join(self.host.dirs["run"], "manager.sock"), 60) as v:
            return v.call("io.holdfast.Manager." + method, parameters)


class Answers(WithFakeShim):
    def test_a_shim_that_dies_with_its_first_answer_is_no_stranger(self):
        self.behave("web", monitor="die")
        self.host.apply(self.host.fake_spec("web"), check=False)
        self.host.wait_state("web", "running")
        self.assertEqual(self.host.read_json("state", "web", "fake-shim.json"), {}, "it has died")
        self.assertNotIn("-> unknown", self.host.manager_log())
        self.stopEverything()


class Store(WithFakeShim):
    def test_create_list_show_verify_delete(self):
        self.host.apply(self.host.fake_spec("web"))
        self.expect(0, "snapshot", "list", out="no snapshots")
        self.expect(0, "snapshot", "create", "web", "before",
                    out="web/before: taken (2 MiB of 16 MiB of memory; the guest stood still for 11.8 ms)")
        one = self.snapshots()["web/before"]
        self.assertEqual((one["present"], one["ram_size"], one["working_set"], one["in_use_by"], one["damaged"]),
                         (2 << 20, 16 << 20, False, [], None))
        self.assertGreater(one["disk"], 2 << 20)
        self.assertEqual(self.expect(0, "snapshot", "list", "-q").stdout, "web/before\n")
        self.expect(0, "snapshot", "list", "db", out="no snapshots")
        self.expect(0, "snapshot", "show", "web/before", out="2 MiB of 16 MiB, in 512 pages")
        shown = json.loads(self.expect(0, "snapshot", "show", "web/before", "--json").stdout)
        self.assertEqual((len(shown["present"]), sum(shown["present"]), shown["present"][:17], shown["pages"], shown["present_pages"]),
                         (64, 16 * 50, [50] * 16 + [0], 4096, 512))
        self.assertEqual(shown["details"]["spec"]["name"], "web")
        self.expect(0, "snapshot", "verify", "web/before", out="web/before: whole, 512 pages compared")
        self.expect(0, "snapshot", "delete", "web/before", out="web/before: deleted")
        self.assertFalse(os.path.exists(self.store("web")))
        self.assertEqual(self.snapshots(), {})
        self.stopEverything()

    def test_bar_in_blocks_and_letters(self):
        self.web_with_snapshot()
        letters = self.expect(0, "snapshot", "show", "web/before", LC_ALL="C").stdout
        self.assertIn("|" + "=" * 16 + " " * 48 + "|", letters)
        self.assertIn("|" + "▄" * 16 + " " * 48 + "|", self.expect(0, "snapshot", "show", "web/before", LC_ALL="C.UTF-8").stdout)

    def test_names_without_one_are_the_time(self):
        self.host.apply(self.host.fake_spec("web"))
        name = json.loads(self.expect(0, "snapshot", "create", "web", "--json").stdout)["name"]
        self.assertRegex(name, r"^\d{8}-\d{6}$")

    def test_what_is_not_there_is_3(self):
        self.host.apply(self.host.fake_spec("web"))
        for words in (("snapshot", "show", "web/none"), ("snapshot", "delete", "web/none"), ("snapshot", "verify", "db/none"),
                      ("snapshot", "warm", "web/none"), ("restore", "db", "web/none"),
                      ("clone", "web/none", "--count", "1", "--name", "c%d")):
            self.expect(3, *words, err="there is no snapshot")
        self.expect(3, "snapshot", "create", "db", err="db: no such VM")
        self.assertEqual(sorted(self.host.list()), ["web"])

    def test_bad_command_lines_are_2(self):
        for words, text in ((("snapshot", "show", "before"), "a snapshot is named VM/NAME"), (("snapshot", "show", "../x"), "no VM name"),
                            (("snapshot", "show", "web/a/b"), "no name of a snapshot"),
                            (("snapshot", "create", "web", ".x"), "no name of a snapshot"),
                            (("restore", "web", "/x"), "no VM name"), (("clone", "web/x"), "--count and --name"),
                            (("clone", "web/x", "--count", "2", "--name", "web"), "%d")):
            self.expect(2, *words, err=text)

    def test_create_refused(self):
        self.host.apply(self.host.fake_spec("web"), self.host.fake_spec("off", enabled=False))
        self.expect(6, "snapshot", "create", "off", err="off is stopped: a snapshot is of a VM that runs, start it first")
        self.expect(0, "snapshot", "create", "web", "before")
        self.expect(6, "snapshot", "create", "web", "before", err="there is a snapshot web/before")
        path = self.host.path("run", "web", "plan.json")
        with open(path) as f:
            plan = json.load(f)
        vfio = [*plan["qemu"]["argv"], "-device", "vfio-pci,host=c1:00.0"]
        for change, text in (({"ram": {"size": "16M", "shared": False}}, "is private to QEMU"),
                             ({"qemu": {**plan["qemu"], "argv": vfio}}, "passed-through device")):
            with open(path, "w") as f:
                json.dump({**plan, **change}, f)
            self.expect(6, "snapshot", "create", "web", "other", err=text)
        self.assertEqual(os.listdir(self.store("web")), ["before"])

    def test_a_create_that_fails_leaves_nothing(self):
        self.behave("web", snapshot="fail")
        self.host.apply(self.host.fake_spec("web"))
        self.expect(1, "snapshot", "create", "web", "before", err="no space left for memory.raw")
        wait_for(lambda: not os.path.exists(self.store("web")), "the empty folder to be gone")
        self.assertEqual(self.host.state("web"), "running")

    def test_damaged(self):
        self.web_with_snapshot()
        with open(self.store("web", "before", "memory.raw"), "r+b") as f:
            for page in (4, 10, 12):
                f.seek(page * 4096 + 17)
                f.write(b"?")
        self.expect(1, "snapshot", "verify", "web/before",
                    err="web/before: memory.raw is damaged: 3 of 512 pages don't have their checksum, the first is page 4 at offset 0x4000")
        with open(self.store("web", "before", "device.state"), "r+b") as f:
            f.write(b"?")
        self.expect(1, "snapshot", "verify", "web/before", err="device.state is damaged")
        os.truncate(self.store("web", "before", "memory.raw"), 4096)
        self.assertIn("memory.raw has 4096 bytes, expected 16777216", self.snapshots()["web/before"]["damaged"])
        self.expect(6, "restore", "copy", "web/before", err="is damaged: memory.raw has 4096 bytes")
        with open(self.store("web", "before", "snapshot.json"), "w") as f:
            f.write("{")
        self.expect(0, "snapshot", "list", out="damaged: snapshot.json")
        self.expect(0, "snapshot", "show", "web/before", out="damaged")
        self.host.kill_manager()
        self.host.start_manager()
        self.assertIn("web/before", self.snapshots(), "a damaged one is not deleted by itself")
        self.expect(6, "restore", "copy", "web/before", err="is damaged")
        self.assertEqual(sorted(self.host.list()), ["web"])
        self.expect(0, "snapshot", "delete", "web/before")

    def test_what_dead_operations_left_is_swept_when_nobody_can_be_at_it(self):
        self.web_with_snapshot()
        for folder in (self.store("web", ".half.tmp"), self.store("web", ".old.deleted"), self.store("gone", ".half.tmp"),
                       self.store("web", ".foreign")):
            os.makedirs(folder)
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: not os.path.exists(self.store("gone", ".half.tmp")), "the leftover of a VM that is gone to be removed")
        wait_for(lambda: not os.path.exists(self.store("web", ".old.deleted")), "the deleted one to be removed")
        self.assertTrue(os.path.exists(self.store("web", ".half.tmp")), "its shim lives and may be writing it")
        self.host.vmctl("stop", "web")
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: not os.path.exists(self.store("web", ".half.tmp")), "the leftover to be removed once the shim is gone")
        self.assertEqual(sorted(os.listdir(self.store("web"))), [".foreign", "before"])

    def test_delete_refused_while_in_use(self):
        self.web_with_snapshot()
        self.behave("copy", memory={"mode": "mapped", "snapshot": "web/before", "total": 1, "present": 1, "faults": 0, "neighbours": 0,
                                    "prefetched": 0, "useless": 0, "settled": True})
        self.expect(0, "restore", "copy", "web/before", "--mode", "mapped")
        self.expect(6, "snapshot", "delete", "web/before",
                    err="web/before is in use by copy: its memory or its disks come from files of it")
        self.assertEqual(self.snapshots()["web/before"]["in_use_by"], ["copy"])
        self.expect(0, "status", "copy", out="mapped from web/before")
        self.host.vmctl("stop", "copy")
        with open(self.host.path("state", "copy", "disks.json"), "w") as f:
            json.dump({"disks": [{"layers": [{"path": self.store("web", "before", "disks", "disk0.qcow2")}]}]}, f)
        self.expect(6, "snapshot", "delete", "web/before", err="in use by copy")
        os.unlink(self.host.path("state", "copy", "disks.json"))
        os.kill(self.host.vm("web")["shim_pid"], signal.SIGSTOP)
        self.expect(6, "snapshot", "delete", "web/before", err="whether web uses web/before can't be told")
        os.kill(self.host.vm("web")["shim_pid"], signal.SIGCONT)
        wait_for(lambda: self.host.vmctl("snapshot", "delete", "web/before", check=False).returncode == 0, "the delete to be possible")

    def test_manager_that_dies_in_a_delete(self):
        self.web_with_snapshot()
        self.host.kill_manager()
        self.host.start_manager(HOLDFAST_FAILPOINT="manager.snapshot-after-tombstone=kill")
        self.expect(4, "snapshot", "delete", "web/before")
        self.host.manager.wait(20)
        self.host.start_manager()
        wait_for(lambda: os.listdir(self.store("web")) == [], "the rest to be removed")
        self.assertEqual(self.snapshots(), {})


class Restore(WithFakeShim):
    def test_into_a_new_vm(self):
        self.web_with_snapshot(network=[{"mode": "user", "mac": "52:54:00:12:34:56",
                                         "forward": [{"host": "127.0.0.1:18080", "guest": 80}]}])
        self.expect(0, "restore", "copy", "web/before", out="restored from web/before; its host port is not forwarded: web has it")
        with open(os.path.join(self.host.dirs["config"], "vms", "copy.json")) as f:
            spec = json.load(f)
        self.assertEqual((spec["name"], spec["network"]), ("copy", [{"mode": "user"}]))
        self.assertEqual(self.host.state("copy"), "running")
        wait_for(lambda: "restore" not in self.wanted("copy"), "the wish to be fulfilled, durably")
        self.expect(0, "status", "copy", out="lazy from web/before, all in")
        self.assertEqual(json.loads(self.expect(0, "inspect", "copy").stdout)["vm"]["memory"]["mode"], "lazy")
        self.expect(0, "status", "web")

    def test_into_itself(self):
        self.web_with_snapshot()
        first = self.host.vm("web")
        self.expect(6, "restore", "web", "before", err="web is running: stop it first (or say --force), or restore under another name")
        self.expect(0, "restore", "web", "before", "--force", "--mode", "eager")
        second = self.host.vm("web")
        self.assertEqual((second["state"], second["incarnation"]), ("running", first["incarnation"] + 1))
        self.expect(0, "status", "web", out="eager from web/before")
        self.host.vmctl("stop", "web")
        self.host.vmctl("restore", "web", "before")
        self.host.vmctl("restart", "web")
        self.expect(0, "status", "web")
        self.assertNotIn("restore", self.host.read_json("run", "web", "plan.json"))
        self.assertEqual(self.call("Memory", name="web")["parameters"]["mode"], "plain", "a restart boots")

    def test_modes(self):
        self.web_with_snapshot()
        self.expect(2, "restore", "copy", "web/before", "--mode", "magic", err="neither lazy nor mapped nor eager")
        answer = self.call("Restore", name="copy", snapshot_vm="web", snapshot="before", mode="magic")
        self.assertEqual(answer["error"], "io.holdfast.Manager.Refused")
        self.host.kill_manager()
        self.host.start_manager(HOLDFAST_UFFD="0")
        self.expect(0, "restore", "copy", "web/before", out="HOLDFAST_UFFD=0")
        self.expect(0, "status", "copy", out="mapped from web/before")
        self.assertIn("turned off by HOLDFAST_UFFD=0", self.host.manager_log())
        self.expect(6, "snapshot", "warm", "web/before", err="HOLDFAST_UFFD=0")
        self.host.kill_manager()
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"restore": {"mode": "eager"}}, f)
        self.host.start_manager()
        self.host.vmctl("restore", "copy2", "web/before")
        self.expect(0, "status", "copy2", out="eager from web/before")

    def test_one_that_fails_is_shown_and_not_booted_instead(self):
        self.web_with_snapshot()
        self.behave("copy", restore="fail")
        done = self.expect(1, "restore", "copy", "web/before",
                           err="copy could not be restored: QEMU exited with code 1: QEMU refused the device state")
        self.assertEqual(done.stdout, "")
        self.host.wait_state("copy", "failed")
        for _ in range(2):
            wait_for(lambda: self.host.vm("copy")["reason"] == "the restore from web/before failed: QEMU refused the device state",
                     "its shim to be gone, and the reason to be shown")
            vm = self.host.vm("copy")
            self.assertEqual((vm["state"], vm["incarnation"]), ("failed", 1))
            self.host.kill_manager()
            self.host.start_manager()
        self.assertEqual(self.host.state("web"), "running")
        self.behave("copy")
        self.host.vmctl("start", "copy")
        self.assertEqual(self.call("Memory", name="copy")["parameters"]["mode"], "plain", "an explicit start boots")
        self.assertNotIn("restore", self.wanted("copy"))

    def test_manager_that_dies_between_wish_and_launch(self):
        self.web_with_snapshot()
        for n, place in enumerate(("manager.after-wanted-write", "manager.before-spawn", "manager.before-go")):
            name = f"copy{n}"
            self.host.kill_manager()
            self.host.start_manager(HOLDFAST_FAILPOINT=f"{place}=kill")
            self.host.vmctl("restore", name, "web/before", check=False)
            self.host.manager.wait(20)
            self.assertEqual(self.wanted(name)["restore"], {"vm": "web", "snapshot": "before", "from": 1}, place)
            self.host.start_manager()
            self.host.wait_state(name, "running")
            self.assertEqual(self.call("Memory", name=name)["parameters"]["mode"], "lazy", place)
            wait_for(lambda: "restore" not in self.wanted(name), "the wish to be fulfilled")

    def test_a_start_or_apply_meanwhile_does_not_make_it_a_boot(self):
        self.web_with_snapshot()
        self.behave("copy", restore="hang")
        with Varlink(os.path.join(self.host.dirs["run"], "manager.sock"), 60) as v:
            v.send("io.holdfast.Manager.Restore", {"name": "copy", "snapshot_vm": "web", "snapshot": "before"})
            self.host.wait_state("copy", "restoring")
            with open(os.path.join(self.host.dirs["config"], "vms", "copy.json")) as f:
                self.host.vmctl("apply", "--no-wait", "-", stdin=f.read())
            with Varlink(os.path.join(self.host.dirs["run"], "manager.sock"), 60) as other:
                other.send("io.holdfast.Manager.Start", {"name": "copy"})
                self.host.kill_manager()
        self.host.start_manager()
        self.host.wait_state("copy", "restoring")
        self.assertEqual(self.wanted("copy")["restore"]["from"], 1)
        self.expect(6, "snapshot", "delete", "web/before", err="in use by copy")
        self.host.vmctl("stop", "copy")
        self.assertNotIn("restore", self.wanted("copy"))
        self.expect(0, "snapshot", "delete", "web/before")

    def test_other_hardware(self):
        self.web_with_snapshot()
        self.host.apply(self.host.fake_spec("big", enabled=False, memory="32M"))
        self.expect(6, "restore", "big", "web/before", err="snapshot web/before can't be restored as big: ")
        self.assertEqual(self.host.state("big"), "stopped")
        self.assertNotIn("restore", self.wanted("big") if os.path.exists(self.host.path("state", "big", "wanted.json")) else {})

    def test_spec_in_the_way(self):
        self.web_with_snapshot()
        with open(os.path.join(self.host.dirs["config"], "vms", "copy.json"), "w") as f:
            f.write("{}")
        self.expect(6, "restore", "copy", "web/before", err="that the manager has not read")
        self.assertEqual(sorted(self.host.list()), ["web"])


class Clones(WithFakeShim):
    def test_clones(self):
        self.web_with_snapshot()
        done = self.expect(0, "clone", "web/before", "--count", "3", "--name", "web-%d")
        self.assertEqual(done.stdout, "web-1: running\nweb-2: running\nweb-3: running\n")
        self.assertEqual(sorted(self.host.list()), ["web", "web-1", "web-2", "web-3"])
        self.expect(6, "clone", "web/before", "--count", "2", "--name", "web-%d", err="there is a VM web-1: nothing was begun")
        for count, pattern, text in ((0, "c-%d", "0 clones"), (300, "c-%d", "300 clones"), (2, "%d%d", "makes no names"),
                                     (2, "-%d", "makes no names"),
                                     (2, "a" * 63 + "%d0", "makes no names")):
            self.expect(6, "clone", "web/before", "--count", count, "--name", pattern, err=text)
        self.assertEqual(len(self.host.list()), 4)

    def test_all_or_nothing(self):
        self.web_with_snapshot()
        self.host.apply(self.host.fake_spec("c-2", enabled=False))
        self.expect(6, "clone", "web/before", "--count", "3", "--name", "c-%d", err="there is a VM c-2")
        self.assertEqual(sorted(self.host.list()), ["c-2", "web"])
        self.assertEqual(sorted(os.listdir(os.path.join(self.host.dirs["config"], "vms"))), ["c-2.json", "web.json"])

    def test_failures_one_by_one(self):
        self.web_with_snapshot()
        self.behave("c-2", restore="fail")
        done = self.expect(1, "clone", "web/before", "--count", "3", "--name", "c-%d", err="c-2 could not be restored")
        self.assertEqual(done.stdout, "c-1: running\nc-3: running\n")

    def test_json(self):
        self.web_with_snapshot()
        clones = json.loads(self.expect(0, "clone", "web/before", "--count", "2", "--name", "c%d", "--json").stdout)
        self.assertEqual([(one["name"], one["vm"]["state"]) for one in clones], [("c1", "running"), ("c2", "running")])


class Warm(WithFakeShim):
    def folder(self):
        return glob.glob(os.path.join(self.host.dirs["run"], "warm", "*"))

    def test_warm(self):
        self.web_with_snapshot()
        self.expect(0, "snapshot", "warm", "web/before", out="web/before: warm")
        self.expect(0, "snapshot", "warm", "web/before", out="web/before: warm")
        self.assertTrue(self.snapshots()["web/before"]["working_set"])
        self.assertEqual(self.folder(), [])
        self.assertEqual(sorted(self.host.list()), ["web"])
        self.stopEverything()

    def test_what_a_killed_one_left_is_swept(self):
        self.web_with_snapshot()
        one = self.snapshots()["web/before"]
        folder = os.path.join(self.host.dirs["run"], "warm", one["id"][:16])
        os.makedirs(folder)
        with open(os.path.join(folder, "shim.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.expect(6, "snapshot", "warm", "web/before", err="is being warmed already")
            self.expect(6, "snapshot", "delete", "web/before", err="its own warming")
            self.host.kill_manager()
            self.host.start_manager()
            self.assertEqual(len(self.folder()), 1)
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: not self.folder(), "the folder to be swept")


if __name__ == "__main__":
    main()
