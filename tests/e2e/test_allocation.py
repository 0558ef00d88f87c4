"""What VMs have of the host: given once, held by one, refused to others with the owner's name; and room for what they ask."""
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

from harness import HostTest, alive, main, wait_for


def free_port(kind=socket.SOCK_STREAM):
    """One that was free a moment ago, outside of what the manager gives."""
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def forwards(*pairs, proto="tcp"):
    return [{"forward": [{"host": host, "guest": guest, "proto": proto} for host, guest in pairs]}]


class Allocation(HostTest):
    def tearDown(self):
        self.stopEverything()

    def configure(self, **config):
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump(config, f)

    def status(self, name):
        return json.loads(self.host.vmctl("status", name, "--json").stdout)[0]

    def port_of(self, name, i=0):
        return int(self.status(name)["allocated"]["forwards"][i]["host"].rpartition(":")[2])

    def ledger(self):
        with open(os.path.join(self.host.dirs["state"], "allocations.json")) as f:
            return json.load(f)

    def refused(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    # ---- VMs among themselves ----

    def test_a_forward_that_comes_while_it_runs(self):
        """What is added to a running VM is its own from then on, and what is taken away is free."""
        first, second = free_port(), free_port()
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web", network=forwards((f"127.0.0.1:{first}", 80))))
        self.host.wait_state("web", "running")
        qemu = self.host.vm("web")["qemu_pid"]
        self.host.apply(self.host.guest_spec("web", network=forwards((f"127.0.0.1:{second}", 80), ("127.0.0.1:auto", 81))))
        self.assertEqual(self.host.vm("web")["qemu_pid"], qemu)
        wait_for(lambda: len(self.ledger()["vms"]["web"]["held"]["ports"]) == 2, "both to be on disk")
        self.refused(self.host.apply(self.host.guest_spec("mail", network=forwards((f"127.0.0.1:{second}", 80))), check=False), 1,
                     "is taken by VM web")
        self.host.apply(self.host.guest_spec("mail", network=forwards((f"127.0.0.1:{first}", 80))))
        self.host.wait_state("mail", "running")

    def test_two_that_want_one_port(self):
        port = free_port()
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web", network=forwards((f"127.0.0.1:{port}", 80))))
        self.host.wait_state("web", "running")
        second = self.host.guest_spec("mail", network=forwards((f"0.0.0.0:{port}", 80)))
        self.refused(self.host.apply(second, check=False), 1, "/network/0/forward/0/host",
                     f"0.0.0.0:{port}/tcp is taken by VM web (127.0.0.1:{port}/tcp)")
        self.assertNotIn("mail", self.host.list())

        # In the folder when a manager starts: shown with the reason, and web keeps what it has.
        qemu = self.host.vm("web")["qemu_pid"]
        self.host.write_spec(second)
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: "is taken by VM web" in (self.host.vm("mail")["reason"] or ""), "mail to be refused")
        self.refused(self.host.vmctl("start", "mail", check=False), 6, f"0.0.0.0:{port}/tcp is taken by VM web")
        self.assertEqual(self.host.vm("web")["qemu_pid"], qemu)
        self.assertOneQemu("web")
        # Its own is no conflict, and a restart finds it free again.
        self.host.vmctl("restart", "web", "--force")
        self.host.wait_state("web", "running")
        self.assertEqual(self.host.qemus("mail"), [])

        # Nobody has to ask a second time once web has let go; and then it is web that comes later.
        self.host.vmctl("stop", "web", "--force")
        self.host.wait_state("mail", "running")
        self.assertIsNone(self.host.vm("mail")["reason"])
        self.refused(self.host.vmctl("start", "web", check=False), 6, "is taken by VM mail")
        self.host.vmctl("delete", "mail", "--force")
        self.host.wait_state("web", "running")

    def test_a_dry_run_is_refused_as_the_apply_would_be(self):
        port = free_port()
        self.configure(limits={"memory_per_vm": {"max": "32M"}})
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", network=forwards((f"127.0.0.1:{port}", 80))))
        path = os.path.join(self.host.root, "mail.json")
        for spec, words in ((self.host.fake_spec("mail", network=forwards((f"127.0.0.1:{port}", 80))), "is taken by VM web"),
                            (self.host.fake_spec("mail", memory="64M"), "/memory: 64M is more than limits.memory_per_vm.max")):
            with open(path, "w") as f:
                json.dump(spec, f)
            for words_of_it in (("apply", path, "--dry-run"), ("diff", path), ("apply", path)):
                self.refused(self.host.vmctl(*words_of_it, check=False), 1, words)
        with open(path, "w") as f:
            json.dump(self.host.fake_spec("mail", enabled=False, network=forwards((f"127.0.0.1:{port}", 80))), f)
        self.assertIn("mail: would be created", self.host.vmctl("apply", path, "--dry-run").stdout)
        self.assertEqual(list(self.host.list()), ["web"])

    def test_udp_is_another_port(self):
        port = free_port()
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("one", network=forwards((f"127.0.0.1:{port}", 80))),
                        self.host.guest_spec("two", network=forwards((f"127.0.0.1:{port}", 80), proto="udp")))
        for name in ("one", "two"):
            self.host.wait_state(name, "running")

    def test_addresses_and_ids(self):
        self.host.start_manager()
        mac = {"mac": "52:54:00:aa:bb:cc"}
        self.host.apply(self.host.fake_spec("one", network=[mac]))
        self.host.wait_state("one", "running")
        self.refused(self.host.apply(self.host.fake_spec("two", network=[mac]), check=False), 1, "/network/0/mac",
                     "MAC address 52:54:00:aa:bb:cc is taken by VM one")
        # One that isn't enabled is nobody's rival until it is started.
        self.host.apply(self.host.fake_spec("two", network=[mac], enabled=False))
        self.assertIsNone(self.host.vm("two")["reason"])
        self.refused(self.host.vmctl("start", "two", check=False), 6, "is taken by VM one")

    def test_check_of_files(self):
        folder = os.path.join(self.host.root, "specs")
        os.mkdir(folder)
        for name, more in {"a": {"vsock": {"cid": 9}, "network": forwards(("8081", 80))},
                           "b": {"network": [{"mac": "52:54:00:00:00:05", **forwards(("127.0.0.1:8081", 80))[0]}]},
                           "c": {"vsock": {"cid": 9}, "network": [{"mac": "52:54:00:00:00:05"}]},
                           "off": {"enabled": False, "vsock": {"cid": 9}, "network": forwards(("8081", 80))}}.items():
            with open(os.path.join(folder, f"{name}.json"), "w") as f:
                json.dump(self.host.fake_spec(name, **more), f)
        done = self.host.vmctl("check", folder, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.replace(folder + "/", "").splitlines(), [
            "b.json: /network/0/forward/0/host: 127.0.0.1:8081/tcp is taken by VM a in a.json (0.0.0.0:8081/tcp)",
            "c.json: /vsock/cid: vsock context id 9 is taken by VM a in a.json",
            "c.json: /network/0/mac: MAC address 52:54:00:00:00:05 is taken by VM b in b.json"])
        self.assertIn("off.json: good", done.stdout)
        self.host.start_manager()

    # ---- the host ----

    def listener(self, port):
        code = ("import socket, sys\ns = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('listens', flush=True); sys.stdin.read()")
        process = subprocess.Popen([sys.executable, "-c", code, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), "listens\n")
        return process

    def command(self, process):
        with open(f"/proc/{process.pid}/comm") as f:
            return f.read().strip()

    def test_somebody_else_has_the_port(self):
        port = free_port()
        process = self.listener(port)
        self.host.start_manager()
        done = self.host.apply(self.host.guest_spec("web", network=forwards((f"127.0.0.1:{port}", 80))), check=False)
        self.refused(done, 6, f"127.0.0.1:{port}/tcp is taken by {self.command(process)} (pid {process.pid})")
        self.assertTrue(alive(process.pid))
        self.assertEqual(self.host.qemus("web"), [])
        # It is tried a few times more, and gets it when it is free.
        process.stdin.close()
        process.wait(20)
        self.host.wait_state("web", "running")

    def test_a_restart_that_could_not_start_stops_nothing(self):
        port, other = free_port(), free_port()
        process = self.listener(other)
        self.host.start_manager()
        spec = self.host.guest_spec("web", network=forwards((f"127.0.0.1:{port}", 80)))
        self.host.apply(spec)
        before = self.host.wait_state("web", "running")
        spec["network"] = forwards((f"127.0.0.1:{port}", 80), (f"127.0.0.1:{other}", 80))
        whose = f"127.0.0.1:{other}/tcp is taken by {self.command(process)} (pid {process.pid})"
        self.refused(self.host.apply(spec, check=False), 1, "goes on with its earlier one", whose)
        self.refused(self.host.vmctl("restart", "web", check=False), 6, "not restarted", whose)
        self.assertEqual(self.host.vm("web")["qemu_pid"], before["qemu_pid"])

    # ---- what is left to the manager ----

    def page(self, port):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                return reply.read()
        except OSError:
            return None

    def test_a_port_that_is_given(self):
        first = free_port()
        self.configure(ports=f"{first}-{min(first + 50, 65535)}")
        self.host.start_manager()
        spec = self.host.guest_spec("web", network=forwards(("127.0.0.1:auto", 80)))
        self.host.apply(spec)
        self.host.wait_state("web", "running")
        port = self.port_of("web")
        self.assertTrue(first <= port <= first + 50)
        self.assertTrue(wait_for(lambda: self.page(port), "the guest's page", 120, 0.2))
        self.assertIn(f"127.0.0.1:{port}/tcp to port 80 of the guest", self.host.vmctl("status", "web").stdout)
        inspected = json.loads(self.host.vmctl("inspect", "web").stdout)
        self.assertEqual(inspected["allocated"]["forwards"], [{"host": f"127.0.0.1:{port}", "proto": "tcp", "guest": 80}])
        self.assertEqual(inspected["spec"]["network"], spec["network"])
        self.assertIn(f"tcp:127.0.0.1:{port}-:80", " ".join(inspected["plan"]["qemu"]["argv"]))

        # Others come and go; managers too; and it stays.
        self.host.apply(self.host.fake_spec("early", network=forwards(("127.0.0.1:auto", 80))))
        self.assertNotEqual(self.port_of("early"), port)
        self.host.kill_manager(signal.SIGKILL)
        self.host.start_manager()
        self.host.vmctl("delete", "early", "--force")
        self.host.vmctl("restart", "web", "--force")
        self.host.wait_state("web", "running")
        self.assertEqual(self.port_of("web"), port)
        self.assertFalse(self.host.vm("web")["changed"])
        self.host.vmctl("stop", "web", "--force")
        self.assertEqual(self.port_of("web"), port)

        # A delete frees it.
        self.host.vmctl("delete", "web")
        self.assertNotIn("web", self.ledger()["vms"])
        self.host.apply(self.host.fake_spec("later", network=forwards(("127.0.0.1:auto", 80))))
        self.assertEqual(self.port_of("later"), port)

    def test_killed_while_it_writes(self):
        """What was given before the write is given to nobody else after it; what wasn't written nobody had heard of."""
        spec = self.host.fake_spec("web", network=forwards(("127.0.0.1:auto", 80)))
        for point in ("manager.before-allocations-write", "manager.after-allocations-write"):
            with self.subTest(point):
                self.host.write_spec(spec)
                manager = self.host.start_manager(wait=False, HOLDFAST_FAILPOINT=f"{point}=kill")
                self.assertEqual(manager.wait(20), -signal.SIGKILL)
                self.host.manager = None
                self.assertEqual(os.path.exists(os.path.join(self.host.dirs["state"], "allocations.json")), "after" in point)
        self.host.start_manager()
        self.host.wait_state("web", "running")
        self.host.apply(self.host.fake_spec("mail", network=forwards(("127.0.0.1:auto", 80))))
        self.host.wait_state("mail", "running")
        self.assertNotEqual(self.port_of("web"), self.port_of("mail"))
        self.assertOneQemu("web")

    def test_a_ledger_that_does_not_parse(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", network=forwards(("127.0.0.1:auto", 80))))
        before = self.host.wait_state("web", "running")
        self.host.kill_manager()
        with open(os.path.join(self.host.dirs["state"], "allocations.json"), "w") as f:
            f.write('{"schema": 1, "cids": ')
        self.host.start_manager()
        self.assertIn("was kept as allocations.json.corrupt-1", self.host.manager_log())
        self.assertEqual(self.host.wait_state("web", "running")["qemu_pid"], before["qemu_pid"])
        # The port is taken, by web's own QEMU, so that nobody else is given it.
        self.host.apply(self.host.fake_spec("mail", network=forwards(("127.0.0.1:auto", 80))))
        self.host.wait_state("mail", "running")
        self.assertEqual(self.host.vm("web")["qemu_pid"], before["qemu_pid"])

    # ---- room ----

    def test_no_room(self):
        self.configure(limits={"memory": "64M", "cpus": 8, "memory_per_vm": {"min": "8M"}})
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("a", memory="40M"))
        self.host.wait_state("a", "running")
        self.refused(self.host.apply(self.host.fake_spec("b", memory="32M"), check=False), 6,
                     "not enough memory: it asks for 32M, and of 64M (limits in the host config) 24M is left: a 40M has 40M")
        self.refused(self.host.apply(self.host.fake_spec("c", memory="4M"), check=False), 1,
                     "/memory: 4M is less than limits.memory_per_vm.min of this host, 8M")
        self.host.apply(self.host.fake_spec("d", memory="24M"))
        self.host.wait_state("d", "running")
        # Its own share is its own, whatever the limits have come to be; more isn't.
        self.host.kill_manager()
        self.configure(limits={"memory": "10M"})
        self.host.start_manager()
        self.assertEqual({name: vm["state"] for name, vm in self.host.list().items() if name != "b"}, {"a": "running", "d": "running"})
        self.host.vmctl("restart", "a", "--force")
        before = self.host.wait_state("a", "running")
        self.host.apply(self.host.fake_spec("a", memory="41M"))
        self.refused(self.host.vmctl("restart", "a", "--force", check=False), 6, "not restarted", "it asks for 41M")
        self.assertEqual(self.host.vm("a")["qemu_pid"], before["qemu_pid"])

    def test_more_than_the_host_has(self):
        self.host.start_manager()
        done = self.host.apply(self.host.fake_spec("huge", memory="32T"), check=False)
        self.refused(done, 6, "not enough memory: it asks for 32T, and this host has")


if __name__ == "__main__":
    main()
