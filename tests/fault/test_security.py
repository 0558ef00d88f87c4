"""S: who may read, write and speak to what; links that lead elsewhere; names and paths that would be options. What QEMU itself may do is
asserted in e2e/test_privileges.py."""
import json
import os
import stat
import subprocess

from fault import FaultTest, main, program, wait_for

NOBODY = 65534


class Modes(FaultTest):
    def test_of_everything(self):
        """Nothing of a host's is for others to read, write or connect to, whatever the umask of who started it."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", disks=[{"name": "data", "size": "1M"}]))
        self.host.vmctl("stop", "web", "--force")
        self.host.vmctl("start", "web")
        self.running("web")
        wrong = []
        for kind in ("run", "state", "log"):
            for folder, folders, files in os.walk(self.host.dirs[kind]):
                if not os.lstat(folder).st_mode & 0o001:  # nobody gets in to what is below
                    folders[:] = []
                    continue
                for path in [os.path.join(folder, f) for f in folders + files]:
                    mode = os.lstat(path).st_mode
                    if mode & (0o006 if stat.S_ISDIR(mode) else 0o007):
                        wrong.append(f"{oct(mode)} {path}")
        for kind in ("run", "state", "log"):
            for folder in (self.host.path(kind, "web"), os.path.dirname(self.host.path(kind, "web"))):
                mode = os.stat(folder).st_mode
                if mode & 0o026:
                    wrong.append(f"{oct(mode)} {folder}")
        self.assertEqual(wrong, [])
        self.finish()


class Strangers(FaultTest):
    @staticmethod
    def as_nobody(*words, **how):
        return subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words], capture_output=True,
                              text=True, timeout=30, **how)

    def test_another_uid_is_refused(self):
        """By the modes, and by the service itself when the modes are wrong."""
        if os.geteuid() != 0:
            self.skipTest("kernel: only root can become another user")
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        before = self.host.vm("web")
        environment = self.host.environment()
        refused = self.as_nobody(program("vmctl"), "list", env=environment)
        self.assertNotEqual(refused.returncode, 0)
        for folder, folders, files in os.walk(self.host.root):
            for path in [folder, *(os.path.join(folder, f) for f in folders + files)]:
                if not os.path.islink(path):
                    os.chmod(path, 0o777)
        for verb in (["list"], ["stop", "web", "--force"], ["kill", "web"], ["pause", "web"], ["delete", "web", "--force"]):
            refused = self.as_nobody(program("vmctl"), *verb, env=environment)
            self.assertNotEqual(refused.returncode, 0, verb)
        call = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]); "
                "s.sendall(sys.argv[2].encode()+b'\\0'); print(s.recv(65536))")
        for path, method in ((os.path.join(self.host.dirs["run"], "manager.sock"), "io.holdfast.Manager.List"),
                             (self.host.path("run", "web", "shim.sock"), "io.holdfast.Shim.GetStatus"),
                             (self.host.path("run", "web", "shim.sock"), "io.holdfast.Shim.Kill")):
            answer = self.as_nobody("python3", "-c", call, path, json.dumps({"method": method, "parameters": {"incarnation": 1}}))
            self.assertNotIn("parameters\":{\"vms", answer.stdout)
            self.assertNotIn("qemu_pid", answer.stdout)
            self.assertNotIn("plan_digest", answer.stdout)
        self.same(before)
        self.finish()


class Links(FaultTest):
    """A link where a folder or file of ours belongs is not followed: nothing elsewhere is written, read or removed."""

    def setUp(self):
        super().setUp()
        self.elsewhere = os.path.join(self.host.root, "elsewhere")
        os.mkdir(self.elsewhere)
        with open(os.path.join(self.elsewhere, "precious"), "w") as f:
            f.write("{}")

    def untouched(self):
        self.assertEqual(os.listdir(self.elsewhere), ["precious"])
        with open(os.path.join(self.elsewhere, "precious")) as f:
            self.assertEqual(f.read(), "{}")

    def start_with(self, link, target):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(target, link)
        self.host.start_manager()
        self.host.write_spec(self.host.fake_spec("web"))
        self.host.vmctl("apply", self.host.path("config", "web") + ".json", check=False)
        self.list_quickly()
        self.untouched()
        self.host.vmctl("delete", "web", "--force", "--purge", check=False)
        self.untouched()
        if self.host.list():
            self.host.vmctl("stop", "--all", "--force", check=False)
        wait_for(lambda: not self.host.qemus("web"), "no QEMU")

    def test_run_folder(self):
        self.start_with(self.host.path("run", "web"), self.elsewhere)

    def test_state_folder(self):
        self.start_with(self.host.path("state", "web"), self.elsewhere)

    def test_log_folder(self):
        self.start_with(self.host.path("log", "web"), self.elsewhere)

    def test_records_and_logs(self):
        for kind, file in (("run", "status.json"), ("run", "plan.json"), ("state", "wanted.json"), ("state", "last-exit.json"),
                           ("state", "events.jsonl"), ("log", "shim.log"), ("log", "qemu.log"), ("log", "console.log"), ("run", "shim.lock"),
                           ("run", "vm.lock")):
            with self.subTest(file):
                link = self.host.path(kind, "web", file)
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(os.path.join(self.elsewhere, "precious"), link)
                self.host.start_manager()
                self.host.write_spec(self.host.fake_spec("web"))
                self.host.vmctl("apply", self.host.path("config", "web") + ".json", check=False)
                self.list_quickly()
                self.untouched()
                self.host.vmctl("delete", "web", "--force", "--purge", check=False)
                self.host.vmctl("kill", "web", check=False)
                wait_for(lambda: not self.host.qemus("web"), "no QEMU")
                self.host.kill_manager()
                self.untouched()
                if os.path.lexists(link):
                    os.unlink(link)


class Options(FaultTest):
    def test_commas_and_equals_in_paths(self):
        """They name a file and set no option."""
        self.host.start_manager()
        evil = os.path.join(self.host.root, "a,readonly=on,file=b=c,")
        os.mkdir(evil)
        for file in ("kernel,x=y", "initrd,id=z", "disk,format=qcow2,cache=none"):
            with open(os.path.join(evil, file), "wb") as f:
                f.truncate(1 << 20)
        spec = self.host.fake_spec("web", disks=[{"path": os.path.join(evil, "disk,format=qcow2,cache=none"), "format": "raw"}])
        spec["boot"] = {"kernel": os.path.join(evil, "kernel,x=y"), "initrd": os.path.join(evil, "initrd,id=z"), "cmdline": "a=b,c,-S -x"}
        self.host.apply(spec)
        vm = self.running("web")
        with open(f"/proc/{vm['qemu_pid']}/cmdline", "rb") as f:
            words = f.read().decode().split("\0")
        for word in words:
            if word.startswith("{"):  # JSON, where a comma in a value is no more than that
                self.assertNotIn("qcow2", json.dumps({k: v for k, v in json.loads(word).items() if k != "file"}), word)
            elif evil in word:  # what takes a path and nothing else
                self.assertIn(word, (os.path.join(evil, "kernel,x=y"), os.path.join(evil, "initrd,id=z")))
        self.assertIn("a=b,c,-S -x", words)
        self.assertNotIn("-x", words)
        self.finish()

    def test_names_that_are_none(self):
        self.host.start_manager()
        for name in ("../x", "a/b", ".", "..", "", "x" * 65, "a\nb", "-x", "--all", "a,b", "a=b", "a b", "\u00e4", "a\0b"):
            with self.subTest(name):
                refused = self.host.apply({**self.host.fake_spec("web"), "name": name}, check=False)
                self.assertNotEqual(refused.returncode, 0)
        self.assertEqual(self.host.list(), {})
        self.finish()


if __name__ == "__main__":
    main()
