"""The main job: the manager is killed at any instant, restarted, replaced by another build, and no guest notices."""
import os
import random
import re
import shutil
import signal
import subprocess
import threading

from harness import BIN, HostTest, alive, main, program, start_time, wait_for


class Adoption(HostTest):
    def identity(self, name):
        status = self.host.shim_status(name)
        return status["shim"], status.get("qemu"), status["incarnation"]

    def test_guest_does_not_notice(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        before = self.identity("web")
        self.host.kill_manager()
        self.host.wait_ticks("web", 10)
        self.assertEqual(self.identity("web"), before, "the shim answers with no manager")
        self.host.start_manager()
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["shim_pid"], vm["qemu_pid"]), ("running", before[0]["pid"], before[1]["pid"]))
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.assertOneQemu("web")
        self.stopEverything()

    def test_manager_ends_in_order_and_guests_go_on(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        before = self.identity("web")
        self.assertEqual(self.host.kill_manager(signal.SIGTERM), 0)
        self.assertEqual(self.identity("web"), before)
        self.host.start_manager()
        self.assertEqual(self.identity("web"), before)
        self.stopEverything()

    # Each state of a shim: how to bring a VM there, and what it may have become when the next manager looks.
    STATES = {
        "launching": (("hang-greeting",), {}, {"launching"}),
        "running": ((), {}, {"running"}),
        "paused": ((), {"pause": True}, {"paused"}),
        "stopping": (("ignore-powerdown",), {"stop": True}, {"stopping"}),
        "backoff": (("die-before-greeting=3",), {"restart": {"policy": "always", "delay": "1h", "max_delay": "1h"}}, {"backoff"}),
        "exited": (("shutdown-after=300",), {}, {"exited"}),
        "failed": (("exit-after=300:1",), {"restart": {"policy": "never"}}, {"failed"}),
    }

    def test_manager_killed_in_every_state(self):
        self.host.start_manager()
        for state, (behaviour, more, _) in self.STATES.items():
            restart = {"restart": more["restart"]} if "restart" in more else {}
            self.host.write_spec(self.host.fake_spec(state, *behaviour, **restart))
            self.host.vmctl("apply", self.host.path("config", state) + ".json", "--no-wait", check=False)
        for state in ("paused", "stopping"):
            self.host.wait_state(state, "running")
        self.host.vmctl("pause", "paused")
        self.host.vmctl("stop", "stopping", "--no-wait")
        for state in self.STATES:
            self.host.wait_state(state, state)
        for state in ("exited", "failed"):  # a shim that has nothing left to do says so, and then leaves
            wait_for(lambda state=state: self.host.vm(state)["shim_pid"] is None, f"the shim of {state} to be gone")
        wait_for(lambda: self.host.vm("launching")["qemu_pid"], "the QEMU of launching, which may not have been told yet")
        before = {name: (vm["shim_pid"], vm["qemu_pid"], vm["incarnation"]) for name, vm in self.host.list().items()}
        for _ in range(3):
            self.host.kill_manager()
            self.host.start_manager()
            after = self.host.list()
            for state, (_, _, allowed) in self.STATES.items():
                vm = after[state]
                self.assertIn(vm["state"], allowed, vm)
                self.assertEqual((vm["shim_pid"], vm["qemu_pid"], vm["incarnation"]), before[state], state)
        # and every verb goes on working after it
        self.host.vmctl("resume", "paused")
        self.host.wait_state("paused", "running")
        self.host.vmctl("stop", "stopping", "--force")
        for state in ("launching", "backoff"):
            self.host.vmctl("stop", state, "--force")
            self.assertEqual(self.host.state(state), "stopped")
        self.host.vmctl("start", "exited", "--no-wait")
        wait_for(lambda: self.host.vm("exited")["incarnation"] == 2, "a second incarnation")
        self.stopEverything()

    def test_manager_killed_while_preparing(self):
        """A prepare step that hangs (qemu-img reads a pipe nobody writes) is under way when the manager dies."""
        self.host.start_manager()
        slow = os.path.join(self.host.root, "slow-step")
        os.mkfifo(slow)
        spec = self.host.fake_spec("prep", disks=[{"name": "data", "size": "16M"}])
        tools = os.path.join(self.host.root, "tools")
        os.mkdir(tools)
        with open(os.path.join(tools, "qemu-img"), "w") as f:
            f.write(f"#!/bin/sh\nread line < {slow}\nexec /usr/bin/qemu-img \"$@\"\n")
        os.chmod(os.path.join(tools, "qemu-img"), 0o755)
        self.host.kill_manager()
        self.host.start_manager(PATH=tools + ":" + os.environ["PATH"])
        self.host.write_spec(spec)
        self.host.vmctl("apply", self.host.path("config", "prep") + ".json", "--no-wait")
        shim = wait_for(lambda: self.host.vm("prep").get("shim_pid"), "a shim")
        self.host.wait_state("prep", "preparing")
        self.host.kill_manager()
        self.host.start_manager(PATH=tools + ":" + os.environ["PATH"])
        wait_for(lambda: self.host.vm("prep").get("shim_pid") == shim, "the shim to be found again")
        self.assertEqual(self.host.state("prep"), "preparing")
        with open(slow, "w") as f:
            f.write("go\n")
        self.assertEqual(self.host.wait_state("prep", "running")["shim_pid"], shim)
        self.stopEverything()

    def test_killed_a_hundred_times_with_operations_in_flight(self):
        rounds = int(os.environ.get("HOLDFAST_KILLS", "100"))
        chance = random.Random(20)
        self.host.start_manager()
        guests = ["g1", "g2"]
        for name in guests:
            self.host.apply(self.host.guest_spec(name))
            self.host.wait_ticks(name)
        others = [f"f{i}" for i in range(6)]
        for name in others:
            self.host.apply(self.host.fake_spec(name))
        before = {name: self.identity(name) for name in guests}
        stop = threading.Event()

        def operate(seed):
            pick = random.Random(seed)
            while not stop.is_set():
                words = pick.choice([("start",), ("stop", "--force"), ("restart", "--force"), ("pause",), ("resume",), ("list",)])
                names = [] if words[0] == "list" else [pick.choice(others)]
                subprocess.run([program("vmctl"), words[0], *names, *words[1:]], capture_output=True, timeout=60,
                               env=self.host.environment())

        threads = [threading.Thread(target=operate, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(rounds):
                self.host.kill_manager()
                self.host.start_manager(wait=chance.random() < 0.7)
                if chance.random() < 0.5:
                    stop.wait(chance.random() * 0.1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        wait_for(self.host.manager_answers, "the last manager to answer")
        for name in guests:
            self.assertEqual(self.identity(name), before[name])
            self.host.wait_ticks(name)
            self.assertWhole(name)
            self.assertOneQemu(name)
        for name in others:
            self.host.vmctl("start", name)
            self.assertOneQemu(name)
        self.assertEqual({vm["state"] for vm in self.host.list().values()}, {"running"})
        self.stopEverything()

    def test_another_build_takes_over(self):
        """The folder of programs is replaced by another build's while the VM runs, as an upgrade does it."""
        folder = os.path.join(self.host.root, "bin")
        shutil.copytree(BIN, folder, symlinks=True, ignore=lambda _, names: [n for n in names if n not in (
            "holdfastd", "holdfast-shim", "holdfastd-next")])
        self.host.start_manager(binaries=folder)
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        before = self.identity("web")
        first = self.manager_version()
        self.host.kill_manager()
        os.replace(os.path.join(folder, "holdfastd-next"), os.path.join(folder, "holdfastd"))
        os.unlink(os.path.join(folder, "holdfast-shim"))
        shutil.copy2(program("holdfast-shim"), os.path.join(folder, "holdfast-shim"))
        self.host.start_manager(binaries=folder)
        self.assertNotEqual(self.manager_version(), first)
        self.assertEqual(self.identity("web"), before)
        self.assertEqual(self.host.vm("web")["state"], "running")
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.host.vmctl("restart", "web")
        self.stopEverything()

    def manager_version(self):
        return re.search(r"manager\D*([0-9][^\s]*)", self.host.vmctl("version").stdout).group(1)

    def test_two_managers_at_once(self):
        first = self.host.start_manager()
        second = subprocess.run([program("holdfastd"), *self.host.options()], capture_output=True, text=True, timeout=20,
                                env=self.host.environment())
        self.assertEqual(second.returncode, 1)
        self.assertIn(str(first.pid), second.stderr)
        self.assertTrue(self.host.manager_answers())
        self.stopEverything()

    def test_orphan_that_nobody_can_take_over_is_shown_and_left_alone(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        vm = self.host.vm("web")
        self.host.kill_manager()
        os.kill(vm["shim_pid"], signal.SIGKILL)
        wait_for(lambda: not alive(vm["shim_pid"]), "the shim to be gone")
        os.unlink(self.host.path("run", "web", "plan.json"))  # so no other shim can know what it is to do
        self.host.start_manager()
        after = self.host.wait_state("web", "orphaned")
        wait_for(lambda: "plan" in self.host.vm("web")["reason"], "the reason")
        self.assertEqual(after["qemu_pid"], vm["qemu_pid"])
        refused = self.host.vmctl("start", "web", check=False)
        self.assertNotEqual(refused.returncode, 0, "no second QEMU beside the first")
        self.host.wait_ticks("web")
        self.assertWhole("web")
        os.kill(vm["qemu_pid"], signal.SIGKILL)

    def test_hung_shim_delays_nobody(self):
        self.host.start_manager()
        for name in ("a", "b"):
            self.host.apply(self.host.fake_spec(name))
        shim = self.host.vm("a")["shim_pid"]
        os.kill(shim, signal.SIGSTOP)
        try:
            self.host.kill_manager()
            self.host.start_manager()
            self.assertEqual(self.host.wait_state("a", "unresponsive", deadline=10)["shim_pid"], shim)
            self.assertEqual(self.host.state("b"), "running")
            self.host.vmctl("pause", "b")
        finally:
            os.kill(shim, signal.SIGCONT)
        vm = self.host.wait_state("a", "running", deadline=20)
        self.assertEqual(vm["shim_pid"], shim)
        self.stopEverything()

    def test_stopped_shim_is_not_shown_as_running(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("a"))
        shim = self.host.vm("a")["shim_pid"]
        os.kill(shim, signal.SIGSTOP)
        try:
            wait_for(lambda: self.host.state("a") == "unresponsive", "the shim to be seen stopped", 5)
        finally:
            os.kill(shim, signal.SIGCONT)
        self.host.wait_state("a", "running", deadline=20)
        self.stopEverything()

    def test_records_that_do_not_parse_kill_nobody(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        before = self.identity("web")
        self.host.kill_manager()
        for kind, file, content in (("run", "status.json", b"{ nonsense"), ("run", "plan.json", b""), ("state", "wanted.json", b"\0\0\0"),
                                    ("config", None, b"not json")):
            path = self.host.path(kind, "web", file) if file else self.host.path("config", "web") + ".json"
            with open(path, "wb") as f:
                f.write(content)
        self.host.start_manager()
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["qemu_pid"]), ("running", before[1]["pid"]))
        self.assertTrue(vm["reason"], "what is wrong with the files is said")
        self.assertEqual(start_time(before[1]["pid"]), before[1]["start_time"])
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.host.vmctl("stop", "web", "--force")
        self.stopEverything()


if __name__ == "__main__":
    main()
