"""A QEMU that the kernel takes down for a long time, as that of a TDX guest for hours: just `stopping`, without a deadline, and nothing is started in
its place. It is made with a pid namespace whose first process is QEMU: that can't end before each process in it is reaped, and one of them
has a parent elsewhere that doesn't. Its files are closed by then, so its locks are free; no signal reaches it."""
import contextlib
import os
import signal
import subprocess

from harness import HostTest, alive, main, program, wait_for


class Teardown(HostTest):
    def setUp(self):
        super().setUp()
        if subprocess.run(["unshare", "--pid", "true"], capture_output=True).returncode != 0:
            self.skipTest("kernel: no pid namespace can be made")
        wrapper = os.path.join(self.host.root, "shim-in-namespace")
        with open(wrapper, "w") as f:
            f.write(f"#!/bin/sh\nexec unshare --pid -- {program('holdfast-shim')} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        options = self.host.options()
        self.host.options = lambda: [*options, "--shim", wrapper]
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", restart={"policy": "never"}))
        self.vm = self.host.wait_state("web", "running")
        self.holder = None
        self.addCleanup(self.let_go)
        self.hold()

    def hold(self):
        qemu = self.vm["qemu_pid"]
        namespace = os.readlink(f"/proc/{qemu}/ns/pid")
        self.assertNotEqual(namespace, os.readlink("/proc/self/ns/pid"))
        self.holder = subprocess.Popen(["nsenter", f"--pid=/proc/{qemu}/ns/pid", "--no-fork", "sh", "-c", "true & exec tail -f /dev/null"])
        def zombies():
            found = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as f:
                    fields = f.read().rpartition(")")[2].split()
                    if fields[0] == "Z" and int(fields[1]) == self.holder.pid:
                        found.append(pid)
            return found
        wait_for(zombies, "a process of the namespace that nobody reaps")

    def let_go(self):
        if self.holder and self.holder.poll() is None:
            self.holder.kill()
            self.holder.wait()

    def event_texts(self):
        return [event["text"] for event in self.host.events("web")]

    def test_stopping_takes_as_long_as_it_takes(self):
        qemu, shim = self.vm["qemu_pid"], self.vm["shim_pid"]
        self.host.vmctl("stop", "web", "--force", "--no-wait")
        wait_for(lambda: any("every rung was tried" in text for text in self.event_texts()), "the end of the ladder", 60, 0.2)
        self.assertTrue(alive(qemu) and alive(shim))
        self.assertEqual(self.host.state("web"), "stopping")
        # Nobody starts another, whoever comes and asks.
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(self.host.wait_state("web", "stopping")["qemu_pid"], qemu)
        self.assertEqual(self.host.vmctl("start", "web", "--timeout", "1s", check=False).returncode, 5)
        self.assertEqual(self.host.state("web"), "stopping")
        self.assertTrue(alive(qemu) and alive(shim))
        self.host.vmctl("stop", "web", "--no-wait")  # heard, though nothing new is to be told of it
        self.let_go()
        self.assertEqual(self.host.wait_state("web", "stopped")["last_exit"]["kind"], "stopped")
        wait_for(lambda: not alive(qemu), "QEMU to be gone")
        self.stopEverything()

    def test_without_its_shim_it_is_still_there(self):
        qemu, shim = self.vm["qemu_pid"], self.vm["shim_pid"]
        os.kill(qemu, signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)
        vm = self.host.wait_state("web", "stopping")
        self.assertIn(str(qemu), vm["reason"])
        self.assertTrue(alive(qemu))
        self.host.kill_manager()
        self.host.start_manager()
        self.host.wait_state("web", "stopping")
        self.assertEqual(self.host.vmctl("start", "web", "--timeout", "1s", check=False).returncode, 5)
        self.assertTrue(alive(qemu))
        self.assertEqual(self.host.state("web"), "stopping")
        self.let_go()
        wait_for(lambda: not alive(qemu), "QEMU to be gone")
        # Its end is on record, and what was wished meanwhile comes true.
        vm = self.host.wait_state("web", "running")
        self.assertEqual((vm["incarnation"], vm["last_exit"]["kind"]), (2, "unknown"))
        self.stopEverything()


if __name__ == "__main__":
    main()
