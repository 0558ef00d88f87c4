"""vmctl doctor: on made-up hosts (files and programs below a root), whose findings are kept in tests/golden/doctor; and --prove with a real
manager and a real QEMU."""
import json
import os
import platform
import re
import signal
import subprocess
import unittest

from harness import HostTest, alive, program, wait_for
from vmctl_case import HERE, VmctlCase

GOLDEN = os.path.join(os.path.dirname(HERE), "golden", "doctor")
UPDATE = os.environ.get("HOLDFAST_GOLDEN_UPDATE")
BOOT = "11111111-2222-3333-4444-555555555555"
QEMU = f"usr/bin/qemu-system-{platform.machine()}"

# What the package's unit says.
GOOD_UNIT = {"LoadState": "loaded", "ActiveState": "active", "KillMode": "process", "RuntimeDirectory": "holdfast",
             "RuntimeDirectoryPreserve": "yes", "OOMPolicy": "continue", "TasksMax": "infinity", "LimitNOFILE": "524288",
             "LimitMEMLOCK": "infinity"}
DEFAULTS = {**GOOD_UNIT, "KillMode": "control-group", "RuntimeDirectoryPreserve": "no", "OOMPolicy": "stop", "TasksMax": "512"}
DRAIN = {"LoadState": "loaded", "ActiveState": "active"}
MANAGER = "/system.slice/holdfastd.service"
USER = "/user.slice/user-1000.slice/user@1000.service"


class Tree:
    """A host below a folder."""

    def __init__(self, root, version):
        self.root, self.version, self.pid = root, version, 1000
        self.hierarchies = "0::%s"
        self.write("proc/sys/kernel/random/boot_id", BOOT)
        self.write("proc/cpuinfo", "processor : 0\nflags\t\t: fpu vmx sse\n")
        self.write("dev/kvm", "")
        self.write("dev/userfaultfd", "")
        self.write("proc/meminfo", "MemTotal: 1000 kB\nHugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n")
        self.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force")
        self.write("proc/loadavg", "0.00 0.00 0.00 1/200 4242")
        self.write("proc/sys/kernel/pid_max", "4194304")
        self.write("proc/sys/kernel/threads-max", "1000000")
        self.write(QEMU, """#!/bin/sh
case "$*" in
-version) echo "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)" ;;
*) echo "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)"
   echo "virt                 QEMU 7.2 ARM Virtual Machine (alias of virt-7.2)" ;;
esac
""")
        self.write("usr/bin/qemu-img", "#!/bin/sh\n")
        for folder in ("run/holdfast/vms", "var/lib/holdfast", "var/log/holdfast"):
            os.makedirs(os.path.join(root, folder))

    def write(self, path, text):
        whole = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w") as f:
            f.write(text if not text or text.endswith("\n") else text + "\n")
        os.chmod(whole, 0o755 if text.startswith("#!") else 0o644)

    def remove(self, path):
        os.unlink(os.path.join(self.root, path))

    def process(self, comm, cgroup, start=777, state="S"):
        self.pid += 1
        self.write(f"proc/{self.pid}/comm", comm)
        self.write(f"proc/{self.pid}/stat", f"{self.pid} ({comm} ) x) {state} " + " ".join(["0"] * 18) + f" {start} 0 0")
        if cgroup is not None:
            self.write(f"proc/{self.pid}/cgroup", self.hierarchies.replace("%s", cgroup))
        self.write(f"proc/{self.pid}/limits", "Limit                     Soft Limit           Hard Limit           Units\n"
                   "Max open files            1024                 524288               files\n"
                   "Max locked memory         unlimited            unlimited            bytes\n")
        return {"pid": self.pid, "start_time": 777}

    def manager(self, cgroup=MANAGER):
        self.write("run/holdfast/manager.lock", str(self.process("holdfastd", cgroup)["pid"]))

    def vm(self, name, cgroup, qemu_cgroup=None, version=None, shim=True, boot=BOOT):
        status = {"schema": 1, "name": name, "incarnation": 1, "state": "running", "boot_id": boot, "version": version or self.version}
        shim_process = self.process("holdfast-shim", cgroup, start=777 if shim else 778)
        self.write(f"run/holdfast/vms/{name}/status.json",
                   json.dumps({**status, "shim": shim_process, "qemu": self.process("qemu-system-x86", qemu_cgroup or cgroup)}))

    def units(self, **units):
        """systemd, which tells these properties; a name's '_' stands for '-'."""
        os.makedirs(os.path.join(self.root, "run/systemd/system"), exist_ok=True)
        cases = "".join(f"{name.replace('_', '-')}.service) cat <<'END'\n" + "".join(f"{k}={v}\n" for k, v in unit.items()) + "END\n;;\n"
                        for name, unit in units.items())
        self.write("usr/bin/systemctl", f"#!/bin/sh\necho \"$@\" >>{self.root}/asked\nfor unit; do :; done\ncase \"$unit\" in\n{cases}*) echo LoadState=not-found ;;\nesac\n")


