"""The serial port: both ways, several viewers, a stalled one, none; and a log that has it all."""
import os
import re
import select
import signal
import time

from harness import HostTest, gaps, main, wait_for


def numbers(data):
    return [int(n) for n in re.findall(rb"tick (\d+)\r*\n", data)]


class Console(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def attach(self, name="web", backlog=0):
        v = self.host.shim(name)
        self.addCleanup(v.close)
        answer = v.call("io.holdfast.Shim.Console", {"backlog": backlog}, upgrade=True)
        self.assertNotIn("error", answer)
        v.data = v.buffer
        return v

    def read_until(self, viewer, wanted, deadline=30):
        def look():
            while select.select([viewer.socket], [], [], 0)[0] and not wanted(viewer.data):
                viewer.data += viewer.socket.recv(65536)
            return wanted(viewer.data)

        try:
            wait_for(look, "what is awaited on the console", deadline)
        except AssertionError as e:
            raise AssertionError(f"{e}; the last is {viewer.data[-200:]!r}") from None

    def test_both_ways_with_several_viewers(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        one, two = self.attach(), self.attach()
        one.socket.sendall(b"echo from-one\n")
        two.socket.sendall(b"echo from-two\n")
        for viewer in (one, two):
            self.read_until(viewer, lambda data: b"from-one" in data and b"from-two" in data)
        one.close()
        two.socket.sendall(b"echo still-here\n")
        self.read_until(two, lambda data: b"still-here" in data)
        two.close()
        late = self.attach(backlog=4096)
        self.read_until(late, lambda data: b"still-here" in data)
        self.assertWhole("web")
        self.stopEverything()

    def test_backlog_joins_what_follows(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web", 20)
        for _ in range(5):
            viewer = self.attach(backlog=65536)
            self.read_until(viewer, lambda data: len(numbers(data)) > 25)
            self.assertEqual(gaps(numbers(viewer.data)), [], "nothing is lost or doubled between the backlog and what follows")
            viewer.close()
        self.stopEverything()

    def test_stalled_viewer_stalls_nobody(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        stalled, reader = self.attach(), self.attach()
        reader.socket.sendall(b"flood 4096\n")
        # more than the queue and both sockets can hold
        wait_for(lambda: os.path.getsize(self.host.path("log", "web", "console.log")) > 2 << 20, "a flood", 120)
        self.host.wait_ticks("web", 10)
        self.read_until(reader, lambda data: len(numbers(data)) > 5, 60)
        self.assertWhole("web")
        # reading on, the stalled one has missed nothing
        last = self.host.ticks("web")[-1]
        self.read_until(stalled, lambda data: last in numbers(data[-65536:]), 60)
        with open(self.host.path("log", "web", "console.log"), "rb") as f:
            log = f.read()
        self.assertGreater(len(stalled.data), 2 << 20)
        self.assertIn(stalled.data[:1 << 20], log)
        self.assertEqual(gaps(numbers(stalled.data)), [])
        self.stopEverything()

    def test_stalled_shim_stalls_nobody(self):
        """Not even right behind something typed: QEMU lets go of its console by itself, so none of its output waits for us."""
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        viewer = self.attach()
        viewer.socket.sendall(b"flood 64\n")
        log = self.host.path("log", "web", "console.log")
        self.wait_for_text(log, b"flood 1024")
        shim = self.host.shim_status("web")["shim"]["pid"]  # it answers, so it is done with what was typed
        os.kill(shim, signal.SIGSTOP)
        self.wait_for_text(log, b"flooded 64")
        self.host.wait_ticks("web", 3)
        os.kill(shim, signal.SIGCONT)
        self.assertWhole("web")
        with open(log, "rb") as f:
            self.assertEqual([int(n) for n in re.findall(rb"flood (\d+) *\r\n", f.read())], list(range(1024, 0, -1)))
        self.stopEverything()

    def wait_for_text(self, path, text, deadline=120):
        def look():
            with open(path, "rb") as f:
                return text in f.read()
        wait_for(look, f"{text!r} in {path}", deadline)

    def test_much_typed_at_once(self):
        """More than the port takes at a time, in pieces, by two: each gets all of its own through, in order."""
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        one, two = self.attach(), self.attach()
        for n in range(60):
            one.socket.sendall(b"echo one-%d\n" % n)
            two.socket.sendall(b"echo two-%d\n" % n)
            if n % 20 == 19:
                self.read_until(one, lambda data, n=n: b"one-%d\r" % n in data and b"two-%d\r" % n in data)
        for name in (b"one", b"two"):
            self.assertEqual([int(n) for n in re.findall(name + rb"-(\d+)\r", one.data)], list(range(60)))
        self.assertWhole("web")
        self.stopEverything()

    def test_viewer_lost_in_the_middle_of_a_line(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        for _ in range(20):
            viewer = self.attach()
            viewer.socket.sendall(b"echo hal")
            viewer.close()
        viewer = self.attach()
        viewer.socket.sendall(b"\necho whole\n")
        self.read_until(viewer, lambda data: b"whole" in data)
        self.assertWhole("web")
        self.stopEverything()

    def test_log_survives_the_shim(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        os.kill(self.host.vm("web")["shim_pid"], signal.SIGKILL)
        self.host.wait_ticks("web", 5)
        self.assertWhole("web")

    def test_vmctl_console_attaches_and_detaches(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        pid, terminal = os.forkpty()
        if pid == 0:
            from harness import program
            os.execve(program("vmctl"), ["vmctl", "console", "web"], self.host.environment())
        seen = b""

        def read_until(wanted, deadline=20):
            nonlocal seen
            end = time.monotonic() + deadline
            while wanted not in seen:
                self.assertLess(time.monotonic(), end, f"{wanted!r} awaited, seen {seen[-300:]!r}")
                if select.select([terminal], [], [], 0.1)[0]:
                    seen += os.read(terminal, 65536)
        read_until(b"scape")  # the way out is named
        os.write(terminal, b"echo typed\r")
        read_until(b"typed")
        read_until(b"tick")
        os.write(terminal, b"\x1d")
        wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "vmctl to leave", 20)
        os.close(terminal)
        self.assertEqual(self.host.state("web"), "running")
        self.stopEverything()


if __name__ == "__main__":
    main()
