"""D: whatever dies, and whatever becomes of the records: no VM is killed for it, none runs twice, the next start works."""
import json
import os
import signal
import subprocess
import sys

from fault import FaultTest, Host, alive, main, send, shims, start_time, wait_for

# How a VM comes into each state: behaviour of its QEMU, more of its spec, the verb that follows.
STATES = {
    "launching": (["hang-greeting"], {}, None),
    "running": ([], {}, None),
    "paused": ([], {}, ("pause",)),
    "stopping": (["ignore-powerdown"], {"stop": {"timeout": "1h"}}, ("stop", "--no-wait")),
}


class QemuKilled(FaultTest):
    def reach(self, state, **more):
        behaviour, spec, verb = STATES[state]
        self.host.write_spec(self.host.fake_spec("web", *behaviour, **{**spec, **more}))
        self.host.vmctl("apply", self.host.path("config", "web") + ".json", "--no-wait")
        self.host.wait_state("web", "launching" if state == "launching" else "running")
        wait_for(lambda: self.host.vm("web")["qemu_pid"], "QEMU")
        if verb:
            self.host.vmctl(verb[0], "web", *verb[1:])
        return self.host.wait_state("web", state)

    def check(self, before, state):
        if state == "stopping":
            self.host.wait_state("web", "stopped")
        else:
            self.host.wait_state("web", "failed")
        self.assertEqual(len(self.exits("web")), 1, "told exactly once")
        self.assertFalse(alive(before["qemu_pid"]))
        self.assertEqual(self.host.qemus("web"), [])
        self.finish()


def make_state(state, victims, manager_up):
    def test(self):
        self.host.start_manager()
        before = self.reach(state, restart={"policy": "never"})
        if not manager_up:
            self.host.kill_manager()
        send(signal.SIGKILL, *(before[v] for v in victims))
        wait_for(lambda: not any(alive(before[v]) for v in victims), "them to be gone")
        if not manager_up:
            self.host.start_manager()
        self.check(before, state)
    return test


for _state in STATES:
    for _victims in (("qemu_pid",), ("shim_pid", "qemu_pid")):
        for _up in (True, False):
            setattr(QemuKilled, f"test_{'_'.join(_victims)}_{_state}_manager_{'up' if _up else 'down'}", make_state(_state, _victims, _up))


