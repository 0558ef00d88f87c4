"""Logs: rotated while QEMU writes them, every line once for every reader; earlier boots; full disks; a folder that goes away."""
import glob
import os
import re
import shutil
import signal
import subprocess
import threading
import unittest

from harness import HostTest, gaps, main, program, wait_for

KIB, MIB = 1 << 10, 1 << 20
LINE = 64
READY = b"holdfast-guest: ready\r\n"  # the first that a fake QEMU writes


def ticks(data):
    return [int(n) for n in re.findall(rb"^(?:.*\r)?tick (\d+)\r*$", data, re.M)]


class Collector:
    """Reads an fd to its end, in a thread, into .data."""

    def __init__(self, read):
        self.data = bytearray()
        self.read = read
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while data := self.read(1 << 16):
                self.data += data
        except OSError:
            pass


class Logs(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def logs(self, *words):
        done = subprocess.run([program("vmctl"), "logs", *map(str, words)], capture_output=True, check=True, timeout=60,
                              env=self.host.environment())
        return done.stdout

    def follow(self, *words):
        follower = subprocess.Popen([program("vmctl"), "logs", "web", "--follow", *words], stdout=subprocess.PIPE,
                                    env=self.host.environment())
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        collector = Collector(lambda n: os.read(follower.stdout.fileno(), n))
        collector.process = follower
        return collector

    def view(self):
        v = self.host.shim("web")
        self.addCleanup(v.close)
        self.assertNotIn("error", v.call("io.holdfast.Shim.Console", {"backlog": MIB}, upgrade=True))
        v.socket.settimeout(None)
        collector = Collector(v.socket.recv)
        collector.data += v.buffer
        return collector

    def await_ready(self):
        self.host.wait_state("web", "running")
        wait_for(lambda: os.path.getsize(self.host.path("log", "web", "console.log")) >= len(READY), "the first line", 20)

    def said(self, boot):
        return len(re.findall(rb"^\d{63}$", self.logs("web", "--boot", boot), re.M))

    def pieces(self, log="console.log"):
        return sorted(glob.glob(self.host.path("log", "web", log + ".[0-9]*")))

    def log_events(self):
        text = self.host.vmctl("events", "web", "--json").stdout
        return [line for line in text.splitlines() if '"type":"log"' in line.replace(" ", "")]

    def await_event(self, text):
        wait_for(lambda: any(text in line for line in self.log_events()), f"an event that says: {text}", 30, 0.1)

    def say(self, count, first=0, log="console.log"):
        """What QEMU does: appends, line by line in bursts."""
        with open(self.host.path("log", "web", log), "ab", buffering=0) as f:
            for burst in range(first, first + count, 256):
                f.write(b"".join(b"%0*d\n" % (LINE - 1, n) for n in range(burst, min(burst + 256, first + count))))

    def test_flood_with_a_follower_and_a_viewer(self):
        self.host.apply(self.host.fake_spec("web", logs={"max_size": "1M", "keep": 1000}))
        self.await_ready()
        self.say(1)
        follower, viewer = self.follow("-n", "2"), self.view()
        wait_for(lambda: len(follower.data) >= LINE <= len(viewer.data), "both to have begun", 30)
        count = 100 * MIB // LINE
        for first in range(1, count, count // 20):
            part = min(count // 20, count - first)
            self.say(part, first)
            size = os.path.getsize(self.host.path("log", "web", "console.log"))
            if first % 3 == 1:  # let some of the cuts come between bursts, and some into them
                wait_for(lambda: os.path.getsize(self.host.path("log", "web", "console.log")) < max(size, MIB), "a rotation", 30, 0.05)
        wait_for(lambda: os.path.getsize(self.host.path("log", "web", "console.log")) < MIB, "the last rotation", 30, 0.05)
        wanted = READY + b"".join(b"%0*d\n" % (LINE - 1, n) for n in range(count))
        self.assertGreater(len(self.pieces()), 3)
        whole = b""
        for path in [*self.pieces(), self.host.path("log", "web", "console.log")]:
            with open(path, "rb") as f:
                whole += f.read()
        self.assertTrue(whole == wanted, "the pieces in their order are the log, byte for byte")
        self.assertTrue(self.logs("web") == wanted, "vmctl logs joins them")
        self.assertEqual(self.logs("web", "-n", 50000), wanted[-50000 * LINE:])
        for who, collector in (("follower", follower), ("viewer", viewer)):
            wait_for(lambda c=collector: len(c.data) >= len(wanted), f"all of it at the {who}", 60, 0.1)
            self.assertTrue(bytes(collector.data) == wanted, f"not one byte lost or doubled for the {who}")
        follower.process.kill()
        self.stopEverything()

    def test_a_guest_loses_no_line(self):
        self.host.apply(self.host.guest_spec("web", logs={"max_size": "64K", "keep": 1000}))
        self.host.wait_ticks("web")
        follower = self.follow("-n", "100000")
        with self.host.shim("web") as v:
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(b"flood 512\n")
            wait_for(lambda: len(self.pieces()) >= 2, "two rotations", 120, 0.1)
        wait_for(lambda: b"flooded 512" in follower.data, "the flood's end at the follower", 120, 0.1)
        seen = ticks(bytes(follower.data))[-1]
        wait_for(lambda: ticks(bytes(follower.data))[-1] > seen + 5, "more heartbeats", 30, 0.1)
        self.assertEqual(gaps(ticks(bytes(follower.data))), [])
        whole = self.logs("web")
        self.assertEqual(gaps(ticks(whole)), [])
        self.assertEqual(whole[:len(follower.data)], bytes(follower.data)[:len(whole)])
        follower.process.kill()
        self.stopEverything()

    def test_shim_killed_in_the_middle_of_a_cut(self):
        for number, point in enumerate(("shim.log-copied", "shim.log-committed", "shim.log-punched", "shim.log-named")):
            with self.subTest(point):
                trigger = os.path.join(self.host.root, "fire")
                self.host.kill_manager(signal.SIGTERM)
                self.host.start_manager(HOLDFAST_FAILPOINT=f"{point}=kill@{trigger}")
                self.host.apply(self.host.fake_spec("web", logs={"max_size": "64K", "keep": 1000}))
                self.host.vmctl("start", "web")
                self.await_ready()
                follower = self.follow("-n", "100000")
                shim = self.host.vm("web")["shim_pid"]
                with open(trigger, "w"):
                    pass
                self.say(5000)
                wait_for(lambda p=shim: self.host.list()["web"]["shim_pid"] not in (p, None, 0), "another shim", 30, 0.05)
                self.host.wait_state("web", "running")
                self.say(5000, 5000)
                wait_for(lambda: os.path.getsize(self.host.path("log", "web", "console.log")) < 64 * KIB, "a rotation", 30, 0.05)
                wanted = READY + b"".join(b"%0*d\n" % (LINE - 1, n) for n in range(10000))
                self.assertEqual(self.logs("web"), wanted)
                wait_for(lambda: len(follower.data) >= len(wanted), "all of it at the follower", 30, 0.05)
                self.assertEqual(bytes(follower.data), wanted)
                follower.process.kill()
                self.host.vmctl("stop", "web", "--force")
                self.host.vmctl("delete", "web", "--force", check=False)
                shutil.rmtree(self.host.path("log", "web"), ignore_errors=True)
        self.stopEverything()

    def test_earlier_boots(self):
        self.host.apply(self.host.fake_spec("web", logs={"max_size": "64K", "keep": 2}))
        for boot in range(4):
            self.await_ready()
            self.say(2000 + boot)
            if boot == 2:
                wait_for(self.pieces, "a rotation", 30, 0.05)
            self.host.vmctl("stop", "web", "--force")
            self.host.vmctl("start", "web")
        self.await_ready()
        self.say(1)
        self.assertEqual(self.logs("web"), READY + b"%0*d\n" % (LINE - 1, 0))
        self.assertEqual(self.said("-1"), 2003)
        self.assertEqual(self.said("-2"), 2002, "with what was rotated")
        self.assertEqual(self.host.vmctl("logs", "web", "--boot", "-3", check=False).returncode, 1)
        self.assertEqual(self.host.vmctl("logs", "web", "--boot", "yesterday", check=False).returncode, 2)
        now = self.host.vm("web")["incarnation"]
        self.assertEqual(self.logs("web", "--boot", now - 1), self.logs("web", "--boot", "-1"))
        self.assertEqual(self.logs("web", "--boot", now), self.logs("web"))
        self.stopEverything()

    def test_other_logs_are_capped_too(self):
        self.host.apply(self.host.fake_spec("web", logs={"max_size": "64K", "keep": 1}))
        self.host.wait_state("web", "running")
        for log in ("qemu.log", "shim.log"):
            self.say(5000, log=log)
            wait_for(lambda name=log: self.pieces(name), f"a rotation of {log}", 30, 0.05)
            wait_for(lambda name=log: os.path.getsize(self.host.path("log", "web", name)) < 64 * KIB, f"{log} small again", 30, 0.05)
        self.stopEverything()

    @unittest.skipUnless(os.geteuid() == 0, "mounting a file system needs root")
    def test_disk_full_stalls_no_guest(self):
        image = os.path.join(self.host.root, "disk")
        os.makedirs(self.host.path("log", "web"))
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image, "2M"], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.host.path("log", "web")], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.host.path("log", "web")], check=False)
        os.chmod(self.host.path("log", "web"), 0o755)
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        filler = self.host.path("log", "web", "filler")
        with open(filler, "wb", buffering=0) as f:
            try:
                while f.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
        self.await_event("no room left")
        lost_from = self.host.ticks("web")[-1]
        qemu = self.host.vm("web")["qemu_pid"]
        with self.host.shim("web") as v:  # it runs: it hears, though nobody sees it answer
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(b"tick 50\n")
            self.assertEqual(self.host.vm("web")["state"], "running")
        self.assertEqual(sum("no room left" in line for line in self.log_events()), 1, "said once")
        os.unlink(filler)
        wait_for(lambda: self.host.ticks("web")[-1] > lost_from, "heartbeats in the log again", 60, 0.1)
        self.await_event("is room")
        self.assertEqual(self.host.vm("web")["qemu_pid"], qemu)
        self.stopEverything()
        subprocess.run(["umount", self.host.path("log", "web")], check=True)

    def test_log_folder_removed(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        qemu = self.host.vm("web")["qemu_pid"]
        shutil.rmtree(self.host.path("log", "web"))
        self.await_event("was removed")
        self.assertEqual((self.host.vm("web")["state"], self.host.vm("web")["qemu_pid"]), ("running", qemu))
        os.kill(qemu, signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["qemu_pid"] not in (0, None, qemu), "another QEMU", 30, 0.05)
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.assertTrue(os.path.exists(self.host.path("log", "web", "shim.log")))
        self.stopEverything()


if __name__ == "__main__":
    main()
