"""vmctl console: both ways, the key that detaches, the terminal given back on every way out; and vmctl logs."""
import os
import select
import signal
import subprocess
import threading
import time
import unittest

from fake_manager import Taken, no_such_vm
from vmctl_case import VMCTL, VmctlCase


class Console(VmctlCase):
    def setUp(self):
        super().setUp()
        self.guest = None
        self.attached = threading.Event()
        self.closing = threading.Event()
        self.addCleanup(self.closing.set)

        def console(p, c):
            self.parameters = p
            self.guest = c.upgrade({"incarnation": 1})
            self.guest.sendall(b"backlog\r\n")
            self.attached.set()
            self.closing.wait(60)
            raise Taken
        self.service = self.shim("web", Console=console)

    def attach(self, *words):
        terminal = self.terminal("console", "web", *words)
        self.addCleanup(terminal.close)
        terminal.read_until(b"backlog")
        self.assertTrue(self.attached.wait(20))
        end = time.monotonic() + 20
        while not terminal.is_raw():
            self.assertLess(time.monotonic(), end, "the terminal never became raw")
            select.select([], [], [], 0.005)
        return terminal

    def receive(self, wanted):
        got = b""
        self.guest.settimeout(20)
        while len(got) < len(wanted):
            data = self.guest.recv(65536)
            self.assertTrue(data, got)
            got += data
        self.assertEqual(got, wanted)

    def test_both_ways_and_detach(self):
        terminal = self.attach()
        terminal.read_until(b"Connected to web. Escape character is ^] (Ctrl + ])")
        terminal.type(b"ls\x03\x1a\r")
        self.receive(b"ls\x03\x1a\r")
        self.guest.sendall(b"file\r\n")
        terminal.read_until(b"file")
        terminal.type(b"\x1d")
        text, code = terminal.finish()
        self.assertEqual(code, 0)
        self.assertIn("Detached from web", text)
        self.assertTrue(terminal.is_restored())

    def test_other_keys_and_backlog(self):
        terminal = self.attach("--escape", "^A", "--backlog", "99")
        self.assertEqual(self.parameters, {"backlog": 99})
        terminal.type(b"\x1dx")
        self.receive(b"\x1dx")
        terminal.type(b"\x01")
        self.assertEqual(terminal.finish()[1], 0)
        self.assertTrue(terminal.is_restored())

    def test_no_escape(self):
        terminal = self.attach("--escape", "none")
        terminal.type(b"\x1d\x01")
        self.receive(b"\x1d\x01")
        self.closing.set()
        self.assertEqual(terminal.finish()[1], 0)

    def test_the_vm_ends(self):
        terminal = self.attach()
        self.guest.sendall(b"last words\r\n")
        self.closing.set()
        text, code = terminal.finish()
        self.assertEqual(code, 0)
        self.assertIn("last words", text)
        self.assertIn("Console of web closed", text)
        self.assertTrue(terminal.is_restored())

    def test_signals_restore_the_terminal(self):
        for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            terminal = self.attach()
            terminal.process.send_signal(sig)
            self.assertEqual(terminal.finish()[1], -sig)
            self.assertTrue(terminal.is_restored(), sig)

    def test_stop_and_go_on(self):
        terminal = self.attach()
        terminal.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
        self.assertTrue(terminal.is_restored())
        terminal.process.send_signal(signal.SIGCONT)
        end = time.monotonic() + 20
        while not terminal.is_raw():
            self.assertLess(time.monotonic(), end)
            select.select([], [], [], 0.005)
        terminal.type(b"\x1d")
        self.assertEqual(terminal.finish()[1], 0)
        self.assertTrue(terminal.is_restored())

    def test_a_guest_that_takes_nothing_can_be_left(self):
        terminal = self.attach()
        # More than the sockets and vmctl's own buffer hold; typed piecemeal, as a terminal has a small queue.
        end = time.monotonic() + 30
        for _ in range(600):
            while not select.select([], [terminal.master], [], 0.05)[1]:
                self.assertLess(time.monotonic(), end)
            terminal.type(b"x" * 1000)
        terminal.type(b"\x1d")
        self.assertEqual(terminal.finish()[1], 0)
        self.assertTrue(terminal.is_restored())

    def test_without_a_terminal(self):
        process = subprocess.Popen([VMCTL, "console", "web"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=self.environment)
        process.stdin.write(b"uname\x1d\n")
        process.stdin.close()
        self.assertTrue(self.attached.wait(20))
        self.receive(b"uname\x1d\n")
        self.guest.sendall(b"Linux\n")
        self.closing.set()
        self.assertEqual(process.stdout.read(), b"backlog\r\nLinux\n")
        self.assertEqual((process.stderr.read(), process.wait(20)), (b"", 0))
        process.stdout.close()
        process.stderr.close()

    def test_exit_on_eof(self):
        done = subprocess.run([VMCTL, "console", "web", "--exit-on-eof"], input=b"reboot\n", capture_output=True, timeout=60, env=self.environment)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"backlog\r\n", b""))
        self.receive(b"reboot\n")

    def test_nobody_to_attach_to(self):
        self.expect(3, "console", "nosuch", err="nosuch: no such VM")
        self.closing.set()
        self.service.close()
        self.expect(1, "console", "web", err="web: stopped: neither shim nor QEMU runs")


