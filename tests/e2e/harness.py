"""A host of its own for each test: folders, a manager, VMs; and the proof at the end that nothing of it is left.

Tests wait for conditions with a deadline, never for time to pass. HOLDFAST_BIN names the folder of the built programs,
HOLDFAST_GUEST the folder of the guest (tests/guest/build makes it when it is missing).
"""
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.abspath(os.environ.get("HOLDFAST_BIN", os.path.join(SOURCE, "build/dev/bin")))
DEADLINE = 60.0


def program(name):
    return os.path.join(BIN, name)


def wait_for(condition, what, deadline=DEADLINE, every=0.01):
    """Returns the first true value of condition(); fails with what was awaited."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline:.0f} s still not: {what}")
        time.sleep(every)


def guest_folder():
    """The guest's kernel and initramfs, built once for all tests that run at the same time."""
    folder = os.environ.get("HOLDFAST_GUEST", os.path.join(os.path.dirname(BIN), "guest"))
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(folder, "initrd.gz")):
            subprocess.run([os.path.join(SOURCE, "tests/guest/build"), folder], check=True)
    return folder


def start_time(pid):
    """Field 22 of /proc/PID/stat, or None when there is no such living process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid):
    return pid is not None and start_time(pid) is not None


def processes_of(root):
    """(pid, command line) of every process that names `root` in its command line or has something open below it: managers, shims
    and QEMUs of one test's host, and none of a neighbour's."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
            ours = root in line
            for fd in [] if ours else os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    ours = ours or os.readlink(f"/proc/{pid}/fd/{fd}").startswith(root)
            if ours and int(pid) != os.getpid() and alive(int(pid)):
                found.append((int(pid), line))
    return found


class Varlink:
    """A few lines of Varlink client, so that tests don't depend on ours."""

    def __init__(self, path, timeout=10.0):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.buffer = b""
        try:
            self.socket.settimeout(timeout)
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def send(self, method, parameters=None, **flags):
        message = {"method": method, "parameters": parameters or {}, **flags}
        self.socket.sendall(json.dumps(message).encode() + b"\0")

    def receive(self):
        while b"\0" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the service hung up")
            self.buffer += data
        frame, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(frame)

    def call(self, method, parameters=None, **flags):
        self.send(method, parameters, **flags)
        return self.receive()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Host:
    """Folders, a manager when one is started, and vmctl to speak with it."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="holdfast-test-")
        self.dirs = {name: os.path.join(self.root, name) for name in ("run", "state", "log", "config")}
        os.makedirs(os.path.join(self.dirs["config"], "vms"))
        self.manager = None
        self.managers_started = 0

    # ---- the manager ----

    def options(self):
        return [word for name, path in self.dirs.items() for word in (f"--{name}-dir", path)]

    def environment(self, **extra):
        environment = dict(os.environ)
        environment.pop("HOLDFAST_FAILPOINT", None)
        environment.update({f"HOLDFAST_{name.upper()}_DIR": path for name, path in self.dirs.items()})
        environment.update({key: value for key, value in extra.items() if value is not None})
        return environment

    def start_manager(self, binaries=None, wait=True, **environment):
        assert self.manager is None or self.manager.poll() is not None, "a manager runs already"
        self.managers_started += 1
        with open(os.path.join(self.root, "manager.log"), "ab") as log:
            self.manager = subprocess.Popen(
                [os.path.join(binaries or BIN, "holdfastd"), *self.options()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self.environment(**environment))
        if wait:
            wait_for(self.manager_answers, f"a manager that answers (its log: {self.manager_log()})", 20)
        return self.manager

    def manager_answers(self):
        try:
            with Varlink(os.path.join(self.dirs["run"], "manager.sock"), 5) as v:
                return "parameters" in v.call("org.varlink.service.GetInfo")
        except (OSError, EOFError):  # it isn't there, or about to go
            return False

    def manager_log(self):
        with contextlib.suppress(OSError):
            with open(os.path.join(self.root, "manager.log"), errors="replace") as f:
                return f.read()[-3000:]
        return ""

    def kill_manager(self, sig=signal.SIGKILL):
        self.manager.send_signal(sig)
        status = self.manager.wait(20)
        self.manager = None
        return status

    # ---- vmctl ----

    def vmctl(self, *words, check=True, stdin=None, timeout=120, **environment):
        done = subprocess.run([program("vmctl"), *map(str, words)], input=stdin, capture_output=True, text=True,
                              timeout=timeout, env=self.environment(**environment))
        if check and done.returncode != 0:
            raise AssertionError(f"vmctl {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
                                 f"\nmanager: {self.manager_log()}\n{self.shim_logs()}")
        return done

    def list(self):
        return {vm["name"]: vm for vm in json.loads(self.vmctl("list", "--json").stdout)}

    def vm(self, name):
        return self.list()[name]

    def state(self, name):
        return self.list().get(name, {}).get("state")

    def wait_state(self, name, *states, deadline=DEADLINE):
        return wait_for(lambda: (lambda vm: vm if vm and vm["state"] in states else None)(self.list().get(name)),
                        f"{name} {' or '.join(states)} (it is {self.list().get(name)})", deadline, 0.05)

    # ---- VMs ----

    def path(self, kind, name, *rest):
        folder = os.path.join(self.dirs[kind], name) if kind == "log" else os.path.join(self.dirs[kind], "vms", name)
        return os.path.join(folder, *rest)

    def guest_spec(self, name, **more):
        guest = guest_folder()
        return {"name": name, "memory": "128M", "accel": "tcg",
                "boot": {"kernel": f"{guest}/vmlinuz", "initrd": f"{guest}/initrd.gz",
                         "cmdline": "console=ttyS0 quiet panic=-1"}, **more}

    def fake_spec(self, name, *behaviour, **more):
        words = [word for one in behaviour for word in ("-fake", one)]
        kernel = os.path.join(self.root, "kernel")
        if not os.path.exists(kernel):
            with open(kernel, "w"):
                pass
        return {"name": name, "memory": "16M", "accel": "tcg", "boot": {"kernel": kernel},
                "qemu": {"path": program("fake_qemu"), "extra_args": words}, **more}

    def write_spec(self, spec):
        path = os.path.join(self.dirs["config"], "vms", spec["name"] + ".json")
        with open(path, "w") as f:
            json.dump(spec, f)
        return path

    def apply(self, *specs, check=True):
        result = None
        for spec in specs:
            result = self.vmctl("apply", "-", stdin=json.dumps(spec), check=check)
        return result

    def read_json(self, kind, name, file):
        with open(self.path(kind, name, file)) as f:
            return json.load(f)

    def events(self, name):
        """The events of a VM that are written down, in whole lines: the manager may be about to write another."""
        with open(self.path("state", name, "events.jsonl")) as f:
            return [json.loads(line) for line in f if line.endswith("\n")]

    def shim(self, name, timeout=10.0):
        return Varlink(self.path("run", name, "shim.sock"), timeout)

    def shim_status(self, name):
        with self.shim(name) as v:
            return v.call("io.holdfast.Shim.GetStatus")["parameters"]["status"]

    def shim_logs(self):
        text = ""
        for folder, _, files in os.walk(self.dirs["log"]):
            for file in files:
                if file in ("shim.log", "qemu.log"):
                    with open(os.path.join(folder, file), errors="replace") as f:
                        text += f"--- {folder}/{file}\n{f.read()[-1500:]}"
        return text

    # ---- the guest's heartbeat ----

    def ticks(self, name):
        """The numbers the guest has counted in this boot, in the order it said them."""
        with contextlib.suppress(OSError):
            with open(self.path("log", name, "console.log"), "rb") as f:
                return [int(n) for n in re.findall(rb"^tick (\d+)\r?\n", f.read(), re.M)]
        return []

    def wait_ticks(self, name, more=3, deadline=DEADLINE):
        """Waits until the guest has counted `more` further numbers."""
        before = len(self.ticks(name))
        wait_for(lambda: len(self.ticks(name)) >= before + more, f"{more} more heartbeats of {name}", deadline, 0.05)

    # ---- the end ----

    def left_behind(self):
        return processes_of(self.root)

    def qemus(self, name):
        """Pids of every QEMU that runs for this VM: never more than one."""
        return [pid for pid, line in self.left_behind() if re.search(rf"guest={re.escape(name)}[, ]", line)]

    def cgroups(self):
        """Folders of cgroups that records of this host's VMs name and that are there."""
        found = []
        for folder, _, files in os.walk(self.dirs["run"]):
            if "status.json" in files:
                with contextlib.suppress(OSError, ValueError, KeyError), open(os.path.join(folder, "status.json")) as f:
                    cgroup = json.load(f)["cgroup"]
                    if os.path.isdir(cgroup):
                        found.append(cgroup)
        return found

    def destroy(self):
        cgroups = self.cgroups()
        if self.manager is not None and self.manager.poll() is None:
            self.kill_manager()
        for pid, _ in self.left_behind():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.left_behind(), "every process of the test to be gone", 20)
        for cgroup in cgroups:
            with contextlib.suppress(OSError):
                os.rmdir(cgroup)
        shutil.rmtree(self.root, ignore_errors=True)


