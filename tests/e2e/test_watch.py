"""The folder of specs is watched: each way of editing, each way of losing it, and what follows for VMs that run."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

from harness import BIN, HostTest, alive, main, program, wait_for

GRACE = "2s"


class WatchCase(HostTest):
    def setUp(self):
        super().setUp()
        self.vms = os.path.join(self.host.dirs["config"], "vms")
        self.elsewhere = os.path.join(self.host.root, "elsewhere")
        os.mkdir(self.elsewhere)

    def configure(self, **watch):
        self.write_config(watch={"delete_grace": GRACE, "restart_interval": "100ms", **watch})

    def write_config(self, **config):
        path = os.path.join(self.host.dirs["config"], "holdfast.json")
        with open(path + ".new", "w") as f:
            json.dump(config, f)
        os.rename(path + ".new", path)

    def start(self, **watch):
        self.configure(**watch)
        self.host.start_manager()

    def spec_path(self, name):
        return os.path.join(self.vms, name + ".json")

    def write(self, spec, path=None):
        """As an editor of the careful kind does it: whole, by a rename."""
        path = path or self.spec_path(spec["name"])
        with open(path + "~new", "w") as f:
            json.dump(spec, f)
        os.rename(path + "~new", path)

    def full_log(self):
        with open(os.path.join(self.host.root, "manager.log"), errors="replace") as f:
            return f.read()

    def wait_log(self, pattern, count=1):
        wait_for(lambda: len(re.findall(pattern, self.full_log())) >= count, f"{count} × {pattern} in: {self.host.manager_log()}")

    def incarnation(self, name):
        return self.host.vm(name)["incarnation"]

    def wait_incarnation(self, name, number):
        return wait_for(lambda: (lambda vm: vm if vm.get("incarnation") == number and vm["state"] == "running" else None)(
            self.host.list().get(name, {})), f"{name} running as incarnation {number}: {self.host.list().get(name)}")

    def wait_reason(self, name, words):
        return wait_for(lambda: words in (self.host.list().get(name, {}).get("reason") or ""),
                        f"\"{words}\" to be said of {name}: {self.host.list().get(name)}")

    def settled(self):
        """Everything that was written before has been looked at: a VM of which it is known was added after it."""
        name = f"probe{time.monotonic_ns()}"
        self.write(self.host.fake_spec(name, enabled=False))
        wait_for(lambda: name in self.host.list(), "the probe to be seen")
        os.unlink(self.spec_path(name))
        wait_for(lambda: name not in self.host.list(), "the probe to be gone")


class Editing(WatchCase):
    def test_new_file_starts_and_disabled_one_stops(self):
        self.start()
        spec = self.host.guest_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        self.host.wait_ticks("web")
        qemu = self.host.vm("web")["qemu_pid"]
        self.write({**spec, "enabled": False})
        self.host.wait_state("web", "stopped")
        vm = self.host.vm("web")
        self.assertEqual((vm["wanted"], vm["last_exit"]["kind"]), ("stopped", "stopped"))
        self.assertFalse(alive(qemu))
        self.write(spec)
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_a_command_s_stop_outlives_an_edit(self):
        self.start()
        spec = self.host.fake_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        self.host.vmctl("stop", "web")
        self.write({**spec, "memory": "24M"})
        self.settled()
        self.assertEqual(self.host.vm("web")["wanted"], "stopped")
        self.assertEqual(self.incarnation("web"), 1)
        self.stopEverything()

    def test_as_vim_writes(self):
        """The old file is renamed to a backup, the new one written under the name, a swap file lies about all the time."""
        self.start()
        spec = self.host.guest_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        swap = os.path.join(self.vms, ".web.json.swp")
        with open(swap, "wb") as f:
            f.write(b"b0VIM 9.0")
        with open(os.path.join(self.vms, "4913"), "w"):
            pass
        os.unlink(os.path.join(self.vms, "4913"))
        os.rename(self.spec_path("web"), self.spec_path("web") + "~")
        with open(self.spec_path("web"), "w") as f:
            json.dump({**spec, "memory": "144M"}, f)
        os.unlink(self.spec_path("web") + "~")
        os.unlink(swap)
        vm = self.wait_incarnation("web", 2)
        self.assertFalse(vm["changed"])
        self.assertIn("-m 144M ", " ".join(line for _, line in self.host.left_behind() if "guest=web" in line))
        self.assertEqual(set(self.host.list()), {"web"})
        self.stopEverything()

    def test_half_written_then_completed(self):
        self.start()
        spec = self.host.guest_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        before = self.host.vm("web")
        text = json.dumps({**spec, "memory": "144M"})
        with open(self.spec_path("web"), "w") as f:
            f.write(text[:40])
            f.flush()
            self.settled()  # so the half was looked at
            self.wait_reason("web", "web.json")
            vm = self.host.vm("web")
            self.assertEqual((vm["state"], vm["qemu_pid"]), ("running", before["qemu_pid"]))
            f.write(text[40:])
        self.wait_incarnation("web", 2)
        self.assertIsNone(self.host.vm("web")["reason"])
        # and one that is new
        text = json.dumps(self.host.fake_spec("new"))
        with open(self.spec_path("new"), "w") as f:
            f.write(text[:20])
            f.flush()
            self.settled()
            f.write(text[20:])
        self.host.wait_state("new", "running")
        self.stopEverything()

    def test_broken_file_changes_nothing_and_the_others_are_followed(self):
        self.start()
        spec = self.host.fake_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        for wrong in ("{ nonsense", json.dumps({**spec, "memry": "1G"}), "[]"):
            with open(self.spec_path("web"), "w") as f:
                f.write(wrong)
            other = f"other{len(wrong)}"
            self.write(self.host.fake_spec(other))
            self.host.wait_state(other, "running")
            wait_for(lambda: self.host.vm("web")["reason"], "what is wrong to be said")
            self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 1))
        self.write(spec)
        wait_for(lambda: not self.host.vm("web")["reason"], "nothing to be wrong any more")
        self.settled()
        self.assertEqual(self.incarnation("web"), 1)
        self.stopEverything()

    def test_links(self):
        """Specs that are links: to a file that is edited, switched to another, and by a folder of theirs as Kubernetes does it."""
        self.start()
        real = os.path.join(self.elsewhere, "web-1.json")
        spec = self.host.fake_spec("web")
        self.write(spec, real)
        os.symlink(real, self.spec_path("web"))
        self.host.wait_state("web", "running")
        self.write({**spec, "memory": "20M"}, real)
        self.wait_incarnation("web", 2)
        with open(real, "w") as f:
            json.dump({**spec, "memory": "24M"}, f)
        self.wait_incarnation("web", 3)
        # a command doesn't put a file in the link's place
        refused = self.host.apply({**spec, "memory": "26M"}, check=False)
        self.assertEqual(refused.returncode, 6)
        self.assertIn(f"web.json is a link to {real}: edit that file", refused.stderr)
        self.assertTrue(os.path.islink(self.spec_path("web")))
        self.host.apply({**spec, "memory": "24M"})
        second = os.path.join(self.elsewhere, "web-2.json")
        self.write({**spec, "memory": "28M"}, second)
        os.symlink(second, self.spec_path("web") + "~")
        os.rename(self.spec_path("web") + "~", self.spec_path("web"))
        self.wait_incarnation("web", 4)
        # ..data, and a link into it
        data = os.path.join(self.vms, "..data")
        for number in (1, 2):
            os.mkdir(os.path.join(self.vms, f"..{number}"))
            self.write(self.host.fake_spec("pod", memory=f"{16 + 4 * number}M"), os.path.join(self.vms, f"..{number}", "pod.json"))
        os.symlink("..1", data)
        os.symlink("..data/pod.json", self.spec_path("pod"))
        self.wait_incarnation("pod", 1)
        os.symlink("..2", data + "~")
        os.rename(data + "~", data)
        self.wait_incarnation("pod", 2)
        # a link to nowhere is a file that can't be read, not one that was deleted
        os.unlink(second)
        self.wait_reason("web", "No such file")
        self.assertEqual(self.host.state("web"), "running")
        self.stopEverything()

    def test_renamed_file_is_the_same_vm(self):
        self.start()
        spec = self.host.fake_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        os.rename(self.spec_path("web"), os.path.join(self.vms, "shop.json"))
        self.settled()
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["incarnation"], vm["reason"]), ("running", 1, None))
        self.assertNotIn("shop", self.host.list())
        # the other file counts from here on
        self.write({**spec, "memory": "24M"}, os.path.join(self.vms, "shop.json"))
        self.wait_incarnation("web", 2)
        # in two files at once: shown, and neither counts
        self.write({**spec, "memory": "28M"})
        self.wait_reason("web", "two files")
        self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 2))
        os.unlink(self.spec_path("web"))
        wait_for(lambda: not self.host.vm("web")["reason"], "one file again")
        self.settled()
        self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 2))
        self.stopEverything()

    def test_twenty_at_once(self):
        self.start()
        names = [f"vm{i:02}" for i in range(20)]
        for name in names:
            self.write(self.host.fake_spec(name))
        for name in names:
            self.host.wait_state(name, "running")
        self.stopEverything()

    def test_new_ones_take_turns(self):
        self.write_config(start_interval="1h")
        self.host.start_manager()
        for name in ("a", "b", "c"):
            self.write(self.host.fake_spec(name))
        wait_for(lambda: set(self.host.list()) == {"a", "b", "c"}, "all to be seen")
        wait_for(lambda: sorted(vm["state"] for vm in self.host.list().values()) == ["preparing", "preparing", "running"],
                 f"one to run ({self.host.list()})")
        self.assertEqual([vm["reason"] for vm in self.host.list().values()].count("waiting for its turn"), 2)
        self.stopEverything()

    def test_more_events_than_the_kernel_keeps(self):
        """The manager sleeps while the queue of inotify overflows."""
        self.start()
        self.write(self.host.fake_spec("web"))
        self.host.wait_state("web", "running")
        with open("/proc/sys/fs/inotify/max_queued_events") as f:
            limit = int(f.read())
        os.kill(self.host.manager.pid, signal.SIGSTOP)
        a, b = os.path.join(self.vms, "a"), os.path.join(self.vms, "b")
        with open(a, "w"):
            pass
        for _ in range(limit // 4 + 1000):  # each rename is two events
            os.rename(a, b)
            os.rename(b, a)
        self.write(self.host.fake_spec("late"))
        os.kill(self.host.manager.pid, signal.SIGCONT)
        self.host.wait_state("late", "running")
        self.write(self.host.fake_spec("later"))
        self.host.wait_state("later", "running")
        self.stopEverything()

    def test_own_writes_are_not_edits(self):
        self.start()
        spec = self.host.fake_spec("web")
        self.host.apply(spec)
        self.host.apply({**spec, "memory": "24M"})
        self.settled()
        vm = self.host.vm("web")
        self.assertEqual((vm["incarnation"], vm["changed"]), (1, True))
        # not by the next manager either
        self.host.kill_manager()
        self.host.start_manager()
        self.settled()
        self.host.wait_state("web", "running")
        wait_for(lambda: self.host.vm("web")["changed"], "the next manager to have checked the spec")
        self.assertEqual(self.incarnation("web"), 1)
        # an edit by hand is one
        self.write({**spec, "memory": "28M"})
        self.wait_incarnation("web", 2)
        # and with --restart the command does it
        done = self.host.vmctl("apply", "--restart", "-", stdin=json.dumps({**spec, "memory": "32M"}))
        self.assertIn("updated", done.stdout)
        self.assertEqual((self.incarnation("web"), self.host.vm("web")["changed"]), (3, False))
        self.settled()
        self.assertEqual(self.incarnation("web"), 3)
        # several at once, one of them new and one as it was
        for name, memory in (("web", "36M"), ("same", "16M")):
            self.write(self.host.fake_spec(name, memory=memory), os.path.join(self.elsewhere, name + ".json"))
        self.host.apply(self.host.fake_spec("same", memory="16M"))
        self.write(self.host.fake_spec("new"), os.path.join(self.elsewhere, "new.json"))
        done = self.host.vmctl("apply", "--restart", "--json", self.elsewhere)
        results = {r["name"]: r for r in json.loads(done.stdout)}
        self.assertEqual({name: (r["change"], r["done"], r["vm"]["incarnation"]) for name, r in results.items()},
                         {"web": ("updated", True, 4), "same": ("unchanged", True, 1), "new": ("created", True, 1)})
        self.host.vmctl("delete", "same", "new", "--force")
        self.host.vmctl("delete", "web", "--force")
        self.settled()
        self.assertEqual(self.host.list(), {})
        self.stopEverything()


class Deleting(WatchCase):
    def test_deleted_and_back_and_deleted(self):
        self.start(delete_grace="30s")
        spec = self.host.guest_spec("web", disks=[{"name": "data", "size": "1M"}])
        self.write(spec)
        self.host.wait_ticks("web")
        os.unlink(self.spec_path("web"))
        self.wait_reason("web", "its spec is gone: stops in ")
        self.assertEqual(self.host.state("web"), "running")
        self.write(spec)
        wait_for(lambda: not self.host.vm("web")["reason"], "it to be called off")
        self.settled()
        self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 1))
        # a shorter grace, and this time for good
        self.configure()
        self.wait_log("the new one is in force")
        os.unlink(self.spec_path("web"))
        self.host.wait_state("web", "stopped")
        vm = self.host.vm("web")
        self.assertEqual((vm["wanted"], vm["reason"], vm["last_exit"]["kind"]), ("stopped", "its spec is gone", "stopped"))
        diff = self.host.vmctl("diff", "web", check=False)
        self.assertEqual((diff.returncode, diff.stderr), (6, "vmctl: web: there is no spec of web: apply one\n"))
        self.assertTrue(os.path.exists(self.host.path("state", "web", "data.qcow2")))
        self.assertWhole("web")
        # written once more it is a new one
        self.write(spec)
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_next_manager_begins_the_grace_anew(self):
        self.start(delete_grace="1h")
        self.write(self.host.fake_spec("web"))
        self.host.wait_state("web", "running")
        os.unlink(self.spec_path("web"))
        self.wait_reason("web", "stops in ")
        wait_for(lambda: self.host.read_json("run", "web", "spec.json").get("gone"), "it to be written down")
        self.host.kill_manager()
        self.host.start_manager()
        self.wait_reason("web", "stops in 3600 s")
        self.assertEqual(self.host.state("web"), "running")
        self.host.kill_manager()
        self.configure()
        self.host.start_manager()
        self.host.wait_state("web", "stopped")
        self.stopEverything()

    def test_deleted_while_no_manager_ran(self):
        self.start()
        for name in ("web", "db"):
            self.write(self.host.fake_spec(name))
            self.host.wait_state(name, "running")
        self.host.kill_manager()
        os.unlink(self.spec_path("web"))
        self.host.start_manager()
        self.wait_reason("web", "stops in ")
        self.host.wait_state("web", "stopped")
        self.assertEqual(self.host.state("db"), "running")
        # the file is there, and another VM's
        self.host.kill_manager()
        self.write(self.host.fake_spec("shop"), self.spec_path("db"))
        self.host.start_manager()
        self.host.wait_state("shop", "running")
        self.wait_reason("db", "stops in ")
        self.host.wait_state("db", "stopped")
        self.assertEqual(self.host.state("shop"), "running")
        self.stopEverything()

    def test_a_file_that_cannot_be_read_may_be_the_one(self):
        self.start()
        for name in ("web", "db"):
            self.write(self.host.fake_spec(name))
            self.host.wait_state(name, "running")
        with open(os.path.join(self.vms, "riddle.json"), "w") as f:
            f.write("{")
        self.wait_reason("riddle", "riddle.json")
        os.unlink(self.spec_path("web"))
        self.wait_reason("web", "riddle.json can't be read and may be it")
        os.unlink(os.path.join(self.vms, "riddle.json"))
        self.host.wait_state("web", "stopped")
        self.assertEqual(self.host.state("db"), "running")
        self.assertNotIn("riddle", self.host.list())
        self.stopEverything()


class Folder(WatchCase):
    def running(self, *names):
        for name in names:
            self.write(self.host.fake_spec(name))
        return {name: self.host.wait_state(name, "running")["qemu_pid"] for name in names}

    def assertRunOn(self, before):
        after = self.host.list()
        self.assertEqual({name: after[name]["qemu_pid"] for name in before}, before)
        self.assertEqual({after[name]["state"] for name in before}, {"running"})

    def outlast(self):
        """Longer than any grace that might have begun."""
        end = time.monotonic() + 3
        wait_for(lambda: time.monotonic() > end, "time to pass", every=0.1)

    def test_moved_away_and_back(self):
        self.start(delete_grace="1s")
        before = self.running("web", "db")
        os.rename(self.vms, self.vms + ".away")
        self.wait_reason("web", "No such file")
        self.outlast()
        self.assertRunOn(before)
        refused = self.host.vmctl("apply", "-", stdin=json.dumps(self.host.fake_spec("x")), check=False)
        self.assertEqual(refused.returncode, 6, refused.stderr)
        os.rename(self.vms + ".away", self.vms)
        wait_for(lambda: not self.host.vm("web")["reason"], "it to be found again")
        self.assertRunOn(before)
        self.write(self.host.fake_spec("web", memory="24M"))
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_removed_and_made_again(self):
        self.start(delete_grace="1s")
        before = self.running("web", "db")
        shutil.rmtree(self.vms)
        self.outlast()
        self.assertRunOn(before)
        os.mkdir(self.vms)
        self.wait_log("is empty")
        self.outlast()
        self.assertRunOn(before)
        self.write(self.host.fake_spec("db"))
        self.write(self.host.fake_spec("web"))
        self.write(self.host.fake_spec("new"))
        self.host.wait_state("new", "running")
        self.outlast()
        self.assertRunOn(before)
        self.assertIsNone(self.host.vm("web")["reason"])
        self.stopEverything()

    def test_found_empty_or_missing_at_the_start(self):
        """As when a file system isn't mounted: what runs is left alone."""
        self.start(delete_grace="1s")
        before = self.running("web", "db")
        self.host.kill_manager()
        os.rename(self.vms, self.vms + ".away")
        self.host.start_manager()
        self.wait_reason("web", "that changes nothing: the folder of specs was found empty")
        self.outlast()
        self.assertRunOn(before)
        os.rmdir(self.vms)
        os.rename(self.vms + ".away", self.vms)
        wait_for(lambda: not self.host.vm("web")["reason"], "it to be found again")
        self.outlast()
        self.assertRunOn(before)
        self.stopEverything()

    def test_is_a_link_that_is_switched(self):
        os.rmdir(self.vms)
        for number in (1, 2):
            os.mkdir(os.path.join(self.elsewhere, f"vms-{number}"))
        os.symlink(os.path.join(self.elsewhere, "vms-1"), self.vms)
        self.start()
        before = self.running("web")
        second = os.path.join(self.elsewhere, "vms-2")
        self.write(self.host.fake_spec("web"), os.path.join(second, "web.json"))
        self.write(self.host.fake_spec("db"), os.path.join(second, "db.json"))
        os.symlink(second, self.vms + "~")
        os.rename(self.vms + "~", self.vms)
        self.host.wait_state("db", "running")
        self.assertRunOn(before)
        self.write(self.host.fake_spec("web", memory="24M"), os.path.join(second, "web.json"))
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_no_inotify(self):
        """In a user namespace that has none left: it is looked at from time to time."""
        self.configure()
        limited = os.path.join(self.host.root, "bin")
        os.mkdir(limited)
        with open(os.path.join(limited, "holdfastd"), "w") as f:
            f.write("#!/bin/sh\n"
                    f"exec unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"' sh "
                    f"{program('holdfastd')} --shim {program('holdfast-shim')} \"$@\"\n")
        os.chmod(os.path.join(limited, "holdfastd"), 0o755)
        if subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances"],
                          capture_output=True, check=False).returncode != 0:
            self.skipTest("kernel: no user namespaces")
        self.host.start_manager(binaries=limited)
        self.wait_log("no inotify")
        spec = self.host.fake_spec("web")
        spec["enabled"] = False
        self.write(spec)
        wait_for(lambda: "web" in self.host.list(), "the spec to be seen")
        os.unlink(self.spec_path("web"))
        wait_for(lambda: "web" not in self.host.list(), "its end to be seen")
        self.stopEverything()


