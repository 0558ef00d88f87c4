"""D: system calls fail from outside (strace(1) injects it): no room on a disk, a read-only one, no more fds, no more processes. No VM is
lost, none runs twice, and once it is over all is in order. One line a fault."""
import contextlib
import os
import resource
import shutil
import signal
import subprocess

from fault import FaultTest, main, qemus, send, wait_for

FAULTS = [
    # in whom, which calls, what they answer
    ("manager", "clone,clone3,fork,vfork", "EAGAIN"),
    ("manager", "openat", "EMFILE"),
    ("manager", "rename,renameat,renameat2,mkdirat,fsync", "ENOSPC"),  # write: RealLimits, because eventfds are written too
    ("manager", "openat,rename,renameat,renameat2,unlinkat,mkdirat", "EROFS"),
    ("manager", "fsync,fdatasync", "EIO"),
    ("manager", "socket,socketpair,accept4", "EMFILE"),
    ("manager", "pidfd_open", "EMFILE"),
    ("shim", "clone,clone3,fork,vfork", "EAGAIN"),
    ("shim", "openat", "EMFILE"),
    ("shim", "rename,renameat,renameat2,mkdirat,fsync", "ENOSPC"),  # write: RealLimits, because eventfds are written too
    ("shim", "openat,rename,renameat,renameat2,unlinkat,mkdirat", "EROFS"),
    ("shim", "fsync,fdatasync", "EIO"),
    ("shim", "socket,accept4", "EMFILE"),
    ("shim", "pidfd_open", "EMFILE"),
]


class Syscalls(FaultTest):
    def setUp(self):
        super().setUp()
        if not shutil.which("strace"):
            self.skipTest("kernel: no strace")
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"), self.host.fake_spec("other", restart={"policy": "on-failure", "delay": "100ms"}))
        self.host.wait_ticks("web")
        self.before = self.host.vm("web")

    @contextlib.contextmanager
    def inject(self, pid, calls, error):
        log = os.path.join(self.host.root, "strace")
        with open(log + ".err", "w") as err:
            tracer = subprocess.Popen(["strace", "-f", "-o", log, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", "-p", str(pid)],
                                      stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        try:
            def attached():
                with open(log + ".err") as f:
                    text = f.read()
                if "not permitted" in text:
                    self.skipTest("kernel: no ptrace here")
                return "attached" in text
            wait_for(attached, "strace to be attached", 20)
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
            send(signal.SIGCONT, pid)

    def operate(self):
        for words in (("list",), ("pause", "web"), ("resume", "web"), ("restart", "other", "--force", "--no-wait"), ("pause", "other"),
                      ("stop", "other", "--force", "--no-wait"), ("start", "other", "--no-wait"), ("health", "web"), ("events",)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.host.vmctl(*words, check=False, timeout=3)

    def all_in_order(self):
        if self.host.manager.poll() is not None:
            self.fail(f"the manager ended ({self.host.manager.returncode}): {self.host.manager_log()}")
        wait_for(self.host.manager_answers, "the manager to answer", 20)
        wait_for(lambda: self.host.state("web") in ("running", "paused"), f"web to be well ({self.host.vm('web')})")
        # a pause that waited in the backlog while accepting failed may still come through, after a first resume
        wait_for(lambda: self.host.vmctl("resume", "web", check=False).returncode == 0 and self.host.state("web") == "running",
                 "web to be resumed", 30, 0.5)
        self.same(self.before, self.running("web"))
        self.host.wait_ticks("web")
        self.assertWhole("web")
        wait_for(lambda: self.host.vmctl("start", "other", check=False).returncode == 0, f"other to start ({self.host.vm('other')})", 60, 0.2)
        wait_for(lambda: self.host.vmctl("resume", "other", check=False).returncode == 0 or self.host.state("other") == "running", "other to run")
        self.assertEqual(len(qemus(self.host, "other")), 1)
        self.finish()


def make(who, calls, error):
    def test(self):
        with self.inject(self.host.manager.pid if who == "manager" else self.before["shim_pid"], calls, error):
            self.operate()
        self.all_in_order()
    return test


for _who, _calls, _error in FAULTS:
    setattr(Syscalls, f"test_{_who}_{_error}_from_{_calls.partition(',')[0]}", make(_who, _calls, _error))


class RealLimits(FaultTest):
    """The same without a tracer: limits and full file systems of the kernel's own."""

    def test_no_fds_left(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        before = self.host.vm("web")
        pids = [self.host.manager.pid, before["shim_pid"]]
        limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids]
        for pid, (_, hard) in zip(pids, limits):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), hard))
        for words in (("list",), ("pause", "web"), ("events",)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.host.vmctl(*words, check=False, timeout=3)
        for pid, limit in zip(pids, limits):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        wait_for(self.host.manager_answers, "the manager to answer again", 20)
        wait_for(lambda: self.host.state("web") in ("running", "paused"), "web to be well")
        self.same(before)
        self.finish()

    def mounted(self, kind):
        folder = self.host.dirs[kind]
        os.makedirs(folder, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "holdfast-test", folder], capture_output=True, check=False)
        if done.returncode != 0:
            self.skipTest("kernel: no file system can be mounted")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], capture_output=True, check=False)
        return folder

    def full(self, kind):
        folder = self.mounted(kind)
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", restart={"policy": "on-failure", "delay": "100ms"}))
        before = self.host.vm("web")
        ballast = os.path.join(folder, "ballast")
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as f:
            while f.write(b"\0" * 4096):
                pass
        for words in (("list",), ("pause", "web"), ("resume", "web"), ("events",)):
            self.host.vmctl(*words, check=False, timeout=30)
        self.host.kill_manager()
        self.host.start_manager(wait=False)
        wait_for(lambda: self.host.manager.poll() is not None or self.host.manager_answers(), "it to serve or to say why not", 20)
        self.assertEqual(qemus(self.host, "web"), [before["qemu_pid"]])
        send(signal.SIGKILL, before["shim_pid"])
        os.unlink(ballast)
        if self.host.manager.poll() is not None:
            self.host.manager = None
            self.host.start_manager()
        wait_for(lambda: self.host.state("web") in ("running", "paused"), f"web to be taken over ({self.host.vm('web')})")
        self.same(before)
        self.host.vmctl("stop", "web", "--force")
        self.host.vmctl("start", "web")
        self.running("web")
        self.finish()

    def test_run_folder_full(self):
        self.full("run")

    def test_state_folder_full(self):
        self.full("state")

    def test_log_folder_full(self):
        self.full("log")

    def test_state_folder_read_only(self):
        folder = self.mounted("state")
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        before = self.host.vm("web")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        try:
            self.host.vmctl("stop", "web", check=False, timeout=30)
            self.host.kill_manager()
            self.host.start_manager(wait=False)
            wait_for(lambda: self.host.manager.poll() is not None or self.host.manager_answers(), "it to serve or to say why not", 20)
            self.assertEqual(qemus(self.host, "web"), [before["qemu_pid"]], "a stop that can't be written down isn't begun")
        finally:
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        if self.host.manager.poll() is not None:
            self.host.manager = None
            self.host.start_manager()
        self.same(before)
        self.host.vmctl("stop", "web")
        self.finish()


if __name__ == "__main__":
    main()
