"""A crash at every step of a start, a stop and a delete: afterwards exactly the QEMU that should run runs, what is shown is true, and
the next start works. One line a failpoint."""
import os
import re
import signal

from harness import HostTest, main, wait_for

START, STOP, DELETE = "start", "stop", "delete"
POINTS = [
    # point, the operation it lies in
    ("manager.after-wanted-write", START),
    ("manager.after-run-folder", START),
    ("manager.before-spawn", START),
    ("manager.after-spawn", START),
    ("manager.after-ready", START),
    ("manager.before-go", START),
    ("shim.after-lock", START),
    ("shim.after-run-folder", START),
    ("shim.after-listen", START),
    ("shim.after-ready", START),
    ("shim.after-fork", START),
    ("shim.after-state-write", START),
    ("shim.after-go", START),
    ("shim.after-exit-record", STOP),
    ("shim.before-leaving", STOP),
    ("manager.delete-before-wanted", DELETE),
    ("manager.delete-before-tombstone", DELETE),
    ("manager.delete-after-tombstone", DELETE),
]


class CrashPoints(HostTest):
    def qemus(self):
        return self.host.qemus("web")

    def crash(self, point, operation):
        armed = os.path.join(self.host.root, "armed")
        self.host.start_manager(HOLDFAST_FAILPOINT=f"{point}=kill@{armed}")
        spec = self.host.fake_spec("web", "ignore-powerdown", stop={"timeout": "1s"})
        if operation != START:
            self.host.apply(spec)
        with open(armed, "w"):
            pass
        if operation == START:
            self.host.write_spec(spec)
            self.host.vmctl("apply", self.host.path("config", "web") + ".json", check=False)
        elif operation == STOP:
            self.host.vmctl("stop", "web", "--force", check=False)
        else:
            self.host.vmctl("delete", "web", "--force", check=False)
        wait_for(lambda: not os.path.exists(armed), f"the crash at {point}", 20)
        if point.startswith("manager"):
            self.assertEqual(self.host.manager.wait(20), -signal.SIGKILL)
        else:
            self.host.kill_manager()
        self.host.manager = None

    def check_start_works(self):
        self.host.vmctl("start", "web")
        vm = self.host.wait_state("web", "running")
        self.assertEqual(self.qemus(), [vm["qemu_pid"]])


def make(point, operation):
    def test(self):
        self.crash(point, operation)
        self.host.start_manager()
        if operation == START:
            self.check_start_works()
        elif operation == STOP:
            wait_for(lambda: self.host.state("web") == "stopped", "web to be shown stopped", 20)
            self.assertEqual(self.qemus(), [])
            self.check_start_works()
        else:
            wait_for(lambda: "web" not in self.host.list(), "the delete to be finished", 20)
            self.assertEqual(self.qemus(), [])
            self.host.apply(self.host.fake_spec("web"))
            self.check_start_works()
        self.stopEverything()
    return test


for _point, _operation in POINTS:
    setattr(CrashPoints, "test_" + re.sub(r"\W", "_", _point), make(_point, _operation))


if __name__ == "__main__":
    main()
