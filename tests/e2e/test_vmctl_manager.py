"""vmctl against a manager with canned answers: results, messages, exit status, JSON."""
import json
import os
import socket
import subprocess
import threading
import unittest

from fake_manager import MANAGER, Failure, Hangup, Taken
from vmctl_case import VMCTL, VmctlCase

LIST_KEYS = {"name", "wanted", "state", "health", "incarnation", "restarts", "uptime_ms", "shim_pid", "qemu_pid", "last_exit"}


class NoManager(VmctlCase):
    def test_exit_status_4_and_what_to_do(self):
        for words in (["list"], ["status", "web"], ["stop", "web"], ["stop", "--all"], ["events"], ["inspect", "web"], ["qmp", "web", "stop"],
                      ["wait", "web", "--timeout", "1s"], ["delete", "web"], ["start", "web", "db", "third"]):
            done = self.expect(4, *words, out="")
            self.assertEqual(done.stderr, f"vmctl: no manager answers on {self.path('run', 'manager.sock')} (start it: systemctl start holdfastd,"
                             " or run holdfastd); running VMs are not affected\n")

    def test_socket_left_by_a_dead_manager(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path("run", "manager.sock"))
        listener.listen()
        listener.close()
        self.expect(4, "list", err="no manager answers")

    def test_json_of_a_failure(self):
        self.assertEqual(json.loads(self.expect(4, "stop", "web", "--json").stdout)[0]["error"], "Unreachable")
        self.expect(4, "list", "--json", out="")

    def test_permission(self):
        def denied(p, c):
            raise Failure("org.varlink.service.PermissionDenied")
        self.manager(List=denied, Stop=denied)
        self.expect(6, "list", err="members of the group holdfast")
        self.expect(6, "stop", "web", err="members of the group holdfast")
        if os.geteuid() == 0:
            os.chmod(self.root, 0o755)
            os.chmod(self.path("run", "manager.sock"), 0o600)
            script = 'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" list'
            done = subprocess.run(["sh", "-c", script, VMCTL], env=self.environment, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 6, done.stderr)
            self.assertIn("members of the group holdfast", done.stderr)

    def test_manager_dies_in_a_call(self):
        def die(p, c):
            raise Hangup
        def die_later(p, c):
            c.more({"vm": None, "progress": "acpi power button"})
            raise Hangup
        self.manager(List=die, Stop=die_later, Apply=die)
        self.expect(4, "list", err="went away before it answered; running VMs are not affected")
        self.expect(4, "stop", "web", err="web: the manager went away")


