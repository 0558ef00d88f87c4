"""X: every way a VM can end, with the manager up, down or starting: explained truly, told exactly once. One line a way."""
import os
import signal

from fault import FaultTest, alive, main, send, wait_for


def by_signal(number):
    return lambda test: send(number, test.before["qemu_pid"])


def says(line):
    def run(test):
        with test.host.shim("web") as v:
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(line.encode() + b"\n")
            wait_for(lambda: not alive(test.before["qemu_pid"]), f"the guest to {line}")
    return run


def by_qmp(command):
    def run(test):
        with test.host.shim("web") as v:
            v.call("io.holdfast.Shim.Qmp", {"command": command})
    return run


NO_REBOOT = {"qemu": {"extra_args": ["-no-reboot"]}}
ENDS = [
    # what happens, more of the spec, how, and the exit that is told: kind, code, signal
    ("poweroff", {}, says("poweroff"), ("guest-shutdown", None, None)),
    ("reboot_with_no_reboot", NO_REBOOT, says("reboot"), ("guest-reset", None, None)),
    ("panic", {}, says("panic"), ("guest-panic", None, None)),
    ("quit", {}, by_qmp("quit"), None),
    ("sigterm", {}, by_signal(signal.SIGTERM), None),
    ("sigkill", {}, by_signal(signal.SIGKILL), ("signal", None, signal.SIGKILL)),
    ("sigsegv", {}, by_signal(signal.SIGSEGV), ("signal", None, signal.SIGSEGV)),
]


def up(test, end):
    end(test)


def down(test, end):
    test.host.kill_manager()
    end(test)
    wait_for(lambda: not alive(test.before["qemu_pid"]), "QEMU to be gone")
    wait_for(lambda: not alive(test.before["shim_pid"]), "the shim to have done its duty")
    test.host.start_manager()


def restarting(test, end):
    test.host.kill_manager()
    test.host.start_manager(wait=False)
    end(test)
    wait_for(test.host.manager_answers, "the manager to answer")


class Exits(FaultTest):
    def check(self, expected):
        vm = self.host.wait_state("web", "exited", "failed", "stopped")
        self.assertFalse(alive(self.before["qemu_pid"]))
        last = vm["last_exit"]
        if expected:
            kind, code, number = expected
            self.assertEqual((last["kind"], last.get("signal")), (kind, number), last)
            if code is not None:
                self.assertEqual(last["code"], code)
        self.assertNotEqual(last["kind"], "unknown")
        wait_for(lambda: self.exits("web"), "the exit to be written down, which follows what is shown", 20)
        told = self.exits("web")
        self.assertEqual([(e["incarnation"], e["data"]["kind"]) for e in told], [(1, last["kind"])], "told exactly once")
        # nothing of it is told again by a manager that comes later
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(self.exits("web"), told)
        self.assertEqual(self.host.vm("web")["last_exit"], last)
        self.finish()


def make(more, end, expected, how):
    def test(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web", restart={"policy": "never"}, **more))
        self.host.wait_ticks("web")
        self.before = self.host.vm("web")
        how(self, end)
        self.check(expected)
    return test


for _name, _more, _end, _expected in ENDS:
    for _how in (up, down, restarting):
        setattr(Exits, f"test_{_name}_manager_{_how.__name__}", make(_more, _end, _expected, _how))


class PoweredOffMeanwhile(FaultTest):
    """A guest that powered itself off while nobody managed it isn't booted again unless its policy is always."""

    def powered_off(self, policy):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", "shutdown-after=300", restart={"policy": policy, "delay": "100ms"}))
        self.host.kill_manager()
        wait_for(lambda: os.path.exists(self.host.path("state", "web", "last-exit.json")), "the exit record")
        self.host.start_manager()

    def test_stays_off(self):
        for policy in ("never", "on-failure"):
            with self.subTest(policy):
                self.powered_off(policy)
                self.assertEqual(self.host.wait_state("web", "exited")["incarnation"], 1)
                self.host.vmctl("delete", "web", "--force", "--purge")
                self.host.kill_manager()
        self.host.start_manager()
        self.finish()

    def test_comes_back_when_always(self):
        self.powered_off("always")
        wait_for(lambda: self.host.vm("web")["incarnation"] > 1, "the next incarnation")
        self.finish()


if __name__ == "__main__":
    main()
