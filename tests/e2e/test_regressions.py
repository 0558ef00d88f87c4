#!/usr/bin/env python3
"""Defects that were found by trying to break it, one test each."""
import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import unittest

from harness import HostTest, Varlink, main, program, wait_for


class Regressions(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def events(self, name):
        lines = self.host.vmctl("events", name, "--json").stdout.splitlines()
        return [(event["seq"], event["type"], event["text"]) for event in map(json.loads, lines)]

    def test_events_are_numbered_on_after_a_stop_while_waiting_to_restart(self):
        """That stop has no exit of its own, and the record of the last one knew nothing of the events behind it: the next life used
        their numbers again, and its first event was taken for an old one."""
        self.host.apply(self.host.fake_spec("flaps", "exit-after=100:3"))
        self.host.wait_state("flaps", "backoff")
        self.host.vmctl("stop", "flaps")
        before = len(self.events("flaps"))
        self.host.vmctl("start", "flaps")
        wait_for(lambda: "running" in [text for _, _, text in self.events("flaps")[before:]], "the event of the second life")
        events = self.events("flaps")
        self.assertEqual([seq for seq, _, _ in events], list(range(1, len(events) + 1)))
        self.assertEqual(events[before][2], "launching", events)

    def test_a_qemu_that_hangs_is_not_blamed_on_its_shim(self):
        """The manager waited shorter for the shim than the shim for QEMU."""
        self.host.apply(self.host.fake_spec("hangs"))
        qemu = self.host.vm("hangs")["qemu_pid"]
        os.kill(qemu, signal.SIGSTOP)
        done = self.host.vmctl("pause", "hangs", check=False)
        self.assertEqual((done.returncode, done.stderr), (5, "vmctl: hangs: QEMU did not answer in time\n"))
        self.assertEqual(self.host.state("hangs"), "running")
        os.kill(qemu, signal.SIGCONT)

    def test_list_is_in_the_order_of_names(self):
        """It was the order in which the manager came to know them, and another one after its restart."""
        names = [f"vm-{n}" for n in (10, 2, 33, 1)]
        for name in names:
            self.host.apply(self.host.fake_spec(name, enabled=False))
        self.assertEqual(list(self.host.list()), ["vm-1", "vm-2", "vm-10", "vm-33"])
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(list(self.host.list()), ["vm-1", "vm-2", "vm-10", "vm-33"])

    def test_a_log_folder_that_is_a_link_is_not_written_to(self):
        """The manager opened the shim's log through it."""
        elsewhere = os.path.join(self.host.root, "elsewhere")
        os.mkdir(elsewhere)
        os.symlink(elsewhere, self.host.path("log", "linked"))
        done = self.host.apply(self.host.fake_spec("linked"), check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual(os.listdir(elsewhere), [])

    def test_a_start_of_what_stays_unknown_ends(self):
        """A record that can't be read, and can't be set aside for it: the start waited for ever."""
        os.makedirs(self.host.path("run", "riddle"))
        os.symlink("/nowhere", self.host.path("run", "riddle", "status.json"))
        done = self.host.apply(self.host.fake_spec("riddle"), check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("status.json: can't be read", done.stderr)
        self.assertEqual(self.host.state("riddle"), "unknown")

    def test_a_shim_whose_backlog_was_full_is_found_well_again(self):
        """The manager's question whether it is back didn't get through, and was never put again."""
        self.host.apply(self.host.fake_spec("sleeps"))
        shim = self.host.vm("sleeps")["shim_pid"]
        os.kill(shim, signal.SIGSTOP)
        waiting = []
        with contextlib.suppress(BlockingIOError):
            while len(waiting) < 1000:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(self.host.path("run", "sleeps", "shim.sock"))
        self.assertEqual(self.host.vmctl("pause", "sleeps", check=False).returncode, 1)
        self.assertEqual(self.host.state("sleeps"), "unresponsive")
        for connection in waiting:
            connection.close()
        os.kill(shim, signal.SIGCONT)
        self.host.wait_state("sleeps", "running")

    @unittest.skipUnless(os.getuid() == 0, "only root can be another user, whose processes can be limited")
    def test_no_process_to_ask_qemu_with(self):
        """The errno of a fork that failed was taken for the cache's own: the message was of a QEMU that changes under our eyes."""
        nobody = pwd.getpwnam("nobody")
        self.host.kill_manager()
        for folder, _, files in os.walk(self.host.root):
            for path in [folder, *(os.path.join(folder, file) for file in files)]:
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.host.manager = subprocess.Popen([program("holdfastd"), *self.host.options()], user=nobody.pw_uid, group=nobody.pw_gid,
                                             extra_groups=[], env=self.host.environment(), stderr=subprocess.DEVNULL)
        wait_for(self.host.manager_answers, "a manager that answers", 20)
        subprocess.run(["prlimit", f"--pid={self.host.manager.pid}", "--nproc=0:0"], user=nobody.pw_uid,
                       group=nobody.pw_gid, extra_groups=[], check=True)
        done = self.host.apply(self.host.fake_spec("forks"), check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("-version: Resource temporarily unavailable", done.stderr)

    def test_events_that_cannot_be_written_are_a_failure(self):
        """It ended with status 0 and without a word."""
        self.host.apply(self.host.fake_spec("tells"))
        for verb in (["events"], ["shim", "events", "tells", "--since", "0"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([program("vmctl"), *verb], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20,
                                      env=self.host.environment())
            self.assertEqual((done.returncode, done.stderr), (1, "vmctl: standard output: No space left on device\n"), verb)

    def test_a_manager_ends_well_while_events_are_followed(self):
        """It freed the follower, and then told it that its connection had gone."""
        self.host.apply(self.host.fake_spec("told"))
        with Varlink(os.path.join(self.host.dirs["run"], "manager.sock")) as follower:
            follower.send("io.holdfast.Manager.Events", {"follow": True}, more=True)
            self.assertIn("event", follower.receive()["parameters"])
            self.assertEqual(self.host.kill_manager(signal.SIGTERM), 0)


if __name__ == "__main__":
    main()
