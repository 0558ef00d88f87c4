"""Mistakes: one clear line on stderr, the right exit status, nothing half-made left behind, other VMs untouched."""
import json
import os
import subprocess

from harness import HostTest, main, program, start_time


class BadInput(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("bystander"))
        self.before = self.host.vm("bystander")

    def tearDown(self):
        after = self.host.vm("bystander")
        self.assertEqual((after["state"], after["qemu_pid"], after["incarnation"]),
                         ("running", self.before["qemu_pid"], self.before["incarnation"]))
        self.stopEverything()

    def refuse(self, text, *said, status=1, verb="apply"):
        """Applies `text` (a spec or raw text): refused with each of `said` in one line."""
        done = self.host.vmctl(verb, "-", stdin=text if isinstance(text, str) else json.dumps(text), check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        for part in said:
            self.assertIn(part, done.stderr)
        self.assertLessEqual(len(done.stderr.strip().splitlines()), 3, done.stderr)
        return done

    def assertNothingLeft(self, name):
        self.assertNotIn(name, self.host.list())
        for kind in ("run", "state", "log"):
            self.assertFalse(os.path.exists(self.host.path(kind, name)), f"{kind} of {name} is left")
        self.assertFalse(os.path.exists(self.host.path("config", name) + ".json"))

    def test_json_that_is_none(self):
        self.refuse('{"name": "web",\n  "memory": }', "line 2", "column")
        self.refuse("", "line 1")
        self.refuse('{"name": "web", "name": "again"}', "duplicate")
        self.refuse("[" * 100000, "nested")

    def test_every_mistake_of_a_spec_at_once(self):
        spec = self.host.fake_spec("web")
        spec.update(memory=512, cpus="two", network=[{"mode": "user", "forwrd": []}])
        done = self.refuse(spec, "/memory", "/cpus", "/network/0/forwrd: unknown key")
        self.assertNotIn("Traceback", done.stderr)
        self.assertNothingLeft("web")

    def test_names_that_would_leave_their_folder(self):
        for name in ("../x", "a/b", ".", "..", "", "x" * 65, "a\nb", "-x", ".hidden"):
            self.refuse({**self.host.fake_spec("web"), "name": name}, "/name")
        for verb in ("start", "stop", "status", "delete", "logs", "console"):
            done = self.host.vmctl(verb, "../bystander", check=False)
            self.assertIn(done.returncode, (2, 3), (verb, done.stderr))
        self.assertEqual(os.listdir(os.path.join(self.host.dirs["run"], "vms")), ["bystander"])

    def test_devices_and_modes_that_are_none(self):
        for key, value, where in (("gpus", ["c1:00.8"], "/gpus/0"), ("gpus", ["c1:00.0", "0000:C1:00.0"], "/gpus/1"),
                                  ("gpus", ["ffff:ff:1f.7"], "/gpus/0"), ("gpus", ["../../x"], "/gpus/0"), ("gpus", "c1:00.0", "/gpus"),
                                  ("confidential", "sgx", "/confidential"), ("confidential", "tdx", "/boot/firmware")):
            self.refuse({**self.host.fake_spec("web"), key: value}, where)
        self.assertNothingLeft("web")

    def test_missing_kernel(self):
        spec = self.host.fake_spec("web")
        spec["boot"]["kernel"] = "/no/such/kernel"
        self.refuse(spec, "/boot/kernel", "/no/such/kernel")
        self.assertNothingLeft("web")

    def test_missing_qemu(self):
        spec = self.host.fake_spec("web", qemu={"path": "/no/such/qemu"})
        self.refuse(spec, "/qemu/path", "/no/such/qemu")
        self.assertNothingLeft("web")

    def test_qemu_that_is_none(self):
        spec = self.host.fake_spec("web", qemu={"path": "/bin/false"})
        done = self.host.apply(spec, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/bin/false", done.stderr)
        self.host.vmctl("delete", "web", "--force")

    def test_qemu_dies_at_once(self):
        spec = self.host.guest_spec("web", qemu={"extra_args": ["-device", "no-such-device"]}, restart={"policy": "never"})
        done = self.host.apply(spec, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no-such-device", done.stderr, "QEMU's own words are in the error")
        vm = self.host.wait_state("web", "failed")
        self.assertEqual((vm["last_exit"]["kind"], vm["last_exit"]["code"]), ("code", 1))
        self.assertIn("no-such-device", self.host.vmctl("status", "web").stdout)
        self.host.vmctl("delete", "web", "--force")
        self.assertEqual(self.host.qemus("web"), [])

    def test_qemu_whose_last_words_are_no_utf8(self):
        os.chmod(self.host.root, 0o755)  # QEMU's user is to execute it
        path = os.path.join(self.host.root, "latin-qemu")
        with open(path, "wb") as f:
            f.write(b'#!/bin/sh\ncase "$*" in *-version|*help) exec ' + program("fake_qemu").encode() + b' "$@";; esac\n'
                    b"printf 'k\\344se \\377 is out\\n' >&2\nexit 3\n")
        os.chmod(path, 0o755)
        done = self.host.apply(self.host.fake_spec("web", qemu={"path": path}, restart={"policy": "never"}), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("k?se ? is out", done.stderr)
        self.assertEqual(self.host.read_json("state", "web", "last-exit.json")["detail"], "k?se ? is out")
        self.assertEqual([e["type"] for e in map(json.loads, self.host.vmctl("events", "web", "--json").stdout.splitlines())].count("exit"), 1)
        self.host.vmctl("delete", "web", "--force")

    def test_disk_that_cannot_be_made(self):
        tools = os.path.join(self.host.root, "tools")
        os.mkdir(tools)
        with open(os.path.join(tools, "qemu-img"), "w") as f:
            f.write("#!/bin/sh\necho 'the disk is full, says the test' >&2\nexit 1\n")
        os.chmod(os.path.join(tools, "qemu-img"), 0o755)
        self.host.kill_manager()
        self.host.start_manager(PATH=tools + ":" + os.environ["PATH"])
        spec = self.host.fake_spec("web", disks=[{"name": "data", "size": "1G"}], restart={"policy": "never"})
        done = self.host.apply(spec, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the disk is full, says the test", done.stderr)
        self.assertIn("data", done.stderr, "which disk")
        self.assertFalse(os.path.exists(self.host.path("state", "web", "data.qcow2")))
        self.host.vmctl("delete", "web", "--force")

    def test_names_that_two_files_claim(self):
        path = self.host.write_spec(self.host.fake_spec("twin"))
        os.rename(path, path.replace("twin.json", "other.json"))
        self.host.write_spec(self.host.fake_spec("twin"))
        self.host.kill_manager()
        self.host.start_manager()
        vms = self.host.list()
        self.assertIn("twin", (vms["twin"].get("reason") or "") + json.dumps(vms))
        self.assertTrue(vms["twin"]["reason"])
        self.assertEqual(self.host.qemus("twin"), [])
        self.assertEqual(self.host.vmctl("start", "twin", check=False).returncode, 6)
        os.unlink(path.replace("twin.json", "other.json"))
        self.host.vmctl("start", "twin")  # the remedy that was named helps at once
        self.host.vmctl("delete", "twin", "--force")

    def test_unknown_vm_and_unknown_verb(self):
        for verb in ("start", "stop", "restart", "kill", "pause", "resume", "reset", "status", "inspect", "delete", "events"):
            done = self.host.vmctl(verb, "nobody", check=False)
            self.assertEqual(done.returncode, 3, (verb, done.stderr))
            self.assertIn("nobody", done.stderr)
        self.assertEqual(self.host.vmctl("strat", "bystander", check=False).returncode, 2)
        self.assertEqual(self.host.vmctl("start", check=False).returncode, 2)
        self.assertEqual(self.host.vmctl("stop", "bystander", "--timeout", "5", check=False).returncode, 2)

    def test_a_wait_that_takes_too_long(self):
        done = self.host.vmctl("wait", "bystander", "--for", "stopped", "--timeout", "200ms", check=False)
        self.assertEqual(done.returncode, 5, done.stderr)

    def test_no_manager(self):
        elsewhere = os.path.join(self.host.root, "empty")
        os.mkdir(elsewhere)
        done = self.host.vmctl("--run-dir", elsewhere, "list", check=False)
        self.assertEqual(done.returncode, 4)
        self.assertIn("not affected", done.stderr)

    def test_folders_that_cannot_be_written(self):
        blocked = os.path.join(self.host.root, "a-file")
        with open(blocked, "w"):
            pass
        done = subprocess.run([program("holdfastd"), *self.host.options()[2:], "--run-dir", os.path.join(blocked, "run")],
                              capture_output=True, text=True, timeout=20, env=self.host.environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn(blocked, done.stderr)

    def test_socket_paths_of_any_length(self):
        """Longer than sun_path: bound and connected through /proc/self/fd."""
        deep = os.path.join(self.host.root, *["d" * 40] * 5)
        os.makedirs(deep)
        self.host.kill_manager()
        dirs, self.host.dirs = self.host.dirs, {**self.host.dirs, "run": os.path.join(deep, "run"), "state": os.path.join(deep, "state"),
                                                "config": os.path.join(deep, "config"), "log": os.path.join(deep, "log")}
        os.makedirs(os.path.join(deep, "config", "vms"))
        try:
            self.host.start_manager(wait=False)
            from harness import wait_for
            wait_for(lambda: self.host.vmctl("list", check=False).returncode == 0, "a manager that answers")
            self.host.apply(self.host.guest_spec("deep"))
            self.host.wait_ticks("deep")
            self.host.vmctl("pause", "deep")
            self.assertEqual(json.loads(self.host.vmctl("shim", "status", "deep", "--json").stdout)[0]["state"], "paused")
            self.host.vmctl("stop", "deep", "--force")
            self.host.kill_manager()
        finally:
            self.host.dirs = dirs
            if self.host.manager is None:
                self.host.start_manager()
        self.assertEqual(start_time(self.before["qemu_pid"]) is not None, True)

    def test_host_config(self):
        self.host.kill_manager()
        path = os.path.join(self.host.dirs["config"], "holdfast.json")
        with open(path, "w") as f:
            f.write('{"no_such_key": 1}')
        done = subprocess.run([program("holdfastd"), *self.host.options()], capture_output=True, text=True, timeout=20,
                              env=self.host.environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no_such_key", done.stderr)
        os.unlink(path)
        self.host.start_manager()


if __name__ == "__main__":
    main()
