"""A QEMU that Holdfast didn't start, taken under supervision: vmctl shim adopt --pid."""
import json
import os
import re
import signal
import socket
import subprocess

from harness import HostTest, Varlink, alive, gaps, guest_folder, main, program, start_time, wait_for


class Foreign(HostTest):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.host.root, "by-hand")
        os.mkdir(self.folder)

    def qemu(self, name="old"):
        """As somebody would start one in a unit of its own."""
        guest, path = guest_folder(), os.path.join(self.folder, name)
        if os.path.exists(path + ".qmp"):
            os.unlink(path + ".qmp")
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "128M", "-display", "none", "-nodefaults", "-serial", f"file:{path}.log",
             "-qmp", f"unix:{path}.qmp,server=on,wait=off", "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd.gz", "-append",
             "console=ttyS0 quiet panic=-1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        wait_for(lambda: self.listens(path + ".qmp"), "its monitor")
        return process, path + ".qmp"

    @staticmethod
    def listens(path):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(path) == 0

    def ticks(self, name="old"):
        path = os.path.join(self.folder, name + ".log")
        if not os.path.exists(path):
            return []
        with open(path, "rb") as f:
            return [int(n) for n in re.findall(rb"^tick (\d+)\r?\n", f.read(), re.M)]

    def wait_ticks(self, more=3):
        before = len(self.ticks())
        wait_for(lambda: len(self.ticks()) >= before + more, "more heartbeats", every=0.05)

    def adopt(self, process, qmp, name="web", check=True, **more):
        return self.host.vmctl("shim", "adopt", "--pid", process.pid, "--qmp", qmp, name, check=check, **more)

    def holds_lock(self, pid):
        folder = f"/proc/{pid}/fd"
        return any(os.readlink(os.path.join(folder, fd)).endswith("/vm.lock") for fd in os.listdir(folder))

    def assertRefused(self, done, words, pid=None):
        """With its reason, and nothing is left of it, neither on disk nor in QEMU."""
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(words, done.stderr)
        self.assertFalse(os.path.exists(self.host.path("run", "web")))
        if pid:
            self.assertFalse(self.holds_lock(pid))

    def test_a_life_under_supervision(self):
        self.host.start_manager()
        process, qmp = self.qemu()
        self.wait_ticks()
        began = start_time(process.pid)
        self.adopt(process, qmp)
        vm = self.host.wait_state("web", "running")
        self.assertEqual(vm["qemu_pid"], process.pid)
        self.assertGreater(vm["uptime_ms"], 100)
        self.assertTrue(self.holds_lock(process.pid))

        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        self.host.vmctl("resume", "web")
        self.host.wait_state("web", "running")
        self.wait_ticks()

        # Any shim may take it over, and any manager finds it.
        os.kill(vm["shim_pid"], signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["shim_pid"] not in (None, vm["shim_pid"]), "another shim")
        self.host.kill_manager()
        self.host.start_manager()
        vm = self.host.wait_state("web", "running")
        self.assertEqual((vm["qemu_pid"], vm["incarnation"], start_time(process.pid)), (process.pid, 1, began))
        self.wait_ticks()
        self.assertEqual(gaps(self.ticks()), [])

        # What can't be had says so.
        done = self.host.vmctl("snapshot", "create", "web", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("memory", done.stderr)
        done = self.host.vmctl("console", "web", "--exit-on-eof", stdin="x", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("was started by other means", done.stderr)
        done = self.host.vmctl("restart", "web", check=False)
        self.assertIn("spec", done.stderr)
        self.assertTrue(alive(process.pid))

        self.host.vmctl("stop", "web")
        self.assertIsNotNone(process.wait(60))
        exit = self.host.wait_state("web", "stopped")["last_exit"]
        self.assertIn(exit["kind"], ("guest-shutdown", "stopped"))
        self.host.vmctl("delete", "web")
        self.stopEverything()

    def test_no_second_one_is_started_while_it_lives(self):
        process, qmp = self.qemu()
        self.adopt(process, qmp)
        shim = self.host.shim_status("web")["shim"]["pid"]
        os.kill(shim, signal.SIGKILL)
        wait_for(lambda: not alive(shim), "the shim's end")
        self.assertTrue(self.holds_lock(process.pid))
        # A spec of that name is there before the manager is.
        self.host.write_spec(self.host.fake_spec("web"))
        self.host.start_manager()
        vm = self.host.wait_state("web", "running")
        self.assertEqual((vm["qemu_pid"], vm["incarnation"]), (process.pid, 1))
        # With a spec it is an ordinary VM from its next start on.
        self.host.vmctl("restart", "web", "--force")
        vm = self.host.wait_state("web", "running")
        self.assertEqual(vm["incarnation"], 2)
        self.assertFalse(alive(process.pid))
        self.host.vmctl("stop", "web", "--force")
        self.stopEverything()

    def test_no_manager_is_needed(self):
        process, qmp = self.qemu()
        done = self.adopt(process, qmp)
        self.assertIn("a manager finds it when it starts", done.stdout)
        self.assertEqual(self.host.shim_status("web")["qemu"]["pid"], process.pid)
        self.host.vmctl("shim", "call", "web", "Kill", json.dumps({"incarnation": 1}))
        process.wait(20)
        wait_for(lambda: not self.host.left_behind(), "the shim's end")
        exit = self.host.read_json("state", "web", "last-exit.json")
        self.assertEqual(exit["incarnation"], 1)

        # Once more by the same name: its next life.
        process, qmp = self.qemu()
        self.adopt(process, qmp)
        self.assertEqual(self.host.shim_status("web")["incarnation"], 2)
        self.host.vmctl("shim", "call", "web", "Kill", json.dumps({"incarnation": 2}))
        process.wait(20)
        wait_for(lambda: not self.host.left_behind(), "the shim's end")

    def test_refusals(self):
        process, qmp = self.qemu()
        other, other_qmp = self.qemu("other")
        self.assertRefused(self.adopt(process, other_qmp, check=False), f"is not the monitor of process {process.pid}", other.pid)
        self.assertFalse(self.holds_lock(process.pid))
        self.assertRefused(self.adopt(process, os.path.join(self.folder, "nowhere"), check=False), "No such file")
        self.assertRefused(self.host.vmctl("shim", "adopt", "--pid", 2**22 + 7, "--qmp", qmp, "web", check=False), "process 4194311")
        with socket.socket(socket.AF_UNIX) as held:
            held.connect(qmp)
            held.recv(4096)
            self.assertRefused(self.adopt(process, qmp, check=False), "another program holds this monitor", process.pid)
        dead = os.path.join(self.folder, "dead")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(dead)
        self.assertRefused(self.adopt(process, dead, check=False), "refused")
        for words in (("--pid", process.pid, "web"), ("--qmp", qmp, "web"), ("--pid", process.pid, "--qmp", qmp, "web", "db")):
            self.assertEqual(self.host.vmctl("shim", "adopt", *words, check=False).returncode, 2)

        self.host.write_spec(self.host.fake_spec("web"))
        self.assertRefused(self.adopt(process, qmp, check=False), "a VM of that name already", process.pid)
        self.host.start_manager()
        self.host.wait_state("web", "running")
        done = self.adopt(process, qmp, check=False)
        self.assertEqual(done.returncode, 6)
        self.assertIn("a VM of that name already", done.stderr)

        self.adopt(process, qmp, "mine")
        done = self.adopt(process, qmp, "again", check=False)
        self.assertIn(f"process {process.pid} is a VM of Holdfast already", done.stderr)
        done = self.host.vmctl("shim", "adopt", "--pid", other.pid, "--qmp", qmp, "again", check=False)
        self.assertIn("another program holds this monitor", done.stderr)
        self.assertEqual(sorted(self.host.list()), ["mine", "web"])
        self.host.vmctl("kill", "--all")
        other.kill()
        other.wait(20)
        self.stopEverything()

    def test_a_shim_killed_half_way(self):
        """The lock is QEMU's and nothing is on record: shown as unknown and left alone."""
        process, qmp = self.qemu()
        folders = [word for kind in ("run", "state", "log") for word in (f"--{kind}-dir", self.host.path(kind, "web"))]
        done = subprocess.run([program("holdfast-shim"), "--foreign", str(process.pid), "--qmp", qmp, *folders, "web"],
                              env=self.host.environment(HOLDFAST_FAILPOINT="shim.foreign-after-lock=kill"), timeout=60)
        self.assertEqual(done.returncode, -signal.SIGKILL)
        self.assertTrue(self.holds_lock(process.pid))
        self.host.start_manager()
        self.assertNotIn(self.host.state("web"), ("running", "stopped"))
        self.assertTrue(alive(process.pid))
        with Varlink(os.path.join(self.host.dirs["run"], "manager.sock")) as v:
            self.assertIn("parameters", v.call("io.holdfast.Manager.Adopt", {"name": "web"}))
            self.assertEqual(v.call("io.holdfast.Manager.Adopt", {"name": "none"})["error"], "io.holdfast.Manager.NoSuchVM")
        self.assertTrue(alive(process.pid))
        process.kill()
        process.wait(20)
        self.assertEqual(self.host.kill_manager(signal.SIGTERM), 0)
        wait_for(lambda: not self.host.left_behind(), "no process left")


if __name__ == "__main__":
    main()
