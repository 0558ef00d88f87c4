"""What is done to the manager, and to the host, under a real systemd, and what becomes of the VMs: nothing.

A *cell* is one thing that is done while one KillMode= is in force. After it the same QEMUs and shims must run, the guests must have counted on
without a gap, the manager must have found them again, and no second QEMU may be there."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

from container import SOURCE, Container, log, start_time, wait_for

DROP_IN = "/etc/systemd/system/holdfastd.service.d/test.conf"
NO_SCOPES = "InaccessiblePaths=/run/dbus/system_bus_socket /run/systemd/private"
MODES = ("control-group", "mixed", "process")
TICKS_AFTER = 4  # heartbeats that must come after whatever was done


class Lost(AssertionError):
    """A cell that isn't green, with what went wrong."""


class Host(Container):
    """The container with Holdfast in it, as its package would set it up."""

    def __init__(self, build, guest, name):
        super().__init__(name)
        self.install(build)
        self.install_guest(guest)
        self.units = self.find_units()

    def find_units(self):
        for folder, _, files in os.walk(self.root):
            if "holdfastd.service" in files and folder.endswith("/system"):
                return folder[len(self.root):]
        raise SystemExit("the build installs no holdfastd.service")

    def set_up(self):
        self.boot()
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create")
        self.run("systemctl", "enable", "--now", "holdfastd.service", "holdfast-drain.service")
        if os.path.exists(f"{self.root}{self.units}/holdfast-imaged.service"):
            self.run("systemctl", "enable", "--now", "holdfast-imaged.service")  # it says when it is ready, or this fails
        self.wait_manager()

    def wait_manager(self, deadline=30):
        wait_for(lambda: self.vmctl("list", check=False).returncode == 0, "a manager that answers", deadline)

    def unit(self, *settings):
        """Settings of the manager's unit besides its own, in force from its next start."""
        self.write_live(DROP_IN, "[Service]\n" + "".join(f"{line}\n" for line in settings))
        self.run("systemctl", "daemon-reload")

    def write_live(self, path, text):
        path = os.path.join("/proc", str(self.init), "root", path.lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    def spec(self, name, tick=100, **more):
        return {"name": name, "memory": "96M", "accel": "tcg",
                "boot": {"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd.gz", "cmdline": f"console=ttyS0 quiet panic=-1 tick={tick}"}, **more}

    def apply(self, *specs):
        for spec in specs:
            self.write_live("/root/spec.json", json.dumps(spec))
            self.vmctl("apply", "/root/spec.json")

    def wait_guests(self, *names, deadline=180):
        for name in names:
            try:
                wait_for(lambda name=name: self.ticks(name), f"a heartbeat of {name}", deadline, 0.1)
            except AssertionError as e:
                console = self.read(f"/var/log/holdfast/{name}/console.log")
                raise Lost(f"{e}; it is {self.vms().get(name)}, its console: {console[-2000:]!r}") from e

    def ticks(self, name):
        with contextlib.suppress(OSError):
            return [int(n) for n in re.findall(r"^tick (\d+)\r?$", self.read(f"/var/log/holdfast/{name}/console.log"), re.M)]
        return []

    def log_of(self, unit="holdfastd.service"):
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def qemus(self):
        """VM name → pids, as the host counts them, of every QEMU in the container."""
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
                name = re.search(rb"guest=([^,\0]+)", f.read())
                if name and start_time(pid):
                    found.setdefault(name.group(1).decode(), []).append(pid)
        return found

    def pids(self):
        inside = os.readlink(f"/proc/{self.init}/ns/pid")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/pid") == inside:
                    yield int(pid)

    def host_pid(self, pid):
        """Of a process that the container knows as `pid`."""
        for outside in self.pids():
            with contextlib.suppress(OSError), open(f"/proc/{outside}/status", encoding="ascii", errors="replace") as f:
                numbers = re.search(r"^NSpid:\s*(.*)$", f.read(), re.M)
                if numbers and numbers.group(1).split()[-1] == str(pid):
                    return outside
        return None

    def cgroup(self, pid):
        text = self.read(f"/proc/{pid}/cgroup")
        return re.search(r"^0::(.*)$", text, re.M).group(1)


class Watch:
    """What there is of some VMs before something is done, and what must be there afterwards."""

    def __init__(self, host, names):
        self.host = host
        self.names = names
        vms = host.vms()
        self.before = {name: (vms[name]["shim_pid"], vms[name]["qemu_pid"], vms[name]["incarnation"]) for name in names}
        self.qemus = {name: [(pid, start_time(pid)) for pid in pids] for name, pids in host.qemus().items()}
        self.counted = {name: host.ticks(name) for name in names}
        for name in names:
            if len(self.qemus.get(name, [])) != 1:
                raise Lost(f"{name} has {len(self.qemus.get(name, []))} QEMUs to begin with")

    def check(self):
        host = self.host
        host.wait_manager()
        wait_for(lambda: {name: vm["state"] for name, vm in host.vms().items() if name in self.names} == dict.fromkeys(self.names, "running"),
                 f"all VMs are found again: {host.vms()}", 20)
        vms = host.vms()
        after = {name: (vms[name]["shim_pid"], vms[name]["qemu_pid"], vms[name]["incarnation"]) for name in self.names}
        if after != self.before:
            raise Lost(f"shim, QEMU, incarnation: {self.before} → {after}")
        now = {name: [(pid, start_time(pid)) for pid in pids] for name, pids in host.qemus().items()}
        if {name: now.get(name) for name in self.names} != {name: self.qemus.get(name) for name in self.names}:
            raise Lost(f"QEMUs: {self.qemus} → {now}")
        for name in self.names:
            want = len(self.counted[name]) + TICKS_AFTER
            wait_for(lambda name=name, want=want: len(host.ticks(name)) >= want, f"{name} counts on", 30)
            ticks = host.ticks(name)
            gaps = [(a, b) for a, b in zip(ticks, ticks[1:]) if b != a + 1]
            if gaps or ticks[:len(self.counted[name])] != self.counted[name]:
                raise Lost(f"heartbeats of {name} are missing: {gaps}")

    def check_scopes(self):
        """All of it is where no KillMode= of the manager's unit reaches."""
        for name, (shim, qemu, _) in self.before.items():
            for pid in (shim, qemu):
                cgroup = self.host.cgroup(pid)
                if f"/holdfast.slice/holdfast-vm-{name}.scope" not in cgroup:
                    raise Lost(f"process {pid} of {name} is in {cgroup}")


# ---- what is done ----

def restart(host):
    host.run("systemctl", "restart", "holdfastd.service")


def stop_start(host):
    host.run("systemctl", "stop", "holdfastd.service")
    host.run("systemctl", "start", "holdfastd.service")


def new_main(host, done):
    """Runs done() and waits for systemd to have another manager."""
    before = host.main_pid()
    done(before)
    wait_for(lambda: host.main_pid() not in (0, before), "systemd starts another manager", 30)


def sigkill(host):
    new_main(host, lambda pid: host.run("sh", "-c", f"kill -KILL {pid}"))


def kill_all(host):
    new_main(host, lambda _: host.run("systemctl", "kill", "holdfastd.service"))


def kill_all_hard(host):
    new_main(host, lambda _: host.run("systemctl", "kill", "--signal=KILL", "holdfastd.service"))


def reload_units(host):
    before = host.main_pid()
    host.run("systemctl", "daemon-reload")
    assert host.main_pid() == before


def reexec(host):
    before = host.main_pid()
    host.run("systemctl", "daemon-reexec")
    wait_for(lambda: host.main_pid() == before, "systemd knows the manager again", 30)


def replace_programs(host):
    """What an upgrade does: every program replaced by another file, then the manager restarted."""
    root = f"/proc/{host.init}/root"
    for program in host.run("sh", "-c", "ls $(dirname $(readlink -f $(which vmctl)))/../*/holdfast*/holdfast-shim $(which holdfastd) "
                            "$(which vmctl)").stdout.split():
        path = root + program
        shutil.copy2(path, path + ".new")
        os.rename(path + ".new", path)
    restart(host)


def needrestart(host):
    """A library was replaced; needrestart finds who uses the old one, and restarts it in its own way."""
    library = host.run("sh", "-c", "readlink -f /usr/lib/*/libjansson.so.4").stdout.strip()
    path = f"/proc/{host.init}/root{library}"
    shutil.copy2(path, path + ".new")
    os.rename(path + ".new", path)
    said = []

    def run(_):
        done = host.run("needrestart", "-r", "a", "-v", check=False)
        said.append(done.stdout + done.stderr)

    try:
        new_main(host, run)
    except AssertionError as e:
        raise Lost(f"{e}; needrestart said: {said}") from e


def oom_kill(host):
    """The kernel's OOM killer ends the manager: in a memory cgroup in which it can't touch another page."""
    folder = f"/sys/fs/cgroup/memory/{host.name}-oom"
    os.makedirs(folder, exist_ok=True)
    try:
        def starve(pid):
            with open(f"{folder}/memory.limit_in_bytes", "w", encoding="ascii") as f:
                f.write("16384")
            with open(f"{folder}/cgroup.procs", "w", encoding="ascii") as f:
                f.write(str(host.host_pid(pid)))
            for _ in range(200):
                if host.main_pid() != pid or host.vmctl("inspect", "a", check=False, timeout=20).returncode == 4:
                    break
        new_main(host, starve)
        with open(f"{folder}/memory.oom_control", encoding="ascii") as f:
            if not re.search(r"^oom_kill [1-9]", f.read(), re.M):
                raise Lost("the manager ended, but not by the OOM killer")
    finally:
        wait_for(lambda: not open(f"{folder}/cgroup.procs", encoding="ascii").read(), "the starved cgroup is empty", 10)
        os.rmdir(folder)


def dbus_restart(host):
    """The message bus goes and comes, and the manager after it."""
    host.run("systemctl", "restart", "dbus.service")
    restart(host)


ACTIONS = (
    ("systemctl restart", restart),
    ("stop, then start", stop_start),
    ("kill -9 of the manager", sigkill),
    ("systemctl kill", kill_all),
    ("systemctl kill -s KILL", kill_all_hard),
    ("daemon-reload", reload_units),
    ("daemon-reexec", reexec),
    ("programs replaced, restart", replace_programs),
    ("needrestart after a library", needrestart),
    ("OOM kill of the manager", oom_kill),
    ("D-Bus restarted, restart", dbus_restart),
)


class Table:
    """Results, printed as they come and once more as the table for the README."""

    def __init__(self, columns):
        self.columns = columns
        self.rows = {}
        self.failed = 0

    def cell(self, row, column, run):
        began = time.monotonic()
        try:
            result = run() or "lives"
        except (AssertionError, subprocess.TimeoutExpired, OSError, LookupError, AttributeError) as e:
            result = "**FAILED**"
            self.failed += 1
            log(f"FAILED: {row}, {column}: {type(e).__name__}: {e}")
        log(f"{row}, {column}: {result} ({time.monotonic() - began:.1f} s)")
        self.rows.setdefault(row, {})[column] = result
        return result

    def text(self):
        lines = ["| | " + " | ".join(self.columns) + " |", "|---" * (len(self.columns) + 1) + "|"]
        for row, cells in self.rows.items():
            lines.append(f"| {row} | " + " | ".join(cells.get(column, "") for column in self.columns) + " |")
        return "\n".join(lines)


def run_matrix(host, table, modes, actions, names):
    for mode in modes:
        host.unit(f"KillMode={mode}")
        restart(host)
        host.wait_manager()
        for what, action in actions:
            if action is oom_kill and not os.path.isdir("/sys/fs/cgroup/memory"):
                table.rows.setdefault(what, {})[f"KillMode={mode}"] = "SKIP kernel: no memory controller of cgroup v1 to starve it in"
                continue

            def cell(action=action):
                watch = Watch(host, names)
                watch.check_scopes()
                manager = host.main_pid()
                action(host)
                watch.check()
                watch.check_scopes()
                if (host.main_pid() == manager) != (action in (reload_units, reexec)):
                    raise Lost(f"the manager was {manager} and is {host.main_pid()}")

            table.cell(what, f"KillMode={mode}", cell)


def run_without_scopes(host, table):
    """The manager can't reach systemd: VMs stay in its cgroup, it says so, KillMode=process keeps them; and once it can, they are moved."""
    column = "KillMode=process"

    def stay():
        host.unit("KillMode=process", NO_SCOPES)
        restart(host)
        host.wait_manager()
        host.apply(host.spec("stays"))
        host.wait_guests("stays")
        watch = Watch(host, ["stays"])
        if "/system.slice/holdfastd.service" not in host.cgroup(watch.before["stays"][1]):
            raise Lost(f"it is in {host.cgroup(watch.before['stays'][1])}")
        if "has no scope of its own" not in host.log_of():
            raise Lost("the manager's log doesn't say that the VM has no scope")
        if "no scope of its own" not in (host.vms()["stays"]["reason"] or ""):
            raise Lost(f"the VM doesn't say that it has no scope: {host.vms()['stays']}")
        for action in (restart, stop_start, sigkill):
            action(host)
            watch.check()

    def move():
        watch = Watch(host, ["stays"])
        host.unit("KillMode=process")
        restart(host)
        host.wait_manager()
        wait_for(lambda: "holdfast-vm-stays.scope" in host.cgroup(watch.before["stays"][1]), "it is moved into its scope", 10)
        watch.check()
        watch.check_scopes()
        if host.vms()["stays"]["reason"]:
            raise Lost(f"it is in its scope and says: {host.vms()['stays']}")
        host.unit("KillMode=control-group")
        restart(host)
        watch.check()
        host.vmctl("delete", "stays", "--force")

    table.cell("no scope can be made: restart, stop and start, kill -9", column, stay)
    table.cell("then it can: moved while it runs, restart with control-group", column, move)


LIMITS = {"cpu_quota": "150%", "cpu_weight": 50, "memory_high": "300M", "memory_max": "400M", "io_weight": 200}
PROPERTIES = {"CPUQuotaPerSecUSec": "1.500000s", "CPUWeight": "50", "MemoryHigh": str(300 << 20), "MemoryMax": str(400 << 20), "IOWeight": "200",
              "Slice": "holdfast.slice", "Delegate": "yes", "TasksMax": "infinity"}


def run_limits(host, table):
    """The spec's limits are the scope's; where the kernel has no controller for one, the log says that it isn't in force. The scope goes with the
    VM."""
    def cell():
        host.apply(host.spec("limited", limits=LIMITS))
        host.wait_guests("limited")
        shown = host.run("systemctl", "show", "holdfast-vm-limited.scope", f"--property={','.join(PROPERTIES)}").stdout
        got = dict(line.split("=", 1) for line in shown.splitlines())
        if got != PROPERTIES:
            raise Lost(f"{got}, expected {PROPERTIES}")
        there = host.run("cat", "/sys/fs/cgroup/holdfast.slice/holdfast-vm-limited.scope/cgroup.controllers").stdout.split()
        for controller in ("cpu", "memory", "io"):
            told = f"limits on {controller} are not in force" in host.log_of()
            if told != (controller not in there):
                raise Lost(f"controllers {there}, log: {host.log_of()[-1000:]}")
        host.vmctl("delete", "limited", "--force")
        wait_for(lambda: host.run("systemctl", "is-active", "holdfast-vm-limited.scope", check=False).stdout.strip() == "inactive", "no scope", 10)
        return "as in the spec"

    table.cell("limits of the scope", "KillMode=control-group", cell)


def run_replacement(host, table, names):
    """A shim that dies under the worst KillMode=: its replacement is moved next to the QEMU."""
    def cell():
        host.unit("KillMode=control-group")
        restart(host)
        host.wait_manager()
        before = host.vms()
        qemus = host.qemus()
        for name in names:
            host.run("sh", "-c", f"kill -KILL {before[name]['shim_pid']}")
        wait_for(lambda: all(vm["state"] == "running" and vm["shim_pid"] != before[name]["shim_pid"]
                             for name, vm in host.vms().items() if name in names), "other shims", 30)
        watch = Watch(host, names)
        if host.qemus() != qemus:
            raise Lost(f"QEMUs: {qemus} → {host.qemus()}")
        wait_for(lambda: all(f"holdfast-vm-{name}.scope" in host.cgroup(watch.before[name][0]) for name in names), "shims in scopes", 10)
        restart(host)
        watch.check()
        watch.check_scopes()

    table.cell("kill -9 of the shims, then restart", "KillMode=control-group", cell)


OP_UNIT = """[Service]
Type=notify
User=op
ExecStart={holdfastd} --run-dir /run/holdfast-op
RuntimeDirectory=holdfast-op
RuntimeDirectoryPreserve=yes
KillMode={mode}
"""


def run_users(host, table):
    """Managers that aren't root's: a unit with User=, and one of the user's own systemd."""
    holdfastd = host.run("which", "holdfastd").stdout.strip()
    host.run("useradd", "--create-home", "op")
    uid = host.run("id", "--user", "op").stdout.strip()
    runtime = f"/run/user/{uid}"

    def as_op(*argv, **more):
        return host.run("runuser", "-u", "op", "--", "env", "HOME=/home/op", f"XDG_RUNTIME_DIR={runtime}", *argv, **more)

    def start_vm(vmctl):
        host.write_live("/home/op/spec.json", json.dumps(host.spec("ours")))
        vmctl("apply", "/home/op/spec.json")

    def qemu():
        pids = host.qemus().get("ours", [])
        if len(pids) != 1:
            raise Lost(f"QEMUs: {pids}")
        return pids[0], start_time(pids[0])

    def cgroup():
        with open(f"/proc/{qemu()[0]}/cgroup", encoding="ascii") as f:
            return f.read()

    def log_file(folder):
        return lambda: [int(n) for n in re.findall(r"^tick (\d+)\r?$", host.read(f"{folder}/ours/console.log"), re.M)]

    def lives_through(restart_it, vmctl, ticks):
        before, counted = qemu(), len(ticks())
        restart_it()
        wait_for(lambda: '"running"' in vmctl("list", "--json", check=False).stdout, "it is found again", 30)
        wait_for(lambda: len(ticks()) >= counted + TICKS_AFTER, "it counts on", 30)
        if qemu() != before or any(b != a + 1 for a, b in zip(ticks(), ticks()[1:])):
            raise Lost(f"QEMU {before} → {qemu()}, heartbeats {ticks()}")

    def write_unit(mode):
        host.write_live("/etc/systemd/system/holdfastd-op.service", OP_UNIT.format(holdfastd=holdfastd, mode=mode))
        host.run("systemctl", "daemon-reload")

    def of_system(*argv, **more):
        return host.run("env", "HOLDFAST_RUN_DIR=/run/holdfast-op", "vmctl", *argv, **more)

    def restart_of_system():
        host.run("systemctl", "restart", "holdfastd-op.service")

    state_log = "/home/op/.local/state/holdfast/log"

    def no_linger():
        write_unit("process")
        restart_of_system()
        start_vm(of_system)
        ticks = log_file(state_log)
        wait_for(ticks, "a heartbeat", 120)
        if "holdfastd-op.service" not in cgroup() or "has no scope of its own" not in host.log_of("holdfastd-op.service"):
            raise Lost(f"{cgroup()}, log: {host.log_of('holdfastd-op.service')}")
        lives_through(restart_of_system, of_system, ticks)

    def linger():
        host.run("loginctl", "enable-linger", "op")
        wait_for(lambda: host.run("test", "-S", f"{runtime}/bus", check=False).returncode == 0, "the user's bus", 30)
        ticks = log_file(state_log)
        lives_through(restart_of_system, of_system, ticks)
        wait_for(lambda: re.search(rf"/user@{uid}.service/.*/holdfast-vm-ours:[0-9a-f]+.scope", cgroup()), f"it is in its scope: {cgroup()}", 10)
        write_unit("control-group")
        restart_of_system()
        lives_through(restart_of_system, of_system, ticks)
        lives_through(lambda: host.run("systemctl", "kill", "--signal=KILL", "holdfastd-op.service") and restart_of_system(), of_system, ticks)
        of_system("delete", "ours", "--force")
        host.run("systemctl", "stop", "holdfastd-op.service")

    def of_user(*argv, **more):
        return as_op("vmctl", *argv, **more)

    def own_systemd():
        host.write_live("/etc/systemd/user/holdfastd.service.d/test.conf", "[Service]\nKillMode=control-group\n")
        as_op("systemctl", "--user", "daemon-reload")
        as_op("systemctl", "--user", "start", "holdfastd.service")
        start_vm(of_user)
        ticks = log_file(state_log)
        wait_for(ticks, "a heartbeat", 120)
        if "/holdfast-vm-ours.scope" not in cgroup():
            raise Lost(cgroup())
        lives_through(lambda: as_op("systemctl", "--user", "restart", "holdfastd.service"), of_user, ticks)
        of_user("delete", "ours", "--force")
        as_op("systemctl", "--user", "stop", "holdfastd.service")

    table.cell("User= in the unit, no linger (no scope): restart", "KillMode=process", no_linger)
    table.cell("User= in the unit, then linger: moved, restart, systemctl kill -s KILL", "KillMode=control-group", linger)
    table.cell("systemctl --user, restart", "KillMode=control-group", own_systemd)


def run_negative(host, table):
    """The same harness, a QEMU as a service starts it that knows no better: it must die, or the rest of the table proves nothing."""
    qemu = ("qemu-system-x86_64 -name guest=plain -nodefaults -display none -m 96 -accel tcg -kernel /srv/vmlinuz -initrd /srv/initrd.gz "
            "-append 'console=ttyS0 quiet' -serial file:/run/plain.log")
    for what, start in (("a child QEMU", f"{qemu} & wait"), ("a QEMU behind setsid and a double fork", f"(setsid {qemu} &) ; exec sleep infinity")):
        def cell(start=start):
            host.write_live("/root/plain.sh", f"#!/bin/sh\nrm -f /run/plain.log\n{start}\n")
            host.run("chmod", "+x", "/root/plain.sh")
            host.write_live("/etc/systemd/system/plain.service", "[Service]\nExecStart=/root/plain.sh\nTimeoutStopSec=10s\n")
            host.run("systemctl", "daemon-reload")
            host.run("systemctl", "start", "plain.service")
            wait_for(lambda: "tick 5" in host.read("/run/plain.log"), "a heartbeat", 120)
            before = host.qemus()["plain"]
            host.run("systemctl", "restart", "plain.service")
            wait_for(lambda: not any(start_time(pid) for pid in before), "the restart ends QEMU", 20)
            host.run("systemctl", "stop", "plain.service")
            return "dies, as it must"

        table.cell(f"negative control: {what}, systemctl restart", "KillMode=control-group", cell)


def run_reboot(host, table):
    """The host goes down: guests are shut down by their power buttons, newest first, and are there again afterwards."""
    names = ["first", "second", "third"]

    def cell():
        # One at a time, so that the order in which they end is the one in which they were asked.
        vmctl = host.run("which", "vmctl").stdout.strip()
        host.write_live("/etc/systemd/system/holdfast-drain.service.d/test.conf",
                        f"[Service]\nExecStop=\nExecStop={vmctl} drain --parallel 1\n")
        host.unit("KillMode=control-group")
        restart(host)
        host.wait_manager()
        for name in names:
            host.apply(host.spec(name))
            host.wait_guests(name)
        before = host.vms()
        host.run("systemctl", "reboot", check=False)
        host.wait_reboot()
        host.wait_manager()
        wait_for(lambda: all(host.vms()[name]["state"] == "running" for name in names), "all VMs run again", 60, 0.1)
        host.wait_guests(*names)
        after = host.vms()
        for name in names:
            if after[name]["incarnation"] != before[name]["incarnation"] + 1 or after[name]["state"] != "running":
                raise Lost(f"{name} after the boot: {after[name]}")
            last = after[name]["last_exit"]
            if last["kind"] != "stopped" or last.get("signal") is not None:
                raise Lost(f"{name} ended by {last}")
            logs = host.run("sh", "-c", f"cat /var/log/holdfast/{name}/console-*.log").stdout
            if "powering off" not in logs:
                raise Lost(f"the guest {name} was not asked to shut down")
        order = sorted(names, key=lambda name: after[name]["last_exit"]["at"])
        if order != list(reversed(names)):
            raise Lost(f"order: {order}")
        for name in names:
            host.vmctl("delete", name, "--force")
        return "shut down in order, run again"

    table.cell("reboot of the host", "KillMode=control-group", cell)


class Poller:
    """Asks the manager without a pause, and measures how long nobody answered."""

    def __init__(self, host):
        self.process = subprocess.Popen(
            ["nsenter", "--target", str(host.init), "--pid", "--", sys.executable, "-B", os.path.join(SOURCE, "tests/systemd/poll.py"),
             f"/proc/{host.init}/root/run/holdfast/manager.sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "answered\n"

    def stop(self):
        return float(self.process.communicate("", timeout=20)[0])


def run_many(host, n=20):
    """A restart with many VMs: lost heartbeats, and how long the API is away."""
    names = [f"many-{i}" for i in range(n)]
    host.unit()
    restart(host)
    host.wait_manager()
    for i in range(0, n, 4):  # all at once they would keep each other from booting
        host.apply(*(host.spec(name, tick=500) for name in names[i:i + 4]))
        host.wait_guests(*names[i:i + 4])
    watch = Watch(host, names)
    away = []
    for _ in range(3):
        poller = Poller(host)
        try:
            restart(host)
            host.wait_manager()
        finally:
            away.append(poller.stop())
    watch.check()
    watch.check_scopes()
    host.vmctl("stop", "--all", "--force", timeout=300)
    return sorted(away)


def run_all(build, guest, short):
    modes = ("control-group", "process") if short else MODES
    actions = [one for one in ACTIONS if not short or one[1] in (restart, stop_start, kill_all, needrestart)]
    table = Table([f"KillMode={mode}" for mode in modes])
    names = ["a", "b"]
    began = time.monotonic()
    with Host(build, guest, "holdfast-matrix") as host:
        host.set_up()
        host.apply(*(host.spec(name) for name in names))
        host.wait_guests(*names)
        run_matrix(host, table, modes, actions, names)
        run_limits(host, table)
        run_replacement(host, table, names)
        run_without_scopes(host, table)
        if not short:
            run_users(host, table)
        run_negative(host, table)
        for name in names:
            host.vmctl("delete", name, "--force")
        run_reboot(host, table)
        print()
        print(table.text(), flush=True)
        if not short:
            away = run_many(host)
            milliseconds = ", ".join(f"{one * 1000:.0f}" for one in away)
            print(f"\nsystemctl restart with 20 VMs, three times: 0 lost heartbeats, API away {milliseconds} ms", flush=True)
    print(f"{'FAILED: ' + str(table.failed) if table.failed else 'all green'}, {time.monotonic() - began:.0f} s", flush=True)
    return table.failed == 0
