"""U: a shim, a QEMU or a client that doesn't answer, answers half, slowly or nonsense. The list comes within a second, nobody is killed for
it, and all is well again when the other side is. One line a misbehaviour."""
import contextlib
import json
import os
import re
import signal
import socket
import threading

from fault import FaultTest, Varlink, main, send, shims, start_time, wait_for

SHIM = "io.holdfast.Shim."
DEEP = b"[" * 100000


def nothing(peer, end):
    """Takes the call, never answers; what is sent is never read further."""
    end.wait()


def says(data, hang_up=False):
    def run(peer, end):
        peer.sendall(data)
        if not hang_up:
            end.wait()
    return run


def a_byte_a_second(peer, end):
    for byte in b'{"parameters":{"status":{"name":"web","incarnation":1,':
        peer.sendall(bytes([byte]))
        if end.wait(1.0):
            return


def hangs_up(peer, end):
    """Not a word."""


BAD_SERVERS = {
    "silent": nothing,
    "half_a_frame": says(b'{"parameters":{"status":{"na'),
    "half_a_frame_and_gone": says(b'{"parameters":{"status":{"na', hang_up=True),
    "a_byte_a_second": a_byte_a_second,
    "garbage": says(bytes(range(1, 256)) * 4 + b"\0"),
    "nuls": says(b"\0" * 5000),
    "ten_megabytes": says(b"x" * (10 << 20)),
    "deep_nesting": says(b'{"parameters":' + DEEP + b"\0"),
    "hangs_up": hangs_up,
    "empty_reply": says(b"{}\0"),
    "another_vm": says(json.dumps({"parameters": {"status": {"name": "someone-else"}}}).encode() + b"\0"),
}


def newer(value):
    """What a later version might say: a field more in every object."""
    if isinstance(value, dict):
        return {**{k: newer(v) for k, v in value.items()}, "from_the_future": {"a": [1, None]}}
    return [newer(v) for v in value] if isinstance(value, list) else value


def without(*fields):
    def change(value):
        if isinstance(value, dict):
            return {k: change(v) for k, v in value.items() if k not in fields}
        return [change(v) for v in value] if isinstance(value, list) else value
    return change


def other_incarnation(value):
    if isinstance(value, dict):
        return {k: v + 41 if k == "incarnation" else other_incarnation(v) for k, v in value.items()}
    return [other_incarnation(v) for v in value] if isinstance(value, list) else value


DIALECTS = {
    # what becomes of the shim's replies, and whether the manager may understand them
    "newer_protocol": (newer, True),
    "older_without_optional_fields": (without("detail", "last_exit", "data"), True),
    "older_without_version": (without("version"), None),
    "older_without_event_numbers": (without("event_seq", "seq"), None),
    "older_without_identity": (without("shim", "qemu"), None),
    "wrong_incarnation": (other_incarnation, None),
}


class Imposter:
    """Sits where the shim's socket was and misbehaves; the shim itself is well, behind shim.sock.real."""

    def __init__(self, path, serve, backlog=64):
        self.path, self.serve, self.end = path, serve, threading.Event()
        os.rename(path, path + ".real")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(backlog)
        self.peers, self.waiting = [], []
        self.calls = 0
        if serve:
            threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.peers.append(peer)
            threading.Thread(target=self.run, args=(peer,), daemon=True).start()

    def run(self, peer):
        with contextlib.suppress(OSError):
            while b"\0" not in (data := peer.recv(65536)) and data:
                pass
            self.calls += 1
            self.serve(peer, self.end)
            peer.shutdown(socket.SHUT_RDWR)

    def fill(self):
        """Connections that wait, until no more can."""
        while True:
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            self.waiting.append(one)
            try:
                one.connect(self.path)
            except BlockingIOError:
                return

    def leave(self):
        self.end.set()
        os.rename(self.path + ".real", self.path)
        for one in (self.listener, *self.peers, *self.waiting):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Interpreter(Imposter):
    """Passes all on to the real shim, its replies changed."""

    def __init__(self, path, change):
        self.change = change
        super().__init__(path, True)

    def run(self, peer):
        real = socket.socket(socket.AF_UNIX)
        self.peers.append(real)
        with contextlib.suppress(OSError, ValueError):
            real.connect(self.path + ".real")
            threading.Thread(target=self.there, args=(peer, real), daemon=True).start()
            buffer = b""
            while data := real.recv(65536):
                buffer += data
                while b"\0" in buffer:
                    frame, _, buffer = buffer.partition(b"\0")
                    reply = json.loads(frame)
                    if "parameters" in reply:
                        reply["parameters"] = self.change(self.as_ours(reply["parameters"]))
                    self.calls += 1
                    peer.sendall(json.dumps(reply).encode() + b"\0")
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def as_ours(parameters):
        """It is this process that answers, and a manager believes no other."""
        if parameters.get("status"):
            parameters["status"]["shim"] = {"pid": os.getpid(), "start_time": start_time(os.getpid())}
        return parameters

    @staticmethod
    def there(peer, real):
        with contextlib.suppress(OSError):
            while data := peer.recv(65536):
                real.sendall(data)
            real.shutdown(socket.SHUT_RDWR)


