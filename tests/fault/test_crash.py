"""C: at every step of a start, a stop, a delete and a replacement, the manager is killed, the shim is killed or stands still, or both die.
Afterwards exactly the QEMU that should run runs, what is shown is true, and the next start works. One line a failpoint."""
import os
import re
import signal

from fault import FaultTest, alive, is_stopped, main, processes_of, send, shims, wait_for

MANAGER, START, STOP, FORCE, DELETE, ADOPT = "manager", "start", "stop", "force", "delete", "adopt"
POINTS = [
    # point, the operation it lies in
    ("manager.after-lock", MANAGER),
    ("manager.after-wanted-write", START),
    ("manager.after-run-folder", START),
    ("manager.before-spawn", START),
    ("manager.after-spawn", START),
    ("manager.after-ready", START),
    ("manager.before-go", START),
    ("shim.after-lock", START),
    ("shim.after-run-folder", START),
    ("shim.after-listen", START),
    ("shim.before-ready", START),
    ("shim.after-ready", START),
    ("shim.after-fork", START),
    ("shim.after-state-write", START),
    ("shim.after-go", START),
    ("shim.before-cont", START),
    ("shim.after-cont", START),
    ("manager.after-wanted-write", STOP),
    ("shim.rung-agent", STOP),
    ("shim.rung-acpi", STOP),
    ("shim.rung-quit", STOP),
    ("shim.rung-term", FORCE),
    ("shim.rung-kill", FORCE),
    ("shim.before-exit-record", FORCE),
    ("shim.after-exit-record", FORCE),
    ("shim.before-leaving", FORCE),
    ("manager.delete-before-wanted", DELETE),
    ("manager.delete-before-tombstone", DELETE),
    ("manager.delete-after-tombstone", DELETE),
    ("shim.after-lock", ADOPT),
    ("shim.after-listen", ADOPT),
    ("shim.adopt-after-proof", ADOPT),
    ("shim.before-ready", ADOPT),
    ("shim.before-cont", ADOPT),
]
SLOW = {"shim.rung-agent": {"agent": True}}
DEAF = {"shim.rung-quit": ["ignore-powerdown"], "shim.rung-kill": ["ignore-powerdown", "ignore-term"]}


class CrashPoints(FaultTest):
    def spec(self, point):
        return self.host.fake_spec("web", *DEAF.get(point, []), stop={"timeout": "200ms"}, **SLOW.get(point, {}))

    def reach(self, point, operation):
        """Brings manager or shim to stand still at the point; returns vmctl, which waits for them."""
        armed = os.path.join(self.host.root, "armed")
        fuse = f"{point}=stop@{armed}"
        if operation == MANAGER:
            self.host.start_manager()
            self.host.apply(self.spec(point))
            self.before = self.host.vm("web")
            self.host.kill_manager()
            with open(armed, "w"):
                pass
            self.host.start_manager(wait=False, HOLDFAST_FAILPOINT=fuse)
        else:
            self.host.start_manager(HOLDFAST_FAILPOINT=fuse)
            if operation != START:
                self.host.apply(self.spec(point))
                # The note that it was launched is a write of the wish, too, and may come after the answer.
                wait_for(lambda: self.host.read_json("state", "web", "wanted.json").get("seen") == 1, "the launch to be noted", 10)
                self.before = self.host.vm("web")
            else:
                self.host.write_spec(self.spec(point))
            with open(armed, "w"):
                pass
        words = {START: ("apply", self.host.path("config", "web") + ".json"), STOP: ("stop", "web"), FORCE: ("stop", "web", "--force"),
                 DELETE: ("delete", "web", "--force")}.get(operation)
        vmctl = self.background(*words) if words else None
        if operation == ADOPT:
            send(signal.SIGKILL, self.before["shim_pid"])
        wait_for(lambda: not os.path.exists(armed), f"{point} to be reached", 30)
        wait_for(lambda: any(is_stopped(pid) for pid, _ in processes_of(self.host.root)), f"somebody to stand still at {point}", 10)
        return vmctl

    def go_on(self):
        send(signal.SIGCONT, *(pid for pid, _ in processes_of(self.host.root) if is_stopped(pid)))

    def kill_manager(self, point):
        self.host.kill_manager()
        self.go_on()

    def kill_shim(self, point):
        send(signal.SIGKILL, *shims(self.host))
        self.go_on()

    def stop_shim(self, point):
        """Where the manager can speak meanwhile, it does, and knows better than to do anything about it."""
        if point.startswith("manager."):
            stopped = shims(self.host)
            send(signal.SIGSTOP, *stopped)
            wait_for(lambda: all(is_stopped(pid) for pid in stopped), "the shims to stand still, so that go_on() finds them", 10)
            send(signal.SIGCONT, self.host.manager.pid)
        if self.host.manager_answers():
            self.list_quickly()
        self.go_on()

    def kill_both(self, point):
        victims = shims(self.host)
        send(signal.SIGKILL, *victims)
        self.host.kill_manager()
        wait_for(lambda: not any(alive(pid) for pid in victims), "the shim to be gone", 10)

    def check(self, operation):
        if operation in (STOP, FORCE):
            self.host.wait_state("web", "stopped", deadline=40)
            self.assertEqual(self.host.qemus("web"), [])
            wait_for(lambda: self.exits("web"), "the exit to be written down")
            self.assertEqual([e["incarnation"] for e in self.exits("web")], [1], "told exactly once")
        elif operation == DELETE:
            wait_for(lambda: "web" not in self.host.list(), "the delete to be finished", 40)
            self.assertEqual(self.host.qemus("web"), [])
            self.host.apply(self.host.fake_spec("web"))
        elif operation in (ADOPT, MANAGER):
            self.same(self.before, self.running("web"))
            wait_for(lambda: len(shims(self.host, "web")) == 1, "one shim")
        if "web" not in self.host.list():
            self.host.vmctl("apply", self.host.path("config", "web") + ".json")
        # A child that had not become QEMU yet holds vm.lock until it has heard that its shim is gone.
        # And a shim that was never told to go is a moment on its way out.
        wait_for(lambda: self.host.state("web") not in ("orphaned", "unresponsive"), "the VM to be anybody's", 20)
        self.host.vmctl("start", "web")
        self.running("web")


def make(point, operation, fault):
    def test(self):
        vmctl = self.reach(point, operation)
        fault(self, point)
        if self.host.manager is None:
            self.host.start_manager()
        wait_for(self.host.manager_answers, "a manager that answers", 20)
        if vmctl:
            vmctl.wait(60)
        self.check(operation)
        self.finish()
    return test


for _point, _operation in POINTS:
    for _fault in (CrashPoints.kill_manager, CrashPoints.kill_shim, CrashPoints.stop_shim, CrashPoints.kill_both):
        setattr(CrashPoints, "test_" + re.sub(r"\W", "_", f"{_point}_in_{_operation}_{_fault.__name__}"), make(_point, _operation, _fault))


if __name__ == "__main__":
    main()
