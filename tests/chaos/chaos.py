#!/usr/bin/env python3
"""Chaos: for some time all that can happen to the processes of a host happens to one, at random, and none of its guests notices.

    tests/chaos/chaos.py [--seconds 25] [--vms 8] [--guests 2] [--seed N] [--keep]

Some VMs are real guests that nobody operates on: they must not lose a heartbeat or change their pid, whatever is done to manager and shims.
The others are fake ones that are started, stopped, paused, killed. A model says what is wanted of each. At the end the faults stop, and
the host must come to what is wanted: no guest lost, none twice, no process, zombie, socket or cgroup left. The same seed makes the same
sequence of faults (not the same interleaving with the host). HOLDFAST_CHAOS_SEED and HOLDFAST_LONG stand in for options under ctest.
"""
import argparse
import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "fault"))

# pylint: disable=wrong-import-position
from fault import BIN, Host, alive, cgroups_of, gaps, program, qemus, send, shims, sockets_left, wait_for  # noqa: E402

DISK = "24m"
TICKS_PER_SECOND = 10
FAKES = [[], [], ["ignore-powerdown"], ["double-fork-helper"], ["heartbeat=50"], ["console-flood=64"], ["exit-after=4000:1"],
         ["shutdown-after=3000"], ["crash-after=5000:11"]]


