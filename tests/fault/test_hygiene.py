"""F: children are clean whatever whoever started us has done to us, nothing grows from start to start, and who has nothing to do sleeps."""
import contextlib
import os
import signal
import socket
import subprocess
import time

from fault import BIN, LONG, FaultTest, cgroups_of, main, send, wait_for

CYCLES = 500 if LONG else 50


def status(pid, field):
    with open(f"/proc/{pid}/status") as f:
        return next(line.split(":", 1)[1].strip() for line in f if line.startswith(field + ":"))


def fds(pid):
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def sleeps(pid):
    """How often it went to sleep of its own will: it can't have woken up without."""
    return int(status(pid, "voluntary_ctxt_switches"))


class DirtyStart(FaultTest):
    """The manager is started by a mess; shim and QEMU must not show any of it."""

    def begin(self, prepare, **how):
        with open(os.path.join(self.host.root, "manager.log"), "ab") as log:
            # pylint: disable=subprocess-popen-preexec-fn
            self.host.manager = subprocess.Popen([os.path.join(BIN, "holdfastd"), *self.host.options()], **{
                "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True, "close_fds": False,
                "env": self.host.environment(SECRET="must not be passed on"), "preexec_fn": prepare, **how})
        wait_for(self.host.manager_answers, "the manager to answer", 20)
        self.host.apply(self.host.fake_spec("web"))
        return self.running("web")

    def check(self, vm):
        for role in ("shim_pid", "qemu_pid"):
            pid = vm[role]
            with self.subTest(role):
                self.assertEqual(int(status(pid, "SigIgn"), 16) & ~(1 << (signal.SIGPIPE - 1)), 0, "ignored signals")
                self.assertEqual(int(status(pid, "SigBlk"), 16) & ~self.own_mask(role), 0, "blocked signals")
                self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
                self.assertEqual(int(status(pid, "Umask"), 8) & 0o022, 0o022, "what it makes is nobody else's to write")
                with open(f"/proc/{pid}/environ", "rb") as f:
                    self.assertNotIn(b"SECRET", f.read())
                self.assertEqual({0, 1, 2} - set(fds(pid)), set(), "stdio is there")
                strangers = [(fd, what) for fd, what in fds(pid).items() if what.startswith(self.mess)]
                self.assertEqual(strangers, [])
                self.assertLess(max(fds(pid)), 100)
        self.finish()

    @staticmethod
    def own_mask(role):
        """fake_qemu itself reads these by a signalfd."""
        return sum(1 << (s - 1) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) if role == "qemu_pid" else 0

    @property
    def mess(self):
        return os.path.join(self.host.root, "mess")

    def test_three_hundred_fds(self):
        def prepare():
            fd = os.open(self.mess, os.O_RDWR | os.O_CREAT)
            for target in range(3, 301):
                os.dup2(fd, target, inheritable=True)
        self.check(self.begin(prepare))

    def test_every_signal_ignored(self):
        def prepare():
            for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
                signal.signal(number, signal.SIG_IGN)
        self.check(self.begin(prepare, restore_signals=False))

    def test_every_signal_blocked(self):
        self.check(self.begin(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {32, 33})))

    def test_umask_0(self):
        self.check(self.begin(lambda: os.umask(0)))

    def test_umask_077(self):
        self.check(self.begin(lambda: os.umask(0o077)))

    def test_no_stdio(self):
        def prepare():
            for fd in (0, 1, 2):
                os.close(fd)
        self.check(self.begin(prepare))

    def test_another_folder(self):
        os.mkdir(self.mess)
        self.check(self.begin(lambda: os.chdir(self.mess)))


class Constant(FaultTest):
    def measure(self):
        pid = self.host.manager.pid
        run = [os.path.join(folder, f) for folder, folders, files in os.walk(self.host.dirs["run"]) for f in folders + files]
        return {"fds": len(fds(pid)), "run": sorted(run), "cgroups": len(cgroups_of(self.host))}, int(status(pid, "VmRSS").split()[0])

    def test_start_and_stop(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))

        def cycle():
            self.host.vmctl("stop", "web", "--force")
            self.host.vmctl("start", "web")
            self.running("web")
        for _ in range(10):
            cycle()
        before, rss = self.measure()
        for _ in range(CYCLES):
            cycle()
        wait_for(lambda: self.measure()[0] == before, f"all to be as before ({self.measure()[0]}, {before})", 10)
        after = self.measure()[1]
        # A sanitizer's shadow is terabytes of address space, and it keeps what was freed for a while.
        if int(status(self.host.manager.pid, "VmSize").split()[0]) < 1 << 30:
            self.assertLess(after - rss, 1024, f"KiB more after {CYCLES} cycles: {rss} -> {after}")
        self.finish()


class Idle(FaultTest):
    """Nothing is looked at in intervals. Counted are the times a process went to sleep, while a clock of ours runs."""

    SECONDS = 10 if LONG else 3

    def quiet(self, pids, allowed=0):
        """A span without a wakeup of theirs comes: whatever was under way is over."""
        def span():
            before = [sleeps(pid) for pid in pids]
            time.sleep(self.SECONDS)
            return all(sleeps(pid) - n <= allowed for pid, n in zip(pids, before))
        wait_for(span, f"{self.SECONDS} s without a wakeup", 40)

    def test_shim_and_manager_sleep(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        vm = self.running("web")
        self.quiet([vm["shim_pid"], self.host.manager.pid])
        self.finish()

    def test_no_cpu_when_fds_hang_up(self):
        """Each thing a shim or manager listens to hangs up; nobody spins on it."""
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        vm = self.running("web")
        for path in (os.path.join(self.host.dirs["run"], "manager.sock"), self.host.path("run", "web", "shim.sock")):
            for half in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
                s = socket.socket(socket.AF_UNIX)
                s.connect(path)
                s.sendall(b'{"method":"io')
                s.shutdown(half)
                self.addCleanup(s.close)
        with self.host.shim("web") as v:  # a console whose viewer hangs up
            v.call("io.holdfast.Shim.Console", {}, upgrade=True)
        with self.host.shim("web") as v:
            v.send("io.holdfast.Shim.Monitor", {}, more=True)
        self.quiet([vm["shim_pid"], self.host.manager.pid], allowed=5)
        self.host.kill_manager()
        self.quiet([vm["shim_pid"]], allowed=5)
        self.host.start_manager()
        self.finish()

    def test_qemu_that_stands_still_wakes_nobody(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        vm = self.running("web")
        send(signal.SIGSTOP, vm["qemu_pid"])
        try:
            self.quiet([vm["shim_pid"]])
        finally:
            send(signal.SIGCONT, vm["qemu_pid"])
        self.finish()


if __name__ == "__main__":
    main()
