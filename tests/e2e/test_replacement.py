"""The shim dies and its QEMU doesn't: another shim takes it over, whatever it was doing, and no guest notices."""
import json
import os
import re
import signal
import socket
import threading

from harness import HostTest, alive, main, processes_of, start_time, wait_for


class Replacement(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def kill_shim(self, name="web"):
        """SIGKILLs the shim; returns the VM as it was."""
        vm = self.host.vm(name)
        os.kill(vm["shim_pid"], signal.SIGKILL)
        return vm

    def wait_replaced(self, before, name="web", **wanted):
        def replaced():
            vm = self.host.list().get(name)
            if vm and vm["shim_pid"] not in (None, before["shim_pid"]) and all(vm[k] == v for k, v in wanted.items()):
                return vm
            return None
        return wait_for(replaced, f"another shim ({self.host.vm(name)}, {wanted})")

    def test_guest_does_not_notice(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        for _ in range(5):
            before = self.kill_shim()
            vm = self.wait_replaced(before, state="running")
            self.assertEqual((vm["qemu_pid"], vm["incarnation"]), (before["qemu_pid"], before["incarnation"]))
            self.assertOneQemu("web")
        self.host.wait_ticks("web", 10)
        self.assertWhole("web")
        # it has every duty of the first: verbs, console, restart, exit
        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        self.host.vmctl("resume", "web")
        self.host.vmctl("stop", "web")
        self.assertEqual(self.host.vm("web")["last_exit"]["kind"], "stopped")
        self.stopEverything()

    def test_killed_while_no_manager_runs(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        before = self.kill_shim()
        self.host.kill_manager()
        self.host.wait_ticks("web", 5)
        self.host.start_manager()
        vm = self.wait_replaced(before, state="running")
        self.assertEqual(vm["qemu_pid"], before["qemu_pid"])
        self.assertWhole("web")
        self.stopEverything()

    def test_exit_code_of_a_qemu_that_is_no_child(self):
        self.host.apply(self.host.fake_spec("web", restart={"policy": "on-failure", "delay": "100ms"}))
        before = self.kill_shim()
        self.wait_replaced(before, state="running")
        os.kill(before["qemu_pid"], signal.SIGABRT)  # not SIGSEGV, which a sanitizer takes for itself
        vm = wait_for(lambda: (lambda v: v if v["incarnation"] == 2 and v["state"] == "running" else None)(self.host.vm("web")),
                      "the next incarnation, by the replacement's restart duty")
        self.assertEqual((vm["last_exit"]["kind"], vm["last_exit"]["signal"]), ("signal", signal.SIGABRT))
        self.assertOneQemu("web")
        self.stopEverything()

    def test_killed_while_paused(self):
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        vm = self.wait_replaced(self.kill_shim(), state="paused")
        self.host.vmctl("resume", "web")
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.assertEqual(self.host.vm("web")["qemu_pid"], vm["qemu_pid"])
        self.stopEverything()

    def test_paused_behind_the_back_of_a_dead_shim(self):
        """What QEMU did while nobody listened is asked, not assumed."""
        self.host.apply(self.host.fake_spec("web"))
        self.host.kill_manager()
        with self.host.shim("web") as v:
            pid = v.call("io.holdfast.Shim.GetStatus")["parameters"]["status"]["shim"]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "the shim to be gone")
        qmp = socket.socket(socket.AF_UNIX)
        qmp.connect(self.host.path("run", "web", "qmp.sock"))
        lines = qmp.makefile("rw")
        lines.readline()
        for command in ("qmp_capabilities", "stop"):
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            while "return" not in lines.readline():
                pass
        lines.close()
        qmp.close()
        self.host.start_manager()
        self.host.wait_state("web", "paused")
        self.stopEverything()

    def test_killed_while_stopping(self):
        self.host.apply(self.host.fake_spec("web", "ignore-powerdown", stop={"timeout": "2s"}))
        self.host.vmctl("stop", "web", "--no-wait")
        self.host.wait_state("web", "stopping")
        before = self.kill_shim()
        vm = self.host.wait_state("web", "stopped")
        self.assertFalse(alive(before["qemu_pid"]))
        self.assertEqual((vm["wanted"], vm["last_exit"]["kind"]), ("stopped", "stopped"))
        self.stopEverything()

    def leave_qemu_alone(self):
        """Manager and shim are killed; returns the VM's status as it was."""
        status = self.host.shim_status("web")
        self.host.kill_manager()
        os.kill(status["shim"]["pid"], signal.SIGKILL)
        wait_for(lambda: not alive(status["shim"]["pid"]), "the shim to be gone")
        return status

    def occupy_monitor(self):
        """QEMU serves one client at a time, so a shim that comes now isn't greeted."""
        qmp = socket.socket(socket.AF_UNIX)
        self.addCleanup(qmp.close)
        qmp.settimeout(10)
        qmp.connect(self.host.path("run", "web", "qmp.sock"))
        self.assertIn(b"QMP", qmp.recv(4096))

    def rungs_until_exit(self):
        """The rungs of the stop ladder that were taken, in their order, and what QEMU said of its end."""
        wait_for(lambda: any(e["type"] == "exit" for e in self.host.events("web")), "the exit to be written down")
        events = self.host.events("web")
        return ([e["data"]["rung"] for e in events if e["type"] == "stop-rung"],
                [e["data"]["reason"] for e in events if (e["type"], e["text"]) == ("qmp", "SHUTDOWN")])

    def test_stopped_before_the_monitor_answers(self):
        """A stop that reaches the replacement first is as gentle as any."""
        self.host.apply(self.host.fake_spec("web", "delay-greeting=800", stop={"timeout": "30s"}))
        self.wait_replaced(self.kill_shim(), state="running")
        self.host.vmctl("stop", "web")
        self.assertEqual(self.rungs_until_exit(), (["acpi"], ["guest-shutdown"]))
        self.stopEverything()

    def test_stopped_and_the_monitor_never_answers(self):
        self.host.apply(self.host.fake_spec("web", stop={"timeout": "30s"}))
        status = self.leave_qemu_alone()
        self.occupy_monitor()
        self.host.start_manager()
        self.host.wait_state("web", "running")
        self.host.vmctl("stop", "web")
        self.assertFalse(alive(status["qemu"]["pid"]))
        self.assertEqual(self.rungs_until_exit()[0], ["term"])
        self.stopEverything()

    def test_stopped_and_the_monitor_answers_late(self):
        """The ladder has gone on by then, and goes on from where it is."""
        self.host.apply(self.host.fake_spec("web", "delay-greeting=5500", "ignore-term"))
        vm = self.wait_replaced(self.kill_shim(), state="running")
        self.host.vmctl("stop", "web")
        self.assertEqual(self.rungs_until_exit()[0], ["term", "kill"])
        self.assertEqual([e["text"] for e in self.host.events("web") if e["type"] == "shim"],
                         [f"a new shim took QEMU (pid {vm['qemu_pid']}) over", "QEMU's monitor doesn't answer: stopping without it"])
        self.stopEverything()

    def test_killed_while_stopping_and_the_monitor_never_answers(self):
        """The stop was asked for before: it is seen through without anybody asking again."""
        self.host.apply(self.host.fake_spec("web", "ignore-powerdown", stop={"timeout": "5m"}))
        self.host.vmctl("stop", "web", "--no-wait")
        self.host.wait_state("web", "stopping")
        status = self.leave_qemu_alone()
        self.occupy_monitor()
        self.host.start_manager()
        self.host.wait_state("web", "stopped")
        self.assertFalse(alive(status["qemu"]["pid"]))
        self.assertEqual(self.rungs_until_exit()[0], ["acpi", "term"])
        self.stopEverything()

    def test_killed_while_launching(self):
        self.host.write_spec(self.host.fake_spec("web", "delay-greeting=1500"))
        self.host.vmctl("apply", self.host.path("config", "web") + ".json", "--no-wait")
        wait_for(lambda: self.host.vm("web").get("qemu_pid"), "QEMU")
        before = self.kill_shim()
        vm = self.wait_replaced(before, state="running")
        self.assertEqual((vm["qemu_pid"], vm["incarnation"]), (before["qemu_pid"], 1))
        self.stopEverything()

    def test_killed_in_backoff(self):
        self.host.apply(self.host.fake_spec("web", "exit-after=100:3", restart={"policy": "always", "delay": "2s", "max_delay": "2s"}))
        self.host.wait_state("web", "backoff")
        before = self.kill_shim()
        wait_for(lambda: self.host.vm("web")["incarnation"] > before["incarnation"], "it to be started again")
        self.host.vmctl("stop", "web", "--force")
        self.stopEverything()

    def test_shim_and_qemu_killed_together(self):
        self.host.apply(self.host.fake_spec("web", restart={"policy": "on-failure", "delay": "100ms"}))
        before = self.host.vm("web")
        for pid in (before["shim_pid"], before["qemu_pid"]):
            os.kill(pid, signal.SIGKILL)
        vm = wait_for(lambda: (lambda v: v if v["incarnation"] == 2 and v["state"] == "running" else None)(self.host.vm("web")),
                      "the next incarnation")
        self.assertEqual(vm["last_exit"]["kind"], "unknown", "never an invented code")
        self.assertOneQemu("web")
        self.stopEverything()

    def test_no_cgroup_is_left(self):
        self.host.apply(self.host.fake_spec("web", restart={"policy": "never"}))
        before, cgroups = self.host.vm("web"), self.host.cgroups()
        if not cgroups:
            self.skipTest("kernel: no cgroup v2 that can be written")
        for pid in (before["shim_pid"], before["qemu_pid"]):
            os.kill(pid, signal.SIGKILL)
        self.host.wait_state("web", "failed")
        wait_for(lambda: not os.path.isdir(cgroups[0]), "the cgroup to be gone when both died")
        self.host.vmctl("start", "web")
        self.assertEqual(self.host.cgroups(), cgroups)
        self.host.vmctl("stop", "web", "--force")
        self.assertFalse(os.path.isdir(cgroups[0]), "and when it was stopped")
        self.stopEverything()

    def test_a_helper_outlives_both_and_is_ended(self):
        """It holds the VM's lock: nothing may start beside it, and nothing may leave it behind."""
        self.host.apply(self.host.fake_spec("web", "double-fork-helper", restart={"policy": "on-failure", "delay": "100ms"}))
        before = self.host.vm("web")
        known = {before["shim_pid"], before["qemu_pid"], self.host.manager.pid}
        helpers = wait_for(lambda: [p for p, _ in processes_of(self.host.root) if p not in known], "the helper")
        for pid in (before["shim_pid"], before["qemu_pid"]):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["incarnation"] == 2 and self.host.state("web") == "running", "the next incarnation")
        self.assertFalse(any(alive(p) for p in helpers))
        self.stopEverything()

    def test_two_replacements_at_once(self):
        """Of two shims that come for one QEMU, one wins by the lock."""
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        self.host.kill_manager()
        before = self.host.shim_status("web")
        os.kill(before["shim"]["pid"], signal.SIGKILL)
        wait_for(lambda: not alive(before["shim"]["pid"]), "the shim to be gone")
        results = []

        def adopt():
            results.append(self.host.vmctl("shim", "adopt", "web", check=False).returncode)
        threads = [threading.Thread(target=adopt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(results)[0], 0)
        self.assertEqual(sum(r == 0 for r in results), 1, results)
        shims = [p for p, line in processes_of(self.host.root) if re.search(r"holdfast-shim.* web$", line)]
        self.assertEqual(len(shims), 1)
        status = self.host.shim_status("web")
        self.assertEqual((status["qemu"], status["shim"]["pid"]), (before["qemu"], shims[0]))
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.host.start_manager()
        self.assertEqual(self.host.vm("web")["shim_pid"], shims[0])
        self.stopEverything()

    def test_adopt_by_hand_says_what_is_wrong(self):
        self.host.apply(self.host.fake_spec("web"))
        supervised = self.host.vmctl("shim", "adopt", "web", check=False)
        self.assertEqual(supervised.returncode, 6)
        self.assertIn("already", supervised.stderr)
        self.assertEqual(self.host.vmctl("shim", "adopt", "nobody", check=False).returncode, 3)
        self.stopEverything()

    def test_pid_that_was_given_to_another(self):
        """A record whose start time isn't the process's names nobody, and nobody is killed for it."""
        self.host.apply(self.host.fake_spec("web", restart={"policy": "never"}))
        self.host.kill_manager()
        status = self.host.shim_status("web")
        record = self.host.read_json("run", "web", "status.json")
        for pid in (status["shim"]["pid"], status["qemu"]["pid"]):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(status["qemu"]["pid"]), "QEMU to be gone")
        me = os.getpid()
        record["qemu"]["pid"] = me
        with open(self.host.path("run", "web", "status.json"), "w") as f:
            json.dump(record, f)
        self.assertNotEqual(record["qemu"]["start_time"], start_time(me))
        self.host.start_manager()
        vm = self.host.wait_state("web", "failed", "exited", "stopped")
        self.assertEqual(vm["last_exit"]["kind"], "unknown")
        self.assertTrue(alive(me))
        self.stopEverything()


if __name__ == "__main__":
    main()