class Verbs(VmctlCase):
    def test_list_json(self):
        self.manager()
        self.vms["web"]["last_exit"] = {"kind": "code", "code": 1, "signal": None, "at": "2026-11-21T09:00:00.000Z", "incarnation": 2, "final": False}
        for absent in ("shim_pid", "qemu_pid", "last_exit", "reason"):  # as a manager may leave out what is null
            del self.vms["db"][absent]
        vms = json.loads(self.expect(0, "list", "--json", err="").stdout)
        self.assertIsNone(vms[1]["qemu_pid"])
        self.assertEqual([one["name"] for one in vms], ["web", "db"])
        for one in vms:
            self.assertLessEqual(LIST_KEYS, set(one))
        self.assertEqual(self.expect(0, "list", "-q").stdout, "web\ndb\n")

    def test_progress_of_a_snapshot(self):
        taken = {"vm": "web", "name": "before", "id": "0", "live": True, "pause_us": 9000, "ram_size": 1 << 29, "present": 1 << 28, "disk": 0,
                 "working_set": False, "in_use_by": []}

        def create(p, c):
            c.more({"progress": {"phase": "copying memory", "done": 1 << 27, "total": 1 << 28}})
            return {"snapshot": taken}
        self.manager(SnapshotCreate=create)
        terminal = self.terminal("snapshot", "create", "web", "before", columns=120)
        self.addCleanup(terminal.close)
        text, code = terminal.finish()
        self.assertEqual(code, 0)
        self.assertIn("snapshot of web: copying memory [##########..........] 50 % (128 MiB of 256 MiB), 0.0 s", text)
        self.assertTrue(text.rstrip("\r\n").split("\x1b[K")[-1].startswith("web/before: taken"), text)
        self.expect(0, "snapshot", "create", "web", "before", err="", out="web/before: taken (256 MiB of 512 MiB of memory")
        self.assertEqual(json.loads(self.expect(0, "snapshot", "create", "web", "--json").stdout), {**taken, "created": None, "damaged": None})

    def test_empty_list(self):
        self.vms = {}
        self.manager()
        self.assertEqual(json.loads(self.expect(0, "list", "--json").stdout), [])
        self.assertEqual(self.expect(0, "list", "-q").stdout, "")
        self.expect(0, "list", out="no VMs")
        self.assertEqual(json.loads(self.expect(0, "stop", "--all", "--json").stdout), [])

    def test_status_and_inspect(self):
        self.manager()
        self.vms["web"].update(health="healthy", changed=True, last_exit={
            "kind": "signal", "code": None, "signal": 9, "at": "2026-11-21T09:00:00.000Z", "incarnation": 2, "final": False, "detail": None})
        text = self.expect(0, "status", "web", err="").stdout
        for wanted in ("web: running for 1 min 15 s, healthy", "pid 4002", "pid 4001", "SIGKILL", "newer spec", self.path("log", "web")):
            self.assertIn(wanted, text)
        self.expect(3, "status", "nosuch", err="vmctl: nosuch: no such VM (see: vmctl list)\n", out="")
        both = self.expect(3, "status", "nosuch", "db", err="nosuch: no such VM", out="db: running")
        self.assertEqual(both.stderr.count("\n"), 1)
        self.assertEqual([v["name"] for v in json.loads(self.expect(0, "status", "--all", "--json").stdout)], ["web", "db"])
        self.assertEqual(json.loads(self.expect(0, "inspect", "web").stdout)["spec"], {"name": "web"})
        self.expect(3, "inspect", "nosuch", err="nosuch: no such VM")

    def test_acting(self):
        service = self.manager()
        self.assertRegex(self.expect(0, "stop", "web", err="").stdout, r"^web: stopped \(0\.\d s\)\n$")
        self.assertEqual(service.calls[-1], (MANAGER + "Stop", {"name": "web"}))
        self.expect(0, "stop", "web", "--force", "--timeout", "1m30s", "-q", out="", err="")
        self.assertEqual(service.calls[-1], (MANAGER + "Stop", {"name": "web", "timeout_ms": 90000, "force": True}))
        self.expect(0, "start", "web", out="web: running")
        self.expect(0, "restart", "web", "--force", out="web: running")
        self.expect(0, "kill", "web", "--signal", "SIGTERM", out="web: stopped")
        self.assertEqual(service.calls[-1], (MANAGER + "Kill", {"name": "web", "signal": 15}))
        for verb, text in (("pause", "paused"), ("resume", "running"), ("reset", "reset")):
            self.expect(0, verb, "web", out=f"web: {text}\n")
        self.expect(0, "delete", "web", "--purge", "--force", out="web: deleted; kept: /disks/data.qcow2")
        self.assertEqual(service.calls[-1], (MANAGER + "Delete", {"name": "web", "force": True, "purge": True}))

    def test_several(self):
        service = self.manager()
        done = self.expect(0, "stop", "web", "db", "web", err="")
        self.assertEqual(sorted(line.split(":")[0] for line in done.stdout.splitlines()), ["db", "web"])
        self.assertEqual(sum(method == MANAGER + "Stop" for method, _ in service.calls), 2)
        self.expect(0, "start", "--all", out="db: running")
        self.expect(3, "start", "web", "nosuch", err="nosuch: no such VM", out="web: running")
        result = {one["name"]: one for one in json.loads(self.expect(3, "stop", "web", "nosuch", "--json").stdout)}
        self.assertEqual((result["web"]["done"], result["web"]["vm"]["state"]), (True, "stopped"))
        self.assertEqual((result["nosuch"]["done"], result["nosuch"]["error"]), (False, "NoSuchVM"))

    def test_several_are_asked_at_once(self):
        """Each answer waits for the other call: one after the other would never end."""
        both = threading.Barrier(2, timeout=20)

        def stop(p, c):
            both.wait()
            return {"vm": self.vms[p["name"]]}
        self.manager(Stop=stop)
        self.expect(0, "stop", "--all")

    def test_no_wait(self):
        """The first word of the manager is enough; the end never comes."""
        never = threading.Event()
        self.addCleanup(never.set)

        def stop(p, c):
            c.more({"vm": None, "progress": "acpi power button"})
            never.wait(30)
            raise Taken
        self.manager(Stop=stop, Start=stop)
        self.expect(0, "stop", "web", "--no-wait", out="web: asked, not waited for")
        self.expect(5, "start", "web", "--timeout", "100ms", err="web: still starting after 0.1 s: acpi power button; it goes on")

    def test_errors_of_the_manager(self):
        def fail(error, **parameters):
            def handler(p, c):
                raise Failure(MANAGER + error, **parameters)
            return handler
        self.manager(Start=fail("Failed", name="web", id="qemu-died", reason="QEMU exited with code 1", detail="qemu: bad option\nqemu: giving up"),
                     Delete=fail("Refused", name="web", reason="it runs (stop it first, or use --force)"),
                     Wait=fail("TimedOut", name="web", reason="still launching after 2 s"),
                     Pause=fail("Refused", name="web", reason="web: it does not run"),
                     Qmp=fail("Failed", name="web", id="qmp", reason="The command nope has not been found"))
        self.assertEqual(self.expect(1, "start", "web", out="").stderr,
                         "vmctl: web: QEMU exited with code 1: qemu: bad option; qemu: giving up\n")
        self.expect(6, "delete", "web", err="vmctl: web: it runs (stop it first, or use --force)\n")
        self.expect(5, "wait", "web", "--for", "healthy", "--timeout", "2s", err="web: still launching after 2 s")
        self.expect(6, "pause", "web", err="vmctl: web: it does not run\n")
        self.expect(1, "qmp", "web", "nope", err="nope has not been found")

    def test_wait(self):
        service = self.manager()
        self.expect(0, "wait", "web", "--for", "healthy", "--timeout", "2s", out="web: running")
        self.assertEqual(service.calls[-1], (MANAGER + "Wait", {"name": "web", "condition": "healthy", "timeout_ms": 2000}))

    def test_qmp(self):
        service = self.manager(Qmp=lambda p, c: {"result": {"return": {"status": "running"}, "id": 7}})
        self.assertEqual(json.loads(self.expect(0, "qmp", "web", "query-status", err="").stdout), {"status": "running"})
        self.expect(0, "qmp", "web", "x-y", '{"a": 1}')
        self.assertEqual(service.calls[-1], (MANAGER + "Qmp", {"name": "web", "command": "x-y", "arguments": {"a": 1}}))

    def test_events(self):
        def events(p, c):
            c.more({"event": {"name": "web", "seq": 7, "at": "T", "type": "state", "incarnation": 3, "text": "run\x1b[31mning"}})
            c.more({"gap": {"name": "web", "lost": 4}})
            if p.get("names") == ["nosuch"]:
                raise Failure(MANAGER + "NoSuchVM", name="nosuch", reason="")
            return {}
        service = self.manager(Events=events)
        done = self.expect(0, "events", "web", "--since", "6", err="")
        self.assertEqual(done.stdout, "T web #7 state: run?[31mning\n- web: 4 events are no longer kept\n")
        self.assertEqual(service.calls[-1][1], {"names": ["web"], "since": 6, "follow": False})
        lines = [json.loads(line) for line in self.expect(0, "events", "--json").stdout.splitlines()]
        self.assertEqual((lines[0]["seq"], lines[1]["gap"]["lost"]), (7, 4))
        self.expect(3, "events", "nosuch", err="nosuch: no such VM")


