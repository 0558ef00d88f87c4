"""What the tests of snapshots, restores and clones share: a host for a whole class, with one guest that was saved once; a reader of
what guests say of their memory and disk; and the ways to make a saved guest unfit."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess

from harness import DEADLINE, Host, HostTest, Varlink, gaps, processes_of, program, wait_for

MIB = 1 << 20
PAGE = 4096
LONG = bool(os.environ.get("HOLDFAST_LONG"))
MANAGER, SHIM = "io.holdfast.Manager.", "io.holdfast.Shim."
MODES = ("lazy", "mapped", "eager")
PASSES = 2  # the first to end after a restore began before it


class MemoryHost(Host):
    """A host whose guests check their memory. The console's log is one file over all boots and restores, so whoever wants to know
    what was said since an instant takes a mark() then."""

    def memory_spec(self, name, memory=128, pattern=40, cmdline="", **more):
        spec = self.guest_spec(name, memory=f"{memory}M", disks=[{"name": "data", "size": "16M"}], network=[{"mode": "user"}], **more)
        spec["boot"]["cmdline"] += f" pattern=42,{pattern} disk=/dev/vda {cmdline}".rstrip()
        return spec

    def boot(self, name, **more):
        """A guest whose memory and disk are full and were right once."""
        self.apply(self.memory_spec(name, **more))
        self.wait_said(name, r"pattern (pass \d+ ok|held)")
        self.wait_said(name, r"disk pass \d+ ok, .*")

    # ---- what the guest says ----

    def console(self, name, since=0):
        with contextlib.suppress(OSError), open(self.path("log", name, "console.log"), "rb") as f:
            f.seek(since)
            return f.read().decode(errors="replace")
        return ""

    def mark(self, name):
        with contextlib.suppress(OSError):
            return os.path.getsize(self.path("log", name, "console.log"))
        return 0

    def say(self, name, line):
        with self.shim(name) as v:
            v.call(SHIM + "Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(line.encode() + b"\n")

    def wait_said(self, name, pattern, since=0, deadline=DEADLINE):
        line = re.compile(rf"^{pattern}\r?$", re.M)
        return wait_for(lambda: line.search(self.console(name, since)), f"{name} to say {pattern} ({self.console(name, since)[-300:]!r})",
                        deadline, 0.02)

    def ask(self, name, line, answer):
        since = self.mark(name)
        self.say(name, line)
        return self.wait_said(name, answer, since)

    def wait_checked(self, name, since, passes=PASSES, disk=PASSES):
        """All memory and the whole disk of the guest were looked at since the mark, and were right."""
        def checked():
            text = self.console(name, since)
            assert "WRONG" not in text, f"{name}: " + "\n".join(line for line in text.splitlines() if "WRONG" in line)
            return (len(re.findall(r"^pattern pass \d+ ok\r?$", text, re.M)) >= passes
                    and len(re.findall(r"^disk pass \d+ ok, ", text, re.M)) >= disk)
        try:
            wait_for(checked, f"{name} to have checked its memory and disk", DEADLINE, 0.02)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.console(name, since)[-500:]}\n{self.shim_logs()}") from None

    def ticks_since(self, name, since):
        return [int(n) for n in re.findall(r"^tick (\d+)\r?$", self.console(name, since), re.M)]

    # ---- the interfaces, past vmctl ----

    def ask_manager(self, method, timeout=60, **parameters):
        with Varlink(os.path.join(self.dirs["run"], "manager.sock"), timeout) as v:
            answer = v.call(MANAGER + method, parameters)
        assert "error" not in answer, answer
        return answer["parameters"]

    def memory(self, name):
        with self.shim(name) as v:
            answer = v.call(SHIM + "GetMemory")
        assert "error" not in answer, answer
        return answer["parameters"]

    def qmp(self, name, command, **arguments):
        with self.shim(name) as v:
            answer = v.call(SHIM + "Qmp", {"command": command, "arguments": {k.replace("_", "-"): a for k, a in arguments.items()}})
        assert "error" not in answer, answer
        return answer["parameters"]["result"]["return"]

    def wait_complete(self, name):
        return wait_for(lambda: (lambda m: m if m["present"] == m["total"] else None)(self.memory(name)),
                        f"all of {name}'s memory to be there ({self.memory(name)})", DEADLINE, 0.02)

    # ---- snapshots ----

    def folder(self, vm, snapshot):
        return os.path.join(self.dirs["state"], "snapshots", vm, snapshot)

    def record(self, vm, snapshot):
        """With sizes as numbers: on disk they are texts ("128M")."""
        record = self.record_on_disk(vm, snapshot)
        for key in ("ram_size", "state_size"):
            number, unit = re.fullmatch(r"(\d+)([KMGT]?)", record[key]).groups()
            record[key] = int(number) << 10 * " KMGT".index(unit or " ")
        return record

    def record_on_disk(self, vm, snapshot):
        with open(os.path.join(self.folder(vm, snapshot), "snapshot.json")) as f:
            return json.load(f)

    def snapshots(self, vm=None):
        return {f"{s['vm']}/{s['name']}": s for s in self.ask_manager("SnapshotList", **({"name": vm} if vm else {}))["snapshots"]}

    def half_snapshots(self):
        """What isn't a whole snapshot, or is in none: folders under their temporary names."""
        store = os.path.join(self.dirs["state"], "snapshots")
        return [os.path.join(where, name) for where, folders, _ in os.walk(store) for name in folders if name.startswith(".")]

    def copy_snapshot(self, vm, snapshot, name):
        """Another snapshot with the same content, to be damaged. Its disks stay where they are."""
        subprocess.run(["cp", "-a", "--sparse=always", self.folder(vm, snapshot), self.folder(vm, name)], check=True)
        self.edit_record(vm, name, lambda record: record.update(name=name))
        return self.folder(vm, name)

    def edit_record(self, vm, snapshot, edit):
        record = self.record_on_disk(vm, snapshot)
        edit(record)
        with open(os.path.join(self.folder(vm, snapshot), "snapshot.json"), "w") as f:
            json.dump(record, f)

    def configure(self, **restore):
        """Another manager, with this in its host configuration; no VM notices."""
        with open(os.path.join(self.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"restore": restore} if restore else {}, f)
        self.kill_manager(signal.SIGTERM)
        self.start_manager()


