"""X: QEMU killed by the kernel's OOM killer is told as that, not as a signal somebody sent."""
import contextlib
import os

from fault import FaultTest, alive, main, wait_for

# Where a memory limit can be set: v1's controller, or v2's when it is enabled for children of the root.
PLACES = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
LIMIT = 420 << 20


class Oom(FaultTest):
    def limited_group(self):
        for mount, file in PLACES:
            folder = os.path.join(mount, os.path.basename(self.host.root))
            with contextlib.suppress(OSError):
                os.mkdir(folder)
            if os.path.exists(os.path.join(folder, file)):
                with open(os.path.join(folder, file), "w") as f:
                    f.write(str(LIMIT))
                self.addCleanup(lambda: wait_for(lambda: self.removed(folder), "the cgroup to be empty", 20))
                return folder
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self.skipTest("kernel: no memory controller that can be used")
        return None

    @staticmethod
    def removed(folder):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        return not os.path.exists(folder)

    def test_oom_kill(self):
        group = self.limited_group()
        self.host.start_manager()
        with open(os.path.join(group, "cgroup.procs"), "w") as f:
            f.write(str(self.host.manager.pid))
        self.host.apply(self.host.guest_spec("web", memory="768M", restart={"policy": "on-failure", "delay": "100ms"}))
        self.host.wait_ticks("web")
        before = self.host.vm("web")
        with self.host.shim("web") as v:
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(b"sh dd if=/dev/zero of=/tmp/fill bs=1M count=600\n")
            wait_for(lambda: not alive(before["qemu_pid"]), "QEMU to be killed for its memory")
        vm = wait_for(lambda: (lambda x: x if x["incarnation"] == 2 and x["state"] == "running" else None)(self.host.vm("web")),
                      "the next incarnation: an OOM kill is a failure")
        self.assertEqual((vm["last_exit"]["kind"], vm["last_exit"]["signal"]), ("oom", 9))
        self.assertEqual(vm["shim_pid"], before["shim_pid"], "the shim isn't what the killer takes")
        # and a SIGKILL that somebody sends is still told as one
        os.kill(vm["qemu_pid"], 9)
        vm = wait_for(lambda: (lambda x: x if x["incarnation"] == 3 and x["state"] == "running" else None)(self.host.vm("web")),
                      "one more incarnation")
        self.assertEqual((vm["last_exit"]["kind"], vm["last_exit"]["signal"]), ("signal", 9))
        self.stopEverything()


if __name__ == "__main__":
    main()