def packaged(tree):
    """As the package sets it up: a scope per VM, all well. In a container of a host that has cgroup v1 as well."""
    tree.hierarchies = "9:name=systemd:/\n8:pids:/\n0::%s"
    tree.manager()
    tree.units(holdfastd=GOOD_UNIT, holdfast_drain=DRAIN)
    for name in ("web", "db"):
        tree.vm(name, f"/holdfast.slice/holdfast-vm-{name}.scope", f"/holdfast.slice/holdfast-vm-{name}.scope/holdfast-vm-{name}-1")


def packaged_hybrid(tree):
    """v1 and v2, as systemd calls hybrid; or v1 alone."""
    tree.hierarchies = "9:name=systemd:%s\n0::%s"
    tree.manager()
    tree.units(holdfastd=GOOD_UNIT, holdfast_drain=DRAIN)
    tree.vm("web", "/holdfast.slice/holdfast-vm-web.scope")
    tree.hierarchies = "9:name=systemd:%s\n0::/"
    tree.vm("db", "/holdfast.slice/holdfast-vm-db.scope")
    tree.hierarchies = "9:name=systemd:%s\n"
    tree.vm("mail", "/holdfast.slice/holdfast-vm-mail.scope")


def packaged_without_scopes(tree):
    """No right to make scopes: KillMode=process keeps the VMs, and what it doesn't is told."""
    tree.manager()
    tree.units(holdfastd=GOOD_UNIT, holdfast_drain=DRAIN)
    tree.vm("web", MANAGER, MANAGER + "/holdfast-vm-web-1")


def systemd_defaults(tree):
    """A unit somebody wrote in a hurry: the failure this project began with."""
    tree.manager()
    tree.units(holdfastd=DEFAULTS)
    for i in range(8):
        tree.vm(f"vm{i}", MANAGER, MANAGER + f"/holdfast-vm-vm{i}-1")
    tree.vm("scoped", "/holdfast.slice/holdfast-vm-scoped.scope")


def shim_scoped_qemu_not(tree):
    """What decides is the worse of the two."""
    tree.manager()
    tree.units(holdfastd={**DEFAULTS, "RuntimeDirectoryPreserve": "restart"}, holdfast_drain=DRAIN)
    tree.vm("web", "/holdfast.slice/holdfast-vm-web.scope", MANAGER + "/holdfast-vm-web-1")


def runtime_directory_trap(tree):
    """VMs in scopes live on, but the folder with their sockets is deleted."""
    tree.manager()
    tree.units(holdfastd={**GOOD_UNIT, "RuntimeDirectoryPreserve": "no"}, holdfast_drain=DRAIN)
    tree.vm("web", "/holdfast.slice/holdfast-vm-web.scope")


def by_hand_in_a_login(tree):
    session = "/user.slice/user-1000.slice/session-3.scope"
    tree.manager(session)
    tree.units()
    tree.vm("web", session)


def rootless(tree):
    tree.manager(USER + "/app.slice/holdfastd.service")
    tree.units(holdfastd={**GOOD_UNIT, "RuntimeDirectory": ""}, holdfast_drain=DRAIN)
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n")
    tree.vm("web", USER + "/holdfast.slice/holdfast-vm-web.scope")


def rootless_lingering(tree):
    rootless(tree)
    tree.write("var/lib/systemd/linger/ada", "")


