"""K: a VM that is to end does, with all its processes, whatever state it is in and whatever was done to signals by whoever started us."""
import os
import re
import signal
import subprocess

from fault import BIN, FaultTest, alive, main, process_state, processes_of, send, wait_for


class Kill(FaultTest):
    def start(self, *behaviour, **more):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", *behaviour, **more))
        self.before = self.host.vm("web")
        return self.before

    def stopped(self, kind="stopped"):
        vm = self.host.wait_state("web", "stopped")
        self.assertEqual(vm["last_exit"]["kind"], kind)
        self.assertFalse(os.path.exists(f"/proc/{self.before['qemu_pid']}"), "it is reaped")
        self.assertEqual(len(self.exits("web")), 1)

    def rungs(self):
        done = self.host.vmctl("events", "web", "--json").stdout
        return re.findall(r'"rung": ?"(\w+)"', done)

    def test_guest_that_ignores_acpi(self):
        self.start("ignore-powerdown", stop={"timeout": "200ms"})
        self.host.vmctl("stop", "web")
        self.stopped()
        self.assertEqual(self.rungs(), ["acpi", "quit"])
        self.finish()

    def test_qemu_that_ignores_all_but_kill(self):
        self.start("ignore-powerdown", "ignore-quit", "ignore-term", stop={"timeout": "100ms"})
        self.host.vmctl("stop", "web")
        self.stopped()
        self.assertEqual(self.rungs(), ["acpi", "quit", "term", "kill"])
        self.finish()

    def test_ladder_completes_with_no_manager(self):
        self.start("ignore-powerdown", stop={"timeout": "300ms"})
        self.host.vmctl("stop", "web", "--no-wait")
        self.host.wait_state("web", "stopping")
        self.host.kill_manager()
        wait_for(lambda: not alive(self.before["shim_pid"]), "the ladder's end")
        self.assertFalse(alive(self.before["qemu_pid"]))
        self.host.start_manager()
        self.stopped()
        self.finish()

    def test_paused(self):
        self.start()
        self.host.vmctl("pause", "web")
        self.host.vmctl("stop", "web")
        self.stopped()
        self.finish()

    def test_paused_guest_hears_the_button(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        self.before = self.host.vm("web")
        self.host.vmctl("pause", "web")
        self.host.vmctl("stop", "web")
        self.stopped()
        self.assertEqual(self.rungs(), ["acpi"])
        self.finish()

    def test_stopped_qemu(self):
        self.start(stop={"timeout": "2s"})
        send(signal.SIGSTOP, self.before["qemu_pid"])
        self.host.vmctl("stop", "web")
        self.stopped()
        self.finish()

    def test_stopped_qemu_is_killed(self):
        self.start()
        send(signal.SIGSTOP, self.before["qemu_pid"])
        self.host.vmctl("kill", "web")
        self.host.wait_state("web", "stopped", "exited", "failed")
        self.assertFalse(os.path.exists(f"/proc/{self.before['qemu_pid']}"))
        self.finish()

    def helper(self):
        known = {self.before["shim_pid"], self.before["qemu_pid"], self.host.manager.pid}
        return wait_for(lambda: [p for p, _ in processes_of(self.host.root) if p not in known], "the helper")

    def test_helper_that_double_forks_dies_with_the_vm(self):
        for how in (("stop", "web"), ("kill", "web"), ("delete", "web", "--force")):
            with self.subTest(how[0]):
                if self.host.manager:
                    self.host.kill_manager()
                self.start("double-fork-helper")
                self.host.vmctl("start", "web")
                self.before = self.host.vm("web")
                helpers = self.helper()
                self.host.vmctl(*how)
                wait_for(lambda h=helpers: not any(os.path.exists(f"/proc/{p}") for p in h), "the helper to be gone and reaped", 20)
        self.finish()

    def test_helper_dies_when_qemu_does(self):
        self.start("double-fork-helper", restart={"policy": "never"})
        helpers = self.helper()
        send(signal.SIGKILL, self.before["qemu_pid"])
        self.host.wait_state("web", "failed")
        wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in helpers), "the helper to be gone and reaped", 20)
        self.finish()

    def test_stop_during_start(self):
        self.host.start_manager()
        self.host.write_spec(self.host.fake_spec("web", "hang-greeting"))
        self.host.vmctl("apply", self.host.path("config", "web") + ".json", "--no-wait")
        self.before = wait_for(lambda: (lambda vm: vm if vm["qemu_pid"] else None)(self.host.vm("web")), "QEMU")
        self.host.vmctl("stop", "web")
        self.stopped()
        self.finish()

    def test_stop_at_once(self):
        """Before the shim, before QEMU, at any moment: stopped is stopped."""
        self.host.start_manager()
        path = self.host.write_spec(self.host.fake_spec("web"))
        self.host.vmctl("apply", path, "--no-wait")
        for _ in range(10):
            self.host.vmctl("stop", "web")
            self.assertEqual(self.host.state("web"), "stopped")
            wait_for(lambda: not self.host.qemus("web"), "no QEMU")
            self.host.vmctl("start", "web", "--no-wait")
        self.finish()

    def test_stop_twice_and_again(self):
        self.start("ignore-powerdown", stop={"timeout": "500ms"})
        stops = [self.background("stop", "web") for _ in range(4)]
        for one in stops:
            self.assertEqual(one.wait(60), 0, "every stop is well")
        self.stopped()
        self.host.vmctl("stop", "web")
        self.host.vmctl("stop", "web", "--force")
        self.assertEqual(len(self.exits("web")), 1)
        self.finish()

    def test_stop_of_what_ended_by_itself(self):
        self.start("shutdown-after=100", restart={"policy": "never"})
        self.host.wait_state("web", "exited")
        self.host.vmctl("stop", "web")
        self.stopped("guest-shutdown")
        self.finish()

    def test_stop_of_what_was_never_started(self):
        self.host.start_manager()
        path = self.host.write_spec(self.host.fake_spec("web", enabled=False))
        if self.host.vmctl("apply", path, "--no-wait", check=False).returncode == 0:
            self.host.vmctl("stop", "web")
            self.host.vmctl("stop", "web")
        self.finish()

    def test_delete_during_stop(self):
        self.start("ignore-powerdown", stop={"timeout": "1s"})
        self.host.vmctl("stop", "web", "--no-wait")
        self.host.wait_state("web", "stopping")
        self.host.vmctl("delete", "web", "--force")
        wait_for(lambda: "web" not in self.host.list(), "the delete")
        self.assertFalse(os.path.exists(f"/proc/{self.before['qemu_pid']}"))
        self.finish()

    def test_no_zombie_stays(self):
        """Also when the kill was somebody else's: each child is reaped."""
        self.start(restart={"policy": "always", "delay": "100ms", "max_delay": "100ms", "max_attempts": 0})
        shim = self.before["shim_pid"]
        for _ in range(5):
            vm = self.running("web")
            send(signal.SIGKILL, vm["qemu_pid"])
            wait_for(lambda v=vm: self.host.vm("web")["incarnation"] > v["incarnation"], "the next incarnation")
        vm = self.running("web")
        with open(f"/proc/{shim}/task/{shim}/children") as f:
            children = [int(pid) for pid in f.read().split()]
        self.assertEqual([pid for pid in children if process_state(pid) == "Z"], [])
        self.finish()


