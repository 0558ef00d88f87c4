"""The package under a real systemd (tests/systemd/container.py): its scripts restart the manager and nothing else, and vmctl doctor is right about what
a restart does. Started by tests/packaging/run."""
import json
import os
import re
import subprocess
import sys
import unittest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TESTS, "systemd"))
sys.path.insert(0, os.path.join(TESTS, "packaging"))
import container  # noqa: E402
from container import Container, wait_for  # noqa: E402
from packages import package, version  # noqa: E402

GUEST = os.environ["HOLDFAST_GUEST"]
BOOT = {"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd.gz", "cmdline": "console=ttyS0 quiet panic=-1"}
DROP_IN = "/run/systemd/system/holdfastd.service.d/test.conf"


def gaps(ticks):
    return [(a, b) for a, b in zip(ticks, ticks[1:]) if b != a + 1]


class Systemd(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.box = Container("holdfast-package")
        self.addCleanup(self.box.close)
        self.box.install_guest(GUEST)
        for build in ("first", "next"):
            subprocess.run(["cp", package(build), os.path.join(self.box.root, "srv", build + ".deb")], check=True)
        self.box.boot()
        self.install("first")

    def install(self, build):
        self.box.run("dpkg", "--install", f"/srv/{build}.deb")

    def is_active(self, unit):
        return self.box.run("systemctl", "is-active", unit, check=False).stdout.strip() == "active"

    def apply(self, name):
        spec = {"name": name, "memory": "96M", "accel": "tcg", "boot": BOOT, "stop": {"timeout": "10s"}}
        self.box.write(f"/srv/{name}.json", json.dumps(spec))
        self.box.vmctl("apply", f"/srv/{name}.json")
        self.wait_ticks(name)

    def ticks(self, path):
        return [int(n) for n in re.findall(r"^tick (\d+)\r?$", self.box.read(path), re.M)]

    def wait_ticks(self, name, more=3, path=None):
        path = path or f"/var/log/holdfast/{name}/console.log"
        before = len(self.ticks(path))
        wait_for(lambda: len(self.ticks(path)) >= before + more, f"{more} more heartbeats of {name}", 60)
        self.assertEqual(gaps(self.ticks(path)), [])

    def pids(self):
        return {name: (vm["shim_pid"], vm["qemu_pid"], vm["incarnation"]) for name, vm in self.box.vms().items() if vm["state"] == "running"}

    def cgroup(self, pid):
        return self.box.run("cat", f"/proc/{pid}/cgroup").stdout

    def doctor(self, *words):
        done = self.box.vmctl("doctor", "--json", *words, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def drop_in(self, *lines):
        self.box.run("mkdir", "-p", os.path.dirname(DROP_IN))
        self.box.run("sh", "-c", 'printf "%s\\n" "[Service]" "$@" >"$0"', DROP_IN, *lines)
        self.box.run("systemctl", "daemon-reload")

    def test_upgrade_and_removal(self):
        box = self.box
        for unit in ("holdfastd.service", "holdfast-drain.service"):
            self.assertTrue(self.is_active(unit), unit)
        for name in ("web", "db"):
            self.apply(name)
        before, manager = self.pids(), box.main_pid()
        self.assertEqual(sorted(before), ["db", "web"])

        self.install("next")
        self.assertNotEqual(box.main_pid(), manager, "the manager is the new one")
        wait_for(lambda: self.pids() == before, f"the same processes ({before}, {self.pids()})")
        self.assertEqual(json.loads(box.vmctl("version", "--json").stdout)["manager"]["version"], version("next"))
        self.assertTrue(self.is_active("holdfast-drain.service"))
        for name in before:
            self.wait_ticks(name)

        # The same version once more, as an operator does who isn't sure.
        manager = box.main_pid()
        self.install("next")
        self.assertNotEqual(box.main_pid(), manager)
        wait_for(lambda: self.pids() == before, "the same processes")

        done = box.run("dpkg", "--remove", "holdfast", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("not removed, VMs run: db web", done.stderr)
        self.assertTrue(self.is_active("holdfastd.service"))
        self.assertEqual(self.pids(), before)

        box.run("env", "HOLDFAST_REMOVE=keep", "dpkg", "--remove", "holdfast")
        self.assertFalse(self.is_active("holdfastd.service"))
        for name in before:
            self.wait_ticks(name)
        self.install("first")
        wait_for(lambda: self.pids() == before, "found by an older version again")

        box.run("env", "HOLDFAST_REMOVE=drain", "dpkg", "--remove", "holdfast", timeout=300)
        for shim, qemu, _ in before.values():
            self.assertNotEqual(box.run("test", "-e", f"/proc/{qemu}", check=False).returncode, 0)
        self.assertIn('"kind":', box.read("/var/lib/holdfast/vms/web/last-exit.json"))
        self.assertFalse(self.is_active("holdfastd.service"))

        # Installed again, it goes on with what is wanted.
        self.install("next")
        wait_for(lambda: {name: pids[2] for name, pids in self.pids().items()} == {"web": 2, "db": 2}, "both VMs run again")
        box.vmctl("stop", "--all", "--force")

    def test_doctor(self):
        """What it says, and what then happens."""
        box = self.box
        self.apply("web")
        code, answer = self.doctor()
        self.assertEqual((code, answer["restart_keeps_vms"]), (0, True), answer)
        texts = [f["text"] for f in answer["findings"]]
        self.assertIn("web: in a scope of their own, which nothing done to the manager's unit reaches", texts)
        self.assertIn("holdfastd.service has KillMode=process: a restart ends the manager alone", texts)

        before, manager = self.pids(), box.main_pid()
        code, proof = self.doctor("--prove")
        self.assertEqual((code, proof["kept"]), (0, True), proof)
        self.assertEqual(proof["manager_before"], manager)
        self.assertEqual(proof["manager_after"], box.main_pid())
        self.assertEqual(proof["command"], "systemctl --system restart -- holdfastd.service")
        self.assertEqual(len(proof["vms"]), 2)
        self.assertEqual(self.pids(), before, "and the throw-away VM is gone")

        # The default KillMode=: told, and with scopes of no consequence, which is shown.
        self.drop_in("KillMode=control-group", "OOMPolicy=stop")
        code, answer = self.doctor()
        self.assertEqual((code, answer["restart_keeps_vms"]), (0, True), answer)
        self.assertEqual({f["check"] for f in answer["findings"] if f["verdict"] == "warning"} & {"unit"}, {"unit"})
        self.assertTrue(self.doctor("--prove")[1]["kept"])

        # The trap: refused before anything is done.
        self.drop_in("RuntimeDirectoryPreserve=no")
        code, answer = self.doctor()
        self.assertEqual((code, answer["restart_keeps_vms"]), (1, False), answer)
        manager = box.main_pid()
        code, words = self.doctor("--prove")
        self.assertEqual(code, 6)
        self.assertIn("nothing was done", words)
        self.assertEqual((box.main_pid(), self.pids()), (manager, before))

        # A VM that is in the manager's unit, with the default: a problem, and it is true.
        self.drop_in("KillMode=control-group")
        shim, qemu, _ = before["web"]
        for pid in (qemu, shim):
            box.run("sh", "-c", f"echo {pid} >/sys/fs/cgroup/system.slice/holdfastd.service/cgroup.procs || "
                    f"echo {pid} >$(find /sys/fs/cgroup/system.slice/holdfastd.service -name cgroup.procs | tail -n 1)")
        code, answer = self.doctor()
        self.assertEqual((code, answer["restart_keeps_vms"]), (1, False), answer)
        self.assertTrue(any("a restart kills them" in f["text"] for f in answer["findings"]), answer)
        box.run("systemctl", "restart", "holdfastd.service")
        wait_for(lambda: box.run("test", "-e", f"/proc/{qemu}", check=False).returncode != 0, "what was foretold")
        box.vmctl("stop", "--all", "--force", check=False)

    def test_a_qemu_of_another_unit(self):
        """Adopted, it is moved to a scope of its own, out of the unit's reach but for systemd's main process."""
        box = self.box
        box.run("systemd-run", "--unit=old-web", "--property=Type=forking", "--property=KillMode=process", "--property=RemainAfterExit=yes",
                "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "96M", "-display", "none", "-nodefaults", "-serial", "file:/srv/old.log",
                "-qmp", "unix:/srv/old.qmp,server=on,wait=off", "-pidfile", "/srv/old.pid", "-daemonize", "-kernel", BOOT["kernel"], "-initrd",
                BOOT["initrd"], "-append", BOOT["cmdline"])
        pid = box.read("/srv/old.pid").strip()
        self.assertIn("old-web.service", self.cgroup(pid))
        self.wait_ticks("old", path="/srv/old.log")
        box.vmctl("shim", "adopt", "--pid", pid, "--qmp", "/srv/old.qmp", "web")
        wait_for(lambda: box.vms().get("web", {}).get("state") == "running", "the manager shows it")
        wait_for(lambda: "holdfast-vm-web.scope" in self.cgroup(pid), "its scope")
        shim = box.vms()["web"]["shim_pid"]
        wait_for(lambda: "holdfast-vm-web.scope" in self.cgroup(shim), "its shim's scope")
        before = self.pids()
        box.run("systemctl", "kill", "--kill-who=control", "--signal=KILL", "old-web.service", check=False)
        box.run("systemctl", "restart", "holdfastd.service")
        wait_for(lambda: self.pids() == before, "the same processes")
        self.wait_ticks("old", path="/srv/old.log")
        box.vmctl("stop", "web", "--force")


if __name__ == "__main__":
    container.make_root()
    unittest.main(verbosity=2)