class Logs(VmctlCase):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("log", "web"))
        self.log = self.path("log", "web", "console.log")
        with open(self.log, "w") as f:
            f.writelines(f"line {i}\n" for i in range(1, 3001))

    def test_with_and_without_a_manager(self):
        for with_manager in (False, True):
            if with_manager:
                self.manager()
            self.assertEqual(len(self.expect(0, "logs", "web", err="").stdout.splitlines()), 3000)
            self.assertEqual(self.expect(0, "logs", "web", "-n", "2").stdout, "line 2999\nline 3000\n")
            self.assertEqual(len(self.expect(0, "logs", "web", "-n", "2000").stdout.splitlines()), 2000)
            self.assertEqual(len(self.expect(0, "logs", "web", "-n", "9999").stdout.splitlines()), 3000)
            self.assertEqual(self.expect(0, "logs", "web", "-n", "0").stdout, "")
            self.expect(1, "logs", "web", "--qemu", err="no log")
            self.expect(3, "logs", "nosuch", err="no such VM")

    def test_which_log(self):
        for name in ("qemu.log", "shim.log", "console-2.log"):
            with open(self.path("log", "web", name), "w") as f:
                f.write(name)
        self.assertEqual(self.expect(0, "logs", "web", "--qemu").stdout, "qemu.log")
        self.assertEqual(self.expect(0, "logs", "web", "--shim").stdout, "shim.log")
        self.assertEqual(self.expect(0, "logs", "web", "--boot", "2").stdout, "console-2.log")
        self.expect(1, "logs", "web", "--boot", "1", err="no log")
        self.manager()
        self.expect(0, "logs", "web", "--boot", "3", out="line 3000")  # the incarnation that runs

    def test_where_the_manager_says(self):
        elsewhere = self.path("elsewhere")
        os.mkdir(elsewhere)
        with open(os.path.join(elsewhere, "console.log"), "w") as f:
            f.write("over here\n")
        self.manager(Get=lambda p, c: {"vm": self.vms["web"], "paths": {"log": elsewhere}})
        self.assertEqual(self.expect(0, "logs", "web").stdout, "over here\n")

    def follow(self, *words):
        process = subprocess.Popen([VMCTL, "logs", "web", "-f", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.environment)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        self.addCleanup(end)
        return process

    def add(self, text):
        with open(self.log, "a") as f:
            f.write(text)

    def test_follow(self):
        process = self.follow("-n", "1")
        self.assertEqual(process.stdout.readline(), "line 3000\n")
        self.add("more\n")
        self.assertEqual(process.stdout.readline(), "more\n")
        # A new boot: the old file is renamed, with words still to come, and another begun.
        with open(self.log, "a") as old:
            os.rename(self.log, self.path("log", "web", "console-1.log"))
            old.write("last words\n")
        self.add("new boot\n")
        self.assertEqual([process.stdout.readline() for _ in range(2)], ["last words\n", "new boot\n"])
        os.truncate(self.log, 0)
        self.add("again\n")
        self.assertEqual(process.stdout.readline(), "again\n")
        os.unlink(self.log)
        self.add("and again\n")
        self.assertEqual(process.stdout.readline(), "and again\n")

    def test_follow_before_there_is_a_log(self):
        os.unlink(self.log)
        process = self.follow()
        self.add("first\n")
        self.assertEqual(process.stdout.readline(), "first\n")

    def test_follow_a_folder_that_goes(self):
        process = self.follow("-n", "1")
        process.stdout.readline()
        os.unlink(self.log)
        os.rmdir(self.path("log", "web"))
        self.assertEqual(process.wait(20), 1)
        self.assertIn("is gone", process.stderr.read())

    def test_follow_ends_with_its_reader(self):
        process = self.follow("-n", "1")
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(20), 0)
        process.stdout = open(os.devnull)


if __name__ == "__main__":
    unittest.main()
