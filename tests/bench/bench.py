#!/usr/bin/env python3
"""The numbers Holdfast promises, each as a ratio or a count taken in one run, next to the thing it is compared with.

    tests/bench/bench.py [--only WORD] [--json FILE] [--fakes 1000] [--reals 50] [--runs 9]
    tests/bench/bench.py --smoke     everything once and small; judges counts alone

Measures build/release where it is there and up to date, else HOLDFAST_BIN, else build/dev. Needs root's limits for a thousand processes.
Prints a table; --json writes the same as JSON. The exit status is 1 when a row misses its reach.
"""
import argparse
import contextlib
import glob
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def newest(patterns):
    return max((os.path.getmtime(path) for pattern in patterns for path in glob.glob(os.path.join(SOURCE, pattern), recursive=True)),
               default=0)


def choose_programs():
    """The release build, unless it is missing or older than the sources; then what the tests use. And a fake QEMU, which a release lacks."""
    release, given = os.path.join(SOURCE, "build/release/bin"), os.environ.get("HOLDFAST_BIN", os.path.join(SOURCE, "build/dev/bin"))
    sources = newest(f"{top}/**/*.{kind}" for top in ("cmd", "lib", "proto", "shim") for kind in "ch")
    current = newest(["build/release/bin/*"]) >= sources
    fakes = [os.path.join(given, "fake_qemu"), *glob.glob(os.path.join(SOURCE, "build/*/bin/fake_qemu"))]
    return release if current else given, next(path for path in fakes if os.path.exists(path))


BIN, FAKE_QEMU = choose_programs()
# The guest is the tests' one, whatever is measured.
os.environ.setdefault("HOLDFAST_GUEST", os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(FAKE_QEMU))), "guest"))
os.environ["HOLDFAST_BIN"] = BIN
sys.path.insert(0, os.path.join(SOURCE, "tests/e2e"))
from harness import Host, Varlink, program, wait_for  # noqa: E402

KIB, MIB = 1024, 1024 * 1024
IDLE_WINDOW, LOAD_WINDOW, CALM_WINDOW = 10.0, 1.0, 1.5  # seconds over which something is counted; a shim looks at its logs 1 s after a word


def median(values):
    return statistics.median(values)


def smaps(pid, key):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * KIB
    raise KeyError(key)


def switches(pid):
    """Times the process was put on a CPU again: what an idle one must not be."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as f:
            total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return total


def sanitized(path=None):
    """Whether what is measured has a sanitizer in it: its memory and threads are then not Holdfast's."""
    with open(path or program("holdfast-shim"), "rb") as f:
        text = f.read()
    return b"__asan_init" in text or b"__tsan_init" in text


@contextlib.contextmanager
def host_of(kind=Host):
    h = kind()
    try:
        yield h
    finally:
        h.destroy()


def populate(h, specs):
    """Writes the specs, starts a manager, waits until all run."""
    for spec in specs:
        h.write_spec(spec)
    h.start_manager()
    wait_for(lambda: adopted(h) == len(specs), f"{len(specs)} VMs running ({h.manager_log()})", 600, 0.2)


