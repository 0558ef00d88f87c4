"""What can change under a running guest changes, all of it or nothing, whoever dies meanwhile; what can't is said before."""
import glob
import http.client
import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request

from harness import HERE, HostTest, alive, main, wait_for

SHIM = "io.holdfast.Shim."
POINTS = ("shim.update-before-qmp", "shim.update-after-step", "shim.update-after-qmp", "shim.update-after-write")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def network(*ports):
    return [{"mode": "user", "forward": [{"host": f"127.0.0.1:{port}", "guest": 80, "proto": "tcp"} for port in ports]}]


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        return answer.read()


def page(port):
    """The guest's page, once the guest serves it: until then its kernel resets what QEMU forwards to it."""
    def served():
        try:
            return fetch(port)
        except (ConnectionResetError, http.client.RemoteDisconnected):
            return None
    return wait_for(served, f"the page on port {port}")


class Live(HostTest):
    # ---- what is there ----

    def forwards(self, name="web"):
        """Ports of 127.0.0.1 that QEMU listens on, as it says itself."""
        def ask():
            with self.host.shim(name) as v:
                reply = v.call(SHIM + "Qmp", {"command": "human-monitor-command", "arguments": {"command-line": "info usernet"}})
            return reply["parameters"].get("result")  # a shim that has just come has no monitor yet
        text = wait_for(ask, "QEMU's monitor")["return"]
        return sorted(int(port) for port in re.findall(r"HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+)", text))

    def planned_forwards(self, name="web"):
        argv = self.host.read_json("run", name, "plan.json")["qemu"]["argv"]
        rules = [rule["str"] for word in argv if word.startswith('{"type":"user"') for rule in json.loads(word).get("hostfwd", [])]
        return sorted(int(rule.split(":")[2].split("-")[0]) for rule in rules)

    def refused(self, port):
        with self.assertRaises(urllib.error.URLError) as caught:
            fetch(port)
        self.assertIsInstance(caught.exception.reason, ConnectionRefusedError)

    def diff(self, *words, spec=None):
        done = self.host.vmctl("diff", *words, "--json", *(["-"] if spec else []), stdin=json.dumps(spec) if spec else None)
        [one] = json.loads(done.stdout)
        return one

    def differences(self, one):
        return {d["what"]: d["live"] for d in one["differences"]}

    def apply_json(self, spec):
        [one] = json.loads(self.host.vmctl("apply", "-", "--no-wait", "--json", stdin=json.dumps(spec)).stdout)
        return one

    def next_plan(self, spec, name="web"):
        """The plan that a spec comes to, as the manager makes it."""
        self.host.write_spec(spec)
        return json.loads(self.host.vmctl("inspect", name).stdout)["next_plan"]

    # ---- forwards ----

    def test_a_forward_comes_and_goes(self):
        self.host.start_manager()
        first, second = free_ports(2)
        spec = self.host.guest_spec("web", network=network(first))
        self.host.apply(spec)
        self.host.wait_ticks("web")
        before = self.host.vm("web")
        self.refused(second)

        more = {**spec, "network": network(first, second)}
        self.assertEqual(self.diff(spec=more)["effect"], "live")
        self.assertIn(f"changed while it runs: forward tcp:127.0.0.1:{second}-:80 added", self.host.apply(more).stdout)
        self.assertEqual(page(second), b"holdfast-guest\n")
        self.assertEqual(page(first), b"holdfast-guest\n")
        vm = self.host.vm("web")
        self.assertEqual((vm["changed"], vm["qemu_pid"], vm["incarnation"]), (False, before["qemu_pid"], before["incarnation"]))
        self.assertEqual(self.diff("web")["effect"], "none")
        [event] = [e for e in self.host.events("web") if e["type"] == "updated"]
        self.assertEqual(event["data"], {"changed": [f"forward tcp:127.0.0.1:{second}-:80 added"]})

        # one goes, the port of the other changes hands in the guest
        other = {**spec, "network": network(second)}
        other["network"][0]["forward"][0]["guest"] = 81
        self.assertEqual(self.apply_json(other)["restart_needed"], False)
        self.refused(first)
        self.assertEqual(self.forwards(), [second])
        self.assertEqual(self.apply_json({**spec, "network": network(second)})["restart_needed"], False)
        self.assertEqual(page(second), b"holdfast-guest\n")
        self.assertEqual(self.apply_json({**spec, "network": network()})["restart_needed"], False)
        self.refused(second)
        self.assertWhole("web")

        # what a restart begins with is what was changed last
        self.assertEqual(self.apply_json(more)["live"], [f"forward tcp:127.0.0.1:{p}-:80 added" for p in (first, second)])
        os.kill(self.host.vm("web")["qemu_pid"], signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["incarnation"] == 2 and self.host.state("web") == "running", "the next incarnation")
        self.assertEqual(self.forwards(), sorted((first, second)))
        self.assertEqual(self.diff("web")["effect"], "none")
        self.stopEverything()

    def test_a_port_that_is_taken(self):
        self.host.start_manager()
        old, new, taken = free_ports(3)
        spec = self.host.guest_spec("web", network=network(old))
        self.host.apply(spec)
        self.host.wait_ticks("web")
        plan = self.host.read_json("run", "web", "plan.json")
        with socket.socket() as s:
            s.bind(("127.0.0.1", taken))
            s.listen()
            wish = {**spec, "network": network(new, taken), "restart": {"policy": "always"}}
            done = self.host.apply(wish, check=False)
            self.assertEqual(done.returncode, 1)
            whose = f"/network/0/forward/1/host: 127.0.0.1:{taken}/tcp is taken by "
            self.assertIn(whose, done.stderr)
            self.assertIn(f"(pid {os.getpid()})", done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(whose, self.host.vm("web")["reason"])
        self.assertEqual(self.forwards(), [old])
        self.assertEqual(page(old), b"holdfast-guest\n")
        self.assertEqual(self.host.read_json("run", "web", "plan.json"), plan)
        self.assertFalse(os.path.exists(self.host.path("run", "web", "plan-next.json")))
        self.assertTrue(self.host.vm("web")["changed"])
        self.assertEqual(self.diff("web")["effect"], "live")
        # free again, and asked again
        one = self.apply_json(wish)
        self.assertEqual((one["change"], one["restart_needed"]), ("unchanged", False))
        self.assertIsNone(self.host.vm("web")["reason"])
        self.assertEqual(self.forwards(), sorted((new, taken)))
        self.assertFalse(self.host.vm("web")["changed"])
        self.assertWhole("web")
        self.stopEverything()

    def test_a_port_that_needs_a_right(self):
        self.host.start_manager()
        [port] = free_ports(1)
        spec = self.host.guest_spec("web", network=network(port))
        self.host.apply(spec)
        one = self.diff(spec={**spec, "network": network(port, 81)})
        self.assertEqual((one["effect"], one["change"]), ("restart", "updated"))
        self.assertIn("below 1024", one["differences"][0]["why"])
        self.assertIn("vmctl restart web", self.host.apply({**spec, "network": network(port, 81)}).stdout)
        self.assertEqual(self.forwards(), [port])
        self.stopEverything()

    def test_changed_while_paused(self):
        self.host.start_manager()
        [port] = free_ports(1)
        spec = self.host.guest_spec("web", network=network())
        self.host.apply(spec)
        self.host.wait_ticks("web")
        self.host.vmctl("pause", "web")
        self.host.wait_state("web", "paused")
        self.assertEqual(self.apply_json({**spec, "network": network(port)})["restart_needed"], False)
        self.assertEqual(self.forwards(), [port])
        self.host.vmctl("resume", "web")
        self.assertEqual(page(port), b"holdfast-guest\n")
        self.assertWhole("web")
        self.stopEverything()

    def test_a_spec_edited_while_no_manager_runs(self):
        self.host.start_manager()
        [port] = free_ports(1)
        spec = self.host.guest_spec("web", network=network())
        self.host.apply(spec)
        self.host.wait_ticks("web")
        self.host.kill_manager()
        self.host.write_spec({**spec, "network": network(port)})
        self.host.start_manager()
        wait_for(lambda: self.forwards() == [port], "the new manager to add the forward")
        wait_for(lambda: self.diff("web")["effect"] == "none", "it to know so")
        self.assertWhole("web")
        self.stopEverything()

    def test_while_the_monitor_is_busy(self):
        """A shim that has just taken a guest over can't tell it anything yet."""
        self.host.start_manager()
        [port] = free_ports(1)
        spec = self.host.guest_spec("web", network=network())
        self.host.apply(spec)
        self.host.wait_ticks("web")
        pid = self.host.vm("web")["shim_pid"]
        self.host.kill_manager()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "the shim to be gone")
        with socket.socket(socket.AF_UNIX) as qmp:  # QEMU serves one client at a time
            qmp.connect(self.host.path("run", "web", "qmp.sock"))
            self.assertIn(b"QMP", qmp.recv(4096))
            self.host.write_spec({**spec, "network": network(port)})
            self.host.start_manager()
            self.host.wait_state("web", "running")
            plan = json.loads(self.host.vmctl("inspect", "web").stdout)["next_plan"]
            with self.host.shim("web") as v:
                self.assertEqual(v.call(SHIM + "Update", {"incarnation": 1, "plan": plan})["error"], SHIM + "WrongState")
        wait_for(lambda: self.forwards() == [port], "the change to be made once QEMU can be told")
        self.assertEqual(self.diff("web")["effect"], "none")
        self.assertWhole("web")
        self.stopEverything()

    # ---- what the shim does itself ----

    def test_health(self):
        self.host.start_manager()
        spec = self.host.guest_spec("web")
        self.host.apply(spec)
        self.assertEqual(self.host.vm("web")["health"], "none")
        probe = {"type": "console", "match": "^tick [0-9]+", "interval": "100ms"}
        self.assertEqual(self.apply_json({**spec, "health": [probe]})["live"], ["health"])
        wait_for(lambda: self.host.vm("web")["health"] == "healthy", "the new probe to go green")
        never = {"type": "console", "match": "^never$", "interval": "100ms", "retries": 2, "start_period": "0"}
        self.apply_json({**spec, "health": [probe, never]})
        wait_for(lambda: self.host.vm("web")["health"] == "unhealthy", "the second one to fail")
        self.apply_json(spec)
        wait_for(lambda: self.host.vm("web")["health"] == "none", "no health without probes")
        self.assertWhole("web")
        self.stopEverything()

    def test_restart_policy(self):
        self.host.start_manager()
        spec = self.host.fake_spec("web", restart={"policy": "never"})
        self.host.apply(spec)
        self.assertEqual(self.apply_json({**spec, "restart": {"policy": "always", "delay": "100ms"}})["live"], ["restart"])
        os.kill(self.host.vm("web")["qemu_pid"], signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["incarnation"] == 2 and self.host.state("web") == "running", "it to come again")
        self.stopEverything()

    def test_stop_ladder(self):
        self.host.start_manager()
        spec = self.host.fake_spec("web", "ignore-powerdown", stop={"timeout": "1h"})
        self.host.apply(spec)
        self.assertEqual(self.apply_json({**spec, "stop": {"timeout": "100ms"}})["live"], ["stop"])
        self.host.vmctl("stop", "web")
        rungs = [e["data"] for e in self.host.events("web") if e["type"] == "stop-rung"]
        self.assertEqual(rungs[0], {"rung": "acpi", "wait_ms": 100})
        # while it stops, the ladder that is being climbed stays
        self.host.apply({**spec, "stop": {"timeout": "1h"}})
        self.host.vmctl("stop", "web", "--no-wait")
        self.host.wait_state("web", "stopping")
        plan = self.next_plan({**spec, "stop": {"timeout": "1s"}})
        with self.host.shim("web") as v:
            reply = v.call(SHIM + "Update", {"incarnation": self.host.vm("web")["incarnation"], "plan": plan})
        self.assertEqual(reply["error"], SHIM + "WrongState")
        self.host.vmctl("stop", "web", "--force")
        self.stopEverything()

    def test_log_limits(self):
        """Also of a VM that has nothing more to say."""
        self.host.start_manager()
        spec = self.host.fake_spec("web", "console-flood=300")
        self.host.apply(spec)
        log = self.host.path("log", "web", "console.log")
        wait_for(lambda: os.path.getsize(log) > 300 << 10, "the flood")
        self.assertEqual(glob.glob(log + ".*"), [])
        self.assertEqual(self.apply_json({**spec, "logs": {"max_size": "64K", "keep": 3}})["live"], ["logs"])
        wait_for(lambda: glob.glob(log + ".*") and os.path.getsize(log) < 64 << 10, "the log to be cut")
        self.stopEverything()

    def test_in_backoff(self):
        """No QEMU is there to be told: the next one begins with it."""
        self.host.start_manager()
        ports = free_ports(2)
        spec = self.host.fake_spec("web", "exit-after=50:3", network=network(ports[0]),
                                   restart={"policy": "always", "delay": "1h", "max_delay": "1h"})
        self.host.apply(spec, check=False)
        self.host.wait_state("web", "backoff")
        one = self.apply_json({**spec, "network": network(ports[1]), "restart": {**spec["restart"], "max_attempts": 9}})
        self.assertEqual(one["restart_needed"], False)
        self.assertEqual(self.planned_forwards(), [ports[1]])
        self.assertEqual(self.host.read_json("run", "web", "plan.json")["restart"]["max_attempts"], 9)
        self.stopEverything()

    # ---- what can't be ----

    def test_by_restart(self):
        self.host.start_manager()
        spec = self.host.fake_spec("web")
        self.host.apply(spec)
        bigger = {**spec, "memory": "32M", "restart": {"policy": "never"}}
        one = self.diff(spec=bigger)
        self.assertEqual((one["effect"], self.differences(one)), ("restart", {"/memory": False, "/restart/policy": True}))
        text = self.host.vmctl("diff", "-", stdin=json.dumps(bigger)).stdout
        self.assertIn("web: updated, would change by a restart", text)
        self.assertRegex(text, r"web +/memory +16M +32M +restart")
        self.assertRegex(text, r"web +/restart/policy +on-failure +never +live")
        self.assertIn("until: vmctl restart web", self.host.apply(bigger).stdout)
        # not even the part that could be: a VM runs by one plan, not by parts of two
        self.assertEqual(self.host.read_json("run", "web", "plan.json")["restart"]["policy"], "on-failure")
        self.assertTrue(self.host.vm("web")["changed"])
        self.host.vmctl("restart", "web")
        self.assertEqual(self.host.vmctl("diff", "web").stdout, "web: nothing would change\n")
        self.host.vmctl("stop", "web")
        one = self.diff("web")
        self.assertEqual((one["effect"], one["differences"]), ("start", []))
        self.assertEqual(self.differences(self.diff(spec=spec)), {"/memory": False, "/restart/policy": False})
        self.stopEverything()

    def tree(self):
        """All there is in the folders, but for what a shim or QEMU writes all the time."""
        found = {}
        for folder, _, files in os.walk(self.host.root):
            for file in files:
                path = os.path.join(folder, file)
                if not file.endswith((".log", ".sock", ".lock")):
                    with open(path, "rb") as f:
                        found[path] = f.read()
        return found

    def test_dry_run_writes_nothing(self):
        self.host.start_manager()
        spec = self.host.fake_spec("web")
        self.host.apply(spec)
        wait_for(lambda: any(e["text"] == "running" for e in self.host.events("web")), "what the start told to be written")
        before = self.tree()
        new = self.host.fake_spec("new", vsock={"cid": "auto"})
        for changed, effect, change in (({**spec, "memory": "32M"}, "restart", "updated"), (spec, "none", "unchanged"),
                                        ({**spec, "restart": {"policy": "never"}}, "live", "updated"),
                                        ({**spec, "vsock": {"cid": "auto"}}, "restart", "updated"), (new, "create", "created")):
            [one] = json.loads(self.host.vmctl("apply", "--dry-run", "--json", "-", stdin=json.dumps(changed)).stdout)
            self.assertEqual((one["effect"], one["change"]), (effect, change), one)
        self.assertEqual(self.tree(), before)
        self.assertEqual(list(self.host.list()), ["web"])
        done = self.host.vmctl("apply", "--dry-run", "-", stdin=json.dumps({**spec, "boot": {"kernel": "/nonexistent"}}), check=False)
        self.assertEqual((done.returncode, self.tree()), (1, before))
        self.assertIn("/boot/kernel", done.stderr)
        self.assertEqual(self.host.vmctl("diff", "nobody", check=False).returncode, 3)
        self.stopEverything()

    def test_an_older_shim(self):
        options = self.host.options
        self.host.options = lambda: [*options(), "--shim", os.path.join(HERE, "fake_shim.py")]
        self.host.start_manager()
        spec = self.host.fake_spec("web")
        self.host.apply(spec)
        one = self.apply_json({**spec, "restart": {"policy": "never"}})
        self.assertEqual((one["restart_needed"], one.get("live")), (True, None))
        self.assertIn("older than this manager", self.host.manager_log())
        self.stopEverything()

    def test_a_qemu_that_knows_no_forwards(self):
        """It refuses; nothing is half done."""
        self.host.start_manager()
        [port] = free_ports(1)
        spec = self.host.fake_spec("web", network=network())
        self.host.apply(spec)
        done = self.host.apply({**spec, "network": network(port), "logs": {"keep": 7}}, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("goes on with its earlier one", done.stderr)
        self.assertEqual(self.host.read_json("run", "web", "plan.json")["logs"]["keep"], 3)
        self.stopEverything()

    def test_what_the_shim_refuses(self):
        self.host.start_manager()
        spec = self.host.fake_spec("web")
        self.host.apply(spec)
        plan = self.host.read_json("run", "web", "plan.json")
        with self.host.shim("web") as v:
            for given, error in (({"incarnation": 7, "plan": plan}, "StaleIncarnation"),
                                 ({"incarnation": 1, "plan": {**plan, "ram": {"size": "32M", "shared": True}}}, "RestartNeeded"),
                                 ({"incarnation": 1, "plan": {**plan, "name": "db"}}, "Failed"),
                                 ({"incarnation": 1, "plan": {"schema": 1}}, "Failed")):
                self.assertEqual(v.call(SHIM + "Update", given).get("error"), SHIM + error)
            self.assertEqual(v.call(SHIM + "Update", {"incarnation": 1, "plan": plan})["parameters"], {"changed": []})
        self.assertEqual(self.host.read_json("run", "web", "plan.json"), plan)
        self.stopEverything()

    def test_several_at_once(self):
        """One after the other, each as a whole."""
        self.host.start_manager()
        ports = free_ports(4)
        spec = self.host.guest_spec("web", network=network())
        self.host.apply(spec)
        self.host.wait_ticks("web")
        plans = [self.next_plan({**spec, "network": network(port)}) for port in ports]
        self.host.kill_manager()
        callers = [self.host.shim("web") for _ in ports]
        for caller, plan in zip(callers, plans):
            self.addCleanup(caller.close)
            caller.send(SHIM + "Update", {"incarnation": 1, "plan": plan})
        callers[1].close()  # whoever goes away ends nothing
        for caller in (callers[0], *callers[2:]):
            self.assertIn("parameters", caller.receive())
        # That of the one who went away may be the last, and is nobody's to wait for.
        wait_for(lambda: len(self.forwards()) == 1 and self.forwards() == self.planned_forwards(), "all of them to be done")
        self.host.start_manager()
        wait_for(lambda: self.forwards() == [ports[-1]], "the manager's wish")
        self.assertWhole("web")
        self.stopEverything()

    def test_applied_while_an_edit_is_under_way(self):
        """The newer of the two is what it comes to, whichever reaches the guest first."""
        self.host.start_manager()
        a, b, c = free_ports(3)
        spec = self.host.guest_spec("web", network=network(a, b))
        self.host.apply(spec)
        self.host.wait_ticks("web")
        for pause in range(24):
            self.host.write_spec({**spec, "network": network(b, c)})
            time.sleep(pause % 9 / 500)
            self.host.apply(spec)
            wait_for(lambda: self.forwards() == sorted([a, b]) and not self.host.vm("web")["changed"], f"what was applied ({pause})", 10)
        self.assertWhole("web")
        self.stopEverything()

    # ---- the shim dies at it ----

    def other_shim(self, before, name="web"):
        """The status of a shim that isn't that of `before` and has QEMU's monitor; None: there is none yet."""
        try:
            status = self.host.shim_status(name)
        except (OSError, EOFError):
            return None
        if status["shim"]["pid"] == before["shim"]["pid"]:
            return None
        self.forwards(name)
        return status

    def test_killed_at_each_step(self):
        armed = {point: os.path.join(self.host.root, point) for point in POINTS}
        fuses = ",".join(f"{point}=kill@{path}" for point, path in armed.items())
        self.host.start_manager(HOLDFAST_FAILPOINT=fuses)
        a, b, c = free_ports(3)
        spec = self.host.guest_spec("web", network=network(a, b))
        self.host.apply(spec)
        self.host.wait_ticks("web")
        before, status = self.host.vm("web"), self.host.shim_status("web")
        wish = self.next_plan({**spec, "network": network(b, c)})  # one goes, one stays, one comes
        self.host.apply(spec)  # the wish was in the folder for a moment, and may have been heeded
        wait_for(lambda: self.forwards() == sorted([a, b]) and not self.host.vm("web")["changed"], "the edit back to be in force")
        for point in POINTS:
            with self.subTest(point):
                # a shim that the manager started, since only that has the fuses
                os.kill(self.host.vm("web")["shim_pid"], signal.SIGKILL)
                status = wait_for(lambda: self.other_shim(status), "another shim")
                self.host.kill_manager()
                open(armed[point], "w").close()
                with self.host.shim("web") as v, self.assertRaises((EOFError, ConnectionError)):
                    v.call(SHIM + "Update", {"incarnation": 1, "plan": wish})
                wait_for(lambda: not alive(status["shim"]["pid"]), "the shim to be gone")
                self.assertFalse(os.path.exists(armed[point]), "the point was not reached")
                self.host.vmctl("shim", "adopt", "web")
                expected = [b, c] if point == POINTS[-1] else [a, b]
                self.assertEqual(self.planned_forwards(), sorted(expected))
                wait_for(lambda: self.forwards() == sorted(expected), f"forwards as planned: {expected}")
                wait_for(lambda: not os.path.exists(self.host.path("run", "web", "plan-next.json")), "no half change on record")
                for port in expected:
                    self.assertEqual(page(port), b"holdfast-guest\n")
                # and the manager brings it to what the spec says
                self.host.start_manager(HOLDFAST_FAILPOINT=fuses)
                wait_for(lambda: self.forwards() == sorted([a, b]), "the manager to make it as the spec says")
                wait_for(lambda: not self.host.vm("web")["changed"], "it to be known")
                status = self.host.shim_status("web")
        vm = self.host.vm("web")
        self.assertEqual((vm["qemu_pid"], vm["incarnation"]), (before["qemu_pid"], 1))
        self.assertWhole("web")
        self.stopEverything()

    def test_killed_under_an_apply(self):
        """The manager sees it through with the next shim."""
        armed = os.path.join(self.host.root, "armed")
        self.host.start_manager(HOLDFAST_FAILPOINT=f"shim.update-after-qmp=kill@{armed}")
        [port] = free_ports(1)
        spec = self.host.guest_spec("web", network=network())
        self.host.apply(spec)
        self.host.wait_ticks("web")
        open(armed, "w").close()
        done = self.host.apply({**spec, "network": network(port)}, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("tried again", done.stderr)
        wait_for(lambda: self.host.state("web") == "running" and not self.host.vm("web")["changed"], "the change to be made")
        self.assertEqual((self.forwards(), self.planned_forwards()), ([port], [port]))
        self.assertWhole("web")
        self.stopEverything()


if __name__ == "__main__":
    main()