# Records of a VM and what may have become of them.
RECORDS = [("run", "status.json"), ("run", "plan.json"), ("state", "wanted.json"), ("state", "last-exit.json"), ("state", "events.jsonl")]
DAMAGE = {
    "empty": lambda text: b"",
    "truncated": lambda text: text[:len(text) // 2],
    "unknown_schema": lambda text: text.replace(b'"schema": 1', b'"schema": 999').replace(b'"schema":1', b'"schema":999'),
    "binary": lambda text: bytes(range(256)),
    "an_array": lambda text: b"[]",
    "gone": None,
}


class Records(FaultTest):
    def damage(self, kind, file, change):
        path = self.host.path(kind, "web", file)
        if change is None:
            if os.path.exists(path):
                os.unlink(path)
            return
        text = b'{"schema": 1}'
        if os.path.exists(path):
            with open(path, "rb") as f:
                text = f.read()
        with open(path, "wb") as f:
            f.write(change(text))

    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        self.before = self.host.vm("web")
        self.host.kill_manager()

    def start_again(self, kind, file):
        """By the operator's word (who mends what no build of today can read, and repeats it): and there is one QEMU."""
        if self.host.state("web") == "unknown":
            tried = self.host.vmctl("start", "web", check=False)
            if tried.returncode != 0:
                self.assertIn(file, tried.stderr)
                self.host.kill_manager()
                os.unlink(self.host.path(kind, "web", file))
                self.host.start_manager()
        if self.host.state("web") not in ("running", "paused"):
            self.host.vmctl("start", "web")
        self.running("web")

    def nobody_is_left(self):
        """Also no shim that the manager had just started to take QEMU over, which would start another."""
        left = [pid for pid, _ in self.host.left_behind()]
        send(signal.SIGKILL, *left)
        return not left


def make_record(kind, file, change):
    def test(self):
        self.damage(kind, file, change)
        self.host.start_manager()
        vms = self.list_quickly()
        self.same(self.before, vms["web"])
        self.assertEqual(vms["web"]["state"], "running")
        # and with the shim gone as well: QEMU is taken over or shown, and lives
        self.host.kill_manager()
        self.damage(kind, file, change)
        send(signal.SIGKILL, self.before["shim_pid"])
        wait_for(lambda: not alive(self.before["shim_pid"]), "the shim to be gone")
        self.host.start_manager()
        wait_for(lambda: self.host.state("web") in ("running", "orphaned"), f"it to be taken over or shown ({self.host.vm('web')})")
        self.assertTrue(alive(self.before["qemu_pid"]))
        self.assertEqual(self.host.qemus("web"), [self.before["qemu_pid"]])
        # and with QEMU gone as well
        self.host.kill_manager()
        self.damage(kind, file, change)
        wait_for(self.nobody_is_left, "them to be gone")
        self.host.start_manager()
        self.host.wait_state("web", "running", "failed", "exited", "stopped", "unknown")
        self.start_again(kind, file)
        self.finish()
    return test


for _kind, _file in RECORDS:
    for _name, _change in DAMAGE.items():
        setattr(Records, f"test_{_file.partition('.')[0].replace('-', '_')}_{_name}", make_record(_kind, _file, _change))


class OtherBoot(FaultTest):
    def test_boot_id_changed(self):
        """A record from before the host was booted names nobody, be the pid as alive as it may."""
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", restart={"policy": "never"}))
        before = self.host.vm("web")
        self.host.kill_manager()
        record = self.host.read_json("run", "web", "status.json")
        send(signal.SIGKILL, before["shim_pid"], before["qemu_pid"])
        wait_for(lambda: not alive(before["qemu_pid"]), "QEMU to be gone")
        bystander = subprocess.Popen(["sleep", "600"])
        self.addCleanup(self.end, bystander)
        record["boot_id"] = "00000000-0000-4000-8000-000000000000"
        record["qemu"] = {"pid": bystander.pid, "start_time": start_time(bystander.pid)}
        with open(self.host.path("run", "web", "status.json"), "w") as f:
            json.dump(record, f)
        self.host.start_manager()
        vm = self.host.wait_state("web", "failed", "exited", "stopped", "running")
        self.assertEqual(vm["last_exit"]["kind"], "unknown")
        self.assertTrue(alive(bystander.pid), "nobody is killed for a number")
        self.host.vmctl("start", "web")
        self.running("web")
        self.finish()


def reuse_pids(host):
    """In a pid namespace of its own: the pids of shim and QEMU are given to others, and the next manager leaves those alone."""
    host.start_manager()
    host.apply(host.fake_spec("web", restart={"policy": "never"}))
    before = host.vm("web")
    host.kill_manager()
    bystanders = {}
    send(signal.SIGKILL, before["shim_pid"], before["qemu_pid"])
    wait_for(lambda: not os.path.exists(f"/proc/{before['shim_pid']}") and not os.path.exists(f"/proc/{before['qemu_pid']}"),
             "both to be gone and reaped")
    for pid in (before["shim_pid"], before["qemu_pid"]):
        def given(pid=pid):
            with open("/proc/sys/kernel/ns_last_pid", "w") as f:
                f.write(str(pid - 1))
            child = subprocess.Popen(["sleep", "600"])
            if child.pid == pid:
                return child
            child.kill()
            child.wait()
            return None
        bystanders[pid] = wait_for(given, f"pid {pid} to be given again")
    host.start_manager()
    vm = host.wait_state("web", "failed", "exited", "stopped")
    assert vm["last_exit"]["kind"] == "unknown", vm
    assert all(child.poll() is None for child in bystanders.values()), "a bystander was killed"
    host.vmctl("start", "web")
    after = host.wait_state("web", "running")
    assert host.qemus("web") == [after["qemu_pid"]]
    host.vmctl("stop", "web", "--force")
    assert all(child.poll() is None for child in bystanders.values()), "a bystander was killed"
    for child in bystanders.values():
        child.kill()
        child.wait()


class PidReuse(FaultTest):
    def test_for_real(self):
        done = subprocess.run(["unshare", "-p", "--fork", "--mount-proc", "sh", "-c", f"{sys.executable} -B {__file__} reuse; exit $?"],
                              capture_output=True, text=True, timeout=120)
        if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
            self.skipTest("kernel: no pid namespaces here")
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])


if __name__ == "__main__":
    if sys.argv[1:] == ["reuse"]:
        _host = Host()
        try:
            reuse_pids(_host)
        finally:
            _host.destroy()
    else:
        main()