class Specs(VmctlCase):
    def setUp(self):
        super().setUp()
        self.kernel = self.path("kernel")
        open(self.kernel, "w").close()

    def spec(self, name, **more):
        return json.dumps({"name": name, "memory": "64M", "boot": {"kernel": self.kernel}, **more})

    def file(self, name, text):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_check(self):
        good = self.file("good.json", self.spec("web"))
        self.expect(0, "check", good, out=f"{good}: good (web)", err="")
        self.expect(0, "check", "-", stdin=self.spec("web"), out="standard input: good (web)")
        bad = self.file("bad.json", json.dumps({"name": "../x", "memory": 12, "boot": {"kernel": self.kernel}, "disks": [{"name": "a", "size": "big"}],
                                                "netwrk": []}))
        lines = self.expect(1, "check", bad, good, out="good (web)").stderr.splitlines()
        for where in ("/name", "/memory", "/disks/0/size", "/netwrk"):
            self.assertEqual(sum(line.startswith(f"{bad}: {where}: ") for line in lines), 1, (where, lines))
        broken = self.file("broken.json", '{\n  "name": "web",,\n}')
        self.assertRegex(self.expect(1, "check", broken, out="").stderr, rf"^{broken}: line 2, column \d+: .+\n$")
        self.expect(1, "check", self.path("missing.json"), err="missing.json: No such file")
        self.expect(1, "check", self.file("nokernel.json", self.spec("web").replace("kernel\"}", "nowhere\"}")), err=": /boot/kernel: ")
        twice = self.file("twice.json", self.spec("web"))
        self.expect(1, "check", good, twice, err=f'{twice}: /name: "web" is already the name of the VM in {good}')
        self.expect(1, "check", self.file("large.json", " " * (1 << 20) + "{}"), err="larger than 1 MiB")
        self.expect(2, "check", err="needs FILE")
        results = json.loads(self.expect(1, "check", "--json", good, bad, broken, err="").stdout)
        self.assertEqual([r["ok"] for r in results], [True, False, False])
        self.assertEqual(results[0], {"file": good, "name": "web", "ok": True, "problems": [], "warnings": []})
        self.assertIn("/disks/0/size", [p["path"] for p in results[1]["problems"]])
        self.assertEqual(results[2]["problems"][0]["path"], "")

    def sp_vm(self, name="web", run=None, **qemu):
        """A file of the sp-vm watchdog, with a build folder that has what it must have."""
        build = self.path("build")
        os.makedirs(build, exist_ok=True)
        for file in ("vmlinuz", "OVMF.fd", "sp-vm-build-7.img"):
            open(os.path.join(build, file), "w").close()
        with open(os.path.join(build, "rootfs_hash.txt"), "w") as f:
            f.write("0123abcd\n")
        return json.dumps({"name": name, "run_configuration": {"build_dir": build, **(run or {})},
                           "qemu_configuration": {"mode": "untrusted", "cores": 2, "mem_gb": 4, "state_disk_size_gb": 10, "state_disk_persistent": True, **qemu}})

    def test_check_of_sp_vm_files(self):
        good = self.file("vms/a.json", self.sp_vm())
        self.expect(0, "check", good, out=f"{good}: good (web)\n", err="")
        careless = self.file("vms/b.json", self.sp_vm("b", cpus=2, cache_dir="/var/cache/b"))
        lines = self.expect(0, "check", careless, out=f"{careless}: good (b)\n").stderr.splitlines()
        self.assertEqual(lines, [f"{careless}: warning: /qemu_configuration/cache_dir: not used: the disks of a VM are in its state folder",
                                 f"{careless}: warning: /qemu_configuration/cpus: unknown key, ignored"])
        bad = self.file("vms/c.json", self.sp_vm("c/c", {"build_dir": "/nowhere"}, mode="tDx", gpus=["c1:00.9"], cores=0, state_disk_size_gb=0))
        native = self.file("vms/d.json", self.spec("web", cpus="two"))
        lines = self.expect(1, "check", self.path("vms"), out="good (web)").stderr.splitlines()
        for file, where in ((bad, "/name"), (bad, "/run_configuration/build_dir"), (bad, "/qemu_configuration/mode"), (bad, "/qemu_configuration/gpus/0"),
                            (bad, "/qemu_configuration/cores"), (bad, "/qemu_configuration/state_disk_size_gb"), (native, "/cpus")):
            self.assertEqual(sum(line.startswith(f"{file}: {where}: ") for line in lines), 1, (where, lines))
        self.expect(1, "check", good, self.file("twice.json", self.spec("web")), err='/name: "web" is already the name of the VM in')
        result = json.loads(self.expect(0, "check", "--json", careless, err="").stdout)[0]
        self.assertEqual([w["path"] for w in result["warnings"]], ["/qemu_configuration/cache_dir", "/qemu_configuration/cpus"])
        os.unlink(self.path("build", "OVMF.fd"))
        self.expect(1, "check", good, out="", err=f"{good}: /run_configuration/build_dir: '{self.path('build', 'OVMF.fd')}' can't be found")

    def test_convert(self):
        done = self.expect(0, "convert", self.file("a.json", self.sp_vm(http_port=8080, cpus=2)), err="warning: /qemu_configuration/cpus: unknown key")
        native = json.loads(done.stdout)
        self.assertEqual((native["name"], native["cpus"], native["memory"]), ("web", 2, "4G"))
        self.assertEqual(native["boot"]["cmdline"], "root=LABEL=rootfs rootfs_verity.scheme=dm-verity rootfs_verity.hash=0123abcd")
        self.assertEqual([d.get("path") or d["name"] for d in native["disks"]], [self.path("build", "sp-vm-build-7.img"), "state"])
        self.assertEqual([f["host"] for f in native["network"][0]["forward"]], ["0.0.0.0:8080", "0.0.0.0:51820"])
        again = self.expect(0, "convert", "-", stdin=done.stdout, err="").stdout
        self.assertEqual(again, done.stdout)
        self.expect(0, "check", "-", stdin=done.stdout, out="good (web)", err="")
        self.expect(1, "convert", self.file("b.json", self.sp_vm(mode="sev-snp")), out="", err="b.json: /qemu_configuration/mode: this host offers no SEV-SNP")
        self.expect(1, "convert", self.path("missing.json"), out="", err="missing.json: No such file")
        self.expect(2, "convert", err="needs FILE")
        self.expect(2, "convert", "a", "b", err="unexpected argument")

    def test_apply_of_an_sp_vm_file(self):
        """It reaches the manager as it is written, and its warnings are told once."""
        service = self.manager(Apply=self.apply_handler())
        file = self.file("sp.json", self.sp_vm("new", comment=1))
        done = self.expect(0, "apply", file, out="new: created, running")
        self.assertEqual(done.stderr, f"{file}: warning: /qemu_configuration/comment: unknown key, ignored\n")
        self.assertEqual(service.calls[0][1]["spec"], json.loads(self.sp_vm("new", comment=1)))
        done = self.run_vmctl("apply", self.file("no.json", self.sp_vm("refused", comment=1)))
        self.assertEqual((done.returncode, done.stderr.count("warning")), (1, 1))
        self.assertIn("/network/0/forward/0/host: port 80 is web's", done.stderr)

    def apply_handler(self, change="created", restart_needed=False):
        def handler(p, c):
            name = p["spec"]["name"]
            if name == "refused":
                raise Failure(MANAGER + "BadSpec", problems=[{"path": "/network/0/forward/0/host", "reason": "port 80 is web's"}], reason="bad spec")
            if name not in self.vms:
                self.vms[name] = {**self.vms["web"], "name": name}
            return {"name": name, "change": change, "restart_needed": restart_needed}
        return handler

    def test_apply(self):
        service = self.manager(Apply=self.apply_handler())
        new = self.file("new.json", self.spec("new"))
        self.assertRegex(self.expect(0, "apply", new, err="").stdout, r"^new: created, running \(0\.\d s\)\n$")
        self.assertEqual([method for method, _ in service.calls], [MANAGER + "Apply", MANAGER + "Start"])
        self.assertEqual(service.calls[0][1]["spec"], json.loads(self.spec("new")))
        self.expect(0, "apply", "-", stdin=self.spec("new"), out="new: created, running")
        self.expect(0, "apply", new, "--no-wait", out="new: created\n")
        self.assertEqual(service.calls[-1][0], MANAGER + "Apply")
        self.expect(0, "apply", "-", stdin=self.spec("new", enabled=False), out="new: created, not enabled\n")
        self.assertEqual(service.calls[-1][0], MANAGER + "Apply")

    def test_apply_a_folder_with_a_bad_one(self):
        self.manager(Apply=self.apply_handler())
        for name in ("a", "c", "refused"):
            self.file(f"specs/{name}.json", self.spec(name))
        bad = self.file("specs/b.json", "{")
        self.file("specs/notes.txt", "no spec")
        os.mkfifo(self.path("specs/fifo.json"))
        done = self.expect_lines(1, "apply", self.path("specs"))
        self.assertIn(f"{self.path('specs/fifo.json')}: not a file\n", done.stderr)
        self.assertRegex(done.stdout, r"a: created, running .*\nc: created, running|c: created, running .*\na: created, running")
        self.assertIn(f"{bad}: line 1", done.stderr)
        self.assertIn(f"{self.path('specs/refused.json')}: /network/0/forward/0/host: port 80 is web's\n", done.stderr)
        results = {r.get("name"): r for r in json.loads(self.expect_lines(1, "apply", "--json", self.path("specs")).stdout)}
        self.assertEqual((results["a"]["done"], results["a"]["change"], results["a"]["vm"]["state"]), (True, "created", "running"))
        self.assertEqual((results["refused"]["done"], results["refused"]["error"]), (False, "BadSpec"))

    def expect_lines(self, code, *words):
        done = self.run_vmctl(*words)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_apply_tells_of_a_needed_restart(self):
        self.manager(Apply=self.apply_handler("updated", True))
        self.expect(0, "apply", "-", stdin=self.spec("web"), out="; it runs with its earlier spec until: vmctl restart web\n")

    def test_apply_tells_what_was_changed_live(self):
        self.manager(Apply=lambda p, c: {"name": "web", "change": "updated", "restart_needed": False, "live": ["health", "logs"]})
        self.expect(0, "apply", "-", stdin=self.spec("web"), out="; changed while it runs: health, logs\n")
        self.expect(0, "apply", "-", "--no-wait", stdin=self.spec("web"), out="web: updated; changed while it runs: health, logs\n")

    DIFFERENCES = [{"what": "/memory", "old": "1G", "new": "2G", "live": False},
                   {"what": "/network/0/forward/0", "new": "80", "live": False, "why": "QEMU lacks the right"},
                   {"what": "/logs/keep", "old": "3", "new": "4", "live": True}]

    def diff_handler(self, effect="restart", change=None):
        def handler(p, c):
            if not p.get("spec"):
                self.known(p)
            if p["name"] == "refused":
                raise Failure(MANAGER + "BadSpec", problems=[{"path": "/gpus", "reason": "not there"}], reason="bad spec")
            return {"effect": effect, "change": "updated" if p.get("spec") else None,
                    "differences": self.DIFFERENCES if effect in ("restart", "live") else []}
        return handler

    def test_diff(self):
        service = self.manager(Diff=self.diff_handler())
        done = self.expect(0, "diff", "web", err="")
        self.assertEqual(done.stdout.splitlines()[:2], ["web: would change by a restart: until then it goes on as it is",
                                                        "web: /network/0/forward/0: QEMU lacks the right"])
        self.assertRegex(done.stdout, r"VM +WHAT +NOW +THEN +HOW *\nweb +/memory +1G +2G +restart *\nweb +/network/0/forward/0 +- +80 +restart")
        self.assertEqual(service.calls[-1], (MANAGER + "Diff", {"name": "web"}))
        self.assertEqual(self.expect(0, "diff", "web", "-q").stdout, "")
        [one] = json.loads(self.expect(0, "diff", "web", "--json").stdout)
        self.assertEqual((one["name"], one["effect"], one["differences"]), ("web", "restart", self.DIFFERENCES))
        self.expect(3, "diff", "nobody", err="no such VM")
        self.expect(2, "diff", err="diff needs")
        self.expect(2, "diff", "no*name", err="no VM name")
        done = self.expect(0, "diff", "--all")
        self.assertIn("db: would change", done.stdout)

    def test_diff_of_a_file(self):
        service = self.manager(Diff=self.diff_handler("none"))
        file = self.file("new.json", self.spec("new"))
        self.assertEqual(self.expect(0, "diff", file).stdout, "new: updated, nothing would change\n")
        self.assertEqual(service.calls[-1][1], {"name": "new", "spec": json.loads(self.spec("new"))})
        self.assertEqual(self.expect(0, "apply", "--dry-run", file, "-", stdin=self.spec("web")).stdout,
                         "new: updated, nothing would change\nweb: updated, nothing would change\n")
        self.assertEqual({method for method, _ in service.calls}, {MANAGER + "Diff"})
        done = self.run_vmctl("diff", self.file("bad.json", self.spec("refused")), self.file("worse.json", "{"), "web")
        self.assertEqual((done.returncode, done.stdout), (1, "web: nothing would change\n"))
        self.assertIn("bad.json: /gpus: not there\n", done.stderr)
        self.assertIn("worse.json: line 1", done.stderr)
        results = json.loads(self.run_vmctl("diff", "--json", self.path("bad.json"), "web").stdout)
        self.assertEqual([r.get("error") for r in results], ["BadSpec", None])

    def test_diff_with_no_manager(self):
        self.expect(4, "diff", "web", err="no manager answers")
        self.expect(4, "apply", "--dry-run", self.file("good.json", self.spec("web")), err="no manager answers")

    def test_apply_with_no_manager(self):
        good = self.file("good.json", self.spec("web"))
        bad = self.file("bad.json", "[]")
        done = self.expect_lines(1, "apply", bad)
        self.assertTrue(done.stderr.startswith(bad + ": "), done.stderr)
        self.expect(4, "apply", good, err="no manager answers")


