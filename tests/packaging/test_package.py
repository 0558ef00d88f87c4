"""The package in the hands of dpkg, with VMs that run: an upgrade keeps them, a removal refuses or does what it was told, a purge deletes only
what it was told to. Started by tests/packaging/run, in a pid and mount namespace of its own."""
import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
from harness import Varlink, alive, gaps, start_time, wait_for  # noqa: E402
from packages import PACKAGES, package, version  # noqa: E402

GUEST = os.environ["HOLDFAST_GUEST"]
WORK = os.environ["HOLDFAST_WORK"]


class Machine:
    """This machine, below an overlay that takes what is written; with a /run of its own."""

    def __init__(self, name):
        base = os.path.join(WORK, name)
        self.root = os.path.join(base, "root")
        self.mounts = []
        os.makedirs(base)
        self.mount("tmpfs", base, "-t", "tmpfs")
        for folder in ("root", "upper", "work"):
            os.mkdir(os.path.join(base, folder))
        self.mount("overlay", self.root, "-t", "overlay", "-o", f"lowerdir=/,upperdir={base}/upper,workdir={base}/work")
        for folder in ("proc", "sys", "dev"):
            self.mount("/" + folder, os.path.join(self.root, folder), "--rbind")
        for folder in ("run", "tmp"):
            self.mount("tmpfs", os.path.join(self.root, folder), "-t", "tmpfs")
        self.mount(GUEST, self.path(GUEST), "--bind")
        self.mount(PACKAGES, self.path(PACKAGES), "--bind")
        self.manager = None

    def mount(self, what, where, *options):
        os.makedirs(where, exist_ok=True)
        subprocess.run(["mount", *options, what, where], check=True)
        self.mounts.append(where)

    def path(self, path):
        return self.root + path

    def run(self, *words, check=True, stdin=None, **environment):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **environment}
        done = subprocess.run(["chroot", self.root, *words], input=stdin, capture_output=True, text=True, env=env, timeout=300)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def dpkg(self, *words, **more):
        return self.run("dpkg", *words, **more)

    def install(self, build):
        return self.dpkg("--install", package(build))

    def installed(self):
        done = self.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "holdfast", check=False)
        return done.stdout

    # ---- what systemd would do ----

    def start_manager(self):
        self.manager = subprocess.Popen(["chroot", self.root, "/usr/sbin/holdfastd"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, start_new_session=True)
        wait_for(self.answers, "a manager that answers", 20)

    def answers(self):
        try:
            with Varlink(self.path("/run/holdfast/manager.sock"), 5) as v:
                return "parameters" in v.call("org.varlink.service.GetInfo")
        except (OSError, EOFError):
            return False

    def stop_manager(self):
        self.manager.send_signal(signal.SIGTERM)
        self.manager.wait(20)
        self.manager = None

    def vmctl(self, *words, **more):
        return self.run("vmctl", *words, **more)

    def list(self):
        return {vm["name"]: vm for vm in json.loads(self.vmctl("list", "--json").stdout)}

    def start_vm(self, name):
        spec = {"name": name, "memory": "128M", "accel": "tcg", "stop": {"timeout": "5s"}, "disks": [{"name": "data", "size": "1M"}],
                "boot": {"kernel": f"{GUEST}/vmlinuz", "initrd": f"{GUEST}/initrd.gz", "cmdline": "console=ttyS0 quiet panic=-1"}}
        self.vmctl("apply", "-", stdin=json.dumps(spec))

    def ticks(self, name):
        with contextlib.suppress(OSError):
            with open(self.path(f"/var/log/holdfast/{name}/console.log"), "rb") as f:
                return [int(n) for n in re.findall(rb"^tick (\d+)\r?\n", f.read(), re.M)]
        return []

    def wait_ticks(self, name, more=5):
        before = len(self.ticks(name))
        wait_for(lambda: len(self.ticks(name)) >= before + more, f"{more} more heartbeats of {name}", 60, 0.05)

    def processes(self):
        """Pids of all that runs below the root."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/root") == self.root and alive(int(pid)):
                    found.append(int(pid))
        return found

    def close(self):
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes(), "no process left below the root", 20)
        if self.manager:
            self.manager.wait(20)
        for where in reversed(self.mounts):
            subprocess.run(["umount", "--recursive", "--lazy", where], check=True)


class Package(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.machine = Machine(self.id().split(".")[-1])
        self.addCleanup(self.machine.close)

    def identities(self, *names):
        """Who runs the VMs, by pid and start time."""
        found = {}
        for name, vm in self.machine.list().items():
            if name in names:
                self.assertEqual(vm["state"], "running")
                found[name] = [(pid, start_time(pid)) for pid in (vm["shim_pid"], vm["qemu_pid"])]
        self.assertEqual(sorted(found), sorted(names))
        return found

    def begin(self, *names):
        """The first build, a manager, VMs that count."""
        self.machine.install("first")
        self.machine.start_manager()
        for name in names:
            self.machine.start_vm(name)
        for name in names:
            self.machine.wait_ticks(name)
        return self.identities(*names)

    def assertWhole(self, name):
        ticks = self.machine.ticks(name)
        self.assertTrue(ticks)
        self.assertEqual(gaps(ticks), [], f"heartbeats of {name} are missing")

    def assertStillRun(self, before):
        for name, processes in before.items():
            for pid, started in processes:
                self.assertEqual(start_time(pid), started, f"{name}: process {pid}")
            self.machine.wait_ticks(name)
            self.assertWhole(name)

    def test_install(self):
        """What the package brings: programs of its version, units that are enabled, users and groups, folders of theirs, pages."""
        m = self.machine
        m.install("first")
        self.assertEqual(m.installed(), f"installed {version('first')}")
        self.assertEqual(m.run("dpkg", "--audit").stdout, "")
        for program in ("/usr/sbin/holdfastd", "/usr/bin/vmctl", "/usr/libexec/holdfast/holdfast-shim"):
            self.assertEqual(m.run(program, "--version").stdout.split()[1], version("first"))
        for unit in ("holdfastd.service", "holdfast-drain.service"):
            self.assertEqual(m.run("systemctl", "is-enabled", unit).stdout.strip(), "enabled")
        self.assertNotEqual(m.run("systemctl", "--global", "is-enabled", "holdfastd.service", check=False).stdout.strip(), "enabled",
                            "whether a user has a manager is the user's choice")
        self.assertEqual(m.run("id", "-un", "holdfast-qemu").stdout.strip(), "holdfast-qemu")
        group = m.run("getent", "group", "holdfast").stdout.split(":")[2]
        for folder in ("/etc/holdfast/vms", "/var/lib/holdfast", "/var/log/holdfast"):
            status = os.stat(m.path(folder))
            self.assertEqual((status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)), (0, int(group), "0o2750"), folder)
        for page in ("man1/vmctl.1", "man5/holdfast-vm.5", "man7/holdfast-snapshot.7", "man7/holdfast-varlink.7", "man8/holdfastd.8",
                     "man8/holdfast-shim.8"):
            self.assertTrue(os.path.exists(m.path(f"/usr/share/man/{page}.gz")), page)
        for file in ("bash-completion/completions/vmctl", "zsh/vendor-completions/_vmctl", "fish/vendor_completions.d/vmctl.fish",
                     "holdfast/varlink/io.holdfast.Manager.varlink", "holdfast/varlink/io.holdfast.Shim.varlink",
                     "holdfast/holdfast-vm.schema.json"):
            self.assertTrue(os.path.exists(m.path(f"/usr/share/{file}")), file)
        # What is linked and preloaded is found where it is installed: a guest boots, as the package's user.
        m.start_manager()
        m.start_vm("web")
        m.wait_ticks("web", 1)
        qemu = m.list()["web"]["qemu_pid"]
        uid = int(m.run("id", "-u", "holdfast-qemu").stdout)
        self.assertEqual(os.stat(f"/proc/{qemu}").st_uid, uid)
        self.assertNotIn(uid, [user.pw_uid for user in pwd.getpwall()], "made by the package, below the overlay alone")
        with open(f"/proc/{qemu}/maps") as maps:
            self.assertIn("/holdfast/holdfast-agent.so", maps.read())

    def test_upgrade(self):
        """Old manager, old shims, new files; then the new manager, which gets on with the old shims; then new shims for old QEMUs."""
        m = self.machine
        before = self.begin("web", "db", "mail")
        m.install("next")
        self.assertEqual(m.installed(), f"installed {version('next')}")
        self.assertStillRun(before)
        self.assertEqual(self.identities("web", "db", "mail"), before)

        m.stop_manager()
        m.start_manager()
        self.assertEqual(self.identities("web", "db", "mail"), before)
        self.assertStillRun(before)
        versions = json.loads(m.vmctl("version", "--all", "--json").stdout)
        self.assertEqual((versions["vmctl"], versions["manager"]["version"]), (version("next"), version("next")))
        self.assertEqual({shim["version"] for shim in versions["shims"]}, {version("first")})
        doctor = json.loads(m.vmctl("doctor", "--json", check=False).stdout)
        self.assertTrue(any(version("first") in f["text"] and f["check"] == "versions" for f in doctor["findings"]), doctor)

        # The old shim does what it is told, and its VM starts again under a new one.
        for verb in ("pause", "resume"):
            m.vmctl(verb, "web")
        m.vmctl("restart", "web", "--force")
        self.assertEqual(m.list()["web"]["incarnation"], 2)
        self.assertEqual(json.loads(m.vmctl("shim", "status", "web", "--json").stdout)[0]["status"]["version"], version("next"))

        # A shim of the new build takes the old QEMU over.
        (shim, _), qemu = before["db"]
        os.kill(shim, signal.SIGKILL)
        wait_for(lambda: m.list()["db"]["state"] == "running" and m.list()["db"]["shim_pid"] not in (None, shim), "another shim for db")
        self.assertEqual(m.list()["db"]["qemu_pid"], qemu[0])
        self.assertStillRun({"db": [qemu], "mail": before["mail"]})
        m.vmctl("stop", "--all", "--force")

    def test_removal_refuses(self):
        m = self.machine
        before = self.begin("web", "db")
        done = m.dpkg("--remove", "holdfast", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("not removed, VMs run: db web", done.stderr)
        self.assertIn("HOLDFAST_REMOVE=drain", done.stderr)
        self.assertEqual(m.installed(), f"installed {version('first')}")
        done = m.dpkg("--remove", "holdfast", check=False, HOLDFAST_REMOVE="yes")
        self.assertIn('is "yes", expected refuse, drain or keep', done.stderr)
        # A QEMU without a shim counts, and so does a VM without a manager.
        m.stop_manager()
        os.kill(before["web"][0][0], signal.SIGKILL)
        wait_for(lambda: not alive(before["web"][0][0]), "the shim's end")
        self.assertIn("VMs run: db web", m.dpkg("--remove", "holdfast", check=False).stderr)
        self.assertStillRun({"web": [before["web"][1]]})

        m.start_manager()
        m.vmctl("stop", "--all", "--force")
        m.stop_manager()
        m.dpkg("--remove", "holdfast")
        self.assertEqual(m.installed().split()[0], "config-files")
        self.assertTrue(os.path.exists(m.path("/var/lib/holdfast/vms/web")), "disks are kept")

    def test_removal_keeps(self):
        """The VMs outlive the package that started them, and a purge, and are found by the next one."""
        m = self.machine
        before = self.begin("web")
        m.stop_manager()
        self.assertIn("web", m.dpkg("--remove", "holdfast", HOLDFAST_REMOVE="keep").stdout)
        self.assertFalse(os.path.exists(m.path("/usr/libexec/holdfast/holdfast-shim")))
        self.assertStillRun(before)
        done = m.dpkg("--purge", "holdfast", HOLDFAST_PURGE="data")
        self.assertIn("nothing of the VMs is deleted, these run: web", done.stderr)
        self.assertStillRun(before)
        m.install("next")
        m.start_manager()
        self.assertEqual(self.identities("web"), before)
        m.vmctl("stop", "web", "--force")

    def test_removal_drains(self):
        """As the file says, which an unattended machine has."""
        m = self.machine
        before = self.begin("web", "db")
        with open(m.path("/etc/holdfast/package-policy"), "w") as f:
            f.write("# for this host\nremove = drain\n")
        m.dpkg("--remove", "holdfast")
        for processes in before.values():
            for pid, _ in processes:
                self.assertFalse(alive(pid))
        for name in before:
            with open(m.path(f"/var/lib/holdfast/vms/{name}/last-exit.json")) as f:
                self.assertIn(json.load(f)["kind"], ("guest-shutdown", "stopped"))
            self.assertWhole(name)

    def test_purge(self):
        m = self.machine
        self.begin("web")
        m.vmctl("stop", "web", "--force")
        m.stop_manager()
        done = m.dpkg("--purge", "holdfast")
        self.assertIn("HOLDFAST_PURGE=data deletes them", done.stdout)
        for path in ("/etc/holdfast/vms/web.json", "/var/lib/holdfast/vms/web/data.qcow2", "/var/log/holdfast/web/console.log"):
            self.assertTrue(os.path.exists(m.path(path)), path)
        self.assertFalse(os.path.exists(m.path("/etc/needrestart/conf.d/holdfast.conf")))

        m.install("first")
        done = m.dpkg("--purge", "holdfast", HOLDFAST_PURGE="everything")
        self.assertIn("neither keep nor data", done.stderr)
        self.assertTrue(os.path.exists(m.path("/var/lib/holdfast/vms/web/data.qcow2")))

        m.install("first")
        m.dpkg("--purge", "holdfast", HOLDFAST_PURGE="data")
        for path in ("/etc/holdfast", "/var/lib/holdfast", "/var/log/holdfast"):
            self.assertFalse(os.path.exists(m.path(path)), path)

    def test_purge_of_an_unused_package_leaves_nothing(self):
        m = self.machine
        m.install("first")
        m.dpkg("--purge", "holdfast")
        for path in ("/etc/holdfast", "/var/lib/holdfast", "/var/log/holdfast", "/etc/needrestart/conf.d/holdfast.conf",
                     "/etc/systemd/system/multi-user.target.wants/holdfastd.service"):
            self.assertFalse(os.path.lexists(m.path(path)), path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
