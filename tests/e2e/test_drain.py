"""Draining the host: guests go down newest first and some at a time, nothing starts meanwhile, and all of it again after the next boot."""
import json
import os
import socket
import threading

from harness import HostTest, main, wait_for

NAMES = ("one", "two", "three")


class Drain(HostTest):
    def running(self, *names, spec=None):
        for name in names:
            self.host.apply((spec or self.host.fake_spec)(name))
            self.host.wait_state(name, "running")

    def ends(self):
        """Names in the order in which their VMs ended."""
        return [name for _, name in sorted((self.host.vm(name)["last_exit"]["at"], name) for name in self.host.list())]

    def test_newest_first_one_at_a_time(self):
        self.host.start_manager()
        self.running(*NAMES, spec=self.host.guest_spec)
        for name in NAMES:
            wait_for(lambda name=name: self.host.ticks(name), f"a heartbeat of {name}")
        done = self.host.vmctl("drain", "--parallel", 1)
        self.assertIn("no VM runs", done.stdout)
        self.assertEqual(self.ends(), list(reversed(NAMES)))
        for vm in self.host.list().values():
            self.assertEqual((vm["wanted"], vm["state"], vm["last_exit"]["kind"]), ("running", "stopped", "stopped"))
        # An earlier guest was still counting when the next one was gone: one after the other.
        self.assertGreater(self.host.ticks("one")[-1], self.host.ticks("three")[-1])

    def test_nothing_starts_until_it_is_called_off(self):
        self.host.start_manager()
        self.running("one", "two")
        self.host.vmctl("stop", "two")
        self.host.vmctl("drain")
        done = self.host.vmctl("start", "one", check=False)
        self.assertEqual(done.returncode, 6)
        self.assertIn("being drained", done.stderr)
        done = self.host.vmctl("restart", "two", check=False)
        self.assertEqual(done.returncode, 6)
        # Another manager knows.
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(self.host.state("one"), "stopped")
        self.assertEqual(self.host.qemus("one"), [])
        self.host.vmctl("drain", "--off")
        self.host.wait_state("one", "running")
        self.assertEqual(self.host.state("two"), "stopped")
        self.assertFalse(os.path.exists(os.path.join(self.host.dirs["run"], "draining")))

    def test_after_a_boot_all_of_it_runs_again(self):
        self.host.start_manager()
        self.running("one", "two")
        self.host.vmctl("drain")
        self.host.kill_manager()
        # A run folder that outlives the boot: its marker names another one.
        with open(os.path.join(self.host.dirs["run"], "draining"), "w", encoding="ascii") as f:
            f.write("00000000-0000-0000-0000-000000000000 8\n")
        self.host.start_manager()
        for name in ("one", "two"):
            self.host.wait_state(name, "running")
            self.assertEqual(self.host.vm(name)["incarnation"], 2)
        wait_for(lambda: not os.path.exists(os.path.join(self.host.dirs["run"], "draining")), "the marker is gone")

    def test_a_manager_that_dies_in_the_middle(self):
        self.host.start_manager()
        self.running(*NAMES, spec=lambda name: self.host.guest_spec(name, stop={"timeout": "30s"}))
        for name in NAMES:
            wait_for(lambda name=name: self.host.ticks(name), f"a heartbeat of {name}")
        client = threading.Thread(target=lambda: self.host.vmctl("drain", "--parallel", 1, check=False))
        client.start()
        wait_for(lambda: self.host.state("three") in ("stopping", "stopped"), "the first guest goes down", every=0.005)
        self.host.kill_manager()
        client.join(60)
        self.host.start_manager()
        for name in NAMES:
            self.host.wait_state(name, "stopped")
        self.assertEqual(self.ends(), list(reversed(NAMES)))
        self.assertEqual({vm["wanted"] for vm in self.host.list().values()}, {"running"})

    def test_a_guest_that_powered_itself_off_stays_off(self):
        self.host.start_manager()
        self.running("one", "two")
        with self.host.shim("one") as v:
            v.call("io.holdfast.Shim.Qmp", {"incarnation": 1, "command": "system_powerdown", "arguments": {}})
        self.host.wait_state("one", "exited")
        self.host.vmctl("drain")
        self.host.vmctl("drain", "--off")
        self.host.wait_state("two", "running")
        self.assertEqual(self.host.state("one"), "exited")

    def test_what_cannot_be_shut_down_is_named(self):
        self.host.start_manager()
        self.running("one", "two")
        shim = self.host.vm("one")["shim_pid"]
        os.kill(shim, 19)
        try:
            wait_for(lambda: self.host.state("one") == "unresponsive", "its silence is noticed")
            done = self.host.vmctl("drain", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("one is still there: its shim doesn't answer", done.stderr)
            self.assertEqual(self.host.state("two"), "stopped")
            done = self.host.vmctl("drain", "--json", check=False)
            self.assertEqual([one["name"] for one in json.loads(done.stdout)["left"]], ["one"])
        finally:
            os.kill(shim, 18)
        # It answers again, so it goes, too.
        self.host.wait_state("one", "stopped")

    def test_a_launch_that_waits_for_its_image_is_called_off(self):
        """An image service that takes calls and never answers: a host that goes down doesn't wait for it."""
        self.host.start_manager()
        self.running("one")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as images:
            images.bind(os.path.join(self.host.dirs["run"], "images.sock"))
            images.listen(8)
            self.host.write_spec({"name": "waits", "memory": "64M", "accel": "tcg", "image": {"name": "nobodys"}})
            self.host.wait_state("waits", "preparing")
            images.settimeout(30)
            asked, _ = images.accept()
            self.addCleanup(asked.close)
            self.host.vmctl("drain", timeout=30)
            self.assertEqual(self.host.state("waits"), "stopped")
            self.assertEqual(self.host.state("one"), "stopped")

    def test_numbers_that_are_none(self):
        self.host.start_manager()
        done = self.host.vmctl("drain", "--parallel", 100000, check=False)
        self.assertEqual(done.returncode, 6)
        self.assertIn("expected 1 to 1024", done.stderr)


if __name__ == "__main__":
    main()