class BadShim(FaultTest):
    """The shim's side of the conversation."""

    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"), self.host.fake_spec("other"))
        self.before = self.host.vm("web")
        self.host.kill_manager()

    def with_imposter(self, imposter, understood=None):
        try:
            self.host.start_manager()
            if imposter.serve:
                wait_for(lambda: imposter.calls, "the manager to ask", 20)
            if understood:
                wait_for(lambda: self.host.state("web") == "running", "the shim to be understood", 20)
            for _ in range(3):
                vms = self.list_quickly()
                self.assertEqual(vms["other"]["state"], "running")
                self.host.vmctl("pause", "other")
                self.host.vmctl("resume", "other")
            self.host.kill_manager()  # and one that starts while it is so
            self.host.start_manager()
            self.list_quickly()
        finally:
            imposter.leave()
        self.assertEqual(shims(self.host, "web"), [self.before["shim_pid"]])
        wait_for(lambda: self.host.vm("web")["incarnation"] == self.before["incarnation"], "the truth to be shown again", 20)
        self.same(self.before, self.running("web"))
        wait_for(lambda: self.host.vmctl("pause", "web", check=False).returncode == 0, "the shim itself to be heard")
        self.finish()

    def test_full_backlog(self):
        imposter = Imposter(self.host.path("run", "web", "shim.sock"), None, 0)
        imposter.fill()
        self.with_imposter(imposter)


def make_server(serve):
    def test(self):
        self.with_imposter(Imposter(self.host.path("run", "web", "shim.sock"), serve))
    return test


def make_dialect(change, understood):
    def test(self):
        self.with_imposter(Interpreter(self.host.path("run", "web", "shim.sock"), change), understood)
    return test


for _name, _serve in BAD_SERVERS.items():
    setattr(BadShim, "test_" + _name, make_server(_serve))
for _name, (_change, _understood) in DIALECTS.items():
    setattr(BadShim, "test_" + _name, make_dialect(_change, _understood))


BAD_CALLS = {
    "half_a_frame": b'{"method":"org.varlink.serv',
    "garbage": bytes(range(1, 256)) * 4 + b"\0",
    "nuls": b"\0" * 5000,
    "ten_megabytes": b"x" * (10 << 20),
    "deep_nesting": b'{"method":"a.b","parameters":' + DEEP + b"\0",
    "not_utf8": b'{"method":"\xff\xfe"}\0',
    "unknown_method": b'{"method":"io.holdfast.Shim.Levitate"}\0{"method":"io.holdfast.Manager.Levitate"}\0',
    "unknown_interface": b'{"method":"io.holdfast.Future.List"}\0',
    "no_method": b'{"parameters":{}}\0',
    "an_array": b"[1,2,3]\0",
}


