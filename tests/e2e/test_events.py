"""Events: numbered without a gap, replayed since a number, a gap said when the ring has turned over."""
import json
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

    def events(self, *words):
        text = self.host.vmctl("events", *words, "--json").stdout
        return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
