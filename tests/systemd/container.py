"""A Debian with a real systemd as its process 1, in systemd-nspawn: the built programs installed in it, QEMU from its packages, our guest.

Needs root and a kernel with cgroup v2. Where the host has v1 beside it, as systemd calls "hybrid", the container gets a mount namespace in
which /sys/fs/cgroup is v2 alone: what today's hosts have. The root is made once, by debootstrap, and each container sees it through an
overlay of its own."""
import contextlib
import fcntl
import glob
import json
import os
import re
import signal
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
ROOT = os.path.join(SOURCE, "build", "systemd-root")
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"  # where the host names none
BASE = "systemd,systemd-sysv,dbus,libpam-systemd"
# What the programs are linked against (the last two: built with sanitizers), what they start, and needrestart.
PACKAGES = ("qemu-system-x86", "qemu-utils", "libev4", "libjansson4", "libsmartcols1", "libcap2", "libcurl4", "libssl3", "libzstd1",
            "needrestart", "dbus-user-session",
            "libasan8", "libubsan1")
EXIT_REBOOT = 133  # systemd-nspawn with --keep-unit, when the container wants to be started again


def log(text):
    print(text, flush=True)


def wait_for(condition, what, deadline=60.0, every=0.02):
    """Returns the first true value of condition(); fails with what was awaited."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline:.0f} s still not: {what}")
        time.sleep(every)


def mirror():
    """Where this host gets its own Debian from: sources.list(5), in both of its forms."""
    one_line = re.compile(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{SUITE}\s", re.M)
    files = ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]
    for path in files:
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as f:
            text = f.read()
            found = one_line.search(text)
            if found:
                return found.group(1)
            for stanza in re.split(r"\n\s*\n", text):
                uri = re.search(r"^URIs:\s*(\S+)", stanza, re.M)
                if uri and re.search(rf"^Suites:.*\b{SUITE}(\s|$)", stanza, re.M):
                    return uri.group(1)
    return MIRROR


def make_root():
    """build/systemd-root: made when it isn't there, or when an earlier attempt didn't finish; by one of those that run at a time."""
    os.makedirs(os.path.dirname(ROOT), exist_ok=True)
    with open(ROOT + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_root_locked()


def make_root_locked():
    stamp = os.path.join(ROOT, "etc", "holdfast-root")
    wanted = " ".join((BASE, *PACKAGES))
    with contextlib.suppress(OSError), open(stamp, encoding="ascii") as f:
        if f.read() == wanted:
            return
    log(f"making {ROOT}")
    # What a debootstrap that was interrupted leaves mounted.
    subprocess.run(["umount", "--quiet", os.path.join(ROOT, "proc")], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", "--one-file-system", ROOT], check=True)
    os.makedirs(ROOT)
    with open(ROOT + ".log", "wb") as out:
        for argv in (
            ["debootstrap", "--variant=minbase", f"--include={BASE}", SUITE, ROOT, mirror()],
            ["chroot", ROOT, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "install",
             *PACKAGES],
        ):
            if subprocess.run(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode != 0:
                raise SystemExit(f"{argv[0]} failed, see {ROOT}.log")
    with open(stamp, "w", encoding="ascii") as f:
        f.write(wanted)


def read_proc(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as f:
        return f.read()


def start_time(pid):
    """Field 22 of /proc/PID/stat, or None when there is no such living process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Container:
    """One container; pids seen from here are the host's, pids seen by vmctl the container's."""

    def __init__(self, name="holdfast-test", unified=True):
        self.name = name
        self.unified = unified
        self.work = tempfile.mkdtemp(prefix="holdfast-systemd-")
        self.root = os.path.join(self.work, "root")
        self.console = os.path.join(self.work, "console.log")
        self.nspawn = None
        self.init = None
        for folder in ("root", "over"):
            os.mkdir(os.path.join(self.work, folder))
        # A file system that overlayfs takes as its upper one, whatever /tmp is on.
        over = os.path.join(self.work, "over")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "holdfast-test", over], check=True)
        for folder in ("upper", "work"):
            os.mkdir(os.path.join(over, folder))
        subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir={ROOT},upperdir={over}/upper,workdir={over}/work", "holdfast-test",
                        self.root], check=True)

    def install(self, build):
        """What `cmake --install` installs, and the guest."""
        subprocess.run(["cmake", "--install", build], env={**os.environ, "DESTDIR": self.root}, check=True, stdout=subprocess.DEVNULL)

    def install_guest(self, guest):
        os.makedirs(os.path.join(self.root, "srv"), exist_ok=True)
        for name in ("vmlinuz", "initrd.gz"):
            subprocess.run(["cp", os.path.join(guest, name), os.path.join(self.root, "srv", name)], check=True)

    def write(self, path, text):
        path = os.path.join(self.root, path.lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    # ---- life ----

    def boot(self):
        # A cgroup of its own, or PID 1 of the container would want the root of all; its namespace then shows that one as the root.
        prepare = ["umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"] if self.unified else []
        top = "/sys/fs/cgroup" if self.unified else "/sys/fs/cgroup/unified"
        script = " && ".join([*prepare, f"mkdir -p {top}/{self.name}", f"echo $$ >{top}/{self.name}/cgroup.procs",
                              f"exec systemd-nspawn --quiet --register=no --keep-unit --machine={self.name} --directory={self.root} --boot"])
        with open(self.console, "ab") as out:
            self.nspawn = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                                           stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self.init = wait_for(self.find_init, "the container's systemd", 30)
        wait_for(lambda: self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip() in ("running", "degraded"),
                 "the container is up", 60, 0.1)

    def find_init(self):
        if self.nspawn.poll() is not None:
            with open(self.console, encoding="utf-8", errors="replace") as f:
                raise AssertionError(f"systemd-nspawn ended ({self.nspawn.returncode}): {f.read()[-2000:]}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            for child in read_proc(self.nspawn.pid, f"task/{self.nspawn.pid}/children").split():
                if read_proc(child, "comm").strip() == "systemd":
                    return int(child)
        return None

    def wait_reboot(self):
        """The container has been told to reboot: up again."""
        code = self.nspawn.wait(120)
        assert code == EXIT_REBOOT, f"systemd-nspawn exited {code} instead of being asked for a reboot"
        self.boot()

    def close(self):
        if self.nspawn and self.nspawn.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(self.init, signal.SIGRTMIN + 4)  # poweroff, systemd(1)
            try:
                self.nspawn.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.nspawn.pid, signal.SIGKILL)
                self.nspawn.wait()
        for folder in ("root", "over"):
            subprocess.run(["umount", "-l", os.path.join(self.work, folder)], check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", self.work], check=False)
        for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            folder = os.path.join(top, self.name)
            for where, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(where)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- in it ----

    def run(self, *argv, check=True, timeout=120):
        """A command in all of the container's namespaces, from its own init's cgroup."""
        done = subprocess.run(["nsenter", "--target", str(self.init), "--all", "--", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *argv],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def vmctl(self, *argv, check=True, timeout=120):
        return self.run("vmctl", *argv, check=check, timeout=timeout)

    def vms(self):
        """By name; {} while nobody answers."""
        done = self.vmctl("list", "--json", check=False)
        return {vm["name"]: vm for vm in json.loads(done.stdout)} if done.returncode == 0 else {}

    def read(self, path):
        """A file of the container, "" while there is none."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join("/proc", str(self.init), "root", path.lstrip("/")), encoding="utf-8", errors="replace") as f:
            return f.read()
        return ""

    def main_pid(self, unit="holdfastd.service"):
        return int(self.run("systemctl", "show", "--value", "--property=MainPID", unit).stdout.strip() or 0)
