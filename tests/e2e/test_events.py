"""Events: numbered without a gap, replayed since a number, a gap said when the ring has turned over."""
import json
import os
import signal
import subprocess

from harness import HostTest, main, program, wait_for


class Events(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))

    def monitor(self, since=None):
        v = self.host.shim("web")
        self.addCleanup(v.close)
        v.send("io.holdfast.Shim.Monitor", {} if since is None else {"since": since}, more=True)
        first = v.receive()
        self.assertTrue(first["continues"])
        self.assertEqual(first["parameters"]["status"]["name"], "web")
        return v, first["parameters"]["status"]

    def test_replay_then_follow(self):
        v, status = self.monitor(0)
        seen = [v.receive()["parameters"]["event"] for _ in range(status["event_seq"])]
        self.assertEqual([e["seq"] for e in seen], list(range(1, status["event_seq"] + 1)))
        self.assertEqual([e["text"] for e in seen if e["type"] == "state"], ["launching", "running"])
        self.host.vmctl("pause", "web")
        event = v.receive()["parameters"]
        self.assertEqual((event["event"]["seq"], event["event"]["type"], event["status"]["state"]),
                         (status["event_seq"] + 1, "state", "paused"))
        again, status = self.monitor(status["event_seq"])
        self.assertEqual(again.receive()["parameters"]["event"], event["event"])
        self.stopEverything()

    def test_gap_is_said(self):
        for _ in range(80):
            self.host.vmctl("pause", "web")
            self.host.vmctl("resume", "web")
        v, status = self.monitor(1)
        gap = v.receive()["parameters"]["gap"]
        self.assertGreater(gap["lost"], 0)
        self.assertEqual(gap["next"], 2 + gap["lost"])
        numbers = [v.receive()["parameters"]["event"]["seq"] for _ in range(status["event_seq"] - gap["next"] + 1)]
        self.assertEqual(numbers, list(range(gap["next"], status["event_seq"] + 1)))
        self.stopEverything()

    def test_numbers_go_on_over_restarts(self):
        _, status = self.monitor()
        self.host.vmctl("stop", "web", "--force")
        last = self.host.read_json("state", "web", "last-exit.json")["event_seq"]
        self.assertGreater(last, status["event_seq"])
        self.host.vmctl("start", "web")
        v, status = self.monitor(0)
        first = v.receive()["parameters"]
        number = first["gap"]["next"] if "gap" in first else first["event"]["seq"]
        self.assertEqual(number, last + 1)
        self.stopEverything()

    def test_vmctl_events(self):
        self.host.vmctl("pause", "web")
        wait_for(lambda: any(e["text"] == "paused" for e in self.events("web")), "the event in the manager's keeping")
        self.host.kill_manager()
        self.host.start_manager()
        self.host.vmctl("stop", "web", "--force")
        wait_for(lambda: any(e["type"] == "exit" for e in self.events("web")), "the exit")
        events = self.events("web")
        self.assertEqual([e["seq"] for e in events], list(range(1, len(events) + 1)), "each once, none missing, also after the manager")
        since = self.events("web", "--since", "3")
        self.assertEqual([e["seq"] for e in since], list(range(4, len(events) + 1)))
        self.assertEqual(sum(e["type"] == "exit" for e in events), 1)
        self.stopEverything()

    def test_follow(self):
        follower = subprocess.Popen([program("vmctl"), "events", "web", "--follow", "--json"], stdout=subprocess.PIPE, text=True,
                                    env=self.host.environment())
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        for line in follower.stdout:
            if json.loads(line).get("text") == "running":
                break
        self.host.vmctl("pause", "web")
        self.assertEqual(json.loads(follower.stdout.readline())["text"], "paused")
        self.stopEverything()

    def test_gap_while_no_manager_ran(self):
        wait_for(lambda: any(e.get("text") == "running" for e in self.events("web")), "the manager's record")
        self.host.kill_manager()
        known = self.recorded()[-1]
        with self.host.shim("web") as v:
            status = v.call("io.holdfast.Shim.GetStatus")["parameters"]["status"]
            for _ in range(100):
                for method in ("Pause", "Resume"):
                    self.assertNotIn("error", v.call("io.holdfast.Shim." + method, {"incarnation": status["incarnation"]}))
                    wanted = {"Pause": "paused", "Resume": "running"}[method]
                    wait_for(lambda w=wanted: self.host.shim_status("web")["state"] == w, wanted)
        last = self.host.shim_status("web")["event_seq"]
        self.host.start_manager()
        wait_for(lambda: self.recorded()[-1] >= last, "what the shim still has")
        for words, first in ((("web",), 1), (("web", "--since", "1"), 2)):
            expected = first
            replies = self.events(*words)
            found = [r["gap"] for r in replies if "gap" in r]
            self.assertEqual(len(found), 1, "one gap, said in its place")
            self.assertEqual(found[0]["name"], "web")
            for reply in replies:
                if "gap" in reply:
                    self.assertEqual(expected, known + 1)
                    expected += reply["gap"]["lost"]
                else:
                    self.assertEqual(reply["seq"], expected)
                    expected += 1
            self.assertGreater(expected, last)
        self.stopEverything()

    def test_replacement_shim_goes_on(self):
        self.host.vmctl("pause", "web")
        before = self.host.vm("web")["shim_pid"]
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: self.host.vm("web")["shim_pid"] not in (None, 0, before), "another shim")
        self.host.wait_state("web", "paused")
        self.host.kill_manager()
        self.host.start_manager()
        self.host.vmctl("resume", "web")
        wait_for(lambda: self.events("web")[-1].get("text") == "running", "the last event")
        numbers = [e.get("seq") for e in self.events("web")]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "each once, none missing, no gap")
        self.assertEqual([e["seq"] for e in self.events("web", "--since", 2)], numbers[2:])
        self.stopEverything()

    def test_record_is_capped(self):
        wait_for(lambda: any(e.get("text") == "running" for e in self.events("web")), "the manager's record")
        self.host.kill_manager()
        path = self.host.path("state", "web", "events.jsonl")
        last = self.recorded()[-1]
        with open(path) as f:
            sample = json.loads(f.readlines()[-1])
        status = self.host.read_json("run", "web", "status.json")
        self.assertGreaterEqual(status["event_seq"], last)
        with open(path, "r+") as f:  # an old VM's record: large, and as whole as any
            lines = [json.dumps({**sample, "seq": n, "text": "x" * 300}) + "\n" for n in range(1, last + 1)]
            f.write("".join(json.dumps({**sample, "seq": 1, "text": "x" * 300}) + "\n" for _ in range(20000)) + "".join(lines))
        size = os.path.getsize(path)
        self.host.start_manager()
        self.host.vmctl("pause", "web")
        wait_for(lambda: self.recorded()[-1] > last, "a further event")
        self.assertLess(os.path.getsize(path), size * 3 // 4, "the older half is cut off")
        self.stopEverything()

    def recorded(self):
        with open(self.host.path("state", "web", "events.jsonl")) as f:
            return [json.loads(line)["seq"] for line in f]

    def events(self, *words):
        text = self.host.vmctl("events", *words, "--json").stdout
        return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
