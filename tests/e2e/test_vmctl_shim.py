"""vmctl shim: straight to the shims, whatever has become of them; no manager anywhere."""
import fcntl
import json
import os
import socket
import threading
import time
import unittest

from fake_manager import SHIM, Failure, Taken, status
from vmctl_case import VmctlCase


class Shims(VmctlCase):
    def healthy(self, name, **more):
        return self.shim(name, GetStatus=lambda p, c: {"status": status(name, **more)})

    def folder(self, name, *held):
        """A VM's folder with those locks held by somebody."""
        os.makedirs(self.path("run", "vms", name), exist_ok=True)
        for lock in held:
            f = open(self.path("run", "vms", name, lock), "w")
            fcntl.flock(f, fcntl.LOCK_EX)
            self.addCleanup(f.close)

    def silent(self, name, backlog=8):
        """A socket that takes connections and says nothing."""
        self.folder(name, "vm.lock", "shim.lock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path("run", "vms", name, "shim.sock"))
        listener.listen(backlog)
        self.addCleanup(listener.close)
        return listener

    def everything(self):
        self.healthy("web", health="healthy")
        self.silent("hung")
        full = self.silent("full", 0)
        for _ in range(3):  # until its queue is full
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(full.getsockname())
            except BlockingIOError:
                pass
            self.addCleanup(client.close)
        self.folder("orphan", "vm.lock")
        self.folder("dead")
        self.healthy("zebra", qemu=None, state="backoff", detail="next start in 2 s")

    def test_list(self):
        self.everything()
        begin = time.monotonic()
        shims = {one["name"]: one for one in json.loads(self.expect(0, "shim", "list", "--json", err="").stdout)}
        self.assertLess(time.monotonic() - begin, 10, "each had its second, not one after the other for ever")
        self.assertEqual({name: one["state"] for name, one in shims.items()},
                         {"web": "running", "hung": "unresponsive", "full": "unresponsive", "orphan": "orphaned", "dead": "stopped",
                          "zebra": "backoff"})
        self.assertEqual(shims["web"]["status"]["qemu"]["pid"], 4002)
        self.assertIsNone(shims["hung"]["status"])
        text = self.expect(0, "shim", "list").stdout
        self.assertRegex(text, r"(?m)^web +running +healthy +1m15s +4001 +4002 +0\.1\.0")
        self.assertRegex(text, r"(?m)^hung +unresponsive .*its shim lives and doesn't answer")
        self.assertRegex(text, r"(?m)^orphan +orphaned .*no shim supervises it")
        self.assertEqual(self.expect(0, "shim", "list", "-q").stdout.split(), ["dead", "full", "hung", "orphan", "web", "zebra"])

    def test_empty(self):
        self.expect(0, "shim", "list", out="no shims")
        self.assertEqual(json.loads(self.expect(0, "shim", "list", "--json").stdout), [])

    def test_status(self):
        self.everything()
        text = self.expect(0, "shim", "status", "web", err="").stdout
        self.assertIn("web: running for 1 min 15 s, healthy", text)
        self.assertIn("pid 4002, start time 2", text)
        self.assertEqual(self.run_vmctl("shim", "status", "hung").returncode, 5)
        self.assertEqual(self.run_vmctl("shim", "status", "dead", "orphan").returncode, 1)
        self.expect(3, "shim", "status", "nosuch", err="no such VM")

    def test_half_an_answer_delays_nobody(self):
        listener = self.silent("half")
        self.healthy("web")
        def serve():
            connection, _ = listener.accept()
            self.addCleanup(connection.close)
            connection.sendall(b'{"parameters": {')
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        shims = {one["name"]: one["state"] for one in json.loads(self.expect(0, "shim", "list", "--json").stdout)}
        thread.join(10)
        self.assertEqual(shims, {"half": "unresponsive", "web": "running"})

    def test_events(self):
        def event(seq):
            return {"event": {"seq": seq, "at": "T", "type": "state", "incarnation": 3, "text": f"event {seq}"}, "status": status("web")}

        def monitor(p, c):
            c.more({"status": status("web", event_seq=3)})
            if p["since"] < 1:
                c.more({"gap": {"lost": 1, "next": 2}})
            for seq in range(max(2, p["since"] + 1), 4):
                c.more(event(seq))
            if self.follow:
                c.more(event(4))
                raise Taken
            self.never.wait(30)
            raise Taken
        self.never = threading.Event()
        self.addCleanup(self.never.set)
        self.follow = False
        self.shim("web", Monitor=monitor)
        self.assertEqual(self.expect(0, "shim", "events", "web", err="").stdout,
                         "- 1 events are no longer kept\nT #2 state: event 2\nT #3 state: event 3\n")
        self.assertEqual(self.expect(0, "shim", "events", "web", "--since", "2").stdout, "T #3 state: event 3\n")
        self.assertEqual(self.expect(0, "shim", "events", "web", "--since", "3").stdout, "")
        self.follow = True
        done = self.expect(0, "shim", "events", "web", "--since", "2", "--follow", "--json")
        self.assertEqual([json.loads(line)["seq"] for line in done.stdout.splitlines()], [3, 4])
        self.expect(3, "shim", "events", "nosuch", err="no such VM")

    def test_call(self):
        def stop(p, c):
            if p["incarnation"] != 3:
                raise Failure(SHIM + "StaleIncarnation", current=3, given=p["incarnation"], reason="incarnation 3 runs, not 2")
            return {}

        def monitor(p, c):
            c.more({"status": status("web")})
            return {"event": None}
        service = self.shim("web", GetStatus=lambda p, c: {"status": status("web")}, Stop=stop, Monitor=monitor)
        self.assertEqual(json.loads(self.expect(0, "shim", "call", "web", "GetStatus").stdout)["status"]["name"], "web")
        self.assertEqual(json.loads(self.expect(0, "shim", "call", "web", "org.varlink.service.GetInfo").stdout)["vendor"], "Fake")
        self.expect(6, "shim", "call", "web", "Stop", '{"incarnation": 2}', err="web: incarnation 3 runs, not 2")
        self.assertEqual(json.loads(self.expect(0, "shim", "call", "web", "Stop", '{"incarnation": 3}').stdout), {})
        self.assertEqual(service.calls[-1], (SHIM + "Stop", {"incarnation": 3}))
        self.assertEqual(len(self.expect(0, "shim", "call", "web", "Monitor", "--more").stdout.splitlines()), 2)
        self.expect(1, "shim", "call", "web", "Frobnicate", err="MethodNotFound")
        self.expect(2, "shim", "call", "web", "Console", err="vmctl console web")
        self.folder("orphan", "vm.lock")
        self.expect(1, "shim", "call", "orphan", "GetStatus", err="orphaned: QEMU runs, no shim supervises it")
        self.silent("hung")
        self.expect(5, "shim", "call", "hung", "GetStatus", "--timeout", "100ms", err="hung: its shim lives and doesn't answer")


if __name__ == "__main__":
    unittest.main()