class Sigchld(FaultTest):
    """Started by somebody who ignores or blocks SIGCHLD (both survive exec), we reap all the same."""

    def check(self, start):
        self.host.manager = start(
            [os.path.join(BIN, "holdfastd"), *self.host.options()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(self.host.root, "manager.log"), "ab"), start_new_session=True, env=self.host.environment())
        wait_for(self.host.manager_answers, "the manager to answer", 20)
        self.host.apply(self.host.fake_spec("web", "double-fork-helper", disks=[{"name": "data", "size": "1M"}]))
        before = self.running("web")
        self.host.vmctl("restart", "web")
        vm = self.running("web")
        self.assertEqual((vm["incarnation"], vm["last_exit"]["kind"]), (before["incarnation"] + 1, "stopped"))
        send(signal.SIGKILL, vm["qemu_pid"])
        wait_for(lambda: self.host.vm("web")["incarnation"] > vm["incarnation"], "the next incarnation")
        self.assertEqual(self.host.vm("web")["last_exit"]["signal"], signal.SIGKILL)
        zombies = [pid for pid, _ in processes_of(self.host.root) if process_state(pid) == "Z"]
        self.assertEqual(zombies, [])
        self.running("web")
        self.finish()

    def test_ignored(self):
        self.check(lambda *a, **k: subprocess.Popen(["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *a[0]], **k))

    def test_blocked(self):
        def blocked(*a, **k):
            # pylint: disable=subprocess-popen-preexec-fn
            return subprocess.Popen(*a, **k, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {32, 33}))
        self.check(blocked)


if __name__ == "__main__":
    main()
