"""Both sockets, called by a Varlink client nobody here wrote (Debian's golang-github-varlink-go-dev)."""
import json
import os
import subprocess

from harness import HostTest, main, program, wait_for


class ForeignClient(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        self.manager = os.path.join(self.host.dirs["run"], "manager.sock")
        self.shim = self.host.path("run", "web", "shim.sock")

    def call(self, *words, check=True):
        done = subprocess.run([program("varlink_call"), *words], capture_output=True, text=True, timeout=60)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_descriptions_parse(self):
        for socket, interface in ((self.manager, "io.holdfast.Manager"), (self.shim, "io.holdfast.Shim")):
            described = self.call("--describe", socket).stdout
            self.assertIn(interface, described)
            self.assertIn("Holdfast", described)

    def test_calls(self):
        vms = json.loads(self.call(self.manager, "io.holdfast.Manager.List").stdout)["vms"]
        self.assertEqual([(vm["name"], vm["state"]) for vm in vms], [("web", "running")])
        status = json.loads(self.call(self.shim, "io.holdfast.Shim.GetStatus").stdout)["status"]
        self.assertEqual(status["qemu"]["pid"], vms[0]["qemu_pid"])
        self.call(self.manager, "io.holdfast.Manager.Pause", '{"name": "web"}')
        self.host.wait_state("web", "paused")
        self.call(self.shim, "io.holdfast.Shim.Resume", '{"incarnation": 1}')
        self.host.wait_state("web", "running")

    def test_streams(self):
        self.host.vmctl("pause", "web")
        wait_for(lambda: "paused" in self.call("--more", self.manager, "io.holdfast.Manager.Events", '{"names": ["web"]}').stdout,
                 "the event of the pause")

    def test_errors_are_typed(self):
        done = self.call(self.manager, "io.holdfast.Manager.Get", '{"name": "nobody"}', check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn("io.holdfast.Manager.NoSuchVM", done.stdout + done.stderr)
        done = self.call(self.shim, "io.holdfast.Shim.Stop", '{"incarnation": 7}', check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn("io.holdfast.Shim.StaleIncarnation", done.stdout + done.stderr)
        for method, error in (("io.holdfast.Shim.NoSuchThing", "MethodNotFound"), ("io.example.X.Y", "InterfaceNotFound")):
            done = self.call(self.shim, method, check=False)
            self.assertIn("org.varlink.service." + error, done.stdout + done.stderr)
        done = self.call(self.manager, "io.holdfast.Manager.Get", '{"name": 5}', check=False)
        self.assertIn("InvalidParameter", done.stdout + done.stderr)


if __name__ == "__main__":
    main()
