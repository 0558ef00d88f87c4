"""What the manager tells a service manager: ready when it serves, alive as often as asked, stopping when told to end (sd_notify(3))."""
import os
import signal
import socket
import subprocess

from harness import HostTest, main, program, wait_for


class Notify(HostTest):
    def start(self, **environment):
        path = os.path.join(self.host.root, "notify")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(path)
        listener.settimeout(20)
        self.addCleanup(listener.close)
        # The watchdog is meant for one pid: a shell names its own, which becomes the manager's.
        script = 'export WATCHDOG_PID=$$; exec "$@"'
        self.host.manager = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", program("holdfastd"), *self.host.options()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.host.environment(NOTIFY_SOCKET=path, **environment))
        return listener

    def hear(self, listener, wanted):
        heard = []
        while True:
            heard += listener.recv(4096).decode().splitlines()
            if wanted in heard:
                return heard

    def test_ready_alive_stopping(self):
        listener = self.start(WATCHDOG_USEC="200000")
        self.hear(listener, "READY=1")
        self.assertTrue(self.host.manager_answers(), "ready means that it answers")
        for _ in range(3):
            self.hear(listener, "WATCHDOG=1")
        os.kill(self.host.manager.pid, signal.SIGTERM)
        self.hear(listener, "STOPPING=1")
        self.assertEqual(self.host.manager.wait(20), 0)
        self.host.manager = None

    def test_ready_comes_after_adoption(self):
        self.host.start_manager()
        for i in range(5):
            self.host.apply(self.host.fake_spec(f"vm{i}"))
        self.host.kill_manager()
        listener = self.start()
        self.hear(listener, "READY=1")
        self.assertEqual({vm["state"] for vm in self.host.list().values()}, {"running"})
        self.stopEverything()

    def test_shims_do_not_inherit_the_line(self):
        listener = self.start()
        self.hear(listener, "READY=1")
        self.host.apply(self.host.fake_spec("web"))
        vm = self.host.vm("web")
        for pid in (vm["shim_pid"], vm["qemu_pid"]):
            with open(f"/proc/{pid}/environ", "rb") as f:
                self.assertNotIn(b"NOTIFY_SOCKET", f.read())
        self.host.vmctl("stop", "--all", "--force")
        self.host.kill_manager(signal.SIGTERM)
        wait_for(lambda: not self.host.left_behind(), "no process left")


if __name__ == "__main__":
    main()
