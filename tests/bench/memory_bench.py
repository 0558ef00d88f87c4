#!/usr/bin/env python3
"""What snapshots and restores cost: the three modes side by side, page cache warm and cold, next to what they are compared with.

    tests/bench/memory_bench.py [--only WORD] [--json FILE] [--runs 7] [--large 4096] [--virsh]
    tests/bench/memory_bench.py --smoke     everything once and small; judges counts alone

Measures the programs that bench.py chooses. As root the cold runs drop the whole page cache, else that of the snapshot's files. With
--virsh libvirt is measured beside them; without stands what it does, a full migration stream into a bare QEMU. The exit status is 1 when
a row misses its reach.
"""
import argparse
import contextlib
import functools
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

from bench import SOURCE, bare_greeting, host_of, median, print_table, sanitized  # sets HOLDFAST_BIN and the path to the tests' modules
from harness import guest_folder, program, wait_for
from memory_case import MIB, MODES, PAGE, MemoryHost

HERE = os.path.dirname(os.path.abspath(__file__))
TICK_MS = 5
NO_USERFAULTFD = 77  # exit status of pager_bench


def drop(folder, everything):
    """Makes the page cache cold: all of it, or for the files of one folder."""
    if everything:
        with contextlib.suppress(OSError), open("/proc/sys/vm/drop_caches", "w") as f:
            os.sync()
            f.write("3")
            return
    for path in glob.glob(os.path.join(folder, "**"), recursive=True):
        if os.path.isfile(path):
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def warm(folder):
    for path in glob.glob(os.path.join(folder, "**"), recursive=True):
        if os.path.isfile(path):
            with open(path, "rb", buffering=0) as f:
                while f.read(8 * MIB):
                    pass


def prepare(folder, cold, o):
    if cold:
        drop(folder, o.drop)
    else:
        warm(folder)


def wait_tick(h, name, since, every=0.0005):
    wait_for(lambda: re.search(r"^tick \d+\r?$", h.console(name, since), re.M), f"{name}'s first heartbeat", 120, every)


def first_tick(h, name, *words):
    """Seconds from vmctl's exec until the guest says a line; vmctl has ended well after it."""
    since, begin = h.mark(name), time.monotonic()
    child = subprocess.Popen([program("vmctl"), "restore", name, *words], stdout=subprocess.DEVNULL, env=h.environment())
    wait_tick(h, name, since)
    took = time.monotonic() - begin
    assert child.wait(120) == 0, h.shim_logs()
    return took


