"""Health: each kind of probe on a real guest, what it leads to, and that probing delays nothing."""
import json
import os
import socket
import stat

from harness import HostTest, alive, main, wait_for

FAST = {"interval": "200ms", "timeout": "150ms", "retries": 2, "start_period": "0"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Health(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def health(self, name="web"):
        return self.host.vm(name)["health"]

    def wait_health(self, wanted, name="web", deadline=60):
        wait_for(lambda: self.health(name) == wanted, f"{name} {wanted} ({self.probes(name)})", deadline, 0.05)

    def probes(self, name="web"):
        return json.loads(self.host.vmctl("health", name, "--json").stdout)[0]["probes"]

    def say(self, line, name="web"):
        with self.host.shim(name) as v:
            v.call("io.holdfast.Shim.Console", {"backlog": 0}, upgrade=True)
            v.socket.sendall(line.encode() + b"\n")

    def script(self, text):
        path = os.path.join(self.host.root, "probe")
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        return path

    def test_no_probes_no_health(self):
        self.host.apply(self.host.fake_spec("web"))
        self.assertEqual(self.health(), "none")
        self.assertEqual(self.probes(), [])
        self.stopEverything()

    def test_every_kind_goes_green_on_a_guest_that_is_well(self):
        port = free_port()
        probes = [{"type": "qmp"}, {"type": "agent"}, {"type": "console", "match": "^tick [0-9]+"},
                  {"type": "exec", "argv": [self.script('test "$HOLDFAST_VM" = web')]},
                  {"type": "tcp", "port": port, "timeout": "1s"}, {"type": "http", "port": port, "timeout": "1s"}]
        spec = self.host.guest_spec("web", health=[{**FAST, "retries": 1000, **p} for p in probes],
                                    network=[{"mode": "user", "forward": [{"host": f"127.0.0.1:{port}", "guest": 80}]}])
        self.host.apply(spec)
        self.assertIn(self.health(), ("starting", "healthy"))
        self.wait_health("healthy")
        # A VM is healthy as long as no probe has missed too often: on a busy host one may have missed just now.
        wait_for(lambda: [p["well"] for p in self.probes()] == [True] * len(probes), f"all probes to be well: {self.probes()}")
        self.host.vmctl("wait", "web", "--for", "healthy", "--timeout", "5s")
        # an agent that is silent is noticed, nothing else is delayed by it
        self.say("deaf")
        wait_for(lambda: not self.probes()[1]["well"], "the agent to be missed")
        self.assertIn("no answer", self.probes()[1]["why"])
        self.assertEqual([p["well"] for i, p in enumerate(self.probes()) if i != 1], [True] * 5, self.probes())
        self.assertWhole("web")
        self.stopEverything()

    def test_unhealthy_and_well_again(self):
        flag = os.path.join(self.host.root, "well")
        self.host.apply(self.host.fake_spec("web", health=[{**FAST, "type": "exec", "argv": ["/usr/bin/test", "-e", flag]}]))
        self.wait_health("unhealthy")
        self.assertEqual(self.host.state("web"), "running", "action none only tells")
        self.assertIn("ended with 1", self.probes()[0]["why"])
        self.assertEqual(json.loads(self.host.vmctl("shim", "status", "web", "--json").stdout)[0]["status"]["health"], "unhealthy")
        with open(flag, "w"):
            pass
        self.wait_health("healthy")
        texts = [json.loads(line)["text"] for line in self.host.vmctl("events", "web", "--json").stdout.splitlines()
                 if json.loads(line)["type"] == "health"]
        self.assertEqual([t.split(":")[0] for t in texts], ["unhealthy", "healthy"])
        self.stopEverything()

    def test_start_period_is_patient(self):
        self.host.apply(self.host.fake_spec("web", health=[{**FAST, "type": "exec", "argv": ["/bin/false"], "start_period": "1h"}]))
        for _ in range(4):
            last = self.probes()[0].get("at", "")
            wait_for(lambda: self.probes()[0].get("at", "") > last, "a look")
        self.assertEqual((self.probes()[0]["well"], self.probes()[0]["failures"]), (False, 0))
        self.assertEqual(self.health(), "starting")
        self.stopEverything()

    def test_action_restart(self):
        flag = os.path.join(self.host.root, "ill")
        self.host.apply(self.host.fake_spec(
            "web", restart={"policy": "never", "delay": "100ms"},
            health=[{**FAST, "type": "exec", "argv": [self.script(f"test ! -e {flag}")], "action": "restart"}]))
        self.wait_health("healthy")
        with open(flag, "w"):
            pass
        vm = wait_for(lambda: (lambda v: v if v["incarnation"] == 2 else None)(self.host.vm("web")), "another incarnation")
        os.unlink(flag)
        self.wait_health("healthy")
        vm = self.host.vm("web")
        self.assertEqual((vm["state"], vm["last_exit"]["kind"], vm["wanted"]), ("running", "stopped", "running"))
        self.assertOneQemu("web")
        self.stopEverything()

    def test_action_reset(self):
        flag = os.path.join(self.host.root, "ill")
        self.host.apply(self.host.guest_spec(
            "web", health=[{**FAST, "type": "exec", "argv": [self.script(f"test ! -e {flag}")], "action": "reset",
                            "start_period": "1m"}]))
        self.host.wait_ticks("web")
        self.wait_health("healthy")
        pid = self.host.vm("web")["qemu_pid"]
        with open(flag, "w"):
            pass
        wait_for(lambda: self.host.ticks("web").count(1) >= 2, "the guest to boot again")
        os.unlink(flag)
        self.wait_health("healthy")
        self.assertEqual(self.host.vm("web")["qemu_pid"], pid)
        self.stopEverything()

    def test_probes_rest_while_paused(self):
        for name in ("web", "clock"):
            self.host.apply(self.host.fake_spec(name, health=[{**FAST, "type": "qmp"}]))
            self.wait_health("healthy", name)
        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        looked = self.probes()[0]["at"]
        for _ in range(4):  # as many looks at the other one
            last = self.probes("clock")[0]["at"]
            wait_for(lambda: self.probes("clock")[0]["at"] > last, "a look at the other one")
        self.assertEqual(self.probes()[0]["at"], looked)
        self.host.vmctl("resume", "web")
        wait_for(lambda: self.probes()[0]["at"] > looked, "another look")
        self.stopEverything()

    def test_a_probe_that_hangs_is_ended_with_its_children(self):
        pids = os.path.join(self.host.root, "pids")
        script = self.script(f"echo $$ >> {pids}\nsleep 1000 &\necho $! >> {pids}\nsleep 1000")
        self.host.apply(self.host.fake_spec("web", health=[{**FAST, "type": "exec", "argv": [script]}]))
        self.wait_health("unhealthy")
        self.host.vmctl("stop", "web", "--force")
        with open(pids) as f:
            started = [int(n) for n in f.read().split()]
        wait_for(lambda: not any(alive(p) for p in started), "all of the probe's processes to be gone")
        self.stopEverything()

    def test_agent_hears_the_stop_first(self):
        self.host.apply(self.host.guest_spec("web", agent=True))
        self.host.wait_ticks("web")
        self.say("noacpi")
        self.host.vmctl("stop", "web")
        with open(self.host.path("log", "web", "console.log")) as f:
            self.assertIn("the agent was told to shut down", f.read())
        self.assertEqual(self.host.vm("web")["last_exit"]["kind"], "stopped")
        self.stopEverything()


if __name__ == "__main__":
    main()