class Tables(VmctlCase):
    def setUp(self):
        super().setUp()
        self.vms["web"]["reason"] = "a long story of how it came to be as it is, and what may be done about it, in many words"
        self.vms["db"].update(state="failed", qemu_pid=None, last_exit={
            "kind": "guest-shutdown", "code": 0, "signal": None, "at": "2026-11-21T09:00:00.000Z", "incarnation": 2, "final": True})
        self.manager()

    def test_widths(self):
        for columns, shown, hidden in ((40, ("NAME", "STATE"), ("RESTARTS", "PID")), (80, ("NAME", "STATE", "UPTIME", "REASON"), ()),
                                       (200, ("NAME", "WANTED", "STATE", "HEALTH", "UPTIME", "RESTARTS", "PID", "REASON"), ())):
            terminal = self.terminal("list", columns=columns, NO_COLOR="1")
            self.addCleanup(terminal.close)
            text, code = terminal.finish()
            self.assertEqual(code, 0)
            lines = text.splitlines()
            self.assertEqual(len(lines), 3, text)
            for line in lines:
                self.assertLessEqual(len(line), columns, repr(line))
            for title in shown:
                self.assertIn(title, lines[0])
            for title in hidden:
                self.assertNotIn(title, lines[0])
            self.assertIn("web", lines[1])
            self.assertIn("failed", lines[2])

    def test_into_a_pipe_it_is_whole_and_plain(self):
        text = self.expect(0, "list", err="").stdout
        self.assertIn(self.vms["web"]["reason"], text)
        self.assertNotIn("\x1b", text)
        self.assertRegex(text, r"db +running +failed +- +- +0 +- +guest")

    def test_colours(self):
        for words, extra, coloured in ((["list"], {}, True), (["list"], {"NO_COLOR": "1"}, False), (["list", "--no-color"], {}, False),
                                       (["list"], {"TERM": "dumb"}, False), (["status", "web"], {}, True),
                                       (["status", "web"], {"NO_COLOR": "1"}, False), (["list", "--json"], {}, False)):
            terminal = self.terminal(*words, **extra)
            self.addCleanup(terminal.close)
            text, code = terminal.finish()
            self.assertEqual((code, "\x1b[3" in text), (0, coloured), (words, extra, text))

    def test_hostile_text(self):
        """What a guest or a spec got into a reason can't command the terminal."""
        self.vms["web"]["reason"] = "\x1b]0;owned\x07\x1b[2J"
        for words in (["list"], ["status", "web"]):
            self.assertNotIn("\x1b", self.expect(0, *words).stdout)

    def test_progress_only_on_a_terminal(self):
        terminal = self.terminal("stop", "web")
        self.addCleanup(terminal.close)
        text, code = terminal.finish()
        self.assertEqual(code, 0)
        self.assertIn("stopping web: half way to stopped, 0.0 s", text)
        self.assertTrue(text.rstrip("\r\n").split("\x1b[K")[-1].startswith("web: stopped"), text)
        self.expect(0, "start", "web", err="")


if __name__ == "__main__":
    unittest.main()
