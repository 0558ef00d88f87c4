"""One VM's life with a real QEMU and a real guest: each verb, each kind of end, each wish kept."""
import json
import os
import signal

from harness import HostTest, alive, main, wait_for


class Lifecycle(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def start_guest(self, name="web", **more):
        self.host.apply(self.host.guest_spec(name, **more))
        self.host.wait_ticks(name)
        return self.host.vm(name)

    def test_apply_runs_and_list_tells(self):
        vm = self.start_guest()
        self.assertEqual((vm["wanted"], vm["state"], vm["incarnation"], vm["restarts"]), ("running", "running", 1, 0))
        self.assertTrue(alive(vm["shim_pid"]) and alive(vm["qemu_pid"]))
        self.assertIsNone(vm.get("last_exit"))
        self.assertGreater(vm["uptime_ms"], 0)
        self.assertOneQemu("web")
        again = self.host.apply(self.host.guest_spec("web"))
        self.assertIn("unchanged", again.stdout)
        self.assertEqual(self.host.vm("web")["qemu_pid"], vm["qemu_pid"])
        self.stopEverything()

    def test_shim_is_a_child_of_init_in_its_own_session(self):
        vm = self.start_guest()
        with open(f"/proc/{vm['shim_pid']}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        self.assertEqual(int(fields[1]), 1)
        self.assertNotEqual(int(fields[3]), os.getsid(self.host.manager.pid))
        self.stopEverything()

    def test_stop_by_power_button_and_start_again(self):
        first = self.start_guest()
        done = self.host.vmctl("stop", "web")
        self.assertEqual(done.returncode, 0)
        vm = self.host.vm("web")
        self.assertEqual((vm["wanted"], vm["state"], vm["last_exit"]["kind"]), ("stopped", "stopped", "stopped"))
        self.assertFalse(alive(first["qemu_pid"]))
        wait_for(lambda: not alive(first["shim_pid"]), "the shim to leave")
        self.host.vmctl("stop", "web")  # a second stop is fine
        self.host.vmctl("start", "web")
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["incarnation"]), ("running", 2))
        self.host.vmctl("start", "web")  # and so is a second start
        self.assertEqual(self.host.vm("web")["qemu_pid"], vm["qemu_pid"])
        self.assertTrue(os.path.exists(self.host.path("log", "web", "console-1.log")), "the first boot's log is kept")
        self.stopEverything()

    def test_restart_is_a_new_incarnation(self):
        first = self.start_guest()
        self.host.vmctl("restart", "web")
        vm = self.host.vm("web")
        self.assertEqual((vm["wanted"], vm["state"], vm["incarnation"]), ("running", "running", 2))
        self.assertFalse(alive(first["qemu_pid"]))
        self.assertOneQemu("web")
        self.stopEverything()

    def test_pause_resume_reset(self):
        self.start_guest()
        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        stood = self.host.ticks("web")
        self.host.vmctl("pause", "web")
        self.host.vmctl("resume", "web")
        self.host.wait_state("web", "running")
        self.host.wait_ticks("web")
        self.assertEqual(self.host.ticks("web")[:len(stood)], stood)
        self.assertWhole("web")
        self.host.vmctl("pause", "web")
        self.host.vmctl("stop", "web")  # a paused guest hears the power button too
        self.assertEqual(self.host.vm("web")["last_exit"]["kind"], "stopped")
        self.host.vmctl("start", "web")
        self.host.wait_ticks("web")
        pid = self.host.vm("web")["qemu_pid"]
        self.host.vmctl("reset", "web")
        wait_for(lambda: self.host.ticks("web").count(1) == 2, "the guest to count from 1 again")
        self.assertEqual(self.host.vm("web")["qemu_pid"], pid)
        self.stopEverything()

    def test_kill_is_not_restarted(self):
        vm = self.start_guest(restart={"policy": "always"})
        self.host.vmctl("kill", "web")
        after = self.host.wait_state("web", "stopped", "exited")
        self.assertFalse(alive(vm["qemu_pid"]))
        self.assertEqual(after["last_exit"]["kind"], "stopped")
        self.assertEqual(after["wanted"], "stopped")
        self.stopEverything()

    def test_guest_powers_itself_off(self):
        vm = self.start_guest()
        self.say("web", "poweroff")
        vm = self.host.wait_state("web", "exited")
        self.assertEqual((vm["wanted"], vm["last_exit"]["kind"]), ("running", "guest-shutdown"))
        self.host.kill_manager()
        self.host.start_manager()
        self.host.wait_state("web", "exited")
        self.assertEqual(self.host.vm("web")["incarnation"], 1)
        self.host.vmctl("start", "web")
        self.assertEqual(self.host.vm("web")["incarnation"], 2)
        self.stopEverything()

    def test_guest_powers_itself_off_while_no_manager_runs(self):
        vm = self.start_guest()
        self.host.kill_manager()
        self.say("web", "poweroff")
        wait_for(lambda: not alive(vm["qemu_pid"]) and not alive(vm["shim_pid"]), "QEMU and shim to be gone")
        self.assertEqual(self.host.read_json("state", "web", "last-exit.json")["kind"], "guest-shutdown")
        self.host.start_manager()
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["last_exit"]["kind"], vm["incarnation"]), ("exited", "guest-shutdown", 1))
        self.assertEqual(self.host.qemus("web"), [])
        self.stopEverything()

    def test_policy_always_boots_a_guest_that_powered_off_with_no_manager(self):
        vm = self.start_guest(restart={"policy": "always", "delay": "100ms"})
        self.host.kill_manager()
        self.say("web", "poweroff")
        wait_for(lambda: not alive(vm["qemu_pid"]), "the first QEMU to be gone")
        wait_for(lambda: [self.host.shim_status("web")[k] for k in ("state", "incarnation")] == ["running", 2],
                 "the guest to run again with no manager")
        self.host.start_manager()
        after = self.host.vm("web")
        self.assertEqual((after["incarnation"], after["restarts"], after["shim_pid"]), (2, 1, vm["shim_pid"]))
        self.stopEverything()

    def test_panic_is_a_failure_and_is_restarted(self):
        self.start_guest(restart={"policy": "on-failure", "delay": "100ms"})
        self.say("web", "panic")
        vm = wait_for(lambda: (lambda v: v if v["incarnation"] == 2 and v["state"] == "running" else None)(self.host.vm("web")),
                      "a second incarnation")
        self.assertEqual(vm["restarts"], 1)
        self.assertIn(self.host.read_json("state", "web", "last-exit.json")["kind"], ("guest-panic", "guest-reset"))
        self.stopEverything()

    def test_qemu_killed_is_restarted_by_the_shim_alone(self):
        vm = self.start_guest(restart={"policy": "on-failure", "delay": "100ms"})
        self.host.kill_manager()
        os.kill(vm["qemu_pid"], signal.SIGKILL)
        wait_for(lambda: self.host.shim_status("web")["incarnation"] == 2 and self.host.shim_status("web")["state"] == "running",
                 "a second incarnation with no manager")
        record = self.host.read_json("state", "web", "last-exit.json")
        self.assertEqual((record["kind"], record["signal"], record["final"]), ("signal", 9, False))
        self.host.start_manager()
        self.assertEqual(self.host.vm("web")["last_exit"]["kind"], "signal")
        self.assertOneQemu("web")
        self.stopEverything()

    def test_delete(self):
        self.start_guest(disks=[{"name": "data", "size": "16M"}])
        refused = self.host.vmctl("delete", "web", check=False)
        self.assertEqual(refused.returncode, 6)
        self.assertIn("web", refused.stderr)
        self.assertEqual(self.host.state("web"), "running")
        self.host.vmctl("delete", "web", "--force")
        self.assertEqual(self.host.list(), {})
        disk = self.host.path("state", "web", "data.qcow2")
        self.assertTrue(os.path.exists(disk), "disks are kept unless --purge is given")
        self.assertEqual(self.host.vmctl("status", "web", check=False).returncode, 3)
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(self.host.list(), {})
        self.host.apply(self.host.guest_spec("web", disks=[{"name": "data", "size": "16M"}]))
        self.host.vmctl("delete", "web", "--force", "--purge")
        self.assertFalse(os.path.exists(disk))
        self.stopEverything()

    def test_stale_hand(self):
        vm = self.start_guest()
        with self.host.shim("web") as v:
            answer = v.call("io.holdfast.Shim.Stop", {"incarnation": vm["incarnation"] + 1})
        self.assertEqual(answer["error"], "io.holdfast.Shim.StaleIncarnation")
        self.assertEqual(answer["parameters"]["current"], vm["incarnation"])
        self.assertEqual(self.host.state("web"), "running")
        self.stopEverything()

    def test_qmp_passes_through(self):
        self.start_guest()
        version = json.loads(self.host.vmctl("qmp", "web", "query-version").stdout)
        self.assertEqual(version["qemu"]["major"], 7)
        schema = json.loads(self.host.vmctl("qmp", "web", "query-qmp-schema").stdout)
        self.assertGreater(len(schema), 100)
        with self.host.shim("web") as v:
            stale = v.call("io.holdfast.Shim.Qmp", {"command": "quit", "incarnation": 7})
        self.assertEqual(stale["error"], "io.holdfast.Shim.StaleIncarnation")
        wrong = self.host.vmctl("qmp", "web", "no-such-command", check=False)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("no-such-command", wrong.stderr)
        self.stopEverything()

    def say(self, name, line):
        """Types a line on the guest's serial port, straight at the shim."""
        with self.host.shim(name) as v:
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(line.encode() + b"\n")
            wait_for(lambda: line.encode() in self.console_log(name) or not self.runs(name), f"the guest to hear {line!r}", 20)

    def runs(self, name):
        try:
            return alive(self.host.shim_status(name).get("qemu", {}).get("pid"))
        except (OSError, EOFError):  # a shim that has nothing left to do
            return False

    def console_log(self, name):
        with open(self.host.path("log", name, "console.log"), "rb") as f:
            return f.read()


if __name__ == "__main__":
    main()