def without_systemd(tree):
    tree.manager("/")
    tree.vm("web", "/holdfast-vm-web-1")


def mixed_bag(tree):
    """VMs that are gone, of another boot, unreadable, orphaned, of an old version; a container's cgroup; a second unit."""
    tree.manager()
    tree.units(holdfastd=GOOD_UNIT, holdfast_drain={**DRAIN, "ActiveState": "inactive"},
               old_vms={**GOOD_UNIT, "KillMode": "mixed"})
    tree.vm("web", "/holdfast.slice/holdfast-vm-web.scope", version="0.0.9")
    tree.vm("orphan", "/holdfast.slice/holdfast-vm-orphan.scope", shim=False)
    tree.vm("rebooted", MANAGER, boot="99999999-2222-3333-4444-555555555555")
    tree.vm("old", "/system.slice/old-vms.service")
    tree.vm("lost", "/system.slice/unknown.service")
    tree.vm("boxed", "/machine.slice/box.scope/payload")
    tree.write("run/holdfast/vms/broken/status.json", "{")


def bare_host(tree):
    """Nothing that VMs want is there."""
    for path in ("dev/kvm", "dev/userfaultfd", QEMU, "usr/bin/qemu-img"):
        tree.remove(path)
    tree.write("proc/cpuinfo", "flags : fpu vmx_not_really\n")
    tree.write("proc/sys/vm/unprivileged_userfaultfd", "0")
    tree.write("proc/meminfo", "HugePages_Total:    1024\nHugePages_Free:     1000\nHugepagesize:       2048 kB\n")
    tree.write("proc/sys/kernel/pid_max", "1000")


def confidential(tree):
    tree.write("proc/cpuinfo", "flags : vmx tdx_host_platform\n")
    tree.write("sys/module/kvm_intel/parameters/tdx", "Y")
    tree.write("sys/module/kvm_amd/parameters/sev_snp", "Y")
    tree.write("proc/sys/vm/unprivileged_userfaultfd", "1")
    tree.remove("dev/userfaultfd")


def confidential_turned_off(tree):
    tree.write("proc/cpuinfo", "flags : svm sev_snp\n")
    tree.write("sys/module/kvm_amd/parameters/sev_snp", "N")


def tight_limits(tree):
    tree.manager()
    tree.units(holdfastd={**GOOD_UNIT, "TasksMax": "512"}, holdfast_drain=DRAIN)
    tree.write(f"proc/{tree.pid}/limits", "Max open files            1024                 4096                 files\n"
               "Max locked memory         8388608              8388608              bytes\n")
    tree.write(QEMU, "#!/bin/sh\ncase \"$*\" in\n-version) echo 'QEMU emulator version 5.2.0' ;;\n"
               "*) echo 'q35  PC (alias of pc-q35-5.2)'; echo 'virt  ARM (alias of virt-5.2)' ;;\nesac\n")


def broken_programs(tree):
    tree.manager()
    os.makedirs(os.path.join(tree.root, "run/systemd/system"))
    tree.write("usr/bin/systemctl", "#!/bin/sh\nexit 1\n")
    tree.write(QEMU, "#!/bin/sh\nexit 3\n")


HOSTS = {host.__name__: (host, keeps, problems) for host, keeps, problems in [
    (packaged, True, 0), (packaged_hybrid, True, 0), (packaged_without_scopes, True, 0), (systemd_defaults, False, 2), (shim_scoped_qemu_not, False, 1),
    (runtime_directory_trap, False, 1), (by_hand_in_a_login, True, 0), (rootless, True, 1), (rootless_lingering, True, 0),
    (without_systemd, True, 0), (mixed_bag, False, 1), (bare_host, True, 2), (confidential, True, 0), (confidential_turned_off, True, 0),
    (tight_limits, True, 0), (broken_programs, None, 1)]}