def bench_heal(rows, options):
    """What healing adds to the delay of the policy, and how long a VM is without a shim."""
    with host_of() as h:
        h.start_manager()
        h.apply(h.fake_spec("one", restart={"policy": "always", "delay": "100ms", "max_delay": "100ms", "max_attempts": 0}))
        extra, gaps = [], []
        for _ in range(options.runs):
            before = h.shim_status("one")
            with h.shim("one") as v:
                v.send("io.holdfast.Shim.Monitor", {}, more=True)
                v.receive()
                begin = time.time()
                os.kill(before["qemu"]["pid"], signal.SIGKILL)
                delay = None
                while True:
                    event = v.receive()["parameters"]["event"]
                    if event["text"].startswith("backoff"):
                        delay = event["data"]["delay_ms"] / 1e3
                    if event["text"] == "greeting":
                        extra.append(event["data"]["real_us"] / 1e6 - begin - delay)
                        break
            vm = wait_for(lambda: (lambda x: x if x["state"] == "running" else None)(h.vm("one")), "the VM to run")
            begin = time.monotonic()
            os.kill(vm["shim_pid"], signal.SIGKILL)
            while True:
                if time.monotonic() > begin + 60:
                    raise TimeoutError("the VM has no other shim after a minute")
                with Varlink(os.path.join(h.dirs["run"], "manager.sock")) as v:
                    now = v.call("io.holdfast.Manager.Get", {"name": "one"})["parameters"]["vm"]
                if now["state"] == "running" and now.get("shim_pid") not in (None, vm["shim_pid"]):
                    break
                time.sleep(0.001)
            gaps.append(time.monotonic() - begin)
        rows.append(("QEMU dies -> the next one greets, beyond the delay of the policy", f"{median(extra) * 1e3:.1f} ms", "<= 10 ms",
                     median(extra) <= 0.010, f"with a QEMU that takes no time to start, {len(extra)} times"))
        rows.append(("shim dies -> replaced and serving", f"{median(gaps) * 1e3:.1f} ms", "<= 100 ms", median(gaps) <= 0.1,
                     f"max {max(gaps) * 1e3:.1f} ms of {len(gaps)}"))


def fake_specs(h, first, end):
    specs = [h.fake_spec(f"vm{i:04}") for i in range(first, end)]
    for spec in specs:
        spec["qemu"]["path"] = FAKE_QEMU
    return specs


def adopted(h):
    try:
        with Varlink(os.path.join(h.dirs["run"], "manager.sock")) as v:
            vms = v.call("io.holdfast.Manager.List")["parameters"]["vms"]
    except (OSError, EOFError):
        return 0
    return sum(vm["state"] in ("running", "paused") and vm.get("shim_pid") is not None for vm in vms)


def readopt(h, count):
    """Seconds from the SIGKILL of the manager until the next one has adopted all and says so."""
    begin = time.monotonic()
    h.kill_manager()
    h.start_manager(wait=False)
    while adopted(h) < count:
        if time.monotonic() - begin > 60:
            raise AssertionError(f"not adopted: {h.manager_log()}")
        time.sleep(0.001)
    return time.monotonic() - begin


def bare_greeting(h, name, memory=128, answered=False):
    """Exec of the plan's own QEMU with its own arguments, to its greeting, or (`answered`) to its first answer: it greets when it is half set
    up and answers when it is done. Everything else is left out."""
    plan = json.loads(h.vmctl("inspect", name).stdout)["next_plan"]["qemu"]
    times = []

    def once():
        path = os.path.join(h.root, "bare.sock")
        console = os.path.join(h.root, "bare-console.sock")
        listeners = []
        for each in (path, console):
            with contextlib.suppress(OSError):
                os.unlink(each)
            s = socket.socket(socket.AF_UNIX)
            s.bind(each)
            s.listen(1)
            listeners.append(s)
        ram = os.memfd_create("ram", 0)
        os.ftruncate(ram, memory * MIB)
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.settimeout(30)
        want = {3: os.dup(listeners[0].fileno()), 4: os.dup(listeners[1].fileno()), 5: os.dup(ram), 6: os.open("/dev/null", os.O_RDONLY)}
        for file in plan.get("files", []):
            flags = {"read": os.O_RDONLY, "reopened": os.O_RDONLY, "append": os.O_WRONLY | os.O_APPEND | os.O_CREAT}
            want[file["fd"]] = os.open(file["path"], flags.get(file["kind"], os.O_RDWR))
        high = {target: os.dup2(fd, 500 + target) for target, fd in want.items()}

        def place():
            for target, fd in high.items():
                os.dup2(fd, target)

        begin = time.monotonic()
        child = subprocess.Popen(plan["argv"], executable=plan["path"], close_fds=False, preexec_fn=place, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL)
        assert b"QMP" in client.recv(4096)
        if answered:
            client.sendall(b'{"execute": "qmp_capabilities"}\n')
            assert b"return" in client.recv(4096)
        times.append(time.monotonic() - begin)
        child.kill()
        child.wait()
        for fd in {*want.values(), *high.values(), ram}:
            os.close(fd)
        for s in (*listeners, client):
            s.close()

    return once, times