class Restarting(WatchCase):
    def test_one_at_a_time(self):
        """Ten are edited at once; by their events no two of them are ever down at the same time."""
        self.start()
        names = [f"vm{i}" for i in range(10)]
        for name in names:
            self.write(self.host.fake_spec(name))
        for name in names:
            self.host.wait_state(name, "running")
        for name in names:
            self.write(self.host.fake_spec(name, memory="24M"))
        for name in names:
            self.wait_incarnation(name, 2)
        spans = []
        for name in names:
            events = wait_for(lambda name=name: (lambda all: all if any(
                e["incarnation"] == 2 and "running" in e["text"] for e in all) else None)(self.host.events(name)), "its events")
            down = min(e["at"] for e in events if e["incarnation"] == 1 and "stopping" in e["text"])
            up = min(e["at"] for e in events if e["incarnation"] == 2 and e["type"] == "state" and e["text"].startswith("running"))
            spans.append((down, up))
        spans.sort()
        for (_, up), (down, _) in zip(spans, spans[1:]):
            self.assertLessEqual(up, down, spans)
        self.stopEverything()

    def test_one_that_fails_holds_up_nobody_and_one_that_cannot_start_is_not_stopped(self):
        self.start()
        for name in ("a", "b", "c"):
            self.write(self.host.fake_spec(name))
            self.host.wait_state(name, "running")
        broken = self.host.fake_spec("a", memory="24M")
        broken["qemu"] = {"path": "/nonexistent/qemu"}
        self.write(broken)
        wait_for(lambda: self.host.vm("a")["reason"], "what is wrong")
        self.write(self.host.fake_spec("b", "exit-after=0:1", memory="24M", restart={"policy": "never"}))
        self.write(self.host.fake_spec("c", memory="24M"))
        self.wait_incarnation("c", 2)
        self.assertEqual((self.host.state("a"), self.incarnation("a")), ("running", 1))
        wait_for(lambda: self.incarnation("b") == 2, "b to be restarted")
        self.stopEverything()

    def test_one_that_finds_no_room_runs_on_until_there_is(self):
        self.write_config(watch={"delete_grace": GRACE, "restart_interval": "100ms"}, limits={"memory": "64M"})
        self.host.start_manager()
        for name in ("a", "b"):
            self.write(self.host.fake_spec(name, memory="24M"))
            self.host.wait_state(name, "running")
        self.write(self.host.fake_spec("a", memory="56M"))
        self.wait_reason("a", "it is not restarted yet, since it could not be started again: not enough memory: it asks for 56M")
        self.assertEqual((self.host.state("a"), self.incarnation("a")), ("running", 1))
        self.host.vmctl("delete", "b", "--force")
        self.assertFalse(self.wait_incarnation("a", 2)["changed"])
        self.stopEverything()

    def test_one_whose_port_somebody_has_runs_on_until_it_is_free(self):
        self.start()
        self.write(self.host.fake_spec("web"))
        self.host.wait_state("web", "running")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            self.write(self.host.fake_spec("web", memory="24M", network=[{"forward": [{"host": f"127.0.0.1:{port}", "guest": 80}]}]))
            self.wait_reason("web", f"127.0.0.1:{port}/tcp is taken by ")
            self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 1))
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_what_another_edited_one_lets_go_of(self):
        """One wants the port that another has, and is edited first."""
        def spec(name, memory, port):
            return self.host.fake_spec(name, memory=memory, network=[{"forward": [{"host": f"127.0.0.1:{port}", "guest": 80}]}])

        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            for each in (a, b, c):
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in (a, b, c)]
        self.start()
        for name, port in (("a", ports[0]), ("b", ports[1])):
            self.write(spec(name, "16M", port))
            self.host.wait_state(name, "running")
        self.write(spec("b", "24M", ports[0]))
        self.wait_reason("b", f"127.0.0.1:{ports[0]}/tcp is taken by VM a")
        self.write(spec("a", "24M", ports[2]))
        self.wait_incarnation("a", 2)
        self.wait_incarnation("b", 2)
        self.stopEverything()

    def test_one_whose_snapshot_is_taken_waits_for_that(self):
        """The shim stops in the middle of it."""
        self.configure()
        hold = os.path.join(self.host.root, "hold")
        self.host.start_manager(HOLDFAST_FAILPOINT=f"shim.snapshot-copying=stop@{hold}")
        self.write(self.host.guest_spec("web"))
        self.host.wait_state("web", "running")
        self.host.wait_ticks("web")
        with open(hold, "w"):
            pass
        shim = self.host.vm("web")["shim_pid"]
        with subprocess.Popen([program("vmctl"), *self.host.options(), "snapshot", "create", "web", "before"], stdout=subprocess.DEVNULL) as snapshot:
            wait_for(lambda: not os.path.exists(hold), "the shim to stop")
            self.write({**self.host.guest_spec("web"), "memory": "144M"})
            self.wait_reason("web", "it is restarted once its snapshot is taken")
            os.kill(shim, signal.SIGCONT)
            self.assertEqual(snapshot.wait(60), 0)
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_disabled_while_it_waits(self):
        """Also where its file could not be read in between."""
        self.write_config(watch={"delete_grace": GRACE}, limits={"memory": "32M"})
        self.host.start_manager()
        for name in ("a", "b"):
            self.write(self.host.fake_spec(name, memory="24M"))
            wait_for(lambda name=name: self.host.list().get(name, {}).get("state") in ("running", "failed"), name)
        with open(self.spec_path("b"), "w") as f:
            f.write("{")
        self.wait_log(r"vm=b b\.json: line 1")
        self.write(self.host.fake_spec("b", memory="24M", enabled=False))
        wait_for(lambda: self.host.vm("b")["wanted"] == "stopped", "what isn't enabled any more to be stopped")
        self.host.vmctl("stop", "a")
        self.settled()
        self.assertEqual((self.host.state("b"), self.incarnation("b")), ("stopped", 0))
        self.stopEverything()

    def test_edited_while_no_manager_ran(self):
        self.start()
        names = ("a", "b", "same")
        for name in names:
            self.write(self.host.fake_spec(name))
            self.host.wait_state(name, "running")
        self.host.kill_manager()
        for name in ("a", "b"):
            self.write(self.host.fake_spec(name, memory="24M"))
        self.write(self.host.fake_spec("new"))
        self.host.start_manager()
        for name in ("a", "b"):
            self.wait_incarnation(name, 2)
        self.host.wait_state("new", "running")
        self.assertEqual(self.incarnation("same"), 1)
        # disabled likewise
        self.host.kill_manager()
        self.write(self.host.fake_spec("a", memory="24M", enabled=False))
        self.host.start_manager()
        self.host.wait_state("a", "stopped")
        self.assertEqual((self.host.state("b"), self.host.state("same")), ("running", "running"))
        self.stopEverything()

    def test_manager_killed_in_between(self):
        """Whoever has been restarted isn't again, the others are by the next manager."""
        self.start(restart_interval="300ms")
        names = [f"vm{i}" for i in range(6)]
        for name in names:
            self.write(self.host.fake_spec(name))
        for name in names:
            self.host.wait_state(name, "running")
        for name in names:
            self.write(self.host.fake_spec(name, memory="24M"))
        for restarted in (1, 3):
            self.wait_log("is restarted for its edited spec", restarted)
            self.host.kill_manager()
            self.host.start_manager()
        for name in names:
            self.wait_incarnation(name, 2)
        self.settled()
        self.assertEqual({(vm["incarnation"], vm["changed"]) for vm in self.host.list().values()}, {(2, False)})
        self.stopEverything()

    def test_only_shown(self):
        self.start(on_change="show")
        spec = self.host.fake_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        self.write({**spec, "memory": "24M"})
        wait_for(lambda: self.host.vm("web")["changed"], "the change to be shown")
        self.wait_log("needs a restart: vmctl restart web")
        self.assertEqual(self.incarnation("web"), 1)
        # what makes no difference to the plan isn't a change at all
        self.write({**spec, "enabled": True})
        self.wait_log("comes to the same plan")
        wait_for(lambda: not self.host.vm("web")["changed"], "no change to be shown")
        # from here on it is carried out
        self.write({**spec, "memory": "28M"})
        wait_for(lambda: self.host.vm("web")["changed"], "the change to be shown")
        self.configure(on_change="restart")
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_edited_back_in_time(self):
        self.start()
        spec = self.host.fake_spec("web")
        self.write(spec)
        self.host.wait_state("web", "running")
        self.host.vmctl("pause", "web")
        self.write({**spec, "memory": "24M"})
        self.wait_reason("web", "restarted once it is resumed")
        self.write(spec)
        wait_for(lambda: not self.host.vm("web")["reason"], "the restart to be called off")
        self.host.vmctl("resume", "web")
        self.settled()
        self.assertEqual((self.host.state("web"), self.incarnation("web")), ("running", 1))
        self.host.vmctl("pause", "web")
        self.write({**spec, "memory": "24M"})
        self.wait_reason("web", "restarted once it is resumed")
        self.host.vmctl("resume", "web")
        self.wait_incarnation("web", 2)
        self.stopEverything()

    def test_an_upgrade_restarts_nothing(self):
        """Another build of the manager, which makes other plans of specs that nobody has touched."""
        folder = os.path.join(self.host.root, "bin")
        os.mkdir(folder)
        shutil.copy2(os.path.join(BIN, "holdfastd-next"), os.path.join(folder, "holdfastd"))
        os.symlink(program("holdfast-shim"), os.path.join(folder, "holdfast-shim"))
        self.start()
        specs = {name: self.host.fake_spec(name) for name in ("a", "b")}
        for name, spec in specs.items():
            self.write(spec)
            self.host.wait_state(name, "running")
        before = {name: vm["qemu_pid"] for name, vm in self.host.list().items()}
        self.host.kill_manager()
        self.write_config(watch={"delete_grace": GRACE, "restart_interval": "100ms"}, qemu_user=self.another_user())
        self.host.start_manager(binaries=folder)
        wait_for(lambda: all(vm["changed"] for vm in self.host.list().values()), "the other plans to be shown")
        self.settled()
        self.assertEqual({name: vm["qemu_pid"] for name, vm in self.host.list().items() if name in specs}, before)
        # touching them makes no difference
        for name, spec in specs.items():
            self.write(dict(reversed(spec.items())))
        self.settled()
        self.assertEqual({name: vm["qemu_pid"] for name, vm in self.host.list().items() if name in specs}, before)
        # an edit does
        self.write({**specs["a"], "memory": "24M"})
        self.wait_incarnation("a", 2)
        self.assertEqual(self.host.vm("b")["qemu_pid"], before["b"])
        self.stopEverything()

    def another_user(self):
        """One by whom plans are others than by the default. Only root has QEMUs of another user."""
        return str(os.getuid() or 64400)


