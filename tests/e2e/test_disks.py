"""Disks of a VM's own: kept or made anew, grown and never shrunk, and never touched while somebody has them open."""
import json
import os
import subprocess

from disk_case import MIB, DiskTest
from harness import main, wait_for

DATA, SCRATCH = {"name": "data", "size": "16M"}, {"name": "scratch", "size": "16M", "persistent": False}


class Fresh(DiskTest):
    def marked(self, *disks):
        self.host.start_manager()
        self.boot(self.spec(disks=disks))
        for n, _ in enumerate(disks):
            self.mark_disk("web", "vd" + "ab"[n])
        return [self.disk_head("web", "vd" + "ab"[n]) for n, _ in enumerate(disks)]

    def test_one_is_kept_and_one_is_not(self):
        self.assertEqual(self.marked(DATA, SCRATCH), ["MARKER", "MARKER"])
        self.restart("web")
        self.assertEqual([self.disk_head("web", d) for d in ("vda", "vdb")], ["MARKER", ""])

    def test_raw_is_made_anew_too(self):
        self.assertEqual(self.marked({**SCRATCH, "format": "raw"}), ["MARKER"])
        self.restart("web")
        self.assertEqual(self.disk_head("web"), "")

    def test_a_restart_by_policy_is_a_start_and_a_reboot_is_not(self):
        self.assertEqual(self.marked(SCRATCH), ["MARKER"])
        since = self.host.mark("web")
        self.host.say("web", "reboot")
        self.host.wait_said("web", "holdfast-guest: ready", since)
        self.assertEqual(self.disk_head("web"), "MARKER", "the same QEMU goes on")
        incarnation = self.host.vm("web")["incarnation"]
        os.kill(self.host.vm("web")["qemu_pid"], 9)
        wait_for(lambda: self.host.vm("web")["incarnation"] > incarnation and self.host.state("web") == "running", "a restart by policy", 60)
        self.started("web")
        self.assertEqual(self.disk_head("web"), "")

    def test_a_shim_that_takes_over_makes_nothing(self):
        self.assertEqual(self.marked(SCRATCH), ["MARKER"])
        shim = self.host.vm("web")["shim_pid"]
        os.kill(shim, 9)
        wait_for(lambda: self.host.vm("web")["shim_pid"] not in (None, shim), "another shim", 60)
        self.assertEqual(self.disk_head("web"), "MARKER")

    def test_snapshots_of_it_live_on(self):
        """A restore has the disk of the snapshot, the next start has an empty one, and neither takes anything from the other."""
        self.assertEqual(self.marked(SCRATCH), ["MARKER"])
        self.host.vmctl("snapshot", "create", "web", "one")
        self.mark_disk("web", text="LATER")
        for _ in range(2):  # its layers go, then nothing has any
            self.restart("web")
            self.assertEqual(self.disk_head("web"), "")
            self.assertEqual(os.listdir(self.image("web", "layers")), [])
        self.host.vmctl("snapshot", "verify", "web/one")
        self.mark_disk("web", text="NEWER")
        since = self.host.mark("web")
        self.host.vmctl("restore", "web", "one", "--force")
        self.host.wait_said("web", r"tick \d+", since)
        self.assertEqual(self.disk_head("web"), "MARKER")
        self.host.vmctl("clone", "web/one", "--count", "1", "--name", "copy-%d")
        self.assertEqual(self.disk_head("copy-1"), "MARKER")
        self.restart("web")
        self.assertEqual(self.disk_head("web"), "")
        self.restart("copy-1")
        self.assertEqual(self.disk_head("copy-1"), "")
        self.host.vmctl("snapshot", "verify", "web/one")

    def test_one_that_is_in_use_stays(self):
        self.assertEqual(self.marked(SCRATCH), ["MARKER"])
        self.host.vmctl("stop", "web", "--force")
        path = self.image("web", "scratch.qcow2")
        inode = os.stat(path).st_ino
        with self.user_of(path) as user:
            done = self.host.vmctl("start", "web", check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(f"disk scratch is in use by pid {user.pid} (qemu-", done.stderr)
            self.assertIn(path, done.stderr)
            self.host.vmctl("stop", "web", "--force")
            done = self.host.vmctl("delete", "web", "--purge", check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(f"scratch.qcow2 is in use by pid {user.pid}", done.stderr)
            self.assertEqual(os.stat(path).st_ino, inode)
        self.host.vmctl("delete", "web", "--purge")
        self.assertFalse(os.path.exists(path))

    def user_of(self, path):
        """A QEMU tool that has the image open for writing, and says when it does."""
        user = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: user.poll() is None and (user.kill(), user.wait()))
        user.stdin.write("length\n")
        user.stdin.flush()
        self.assertTrue(user.stdout.read(1))
        return user


class Size(DiskTest):
    def test_grown_at_the_next_start(self):
        for form in ("qcow2", "raw"):
            with self.subTest(form):
                name = f"vm-{form}"
                if not self.host.manager:
                    self.host.start_manager()
                self.boot(self.spec(name, [{**DATA, "format": form}]))
                self.mark_disk(name)
                done = self.host.apply(self.spec(name, [{"name": "data", "size": "40M", "format": form}]))
                self.assertIn("until: vmctl restart", done.stdout)
                self.assertEqual(self.sectors(name, "vda"), 16 * MIB, "not while it runs")
                self.restart(name)
                self.assertEqual(self.sectors(name, "vda"), 40 * MIB)
                self.assertEqual(self.disk_head(name), "MARKER")
                self.wait_event(name, "grow disk data from 16M to 40M")

    def test_the_layer_that_is_written_is_grown(self):
        self.host.start_manager()
        self.boot(self.spec(disks=[DATA]))
        self.mark_disk("web")
        self.host.vmctl("snapshot", "create", "web", "one")
        self.host.apply(self.spec(disks=[{"name": "data", "size": "40M"}]))
        self.restart("web")
        self.assertEqual((self.sectors("web", "vda"), self.disk_head("web")), (40 * MIB, "MARKER"))
        self.assertEqual(self.image_info(self.image("web", "data.qcow2"))["virtual-size"], 16 * MIB, "it is the snapshot's now")
        self.host.vmctl("snapshot", "verify", "web/one")
        # The guest of the snapshot has the disk it knows, and the next start the size of the spec.
        since = self.host.mark("web")
        self.host.vmctl("restore", "web", "one", "--force")
        self.host.wait_said("web", r"tick \d+", since)
        self.assertEqual((self.sectors("web", "vda"), self.disk_head("web")), (16 * MIB, "MARKER"))
        self.restart("web")
        self.assertEqual((self.sectors("web", "vda"), self.disk_head("web")), (40 * MIB, "MARKER"))

    def test_never_shrunk(self):
        self.host.start_manager()
        self.boot(self.spec(disks=[DATA]))
        small = self.spec(disks=[{"name": "data", "size": "8M"}])
        refusal = "/disks/0/size: disk data has 16M, more than the 8M of the spec, and a disk is never shrunk"
        for verb in ("check", "apply"):
            done = self.host.vmctl(verb, "-", check=False, stdin=json.dumps(small))
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(refusal, done.stderr)
        self.assertEqual(self.image_info(self.image("web", "data.qcow2"))["virtual-size"], 16 * MIB)
        # In a file that was changed by hand: what runs goes on, and isn't started again as it is.
        self.host.write_spec(small)
        self.host.vmctl("stop", "web", "--force")
        done = self.host.vmctl("start", "web", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("a disk is never shrunk", done.stderr)
        self.assertEqual(self.image_info(self.image("web", "data.qcow2"))["virtual-size"], 16 * MIB)


class Killed(DiskTest):
    """A shim that dies between the steps leaves disks that the next start goes on with."""

    def killed_at(self, place, prepare, change):
        """Has the shim killed there once, at the start that follows the change."""
        trigger = os.path.join(self.host.root, "kill-here")
        self.host.start_manager(HOLDFAST_FAILPOINT=f"{place}=kill@{trigger}")
        prepare()
        self.host.vmctl("stop", "web", "--force", check=False)
        change()
        with open(trigger, "w"):
            pass
        self.host.vmctl("start", "web", check=False)
        wait_for(lambda: not os.path.exists(trigger), f"{place} to be reached", 30)
        self.host.vmctl("start", "web")
        self.started("web")

    def marked(self, disk):
        self.boot(self.spec(disks=[disk]))
        self.mark_disk("web")

    def grow(self):
        self.host.apply(self.spec(disks=[{"name": "data", "size": "40M"}], enabled=False))

    def test_while_it_grows_a_disk(self):
        for place in ("shim.before-step", "shim.after-step"):
            with self.subTest(place):
                self.killed_at(place, lambda: self.marked(DATA), self.grow)
                self.assertEqual((self.sectors("web", "vda"), self.disk_head("web")), (40 * MIB, "MARKER"))
                self.host.vmctl("stop", "web", "--force")
                self.image_good(self.image("web", "data.qcow2"), "qcow2")
                self.host.vmctl("delete", "web", "--purge", "--force")
                self.host.kill_manager()

    def test_while_it_makes_a_disk_anew(self):
        for place in ("shim.before-fresh", "shim.after-fresh", "shim.before-step", "shim.after-step"):
            with self.subTest(place):
                self.killed_at(place, lambda: self.marked(SCRATCH), lambda: None)
                self.assertEqual((self.sectors("web", "vda"), self.disk_head("web")), (16 * MIB, ""))
                self.host.vmctl("stop", "web", "--force")
                self.image_good(self.image("web", "scratch.qcow2"), "qcow2")
                self.assertFalse(os.path.exists(self.image("web", "scratch.qcow2.new")))
                self.host.vmctl("delete", "web", "--purge", "--force")
                self.host.kill_manager()


if __name__ == "__main__":
    main()