def bench_start(rows, options):
    with host_of() as h:
        h.start_manager()
        h.apply(h.guest_spec("one"))
        h.vmctl("stop", "one", "--force")
        bare, bare_times = bare_greeting(h, "one")
        ours, whole = [], []
        for _ in range(options.runs):
            bare()
            begin_real, begin = time.time(), time.monotonic()
            h.vmctl("start", "one")
            whole.append(time.monotonic() - begin)
            with h.shim("one") as v:
                v.send("io.holdfast.Shim.Monitor", {"since": 0}, more=True)
                running = None
                while running is None:
                    event = v.receive()["parameters"].get("event")
                    if event and event["type"] == "qmp" and event["text"] == "greeting":
                        running = event["data"]["real_us"] / 1e6
            ours.append(running - begin_real)
            h.vmctl("stop", "one", "--force")
        extra = median(ours) - median(bare_times)
        rows.append(("vmctl start to QMP greeting, over the same QEMU exec'd bare", f"{extra * 1e3:.1f} ms", "<= 8 ms", extra <= 0.008,
                     f"bare {median(bare_times) * 1e3:.1f} ms, ours {median(ours) * 1e3:.1f} ms, vmctl start until running "
                     f"{median(whole) * 1e3:.1f} ms, {options.runs} pairs in turn"))


def bench_idle(rows, options):
    with host_of() as h:
        populate(h, fake_specs(h, 0, options.shims))
        shims = [vm["shim_pid"] for vm in h.list().values()]
        wait_for(lambda: calm(shims), "shims that have nothing left to do")
        pss = [smaps(pid, "Pss") for pid in shims]
        rows.append((f"memory of a shim: PSS with {options.shims} shims", f"{sum(pss) / len(pss) / KIB:.0f} KiB", "<= 300 KiB",
                     sum(pss) / len(pss) <= 300 * KIB,
                     f"private {median([smaps(p, 'Private_Dirty') for p in shims]) / KIB:.0f} KiB dirty"))
        before = {pid: switches(pid) for pid in shims}
        time.sleep(options.window)
        woken = [switches(pid) - before[pid] for pid in shims]
        rows.append((f"wakeups of an idle shim in {options.window:.0f} s", f"{sum(woken)}", "0", sum(woken) == 0,
                     f"sum over {options.shims} shims"))


def calm(pids):
    before = [switches(pid) for pid in pids]
    time.sleep(CALM_WINDOW)
    return before == [switches(pid) for pid in pids]


def bench_reals(rows, options):
    with host_of() as h:
        specs = [h.guest_spec(f"vm{i:04}") for i in range(options.reals)]
        for spec in specs:
            spec["boot"]["cmdline"] += " tick=600000"
        populate(h, specs)
        settle(h, options)
        times = [readopt(h, options.reals) for _ in range(options.runs)]
        rows.append((f"manager SIGKILLed -> restarted -> all adopted and answering, {options.reals} real QEMUs",
                     f"{median(times) * 1e3:.0f} ms", "<= 60 ms", median(times) <= 0.060,
                     f"min {min(times) * 1e3:.0f}, max {max(times) * 1e3:.0f} of {len(times)}"))