class MemoryTest(HostTest):
    """The tests of a class share a host, and a snapshot, base/one, of a guest that rewrote its memory and disk while it was taken. What a
    test makes, forget() removes."""

    FAILPOINTS = None  # for the manager's environment
    shared = None

    @classmethod
    def setUpClass(cls):
        cls.shared = MemoryHost()
        try:
            cls.begin()
        except BaseException:
            cls.shared.destroy()
            raise

    @classmethod
    def begin(cls):
        cls.start_manager()
        cls.shared.boot("base")
        cls.shared.vmctl("snapshot", "create", "base", "one")
        cls.shared.vmctl("stop", "base", "--force")

    @classmethod
    def start_manager(cls, **environment):
        cls.shared.start_manager(HOLDFAST_FAILPOINT=cls.FAILPOINTS, **environment)

    @classmethod
    def tearDownClass(cls):
        host = cls.shared
        try:
            if host.manager is None or host.manager.poll() is not None:
                cls.start_manager()
            if any(vm["state"] != "stopped" for vm in host.list().values()):
                host.vmctl("stop", "--all", "--force")
            assert host.kill_manager(signal.SIGTERM) == 0, host.manager_log()
            wait_for(lambda: not host.left_behind(), f"no process left ({host.left_behind()})", 20)
            assert host.half_snapshots() == [], host.half_snapshots()
        finally:
            host.destroy()

    def setUp(self):
        self.host = self.shared
        if self.host.manager is None or self.host.manager.poll() is not None:
            self.start_manager()

    def forget(self, *names):
        for name in names:
            self.host.vmctl("delete", name, "--force", "--purge", check=False)

    def drop(self, *snapshots):
        for snapshot in snapshots:
            self.host.vmctl("snapshot", "delete", snapshot, check=False)

    def restore(self, name, snapshot="base/one", mode=None, words=(), check=True):
        """Restores, and returns what vmctl said; the VM is forgotten at the end of the test."""
        self.addCleanup(self.forget, name)
        return self.host.vmctl("restore", name, snapshot, *(("--mode", mode) if mode else ()), *words, check=check)

    def assertRestored(self, name, mode=None, since=0):
        """It runs as one QEMU, in that mode, its time went on without a gap, and all it holds is right."""
        self.assertEqual(self.host.state(name), "running")
        self.assertOneQemu(name)
        if mode:
            self.assertEqual(self.host.memory(name)["mode"], mode)
        self.host.wait_checked(name, since)
        self.assertOnwards(name, since)

    def assertOnwards(self, name, since):
        wait_for(lambda: len(self.host.ticks_since(name, since)) > 2, f"heartbeats of {name}", 30)
        self.assertEqual(gaps(self.host.ticks_since(name, since)), [], f"heartbeats of {name} are missing")

    def assertRefused(self, done, *words):
        """A message of one line that has these words, and neither a QEMU nor anything else of a VM's came of it."""
        self.assertIn(done.returncode, (1, 6), f"{done.stdout}{done.stderr}")
        self.assertTrue(done.stderr.startswith("vmctl: ") and done.stderr.count("\n") == 1, done.stderr)
        for word in words:
            self.assertRegex(done.stderr, word)

    def assertNothingOf(self, name):
        """No process, socket or lock holder of a VM that came to nothing."""
        wait_for(lambda: not self.processes(name), f"nothing of {name} to run ({self.processes(name)})", 20)
        run = self.host.path("run", name)
        self.assertEqual([f for f in os.listdir(run) if f.endswith(".sock")] if os.path.isdir(run) else [], [])
        vm = self.host.list().get(name)
        self.assertTrue(vm is None or (vm["qemu_pid"], vm["shim_pid"]) == (None, None), vm)

    def processes(self, name):
        line = re.compile(rf"guest={re.escape(name)}[, ]|/holdfast-shim(-\w+)? .* {re.escape(name)}$")
        return [found for found in processes_of(self.host.root) if line.search(found[1])]

    def background(self, *words):
        child = subprocess.Popen([program("vmctl"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env=self.host.environment())

        def end():
            if child.poll() is None:
                child.kill()
            child.wait()
        self.addCleanup(end)
        return child


def small_file_system(test, folder, size):
    """A tmpfs of that many MiB in the folder's place."""
    os.makedirs(folder, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "holdfast-test", folder], capture_output=True, check=False)
    if done.returncode != 0:
        test.skipTest("kernel: no file system can be mounted")
    test.addCleanup(subprocess.run, ["umount", "-l", folder], capture_output=True, check=False)


def remove_tree(path):
    shutil.rmtree(path, ignore_errors=True)
