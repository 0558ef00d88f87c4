"""What a real QEMU and its shim may do, read from /proc: FAULTS.md, S. A default that needs root to mean anything."""
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import unittest

from harness import HostTest, alive, guest_folder, main, program, wait_for

CAP_NET_ADMIN, CAP_NET_BIND_SERVICE = 12, 10
SHIM_CAPS = {1: "DAC_OVERRIDE", 5: "KILL", 6: "SETGID", 7: "SETUID", 8: "SETPCAP", 19: "SYS_PTRACE"}


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def caps(status, which):
    value = int(status[which], 16)
    return {n for n in range(64) if value >> n & 1}


def links(pid):
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def limits(pid):
    with open(f"/proc/{pid}/limits") as f:
        return {line[:26].strip(): line[26:].split()[:2] for line in f}


def can_open(path, status, flags):
    """Whether a process of that user and those groups could open it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([int(n) for n in status["Groups"].split()])
            os.setresgid(*[int(status["Gid"].split()[0])] * 3)
            os.setresuid(*[int(status["Uid"].split()[0])] * 3)
            os.close(os.open(path, flags))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@unittest.skipIf(os.geteuid() != 0, "needs root: another user's QEMU has nothing to give up")
class Privileges(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def start(self, name="web", **more):
        spec = self.host.guest_spec(name, **more)
        self.host.apply(spec)
        self.host.wait_ticks(name)
        return self.host.vm(name)

    def image(self, name, *words):
        """Only root's, in a folder that is only root's."""
        path = os.path.join(self.host.root, name)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2" if name.endswith(".qcow2") else "raw", *words, path, "16M"], check=True)
        os.chmod(path, 0o600)
        return path

    def io(self, name, disk, command):
        """A command of qemu-io inside the running QEMU, which says what came of it on its stdout: in qemu.log, once it has ended."""
        self.host.vmctl("qmp", name, "human-monitor-command", json.dumps({"command-line": f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "{command}"'}))

    def assertNobody(self, status, kept=frozenset()):
        uids = set(status["Uid"].split())
        self.assertEqual(len(uids), 1)
        self.assertNotIn("0", uids)
        self.assertNotIn("0", status["Gid"].split())
        self.assertNotIn("0", status["Groups"].split())
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(caps(status, which), set(kept), which)
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))

    def test_qemu_has_nothing_it_does_not_need(self):
        pid = self.start(disks=[{"name": "data", "size": "8M"}])["qemu_pid"]
        status = status_of(pid)
        self.assertNobody(status)
        self.assertEqual(status["Umask"], "0077")
        with open(f"/proc/{pid}/environ") as f:
            # the last one for the moment of its start: the library takes it away from whatever QEMU might start
            self.assertEqual(f.read().split("\0")[:-1],
                             ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "LD_PRELOAD=/proc/self/fd/15"])
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
        limit = limits(pid)
        self.assertEqual(limit["Max core file size"], ["0", "0"])
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        self.assertEqual(limit["Max open files"], [str(most)] * 2)
        with open(f"/proc/{pid}/oom_score_adj") as f:
            self.assertEqual(f.read().strip(), "0")

    def test_qemu_holds_just_its_own_files(self):
        self.start("other", disks=[{"name": "data", "size": "8M"}])
        pid = self.start(disks=[{"name": "data", "size": "8M"}])["qemu_pid"]
        guest = guest_folder()
        expected = {self.host.path("log", "web", "qemu.log"), self.host.path("log", "web", "console.log"),
                    self.host.path("run", "web", "vm.lock"), self.host.path("state", "web", "data.qcow2"),
                    os.path.realpath(f"{guest}/vmlinuz"), os.path.realpath(f"{guest}/initrd.gz")}
        found = links(pid)
        files = {path for path in found.values() if path.startswith("/") and not path.startswith(("/dev/null", "/memfd:"))}
        self.assertEqual(files, expected)
        rest = {re.sub(r"[:\[].*", "", path) for path in found.values() if not path.startswith("/")}
        self.assertLessEqual(rest, {"socket", "anon_inode", "pipe"})
        log = next(fd for fd, path in found.items() if path.endswith("console.log"))
        with open(f"/proc/{pid}/fdinfo/{log}") as f:
            self.assertTrue(int(re.search(r"flags:\s+(\d+)", f.read())[1], 8) & os.O_APPEND)

    def test_qemu_can_open_no_other_vms_files(self):
        self.start("other", disks=[{"name": "data", "size": "8M"}])
        status = status_of(self.start()["qemu_pid"])
        # The test's folder is root's alone, which proves too little: what is the VM's own is closed by itself.
        os.chmod(self.host.root, 0o755)
        for path in (self.host.path("state", "other", "data.qcow2"), self.host.path("log", "other", "console.log"),
                     self.host.path("run", "other", "plan.json"), self.host.path("run", "other", "vm.lock"),
                     self.host.path("state", "web", "wanted.json")):
            self.assertTrue(os.path.exists(path) or "wanted" in path, path)
            self.assertFalse(can_open(path, status, os.O_RDONLY), path)

    def test_disks_work_through_descriptors(self):
        base = self.image("base.raw")
        below = self.image("below.qcow2", "-b", base, "-F", "raw")
        top = self.image("top.qcow2", "-b", below, "-F", "qcow2")
        with open(base, "r+b") as f:
            f.write(b"\x42" * 4096)
        read_only = self.image("ro.raw")
        raw = self.image("rw.raw")
        self.start(disks=[{"path": top, "backing": [below, base]}, {"path": read_only, "readonly": True}, {"path": raw},
                          {"name": "own", "size": "8M"}])
        self.io("web", "disk0", "read -P 0x42 0 4096")
        for disk in ("disk0", "disk1", "disk2", "disk3"):
            self.io("web", disk, "write -P 0x17 4096 4096")
        self.io("web", "disk0", "read -P 0x41 0 4096")  # that a wrong byte is told
        # A second QEMU on the same image is refused by the lock, which is on the description that was inherited.
        second = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", raw], capture_output=True, text=True)
        self.assertIn("lock", second.stdout + second.stderr)
        self.host.vmctl("pause", "web")
        self.host.vmctl("resume", "web")
        self.host.vmctl("stop", "--force", "web")
        with open(self.host.path("log", "web", "qemu.log")) as f:
            said = f.read()
        self.assertEqual(said.count("wrote 4096/4096"), 3, said)
        self.assertEqual(said.count("read 4096/4096"), 2, said)
        self.assertEqual(said.count("Pattern verification failed"), 1, said)
        with open(raw, "rb") as f:
            self.assertEqual(f.read(8192)[4096:], b"\x17" * 4096)
        before = self.host.vm("web")["incarnation"]
        self.host.vmctl("start", "web")
        self.host.wait_ticks("web")
        self.host.vmctl("restart", "--force", "web")
        wait_for(lambda: self.host.vm("web")["incarnation"] >= before + 2, "a second restart")
        self.host.wait_ticks("web")
        self.stopEverything()

    def test_a_backing_file_nobody_named_is_named_in_the_error(self):
        base = self.image("base.raw")
        top = self.image("top.qcow2", "-b", base, "-F", "raw")
        self.host.apply(self.host.guest_spec("web", disks=[{"path": top}], restart={"policy": "never"}), check=False)
        vm = self.host.wait_state("web", "failed", "stopped")
        said = self.host.vmctl("status", "web", check=False).stdout + json.dumps(vm) + self.host.shim_logs()
        self.assertIn(base, said)
        self.assertIn("Permission denied", said)

    def test_boot_files_only_root_may_read(self):
        guest = guest_folder()
        paths = {}
        for name in ("vmlinuz", "initrd.gz"):
            paths[name] = os.path.join(self.host.root, name)
            shutil.copyfile(f"{guest}/{name}", paths[name])
            os.chmod(paths[name], 0o600)
        boot = {"kernel": paths["vmlinuz"], "initrd": paths["initrd.gz"], "cmdline": "console=ttyS0 quiet panic=-1"}
        pid = self.start(boot=boot)["qemu_pid"]
        self.assertNobody(status_of(pid))
        self.assertIn("/memfd:copy", links(pid)[11])

    def test_a_qemu_behind_a_closed_folder(self):
        folder = os.path.join(self.host.root, "bin")  # which is root's alone, itself open
        os.mkdir(folder, 0o755)
        shutil.copy(program("fake_qemu"), folder)
        spec = self.host.fake_spec("fake")
        spec["qemu"]["path"] = os.path.join(folder, "fake_qemu")
        self.host.apply(spec)
        pid = self.host.wait_state("fake", "running")["qemu_pid"]
        self.assertNotEqual(status_of(pid)["Uid"].split()[0], "0")
        self.assertEqual(status_of(pid)["Name"], "fake_qemu")
        os.chmod(folder, 0o700)
        os.kill(pid, signal.SIGKILL)
        said = wait_for(lambda: (lambda text: text if "can't execute" in text else None)(self.host.shim_logs()), "a word on what failed")
        self.assertIn(f"can't execute, as QEMU's user, {folder}/fake_qemu: Permission denied", said)

    def test_a_low_port_is_the_one_capability(self):
        port = next(n for n in range(1023, 600, -1) if not self.listens(n))
        pid = self.start(network=[{"forward": [{"host": f"127.0.0.1:{port}", "guest": 80}]}])["qemu_pid"]
        self.assertNobody(status_of(pid), {CAP_NET_BIND_SERVICE})
        self.assertTrue(self.listens(port))

    @staticmethod
    def listens(port):
        with open("/proc/net/tcp") as f:
            return any(line.split()[1].endswith(f":{port:04X}") for line in f.readlines()[1:])

    def test_the_shim_keeps_a_short_list(self):
        pid = self.start()["shim_pid"]
        status = status_of(pid)
        mine = caps(status_of("self"), "CapPrm")
        for which in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(caps(status, which), set(SHIM_CAPS) & mine, which)
        self.assertEqual((caps(status, "CapInh"), caps(status, "CapAmb"), status["NoNewPrivs"]), (set(), set(), "1"))

    def test_users(self):
        other = {"path": "/usr/bin/qemu-system-x86_64"}
        self.assertEqual(status_of(self.start("number", qemu={**other, "user": "64777"})["qemu_pid"])["Uid"].split()[0], "64777")
        status = status_of(self.start("named", qemu={**other, "user": "nobody"})["qemu_pid"])
        self.assertEqual(status["Uid"].split()[0], "65534")
        self.assertNobody(status)
        status = status_of(self.start("root", qemu={**other, "user": "root"})["qemu_pid"])
        self.assertEqual((status["Uid"].split()[0], status["NoNewPrivs"], status["Seccomp"]), ("0", "1", "2"))
        done = self.host.apply(self.host.guest_spec("lost", qemu={"user": "nosuch"}), check=False)
        said = done.stdout + done.stderr + self.host.vmctl("status", "lost", check=False).stdout
        self.assertIn('there is no user "nosuch"', said)
        self.assertFalse(self.host.qemus("lost"))

    def test_the_hosts_user_and_its_absence(self):
        self.host.kill_manager()
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"qemu_user": "64778"}, f)
        self.host.start_manager()
        vm = self.start()
        self.assertEqual(status_of(vm["qemu_pid"])["Uid"].split()[0], "64778")
        os.unlink(os.path.join(self.host.dirs["config"], "holdfast.json"))
        self.host.kill_manager()
        self.host.start_manager()
        self.assertTrue(alive(vm["qemu_pid"]))
        self.host.vmctl("restart", "--force", "web")
        uid = wait_for(lambda: self.host.vm("web").get("qemu_pid") not in (None, vm["qemu_pid"]) and
                       status_of(self.host.vm("web")["qemu_pid"])["Uid"].split()[0], "a QEMU of the default user")
        self.assertNotIn(uid, ("0", "64778"))

    def test_tap(self):
        name = f"hft{os.getpid() % 100000}"
        made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"kernel: lets nobody make a tap: {made.stderr.strip()}")
        self.addCleanup(subprocess.run, ["ip", "tuntap", "del", "dev", name, "mode", "tap"])
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        vm = self.start(network=[{"mode": "tap", "ifname": name}])
        self.assertNobody(status_of(vm["qemu_pid"]))
        self.assertIn(CAP_NET_ADMIN, caps(status_of(vm["shim_pid"]), "CapEff"))
        wait_for(lambda: "LOWER_UP" in subprocess.run(["ip", "link", "show", name], capture_output=True, text=True).stdout, "a carrier")
        self.stopEverything()


if __name__ == "__main__":
    main()
