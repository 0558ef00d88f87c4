"""A Varlink service with canned answers, to be the manager or a shim for vmctl's tests.

    with FakeService(path, {"io.holdfast.Manager.List": lambda parameters, call: {"vms": []}}) as service: ...

A handler returns the reply's parameters, may send earlier ones by call.more({...}), take the connection over by call.upgrade({...}) (which returns
the socket), raise Failure(name, {...}), or Hangup. service.calls remembers what was asked.
"""
import json
import os
import socket
import threading


class Failure(Exception):
    def __init__(self, error, **parameters):
        super().__init__(error)
        self.error = error
        self.parameters = parameters


class Hangup(Exception):
    """The service closes the connection without a word."""


class Taken(Exception):
    """The connection is no longer ours to talk on."""


class Call:
    def __init__(self, connection, message):
        self.connection = connection
        self.message = message

    def send(self, message):
        self.connection.sendall(json.dumps(message).encode() + b"\0")

    def more(self, parameters):
        assert self.message.get("more"), "continued replies only with more"
        self.send({"parameters": parameters, "continues": True})

    def upgrade(self, parameters):
        assert self.message.get("upgrade"), "only with upgrade"
        self.send({"parameters": parameters})
        return self.connection


class FakeService:
    def __init__(self, path, handlers):
        self.path = path
        self.handlers = {"org.varlink.service.GetInfo": lambda p, c: {
            "vendor": "Fake", "product": "fake", "version": "9.8.7", "url": "https://example.org", "interfaces": []}, **handlers}
        self.calls = []
        self.connections = []
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(128)
        self.closed = False
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        buffer = b""
        try:
            while True:
                while b"\0" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                frame, _, buffer = buffer.partition(b"\0")
                self.answer(Call(connection, json.loads(frame)))
        except (OSError, Hangup, Taken):
            pass
        finally:
            connection.close()

    def answer(self, call):
        method, parameters = call.message["method"], call.message.get("parameters") or {}
        self.calls.append((method, parameters))
        handler = self.handlers.get(method)
        try:
            if handler is None:
                raise Failure("org.varlink.service.MethodNotFound", method=method)
            call.send({"parameters": handler(parameters, call) or {}})
        except Failure as failure:
            call.send({"error": failure.error, "parameters": failure.parameters})

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(10)
        self.listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if os.path.exists(self.path):
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


MANAGER = "io.holdfast.Manager."
SHIM = "io.holdfast.Shim."


def no_such_vm(name):
    return Failure(MANAGER + "NoSuchVM", name=name, reason=f"no VM is named {name}")


def vm(name, **more):
    return {"name": name, "wanted": "running", "state": "running", "health": "none", "incarnation": 3, "restarts": 0, "uptime_ms": 75000,
            "shim_pid": 4001, "qemu_pid": 4002, "last_exit": None, "enabled": True, "changed": False, "reason": None, **more}


def status(name, **more):
    return {"name": name, "incarnation": 3, "state": "running", "since": "2026-11-21T09:00:00.000Z", "detail": None, "health": "none",
            "restarts": 0, "uptime_ms": 75000, "boot_id": "b", "shim": {"pid": 4001, "start_time": 1}, "qemu": {"pid": 4002, "start_time": 2},
            "plan_digest": "0123456789abcdef", "version": "0.1.0", "event_seq": 3, "last_exit": None, **more}
