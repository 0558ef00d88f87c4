"""What the tests of vmctl share: folders of their own, a fake manager, vmctl with or without a terminal."""
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import tempfile
import termios
import time
import unittest

from fake_manager import MANAGER, SHIM, FakeService, no_such_vm, vm

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.abspath(os.environ.get("HOLDFAST_BIN", os.path.join(HERE, "../../build/dev/bin")))
VMCTL = os.path.join(BIN, "vmctl")


class VmctlCase(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="holdfast-vmctl-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_") and key != "NO_COLOR"}
        self.environment["TERM"] = "xterm"
        for kind in ("run", "state", "log", "config"):
            self.environment[f"HOLDFAST_{kind.upper()}_DIR"] = os.path.join(self.root, kind)
            os.mkdir(os.path.join(self.root, kind))
        self.vms = {name: vm(name) for name in ("web", "db")}

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def known(self, parameters):
        if parameters["name"] not in self.vms:
            raise no_such_vm(parameters["name"])
        return self.vms[parameters["name"]]

    def act(self, state):
        def handler(parameters, call):
            one = self.known(parameters)
            call.more({"vm": None, "progress": f"half way to {state}"})
            one["state"] = state
            return {"vm": one, "progress": None}
        return handler

    def paths(self, name):
        return {"run": self.path("run", "vms", name), "state": self.path("state", "vms", name), "log": self.path("log", name),
                "spec": self.path("config", "vms", name + ".json")}

    def manager(self, **handlers):
        """A manager that knows self.vms; `handlers` by the method's last word."""
        standard = {
            "List": lambda p, c: {"vms": list(self.vms.values())},
            "Get": lambda p, c: {"vm": self.known(p), "paths": self.paths(p["name"])},
            "Inspect": lambda p, c: {"vm": self.known(p), "paths": self.paths(p["name"]), "spec": {"name": p["name"]}, "plan": None,
                                     "next_plan": {"schema": 1}},
            "Start": self.act("running"), "Stop": self.act("stopped"), "Restart": self.act("running"), "Kill": self.act("stopped"),
            "Pause": lambda p, c: self.known(p) and {}, "Resume": lambda p, c: self.known(p) and {},
            "Reset": lambda p, c: self.known(p) and {},
            "Wait": lambda p, c: {"vm": self.known(p)},
            "Delete": lambda p, c: self.known(p) and {"kept": ["/disks/data.qcow2"]},
        }
        standard.update(handlers)
        service = FakeService(self.path("run", "manager.sock"), {MANAGER + name: handler for name, handler in standard.items()})
        self.addCleanup(service.close)
        return service

    def shim(self, name, **handlers):
        service = FakeService(self.path("run", "vms", name, "shim.sock"), {SHIM + key: handler for key, handler in handlers.items()})
        self.addCleanup(service.close)
        return service

    def run_vmctl(self, *words, stdin="", **environment):
        return subprocess.run([VMCTL, *words], input=stdin, capture_output=True, text=True, timeout=60,
                              env={**self.environment, **environment})

    def expect(self, code, *words, err=None, out=None, **more):
        """Runs vmctl, checks its exit status, and that it has (or hasn't: "") those words on its two outputs."""
        done = self.run_vmctl(*words, **more)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
        for wanted, got in ((err, done.stderr), (out, done.stdout)):
            if wanted == "":
                self.assertEqual(got, "")
            elif wanted is not None:
                self.assertIn(wanted, got)
        if code != 0 and words and words[0] not in ("check", "convert"):
            self.assertTrue(done.stderr.startswith("vmctl: "), done.stderr)
        return done

    def terminal(self, *words, columns=80, **environment):
        return Terminal([VMCTL, *words], {**self.environment, **environment}, columns)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, words, environment, columns=80):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(words, stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment,
                                        start_new_session=True)
        self.seen = b""

    def read_until(self, wanted, deadline=20):
        end = time.monotonic() + deadline
        while wanted not in self.seen:
            assert time.monotonic() < end, f"{wanted!r} awaited, seen {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)

    def type(self, keys):
        os.write(self.master, keys)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def finish(self, deadline=20):
        """All output as text, and the exit status."""
        end = time.monotonic() + deadline
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < end, f"still running, seen {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        return self.seen.decode(), self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