class Chaos:
    def __init__(self, options):
        self.options = options
        self.chance = random.Random(options.seed)
        self.host = Host()
        self.counts = collections.Counter()
        self.problems = []
        self.children = []  # vmctls under way
        self.stopped = {}   # pid: when it is to go on
        self.ballast = None
        self.disks = []
        self.log_fills, self.log_full_seconds = 0, 0.0
        self.wanted = {}
        self.guests = [f"guest{i}" for i in range(options.guests)]
        self.fakes = [f"fake{i}" for i in range(options.vms - options.guests)]
        self.begun = time.monotonic()

    def say(self, text):
        if self.options.verbose:
            print(f"{time.monotonic() - self.begun:8.3f} {text}", flush=True)

    def problem(self, text):
        self.problems.append(text)
        print(f"PROBLEM after {time.monotonic() - self.begun:.1f} s: {text}", flush=True)

    # ---- the host ----

    def mount(self):
        """A small file system below the state and log folders of the host, where mounting is allowed."""
        for kind in ("state", "log"):
            os.makedirs(self.host.dirs[kind], exist_ok=True)
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "holdfast-chaos", self.host.dirs[kind]],
                                  capture_output=True, check=False)
            if done.returncode == 0:
                self.disks.append(self.host.dirs[kind])
        if not self.disks:
            print("no file systems can be mounted here: disks don't get full")

    def begin(self):
        self.mount()
        self.host.start_manager()
        for name in self.guests:
            self.host.apply(self.host.guest_spec(name, restart={"policy": "never"}))
        for i, name in enumerate(self.fakes):
            self.host.apply(self.host.fake_spec(name, *FAKES[i % len(FAKES)], stop={"timeout": "300ms"},
                                                restart={"policy": "on-failure", "delay": "100ms", "max_delay": "500ms", "max_attempts": 0}))
            self.wanted[name] = "running"
        for name in self.guests:
            self.host.wait_ticks(name)
        self.before = {name: self.host.vm(name) for name in self.guests}

    # ---- what may happen: each takes what it needs from the dice, whether or not it can act on it ----

    def pick_fake(self):
        return self.chance.choice(self.fakes)

    def vmctl(self, *words):
        self.children = [c for c in self.children if c.poll() is None]
        if len(self.children) > 12:
            return
        self.children.append(subprocess.Popen([program("vmctl"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                              stderr=subprocess.DEVNULL, env=self.host.environment()))

    def wish(self, verb, wanted, *more):
        """Which of two wishes that overtake each other came last nobody knows: what is wanted then is shown by the host alone."""
        name = self.pick_fake()
        self.wanted[name] = wanted
        self.vmctl(verb, name, "--no-wait", *more)

    def start(self):
        self.wish("start", "running")

    def stop(self):
        self.wish("stop", "stopped", *self.chance.choice([[], ["--force"]]))

    def restart(self):
        self.wish("restart", "running", *self.chance.choice([[], ["--force"]]))

    def pause(self):
        self.vmctl("pause", self.pick_fake())

    def resume(self):
        self.vmctl("resume", self.pick_fake())

    def kill_qemu(self):
        for pid in self.host.qemus(self.pick_fake()):
            send(self.chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]), pid)

    def any_shim(self):
        pids = shims(self.host, self.chance.choice(self.guests + self.fakes))
        return pids[:1]

    def kill_shim(self):
        send(signal.SIGKILL, *self.any_shim())

    def kill_some_shims(self):
        for _ in range(self.chance.randint(2, 5)):
            self.kill_shim()

    def kill_shim_and_qemu(self):
        name = self.pick_fake()
        send(signal.SIGKILL, *shims(self.host, name), *self.host.qemus(name))

    def stand_still(self, pids):
        until = time.monotonic() + self.chance.uniform(0.1, 4.0)
        for pid in pids:
            send(signal.SIGSTOP, pid)
            self.stopped[pid] = until

    def stop_shim(self):
        self.stand_still(self.any_shim())

    def stop_qemu(self):
        self.stand_still(self.host.qemus(self.pick_fake()))

    def stop_manager(self):
        self.stand_still([self.host.manager.pid] if self.host.manager else [])

    def kill_manager(self):
        if self.host.manager and self.host.manager.poll() is None:
            self.host.kill_manager(self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]) if
                                   self.host.manager.pid not in self.stopped else signal.SIGKILL)

    def start_manager(self):
        if self.host.manager is None or self.host.manager.poll() is not None:
            self.host.start_manager(wait=False)

    def replace_manager(self):
        self.kill_manager()
        self.start_manager()

    def fill_disk(self):
        disk = self.chance.choice(self.disks or [None])
        seconds = self.chance.uniform(0.5, 3.0)
        if self.ballast or not disk:
            return
        path = os.path.join(disk, "ballast")
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as f:
            while f.write(b"\0" * 65536):
                pass
        self.ballast = (path, time.monotonic() + seconds)
        if disk == self.host.dirs["log"]:
            self.log_fills += 1
            self.log_full_seconds += seconds

    def look(self):
        self.vmctl(self.chance.choice(["list", "events", "health"]))

    ACTIONS = [  # how often in comparison
        (6, start), (4, stop), (3, restart), (2, pause), (3, resume), (4, kill_qemu), (6, kill_shim), (1, kill_some_shims),
        (2, kill_shim_and_qemu), (4, stop_shim), (2, stop_qemu), (1, stop_manager), (3, kill_manager), (5, start_manager),
        (2, replace_manager), (2, fill_disk), (2, look),
    ]

    # ---- while it goes on ----

    def housekeeping(self, everything=False):
        now = time.monotonic()
        for pid, until in list(self.stopped.items()):
            if everything or now >= until:
                send(signal.SIGCONT, pid)
                del self.stopped[pid]
        if self.ballast and (everything or now >= self.ballast[1]):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.ballast[0])
            self.ballast = None
        for name in self.guests:
            if not alive(self.before[name]["qemu_pid"]):
                self.problem(f"{name} is lost: its QEMU {self.before[name]['qemu_pid']} is gone")
                self.guests.remove(name)
                return
        if self.host.manager and self.host.manager.poll() not in (None, -signal.SIGKILL, 0):
            status = self.host.manager.poll()
            self.counts["managers that ended by themselves"] += 1
            if not self.ballast:
                self.problem(f"the manager ended by itself ({status}): {self.host.manager_log()[-600:]}")
            self.host.manager = None

    def look_for_doubles(self, stop):
        """From the side, all the time: never two QEMUs of one VM."""
        while not stop.wait(0.5):
            for name in self.before.keys() | set(self.fakes):
                if len(qemus(self.host, name)) > 1 and len(pids := qemus(self.host, name)) > 1:
                    self.problem(f"{name} runs twice: {pids}")

    def run(self):
        actions = [action for weight, action in self.ACTIONS for _ in range(weight)]
        end = time.monotonic() + self.options.seconds
        while time.monotonic() < end and not self.problems:
            action = self.chance.choice(actions)
            pause = self.chance.expovariate(1 / self.options.pause)
            self.say(action.__name__)
            self.counts[action.__name__] += 1
            action(self)
            self.housekeeping()
            time.sleep(min(pause, 5 * self.options.pause))

    # ---- the end: no more faults, and the host comes to what is wanted ----

    def settle(self):
        self.housekeeping(everything=True)
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)
            if child.poll() is None:
                self.problem(f"a vmctl doesn't come back: {child.args[1:]}")
                child.kill()
                child.wait()
        self.start_manager()
        wait_for(self.host.manager_answers, "the manager to answer", 30)
        for name in self.guests:
            before, vm = self.before[name], self.host.wait_state(name, "running", deadline=90)
            if (vm["qemu_pid"], vm["incarnation"]) != (before["qemu_pid"], before["incarnation"]):
                self.problem(f"{name} is another: {before} became {vm}")
            self.host.wait_ticks(name)
            self.check_heartbeats(name)
        # Wishes that overtook each other or met no manager are repeated: the next start and the next stop work for each.
        for name in self.fakes:
            self.converge(name)

    def check_heartbeats(self, name):
        """Not one is missing but those said while the log's disk was full: the guest went on, the log couldn't take them."""
        missing = gaps(self.host.ticks(name))
        unlogged = sum(b - a - 1 for a, b in missing)
        if any(b <= a for a, b in missing) or len(missing) > self.log_fills or unlogged > TICKS_PER_SECOND * (self.log_full_seconds + self.log_fills):
            self.problem(f"{name} missed heartbeats: {missing} (the log's disk was full {self.log_fills} times)")
        elif unlogged:
            self.counts[f"heartbeats of {name} that the log had no room for"] += unlogged

    def converge(self, name):
        wanted = self.wanted[name]
        words = ("start", name, "--no-wait") if wanted == "running" else ("stop", name)
        wait_for(lambda: self.host.vmctl(*words, check=False).returncode == 0, f"{words} to work: {self.host.list().get(name)}", 90, 0.2)
        if wanted == "stopped":
            self.host.wait_state(name, "stopped")
            wait_for(lambda: not self.host.qemus(name), f"no QEMU of {name}", 10)
        else:
            self.host.wait_state(name, "running", "paused", "exited", "backoff", "failed", deadline=90)
            self.host.vmctl("stop", name, "--force")
            self.host.wait_state(name, "stopped")

    def finish(self):
        self.host.vmctl("stop", "--all", "--force")
        self.host.kill_manager(signal.SIGTERM)
        wait_for(lambda: not self.host.left_behind(), f"no process left ({self.host.left_behind()})", 20)
        if cgroups_of(self.host):
            self.problem(f"cgroups are left: {cgroups_of(self.host)}")
        if sockets_left(self.host):
            self.problem(f"sockets are left: {sockets_left(self.host)}")

    def whole(self):
        stop = threading.Event()
        watcher = threading.Thread(target=self.look_for_doubles, args=(stop,))
        try:
            self.begin()
            watcher.start()
            self.run()
            self.settle()
            stop.set()
            watcher.join()
            self.finish()
        except AssertionError as e:
            self.problem(str(e))
        finally:
            stop.set()
            if watcher.is_alive():
                watcher.join()
            self.clear()

    def clear(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
        self.guests = []
        self.housekeeping(everything=True)
        if self.problems and self.options.keep:
            print(f"kept: {self.host.root}")
            return
        if self.problems:
            print(self.host.manager_log())
            print(self.host.shim_logs())
        with contextlib.suppress(AssertionError):
            for pid, _ in self.host.left_behind():
                send(signal.SIGKILL, pid)
            wait_for(lambda: not self.host.left_behind(), "all to be gone", 20)
        for disk in self.disks:
            subprocess.run(["umount", "-l", disk], check=False)
        self.host.destroy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    long = bool(os.environ.get("HOLDFAST_LONG"))
    parser.add_argument("--seconds", type=float, default=600 if long else 20)
    parser.add_argument("--vms", type=int, default=20 if long else 8)
    parser.add_argument("--guests", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between faults, in the mean")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("HOLDFAST_CHAOS_SEED", 0)) or random.SystemRandom().getrandbits(32))
    parser.add_argument("--keep", action="store_true", help="leave the host's folders after a failure")
    parser.add_argument("--verbose", action="store_true", help="each fault as it happens")
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.vms} VMs, {options.guests} of them guests, {options.seconds:.0f} s; again by\n"
          f"    HOLDFAST_BIN={BIN} tests/chaos/chaos.py --seed {options.seed} --seconds {options.seconds:.0f} "
          f"--vms {options.vms} --guests {options.guests}", flush=True)
    chaos = Chaos(options)
    chaos.whole()
    print(", ".join(f"{count} {name}" for name, count in sorted(chaos.counts.items())))
    guests = sum("is lost" in p or "is another" in p for p in chaos.problems)
    print(f"{guests} lost guests, {sum('twice' in p for p in chaos.problems)} duplicates, "
          f"{sum(' left' in p for p in chaos.problems)} leaks, {len(chaos.problems)} problems in all")
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