class BadClient(FaultTest):
    """The other side: whatever a client says to manager and shim, they answer everybody else."""

    def sockets(self):
        return [os.path.join(self.host.dirs["run"], "manager.sock"), self.host.path("run", "web", "shim.sock")]

    def setUp(self):
        super().setUp()
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web", "heartbeat=20"))
        self.before = self.host.vm("web")

    def check(self):
        self.list_quickly()
        self.assertEqual(self.host.shim_status("web")["state"], "running")
        self.assertIsNone(self.host.manager.poll())
        self.same(self.before)
        self.assertEqual(self.host.vm("web")["shim_pid"], self.before["shim_pid"])

    def test_whatever_is_said(self):
        for name, words in BAD_CALLS.items():
            with self.subTest(name):
                for path in self.sockets():
                    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
                        s.settimeout(10)
                        s.connect(path)
                        with contextlib.suppress(OSError):  # it may well hang up in the middle of it
                            s.sendall(words)
                        self.check()
        self.finish()

    def test_unknown_methods_get_a_clean_error(self):
        for path, interface in zip(self.sockets(), ("Manager", "Shim")):
            with Varlink(path) as v:
                self.assertEqual(v.call(f"io.holdfast.{interface}.Levitate")["error"], "org.varlink.service.MethodNotFound")
                self.assertEqual(v.call("io.holdfast.Future.List")["error"], "org.varlink.service.InterfaceNotFound")
                self.assertIn("parameters", v.call("org.varlink.service.GetInfo"), "and the connection goes on")
        self.finish()

    def test_unknown_fields_are_ignored(self):
        with Varlink(self.sockets()[0]) as v:
            self.assertIn("parameters", v.call("io.holdfast.Manager.Get", {"name": "web", "from_the_future": {"a": 1}}))
        with Varlink(self.sockets()[1]) as v:
            self.assertIn("parameters", v.call(SHIM + "Pause", {"incarnation": self.before["incarnation"], "softly": True}))
            self.assertEqual(v.call(SHIM + "Resume", {"incarnation": 77})["error"], SHIM + "StaleIncarnation")
            v.call(SHIM + "Resume", {"incarnation": self.before["incarnation"]})
        self.host.wait_state("web", "running")
        self.check()
        self.finish()

    def test_readers_that_never_read(self):
        """Events without end for clients that asked for them and went to sleep."""
        sleepers = []
        for _ in range(4):
            for path, method, parameters in zip(self.sockets(), ("io.holdfast.Manager.Events", SHIM + "Monitor"), ({"follow": True}, {})):
                v = Varlink(path)
                v.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                v.send(method, parameters, more=True)
                sleepers.append(v)
        for _ in range(20):
            self.host.vmctl("pause", "web")
            self.host.vmctl("resume", "web")
        self.host.wait_ticks("web")
        self.check()
        for v in sleepers:
            v.close()
        self.finish()

    def test_a_byte_at_a_time(self):
        for path in self.sockets():
            with Varlink(path) as v:
                for byte in b'{"method":"org.varlink.service.GetInfo"}\0':
                    v.socket.sendall(bytes([byte]))
                self.assertIn("parameters", v.receive())
        self.finish()

    def test_a_thousand_connections(self):
        """One uid gets so many, and not the last one."""
        for path in self.sockets():
            crowd = []
            for _ in range(1000):
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                crowd.append(one)
                with contextlib.suppress(OSError):
                    one.connect(path)
            for one in crowd:
                one.close()
            wait_for(self.host.manager_answers, "the manager to answer again", 20)
            wait_for(lambda: self.shim_answers(), "the shim to answer again", 20)
        self.check()
        self.finish()

    def shim_answers(self):
        with contextlib.suppress(OSError, EOFError):
            return self.host.shim_status("web")
        return None


class Stopped(FaultTest):
    def test_shim_in_every_manager(self):
        """SIGSTOP, with the manager that knew it and with one that never did; then SIGCONT."""
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"))
        self.host.wait_ticks("web")
        before = self.host.vm("web")
        send(signal.SIGSTOP, before["shim_pid"])
        try:
            self.list_quickly()
            self.host.kill_manager()
            self.host.start_manager()
            self.list_quickly()
            self.host.wait_state("web", "unresponsive")
            self.host.wait_ticks("web", 10)
            self.assertNotEqual(self.host.vmctl("pause", "web", check=False).returncode, 0)
            self.list_quickly()
        finally:
            send(signal.SIGCONT, before["shim_pid"])
        after = self.running("web")
        self.same(before, after)
        self.assertEqual(after["shim_pid"], before["shim_pid"])
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.finish()

    def test_qemu(self):
        """A QEMU that stands still is neither dead nor restarted; stopping it works."""
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"), self.host.fake_spec("other"))
        self.host.wait_ticks("web")
        before = self.host.vm("web")
        send(signal.SIGSTOP, before["qemu_pid"])
        try:
            self.list_quickly()
            refused = self.background("pause", "web")
            self.host.kill_manager()
            self.host.start_manager()
            self.list_quickly()
            send(signal.SIGKILL, before["shim_pid"])  # and its replacement meets it so
            wait_for(lambda: shims(self.host, "web") not in ([], [before["shim_pid"]]), "another shim")
            self.list_quickly()
            self.host.vmctl("pause", "other")
            refused.wait(60)
        finally:
            send(signal.SIGCONT, before["qemu_pid"])
        self.same(before, self.host.wait_state("web", "running", "paused"))
        self.host.vmctl("resume", "web", check=False)
        self.running("web")
        self.host.wait_ticks("web")
        self.assertWhole("web")
        self.finish()


# What a QEMU may do with its monitor, and the state that is then shown.
MONITORS = {
    "hang-greeting": "launching", "garbage-qmp": "launching", "half-qmp-line": "launching", "slow-qmp=200": "launching",
    "garbage-qmp=reply": "launching", "half-qmp-line=reply": "launching", "refuse-cont": "launching",
}


class BadMonitor(FaultTest):
    def test_every_kind_at_once(self):
        self.host.start_manager()
        names = {re.sub(r"\W", "-", key): (key, state) for key, state in MONITORS.items()}
        for name, (key, _) in names.items():
            self.host.write_spec(self.host.fake_spec(name, key))
            self.host.vmctl("apply", self.host.path("config", name) + ".json", "--no-wait")
        for name, (_, state) in names.items():
            wait_for(lambda n=name: self.host.vm(n)["qemu_pid"], f"QEMU of {name}")
            self.host.wait_state(name, state)
        before = self.list_quickly()
        self.host.kill_manager()
        self.host.start_manager()
        for name in names:
            self.same(before[name])
        self.finish()


if __name__ == "__main__":
    main()