def settle(h, options):
    """Waits until the guests have booted and the machine is quiet enough to measure the manager rather than them."""
    def load():
        with open("/proc/stat") as f:
            fields = [int(n) for n in f.readline().split()[1:]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    def quiet():
        busy, total = load()
        time.sleep(LOAD_WINDOW)
        busy2, total2 = load()
        return (busy2 - busy) / max(1, total2 - total) < 0.35
    if options.smoke:
        return
    with contextlib.suppress(AssertionError):
        wait_for(quiet, "a quiet machine", 240)


def bench_fakes(rows, options):
    sizes = sorted({options.fakes // 4, options.fakes // 2, options.fakes})
    found, rss = {}, {}
    with host_of() as h:
        h.start_manager()
        rss[0] = smaps(h.manager.pid, "Rss")
        done = 0
        for size in sizes:
            h.kill_manager()
            for spec in fake_specs(h, done, size):
                h.write_spec(spec)
            done = size
            h.start_manager()
            wait_for(lambda: adopted(h) == size, f"{size} VMs running", 900, 0.5)
            settle(h, options)
            found[size] = median([readopt(h, size) for _ in range(options.runs)])
            settle(h, options)
            rss[size] = smaps(h.manager.pid, "Rss")
            if size == options.fakes // 2:
                bench_list(rows, h, size, options)
        most = sizes[-1]
        growth = (found[most] / most) / (found[sizes[0]] / sizes[0])
        rows.append((f"same, {most} fake ones", f"{found[most] * 1e3:.0f} ms", "<= 400 ms", found[most] <= 0.4,
                     ", ".join(f"{n}: {t * 1e3:.0f} ms" for n, t in found.items())))
        rows.append((f"growth per VM, {most} over {sizes[0]}", f"{growth:.2f} x", "<= 1.3 x (linear)", growth <= 1.3, ""))
        limit = 8 * MIB + 4 * KIB * most
        rows.append((f"manager RSS with {most} VMs", f"{rss[most] / MIB:.1f} MiB", f"<= {limit / MIB:.1f} MiB", rss[most] <= limit,
                     ", ".join(f"{n}: {b / MIB:.1f} MiB" for n, b in rss.items())))


def bench_list(rows, h, size, options):
    times = []
    for _ in range(4 * options.runs):
        begin = time.monotonic()
        h.vmctl("list")
        times.append(time.monotonic() - begin)
    rows.append((f"vmctl list with {size} VMs", f"{median(times) * 1e3:.1f} ms", "<= 30 ms", median(times) <= 0.030,
                 f"whole process, {len(times)} times"))


def open_specs(h, count):
    """Specs that leave to the manager all it can give, of VMs that don't run."""
    for i in range(count):
        h.write_spec({"name": f"vm{i:04}", "enabled": False, "memory": "1G", "accel": "tcg", "boot": {"kernel": program("holdfastd")},
                      "disks": [{"name": "data", "size": "20G"}], "vsock": {},
                      "network": [{"forward": [{"host": "127.0.0.1:auto", "guest": 80}, {"host": f"127.0.0.1:{10000 + i}", "guest": 22}]}]})


def check_specs(h, count, fresh):
    """Seconds from the exec of a manager until it knows of each spec whether it is right and what it comes to."""
    if h.manager:
        h.kill_manager()
    for path in (os.path.join(h.dirs["state"], "allocations.json"), os.path.join(h.root, "manager.log")):
        if fresh or path.endswith("log"):
            with contextlib.suppress(OSError):
                os.unlink(path)
    begin = time.monotonic()
    h.start_manager(wait=False)
    said = f"specs checked: {count}, in "
    while said not in h.manager_log():
        if time.monotonic() - begin > 60:
            raise AssertionError(f"not checked: {h.manager_log()}")
        time.sleep(0.001)
    return time.monotonic() - begin


def bench_specs(rows, options):
    count = options.specs
    with host_of() as h:
        open_specs(h, count)
        for fresh, what in ((True, "all that they leave open is given"), (False, "all was given before")):
            times = [check_specs(h, count, fresh) for _ in range(options.runs)]
            with open(os.path.join(h.dirs["state"], "allocations.json")) as f:
                vms = json.load(f)["vms"]
            ports = {vm["given"]["ports"][0]["host"] for vm in vms.values()}
            assert len(vms) == len(ports) == count, "not every VM has a port of its own"
            rows.append((f"manager's exec -> {count} specs parsed, checked, planned; {what}", f"{median(times) * 1e3:.0f} ms", "<= 150 ms",
                         median(times) <= 0.150, f"with QEMU asked what it can do; min {min(times) * 1e3:.0f} of {len(times)}"))


def write_whole(path, spec):
    with open(path + "~", "w") as f:
        json.dump(spec, f)
    os.rename(path + "~", path)


def bench_watch(rows, options):
    """From the rename of a file into its place to what it asks for being begun, as the shim tells it; beside ever more files that nobody
    touches. Each edit but the first waits for no turn."""
    with host_of() as h:
        with open(os.path.join(h.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"watch": {"restart_interval": "0"}}, f)
        h.start_manager()
        for spec in fake_specs(h, 0, 3 if options.smoke else 500):
            h.write_spec({**spec, "enabled": False})
        spec = h.fake_spec("edited")
        spec["qemu"]["path"] = FAKE_QEMU
        path = h.write_spec(spec)
        h.wait_state("edited", "running")
        edits, times = 3 * options.runs, []
        for i in range(edits):
            with h.shim("edited") as v:
                v.send("io.holdfast.Shim.Monitor", {}, more=True)
                v.receive()
                begin = time.monotonic()
                write_whole(path, {**spec, "memory": f"{20 + i}M"})
                while "stopping" not in v.receive()["parameters"].get("event", {}).get("text", ""):
                    pass
                times.append(time.monotonic() - begin)
            wait_for(lambda i=i: (lambda vm: vm["state"] == "running" and vm["incarnation"] == i + 2)(h.vm("edited")), "the restart")
        rows.append(("a file is edited -> its VM is being restarted", f"{median(times) * 1e3:.1f} ms", "<= 100 ms", median(times) <= 0.100,
                     f"max {max(times) * 1e3:.1f} ms of {edits}, beside {len(h.list()) - 1} files"))


BENCHES = {"start": bench_start, "watch": bench_watch, "specs": bench_specs, "idle": bench_idle, "fakes": bench_fakes, "reals": bench_reals}
COUNTS = ("memory of a shim", "wakeups", "manager RSS")  # rows that say the same on a busy machine


def print_table(rows, smoke, counts=COUNTS):
    """A row that is neither good nor bad (None) is there to be compared with."""
    width = max(len(row[0]) for row in rows)
    print(f"{'what':<{width}}  {'measured':>10}  {'reach':>18}  ")
    for what, measured, reach, good, note in rows:
        silent = good is None or (smoke and not what.startswith(counts))
        verdict = "    " if silent else "ok  " if good else "MISS"
        print(f"{what:<{width}}  {measured:>10}  {reach:>18}  {verdict}  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHES, action="append")
    parser.add_argument("--json")
    parser.add_argument("--smoke", action="store_true", help="few VMs, each bench once: that all run, and that counts hold")
    parser.add_argument("--fakes", type=int, default=1000)
    parser.add_argument("--reals", type=int, default=50)
    parser.add_argument("--specs", type=int, default=500)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    options.shims, options.window = 50, IDLE_WINDOW
    if options.smoke:
        options.fakes, options.reals, options.specs, options.runs, options.window = 20, 2, 20, 2, IDLE_WINDOW / 3
    rows = []
    print(f"bench: of {os.path.relpath(BIN)}, with {os.path.relpath(FAKE_QEMU)}", file=sys.stderr)
    for name in options.only or BENCHES:
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        BENCHES[name](rows, options)
    print_table(rows, options.smoke)
    if options.json:
        with open(options.json, "w") as f:
            json.dump([dict(zip(("what", "measured", "reach", "ok", "note"), row)) for row in rows], f, indent=1)
    judged = rows
    if options.smoke:
        judged = [] if sanitized() else [row for row in rows if row[0].startswith(COUNTS)]
    sys.exit(0 if all(row[3] for row in judged) else 1)


if __name__ == "__main__":
    main()