class Doctor(VmctlCase):
    def tree(self, host=None):
        version = self.run_vmctl("--version").stdout.split()[1]
        tree = Tree(self.path("host-" + (host.__name__ if host else "plain")), version)
        if host:
            host(tree)
        return tree

    def doctor(self, tree, *words):
        return self.run_vmctl("doctor", "--root", tree.root, "--run-dir", "/run/holdfast", "--state-dir", "/var/lib/holdfast", "--log-dir",
                              "/var/log/holdfast", *words)

    def normal(self, text, tree):
        text = text.replace(tree.version, "VERSION").replace(platform.machine(), "MACHINE").replace("virt-", "pc-q35-")
        # How full this machine's disks are is told, and judged, whatever host is made up.
        return re.sub(r"^\w+ +space +(\S+ \(.*?\)): .*$", r"VERDICT space        \1: SIZE free", text, flags=re.M)

    def test_made_up_hosts(self):
        for name, (host, keeps, problems) in HOSTS.items():
            with self.subTest(name):
                tree = self.tree(host)
                done = self.doctor(tree)
                found = self.normal(done.stdout, tree)
                path = os.path.join(GOLDEN, name + ".txt")
                if UPDATE:
                    with open(path, "w") as f:
                        f.write(found)
                with open(path) as f:
                    self.assertEqual(found, f.read())
                self.assertEqual(done.returncode, 1 if problems else 0, done.stderr)
                self.assertEqual(done.stderr, f"vmctl: {problems} problem{'s' if problems > 1 else ''} found\n" if problems else "")
                answer = json.loads(self.doctor(tree, "--json").stdout)
                self.assertEqual((answer["restart_keeps_vms"], answer["problems"]), (keeps, problems))
                self.check_same(answer["findings"], done.stdout)

    def check_same(self, findings, text):
        lines = text.splitlines()[:-1]
        self.assertEqual(len(findings), len(lines))
        for finding, line in zip(findings, lines):
            self.assertEqual(line.split()[:2], [finding["verdict"], finding["check"]])
            self.assertIn(finding["text"], line)
            if finding["remedy"]:
                self.assertTrue(line.endswith("; remedy: " + finding["remedy"]))

    def test_golden_files_are_all_of_some_host(self):
        self.assertEqual(sorted(os.listdir(GOLDEN)), sorted(name + ".txt" for name in HOSTS))

    def test_every_check_says_something_somewhere(self):
        with open(os.path.join(os.path.dirname(os.path.dirname(HERE)), "cmd/vmctl/doctor.c")) as f:
            checks = re.findall(r'^    \{ "(\w+)", ', f.read().split("doctor_checks[] = {")[1].split("};")[0], re.M)
        told = set()
        for name in HOSTS:
            with open(os.path.join(GOLDEN, name + ".txt")) as f:
                told |= {line.split()[1] for line in f if line.split()[0] in ("ok", "note", "warning", "problem", "VERDICT")}
        self.assertEqual(told, set(checks))

    def test_quiet_leaves_what_needs_doing(self):
        done = self.doctor(self.tree(systemd_defaults), "-q")
        self.assertTrue(done.stdout)
        for line in done.stdout.splitlines():
            self.assertIn(line.split()[0], ("warning", "problem"))
        self.assertEqual(self.doctor(self.tree(packaged), "-q").stdout, "")

    def test_the_right_service_manager_is_asked(self):
        for host, wanted in ((packaged, "--system show"), (rootless, "--user --machine=1000@.host show")):
            if os.geteuid() == 1000:
                wanted = wanted.replace(" --machine=1000@.host", "")
            tree = self.tree(host)
            self.doctor(tree)
            with open(os.path.join(tree.root, "asked")) as f:
                asked = f.read().splitlines()
            self.assertTrue(asked)
            for line in asked:
                self.assertTrue(line.startswith(wanted + " --property LoadState,"), line)
            self.assertEqual(len({line.split()[-1] for line in asked}), len(asked), "each unit is asked for once")

    def test_a_full_disk(self):
        if os.geteuid() != 0:
            self.skipTest("kernel: only root can mount a small file system")
        tree = self.tree()
        folder = os.path.join(tree.root, "var/lib/holdfast")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,nr_inodes=5", "tmpfs", folder], check=True)
        self.addCleanup(subprocess.run, ["umount", folder], check=True)
        answer = json.loads(self.doctor(tree, "--json").stdout)
        bad = [f for f in answer["findings"] if f["verdict"] == "problem"]
        self.assertEqual([f["check"] for f in bad], ["space", "space"])
        self.assertIn("/var/lib/holdfast (disks and snapshots): 1 MiB free", [f["text"].replace("1.0 MiB", "1 MiB") for f in bad])

    def test_this_host(self):
        """Whatever it is like: an answer, and no error but problems."""
        done = self.run_vmctl("doctor", "--json")
        answer = json.loads(done.stdout)
        self.assertEqual(done.returncode, 1 if answer["problems"] else 0)
        self.assertIn("no manager answers", done.stdout)

    def test_usage(self):
        self.expect(2, "doctor", "--force", err="--force goes with --prove")
        self.expect(2, "doctor", "--restart-with", "true", err="--restart-with goes with --prove")
        self.expect(2, "doctor", "--prove", "--root", "/", err="don't go together")
        self.expect(2, "doctor", "web", err='unexpected argument "web"')

    def test_prove_without_a_manager_does_nothing(self):
        done = self.run_vmctl("doctor", "--prove", "--restart-with", f"touch {self.path('restarted')}")
        self.assertEqual(done.returncode, 4)
        self.assertFalse(os.path.exists(self.path("restarted")))