class Config(WatchCase):
    def test_new_one_is_in_force_and_a_bad_one_is_not(self):
        self.start(on_change="show")
        config = os.path.join(self.host.dirs["config"], "holdfast.json")
        with open(config, "w") as f:
            f.write('{"log_level": "debug", "watch": {"on_change": "show"}}')
        self.wait_log("the new one is in force")
        with open(config, "w") as f:
            f.write('{"log_levl": "debug"}')
        self.wait_log("/log_levl: unknown key: the old one stays in force")
        os.unlink(config)
        self.wait_log("stays in force until a restart of holdfastd")
        self.write_config(log_level="info", group="nogroup", vm_config={"configs_dir": "/nonexistent"})
        self.wait_log("/group is changed by a restart of holdfastd")
        self.wait_log("/vm_config/configs_dir is changed by a restart of holdfastd")
        self.assertTrue(self.host.manager_answers())
        self.stopEverything()

    def test_hangup_is_a_reload(self):
        self.start()
        self.write(self.host.fake_spec("web"))
        vm = self.host.wait_state("web", "running")
        self.host.manager.send_signal(signal.SIGHUP)
        self.wait_log("told to look at the host config and the specs again")
        self.settled()
        self.assertEqual(self.host.vm("web")["qemu_pid"], vm["qemu_pid"])
        self.stopEverything()


if __name__ == "__main__":
    main()