def gaps(ticks):
    """Places where a number is missing or comes twice."""
    return [(a, b) for a, b in zip(ticks, ticks[1:]) if b != a + 1]


class HostTest(unittest.TestCase):
    """A test with a host. Whatever the test started must be gone, or be stopped here and counted as a failure unless the test
    failed anyway."""

    maxDiff = None

    def setUp(self):
        self.host = Host()
        self.addCleanup(self.host.destroy)

    def skipTest(self, reason):
        """`reason` begins with "kernel: " or "cpu: "; tests/report.py looks for the line, which unittest prints only when asked to."""
        print(f"SKIP {reason}", flush=True)
        super().skipTest(reason)

    def assertWhole(self, name):
        """Not one heartbeat of the guest is missing."""
        ticks = self.host.ticks(name)
        self.assertTrue(ticks, f"{name} said nothing")
        self.assertEqual(gaps(ticks), [], f"heartbeats of {name} are missing")

    def assertOneQemu(self, name):
        """Exactly the QEMU that the record names runs."""
        status = self.host.shim_status(name)
        pid = status["qemu"]["pid"]
        self.assertEqual(start_time(pid), status["qemu"]["start_time"])
        self.assertEqual(self.host.qemus(name), [pid])

    def stopEverything(self):
        """Ends the test in order: VMs stopped, manager ended, and then nothing may be left."""
        if self.host.list():
            self.host.vmctl("stop", "--all", "--force")
        self.assertEqual(self.host.kill_manager(signal.SIGTERM), 0, self.host.manager_log())
        wait_for(lambda: not self.host.left_behind(), f"no process left ({self.host.left_behind()})", 20)


def main():
    unittest.main(verbosity=2)