class Prove(HostTest):
    """A real manager, restarted by a command: what stands in for the service manager."""

    def restart_command(self):
        pid_file = os.path.join(self.host.root, "next.pid")
        words = " ".join([program("holdfastd"), *self.host.options()])
        self.addCleanup(self.end_next, pid_file)
        return (f"kill -9 {self.host.manager.pid}; setsid {words} </dev/null >/dev/null 2>&1 & echo $! >{pid_file}")

    def end_next(self, pid_file):
        try:
            with open(pid_file) as f:
                pid = int(f.read())
        except FileNotFoundError:
            return
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), "the manager's end")

    def prove(self, *words):
        return self.host.vmctl("doctor", "--prove", *words, check=False)

    def test_all_live_on(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        before = self.host.vm("web")
        done = self.prove("--json", "--restart-with", self.restart_command())
        answer = json.loads(done.stdout)
        self.assertEqual((done.returncode, answer["kept"]), (0, True), done.stderr)
        self.assertNotEqual(answer["manager_before"], answer["manager_after"])
        self.assertEqual(len(answer["vms"]), 2)
        for vm in answer["vms"]:
            self.assertTrue(vm["kept"])
            self.assertEqual((vm["shim_before"], vm["qemu_before"]), (vm["shim_after"], vm["qemu_after"]))
        after = self.host.vm("web")
        self.assertEqual((before["shim_pid"], before["qemu_pid"]), (after["shim_pid"], after["qemu_pid"]))
        self.assertEqual(list(self.host.list()), ["web"], "the throw-away VM is gone")
        self.host.vmctl("stop", "--all", "--force")

    def test_a_lost_vm_is_seen(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        vm = self.host.vm("web")
        done = self.prove("--restart-with", f"kill -9 {vm['shim_pid']} {vm['qemu_pid']}; {self.restart_command()}")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, rf"web +{vm['shim_pid']} > \d+ +{vm['qemu_pid']} > \d+ +LOST")
        self.assertRegex(done.stdout, r"doctor-\d+ +\d+ +\d+ +kept")
        self.assertIn("did not keep every VM", done.stderr)
        self.assertEqual(list(self.host.list()), ["web"])
        self.host.vmctl("stop", "--all", "--force")

    def test_a_restart_that_was_none(self):
        self.host.start_manager()
        process = subprocess.Popen([program("vmctl"), *self.host.options(), "doctor", "--prove", "--restart-with", "true"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # It would wait a minute for another manager; a Ctrl + C is heard, and the VM is removed all the same.
        wait_for(lambda: any(vm["state"] == "running" for vm in self.host.list().values()), "the throw-away VM")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(self.host.list(), {}, out + err)

    def test_a_command_that_fails(self):
        self.host.start_manager()
        done = self.prove("--restart-with", "echo no such service >&2; exit 3")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such service", done.stderr)
        self.assertEqual(self.host.list(), {})


if __name__ == "__main__":
    unittest.main()