def cpu_ms(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def boot(h, name, memory, pattern, hold=True):
    h.apply(h.memory_spec(name, memory=memory, pattern=f"{pattern},hold" if hold else pattern, cmdline=f"tick={TICK_MS}"))
    h.wait_said(name, "pattern held" if hold else r"pattern pass \d+ ok", deadline=300)


def saved(h, name, memory, pattern):
    """A guest of that size and so many MiB in use, saved and stopped."""
    boot(h, name, memory, pattern)
    h.vmctl("snapshot", "create", name, "one", timeout=600)
    h.vmctl("stop", name, "--force")


def unlearned(h, vm, name):
    """The snapshot again, with no working set. Its memory is the same file, so that one cache is warm for both."""
    source, target = h.folder(vm, "one"), h.folder(vm, name)
    shutil.rmtree(target, ignore_errors=True)
    os.mkdir(target, 0o700)
    for file in ("memory.raw", "memory.index", "device.state"):
        os.link(os.path.join(source, file), os.path.join(target, file))
    record = h.record_on_disk(vm, "one")
    with open(os.path.join(target, "snapshot.json"), "w") as f:
        json.dump({**record, "name": name}, f)
    return f"{vm}/{name}"


def gone(h, name):
    h.vmctl("delete", name, "--force", "--purge")


def ms(seconds):
    return f"{seconds * 1e3:.1f} ms"


# ---- snapshots ----

def bench_pause(rows, o):
    for memory, pattern, reach in ((256, 128, 25), (o.large, o.large // 2, 60)):
        with host_of(MemoryHost) as h:
            h.start_manager()
            boot(h, "web", memory, pattern, hold=False)
            pauses, took = [], []
            for n in range(max(1, o.runs // 2)):
                begin = time.monotonic()
                h.vmctl("snapshot", "create", "web", f"s{n}", timeout=600)
                took.append(time.monotonic() - begin)
                pauses.append(h.record("web", f"s{n}")["pause_us"] / 1e6)
                since = h.mark("web")
                h.wait_checked("web", since)
                h.vmctl("snapshot", "delete", f"web/s{n}")
            rows.append((f"pause of a live snapshot, {memory} MiB guest that rewrites {pattern} MiB", ms(median(pauses)), f"<= {reach} ms",
                         median(pauses) <= reach / 1e3, f"max {ms(max(pauses))} of {len(pauses)}; until it is on disk {ms(median(took))}"))


# ---- what is compared with ----

class Stream:
    """A bare QEMU that is restored from a full migration stream, as libvirt's restore does it."""

    def __init__(self, h, memory, pattern):
        self.root, self.memory = h.root, memory
        self.stream, self.log = os.path.join(h.root, "stream"), os.path.join(h.root, "stream.log")
        self.start(f"pattern=42,{pattern},hold tick={TICK_MS}")
        wait_for(lambda: b"pattern held" in self.said(), "a bare guest", 300, 0.05)
        # Not stopped first: it would be so after the restore.
        self.command("migrate", uri=f"exec:cat > {self.stream}")
        wait_for(lambda: self.command("query-migrate")["status"] == "completed", "the stream to be written", 300, 0.05)
        self.end()

    def start(self, cmdline, *more):
        guest, path = guest_folder(), os.path.join(self.root, "stream.sock")
        for file in (path, self.log):
            with contextlib.suppress(OSError):
                os.unlink(file)
        self.child = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35,vmport=off,sata=off,smbus=off", "-accel", "tcg", "-cpu", "Nehalem-v1", "-nodefaults",
             "-display", "none", "-m", str(self.memory), "-serial", f"file:{self.log}", "-qmp", f"unix:{path},server=on,wait=off",
             "-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd.gz", "-append", f"console=ttyS0 quiet panic=-1 {cmdline}", *more],
            stdin=subprocess.DEVNULL)
        self.path = path

    def said(self):
        with contextlib.suppress(OSError), open(self.log, "rb") as f:
            return f.read()
        return b""

    def command(self, name, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(self.path)
            with s.makefile("rw") as lines:
                lines.readline()
                for line in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
                    answer = {}
                    while "return" not in answer:
                        answer = json.loads(lines.readline())
                        assert "error" not in answer, answer
                return answer["return"]

    def end(self):
        self.child.kill()
        self.child.wait()

    def first_tick(self):
        begin = time.monotonic()
        self.start("", "-incoming", f"exec:cat {self.stream}")
        wait_for(lambda: re.search(rb"^tick \d+\r?$", self.said(), re.M), "the stream's guest", 120, 0.0005)
        took = time.monotonic() - begin
        self.end()
        return took


# ---- restores ----

def learned_runs(h, o, cold):
    """Restores by mode, in turn, from a snapshot whose working set is known."""
    folder, found = h.folder("base", "one"), {mode: [] for mode in MODES}
    for _ in range(o.runs):
        for mode in MODES:
            prepare(folder, cold, o)
            found[mode].append(first_tick(h, "fast", "base/one", "--mode", mode))
            gone(h, "fast")
    return {mode: median(times) for mode, times in found.items()}


def bench_restore(rows, o):
    memory, pattern = (192, 64) if o.smoke else (1024, 512)
    what = f"{memory} MiB guest, {pattern} in use"
    with host_of(MemoryHost) as h:
        h.start_manager()
        saved(h, "base", memory, pattern)
        h.vmctl("snapshot", "warm", "base/one")
        bare, bare_times = bare_greeting(h, "base", memory, answered=True)
        stream = Stream(h, memory, pattern)
        stream_times = []
        for _ in range(o.runs):
            bare()
            stream_times.append(stream.first_tick())
        os.unlink(stream.stream)
        hot, cold, answer = learned_runs(h, o, False), learned_runs(h, o, True), median(bare_times)
        rows.append((f"lazy restore to the guest's next line, {what}", ms(hot["lazy"]), f"<= {ms(answer + 0.04)}",
                     hot["lazy"] <= answer + 0.04, f"from vmctl's exec; a bare QEMU from its exec until it answers QMP {ms(answer)}, plus 40 ms"))
        rows.append(("same, beside mapped", f"{hot['lazy'] / hot['mapped']:.2f} x", "<= 1.15 x", hot["lazy"] <= 1.15 * hot["mapped"],
                     f"mapped {ms(hot['mapped'])}, eager {ms(hot['eager'])}"))
        rows.append(("same, beside a full stream into a bare QEMU", f"1/{median(stream_times) / hot['lazy']:.1f}", "", None,
                     f"stream {ms(median(stream_times))}; most of what virsh restore does"))
        if o.virsh:
            words = [os.path.join(HERE, "virsh"), guest_folder(), str(memory), str(pattern), str(max(3, o.runs))]
            virsh = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
            rows.append(("same, beside virsh restore", f"1/{virsh['restore'] / hot['lazy']:.1f}", "<= 1/10",
                         virsh["restore"] >= 10 * hot["lazy"], f"virsh restore {ms(virsh['restore'])}, save {ms(virsh['save'])} (stopped)"))
        for name, times in (("warm", hot), ("cold", cold)):
            for mode in MODES:
                rows.append((f"restore to the next line, {mode}, {name}", ms(times[mode]), "", None, what))
        bench_touch(rows, o, h, what)
        bench_faults(rows, o, h)
        bench_cpu(rows, o, h)


def bench_touch(rows, o, h, what):
    """Of a guest whose memory nobody has loaded ahead, the pager alone."""
    mib, folder = (16 if o.smoke else 64), h.folder("base", "one")
    h.configure(prefetch=False)
    snapshot = unlearned(h, "base", "touch")
    for areas, label in ((1024, "in areas of 1 MiB"), (4, "in single pages")):
        for cold in (False, True):
            found = {mode: [] for mode in MODES}
            for _ in range(max(1, o.runs // 2)):
                for mode in MODES:
                    prepare(folder, cold, o)
                    first_tick(h, "touch", snapshot, "--mode", mode)
                    said = h.ask("touch", f"touch {mib} {areas}", r"touched \d+ pages in (\d+) us")
                    found[mode].append(int(said.group(1)) / 1e6)
                    gone(h, "touch")
            times = {mode: median(values) for mode, values in found.items()}
            judged = areas == 1024 and not cold
            rows.append((f"touching {mib} MiB {label}, {'cold' if cold else 'warm'}, lazy with no record",
                         ms(times["lazy"]),
                         "<= 60 ms" if judged else "", times["lazy"] <= 0.06 if judged else None,
                         f"mapped {ms(times['mapped'])}, eager {ms(times['eager'])}; {what}"))
    h.vmctl("snapshot", "delete", snapshot)
    h.configure()


def settled_faults(h, snapshot):
    first_tick(h, "count", snapshot, "--mode", "lazy")
    memory = wait_for(lambda: (lambda m: m if m["settled"] else None)(h.memory("count")), "the faults to settle", 60, 0.02)
    gone(h, "count")
    return memory


def bench_faults(rows, o, h):
    without, known = [], []
    for _ in range(max(1, o.runs // 2)):
        snapshot = unlearned(h, "base", "unknown")
        without.append(settled_faults(h, snapshot)["faults"])
        h.vmctl("snapshot", "delete", snapshot)
        known.append(settled_faults(h, "base/one"))
    left = median([m["faults"] for m in known])
    rows.append(("faults left by a learned working set", f"{left / max(1, median(without)) * 100:.1f} %", "<= 10 %",
                 left <= 0.1 * median(without),
                 f"{left:.0f} of {median(without):.0f}; loaded ahead {known[-1]['prefetched']}, useless {known[-1]['useless']}, "
                 f"p50 {known[-1].get('p50_us', '-')} us, p99 {known[-1].get('p99_us', '-')} us"))


def bench_cpu(rows, o, h):
    """The shim's whole CPU time, from its exec until the last page is there, beside 1 MiB UFFDIO_COPYs of as much."""
    raw = pager_bench(o.smoke, o.runs)
    used = []
    for _ in range(max(1, o.runs // 2)):
        warm(h.folder("base", "one"))
        first_tick(h, "cpu", "base/one", "--mode", "lazy")
        h.wait_complete("cpu")
        used.append(cpu_ms(h.vm("cpu")["shim_pid"]))
        gone(h, "cpu")
    present = h.record("base", "one")["present_pages"]
    if not raw:
        rows.append(("CPU of the shim for a whole restore", f"{median(used):.0f} ms", "", None, "no pager_bench to compare with"))
        return
    copying = raw["restore_cpu"]["raw"] * present / raw["pages"]
    rows.append(("CPU of the shim for a whole restore", f"{median(used) / copying:.2f} x", "<= 1.5 x", median(used) <= 1.5 * copying,
                 f"{median(used):.0f} ms, {present * PAGE // MIB} MiB copied bare {copying:.0f} ms"))


def bench_size(rows, o):
    """A restore takes as long as what it needs, not as what there is."""
    found = {}
    with host_of(MemoryHost) as h:
        h.start_manager()
        for memory in (256, o.large):
            name = f"m{memory}"
            saved(h, name, memory, memory // 2)
            h.vmctl("snapshot", "warm", f"{name}/one", timeout=600)
            warm(h.folder(name, "one"))
            found[memory] = []
        for _ in range(o.runs):
            for memory, times in found.items():
                times.append(first_tick(h, "sized", f"m{memory}/one", "--mode", "lazy"))
                gone(h, "sized")
    small, large = median(found[256]), median(found[o.large])
    rows.append((f"lazy restore, {o.large} MiB over 256 MiB guest", f"{large / small:.2f} x", "<= 1.2 x", large <= 1.2 * small,
                 f"{ms(large)} over {ms(small)}, half of the memory in use"))


def bench_many(rows, o):
    """Clones of one snapshot, all at once, until the last of them speaks."""
    memory, pattern = (128, 40) if o.smoke else (256, 128)
    count, found = (3 if o.smoke else 8), {}
    with host_of(MemoryHost) as h:
        h.start_manager()
        saved(h, "base", memory, pattern)
        h.vmctl("snapshot", "warm", "base/one")
        for _ in range(max(1, o.runs // 2)):
            for n in (1, count):
                names = [f"c-{i}" for i in range(1, n + 1)]
                marks = {name: h.mark(name) for name in names}
                begin = time.monotonic()
                child = subprocess.Popen([program("vmctl"), "clone", "base/one", "--count", str(n), "--name", "c-%d", "--mode", "lazy"],
                                         stdout=subprocess.DEVNULL, env=h.environment())
                for name in names:
                    wait_tick(h, name, marks[name], 0.005)  # who looks all the time takes half a CPU from those it waits for
                found.setdefault(n, []).append(time.monotonic() - begin)
                assert child.wait(120) == 0
                h.vmctl("delete", *names, "--force", "--purge")
    one, many = median(found[1]), median(found[count])
    rows.append((f"{count} restores at once, until all guests speak", f"{many / one:.2f} x one", "<= 4 x", many <= 4 * one,
                 f"{ms(many)} over {ms(one)}, {os.cpu_count()} CPUs"))


# ---- the pager by itself ----

@functools.cache
def pager_bench(smoke, runs):
    """What pager_bench says; None when no build with tests has it, or the kernel has nothing for it to measure."""
    paths = [p for pattern in ("bin", "tests/bench") for p in glob.glob(os.path.join(SOURCE, "build/*", pattern, "pager_bench"))]
    paths = sorted((p for p in paths if not sanitized(p)), key=os.path.getmtime)
    if not paths:
        return None
    words = ["--pages", "8192", "--runs", "1"] if smoke else ["--runs", str(runs)]
    done = subprocess.run([paths[-1], *words], capture_output=True, check=False)
    assert done.returncode in (0, NO_USERFAULTFD), done
    return json.loads(done.stdout) if done.returncode == 0 else None


def bench_pager(rows, o):
    found = pager_bench(o.smoke, o.runs)
    if not found:
        return
    fault, prefetch = found["fault_p50"], found["prefetch"]
    rows.append(("fault through the pager, p50, over a bare round trip", f"{fault['ratio']:.2f} x", "<= 1.3 x", fault["ratio"] <= 1.3,
                 f"{fault['pager']:.1f} us over {fault['raw']:.1f} us, fake guest"))
    rows.append(("prefetch, of bare 1 MiB UFFDIO_COPY", f"{prefetch['ratio']:.2f}", ">= 0.85", prefetch["ratio"] >= 0.85,
                 f"{prefetch['pager']:.0f} of {prefetch['raw']:.0f} MB/s, fake guest"))


BENCHES = {"pause": bench_pause, "restore": bench_restore, "size": bench_size, "many": bench_many, "pager": bench_pager}
COUNTS = ("faults left",)  # rows that say the same on a busy machine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHES, action="append")
    parser.add_argument("--json")
    parser.add_argument("--smoke", action="store_true", help="small guests, each bench once: that all run, and that counts hold")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--large", type=int, default=4096, help="MiB of the large guest; its snapshot takes half of that on disk")
    parser.add_argument("--keep-cache", action="store_true", help="cold runs forget the snapshot's files alone")
    parser.add_argument("--virsh", action="store_true", help="measure libvirt, too; needs root, a network and 2 GiB of memory")
    options = parser.parse_args()
    if options.smoke:
        options.runs, options.large = 1, 384
    options.drop = not options.keep_cache and not options.smoke
    rows = []
    for name in options.only or BENCHES:
        print(f"memory_bench: {name} …", file=sys.stderr, flush=True)
        BENCHES[name](rows, options)
    print_table(rows, options.smoke, COUNTS)
    if options.json:
        with open(options.json, "w") as f:
            json.dump([dict(zip(("what", "measured", "reach", "ok", "note"), row)) for row in rows], f, indent=1)
    judged = [row for row in rows if row[3] is not None]
    if options.smoke:
        judged = [] if sanitized() else [row for row in judged if row[0].startswith(COUNTS)]
    sys.exit(0 if all(row[3] for row in judged) else 1)


if __name__ == "__main__":
    main()
