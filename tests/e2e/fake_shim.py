#!/usr/bin/env python3
"""A shim with no QEMU, for what the manager does about snapshots: it keeps the launch protocol, the locks and the records, answers what the
manager asks, and behaves as the file `fake-shim.json` in its VM's state folder says:

    {"restore": "fail"}        it ends while restoring, with an exit record
    {"restore": "hang"}        it goes on restoring
    {"memory": {...}}          GetMemory, instead of what follows from the plan
    {"snapshot": "fail"}       Snapshot answers with an error after some progress
    {"monitor": "die"}         it dies with its first answer to Monitor, once: the manager reads that only when the process is gone

A snapshot is made by make_snapshot, which is beside the fake QEMU.
"""
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def start_time(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[19])


def read_json(path, default=None):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError):
        return default


def write_json(path, value):
    with open(path + ".new", "w") as f:
        json.dump(value, f)
    os.rename(path + ".new", path)


class Client:
    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""
        self.follows = False

    def send(self, message):
        self.connection.sendall(json.dumps(message).encode() + b"\0")


class Shim:
    def __init__(self, name, plan):
        self.name, self.plan = name, plan
        self.run, self.state_dir = plan["run_dir"], plan["state_dir"]
        self.behaviour = read_json(os.path.join(self.state_dir, "fake-shim.json"), {})
        self.restore = plan.get("restore") or {}
        self.locks = [self.lock("shim.lock"), self.lock("vm.lock")]
        last = read_json(self.state_path("last-exit.json"), {})
        old = read_json(self.run_path("status.json"), {})
        self.incarnation = 1 + max(last.get("incarnation", 0), old.get("incarnation", 0))
        self.seq = last.get("event_seq", 0)
        self.state = "preparing"
        self.detail = self.last_exit = None
        self.clients = []
        path = self.run_path("shim.sock")
        if os.path.exists(path):
            os.unlink(path)
        os.chdir(self.run)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind("shim.sock")
        self.listener.listen(64)

    def run_path(self, file):
        return os.path.join(self.run, file)

    def state_path(self, file):
        return os.path.join(self.state_dir, file)

    def lock(self, file):
        fd = os.open(os.path.join(self.run, file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    # ---- what it tells ----

    def boot_id(self):
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f.read().strip()

    def process(self):
        return {"pid": os.getpid(), "start_time": start_time(os.getpid())}

    def status(self):
        return {"name": self.name, "incarnation": self.incarnation, "state": self.state, "since": now(), "detail": self.detail,
                "health": "none", "restarts": 0, "uptime_ms": 1000, "boot_id": self.boot_id(), "shim": self.process(),
                "qemu": self.process() if self.state in ("restoring", "running", "paused") else None,
                "plan_digest": "0123456789abcdef", "version": "fake", "event_seq": self.seq, "last_exit": self.last_exit}

    def set_state(self, state, detail=None):
        self.state, self.detail = state, detail
        self.seq += 1
        write_json(self.run_path("status.json"), {
            "schema": 1, "name": self.name, "incarnation": self.incarnation, "state": state, "since": now(), "health": "none",
            "boot_id": self.boot_id(), "shim": self.process(), "plan_digest": "0123456789abcdef", "version": "fake",
            "event_seq": self.seq})
        event = {"seq": self.seq, "at": now(), "type": "state", "incarnation": self.incarnation, "text": state}
        for client in self.clients:
            if client.follows:
                client.send({"parameters": {"status": self.status(), "event": event}, "continues": True})

    def end(self, kind, detail=None, code=None):
        record = {"schema": 1, "name": self.name, "incarnation": self.incarnation, "boot_id": self.boot_id(), "kind": kind, "at": now(),
                  "final": True, "event_seq": self.seq + 1}
        if detail:
            record["detail"] = detail
        if code is not None:
            record["code"] = code
        write_json(self.state_path("last-exit.json"), record)
        self.last_exit = {key: record[key] for key in ("kind", "at", "incarnation", "final", "detail", "code") if key in record}
        self.set_state("exited" if kind == "stopped" else "failed", detail)
        sys.exit(0)

    # ---- what it is asked ----

    def memory(self):
        if "memory" in self.behaviour:
            return self.behaviour["memory"]
        size = 16 << 20
        folder = self.restore.get("folder")
        answer = {"mode": "plain", "total": size, "present": size, "faults": 0, "neighbours": 0, "prefetched": 0,
                  "useless": 0, "settled": True}
        if folder:
            answer.update(mode=self.restore.get("mode", "lazy"), snapshot="/".join(folder.split("/")[-2:]))
        return answer

    def snapshot(self, client, parameters):
        client.send({"parameters": {"progress": {"phase": "copying", "done": 1, "total": 2}}, "continues": True})
        if self.behaviour.get("snapshot") == "fail":
            client.send({"error": "io.holdfast.Shim.Failed", "parameters": {"id": "no-space", "reason": "no space left for memory.raw"}})
            return
        folder = parameters["folder"]
        temporary = os.path.join(os.path.dirname(folder), f".{parameters['name']}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        write_json(self.run_path("spec-of-snapshot.json"), json.loads(parameters.get("spec") or "{}"))
        subprocess.run([os.path.join(self.bin, "make_snapshot"), temporary, self.name, parameters["name"], self.run_path("plan.json"),
                        self.run_path("spec-of-snapshot.json")], check=True)
        os.rename(temporary, folder)
        client.send({"parameters": {"snapshot": read_json(os.path.join(folder, "snapshot.json"))}})

    def die_answering(self, client):
        write_json(self.state_path("fake-shim.json"), {})
        manager = struct.unpack("3i", client.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        mine = os.getpid()
        os.kill(manager, signal.SIGSTOP)
        if os.fork() == 0:  # lets the manager go on when nothing is left of us
            for fd in [self.listener.fileno(), client.connection.fileno(), *self.locks]:
                os.close(fd)
            while os.path.exists(f"/proc/{mine}"):
                time.sleep(0.001)
            os.kill(manager, signal.SIGCONT)
            os._exit(0)
        client.send({"parameters": {"status": self.status()}, "continues": True})
        os.kill(mine, signal.SIGKILL)

    def answer(self, client, message):
        method, parameters = message["method"].rpartition(".")[2], message.get("parameters") or {}
        if method == "Monitor" and self.behaviour.get("monitor") == "die":
            self.die_answering(client)
        elif method == "Monitor":
            client.send({"parameters": {"status": self.status()}, "continues": True})
            client.follows = True
        elif method == "GetStatus":
            client.send({"parameters": {"status": self.status()}})
        elif method == "GetMemory":
            client.send({"parameters": self.memory()})
        elif method == "Snapshot":
            self.snapshot(client, parameters)
        elif method in ("Stop", "Kill"):
            client.send({"parameters": {}})
            self.end("stopped")
        else:
            client.send({"error": "org.varlink.service.MethodNotFound", "parameters": {"method": message["method"]}})

    # ---- its life ----

    def begin(self):
        without = {key: value for key, value in self.plan.items() if key != "restore"}
        write_json(self.run_path("plan.json"), without)
        if self.restore:
            self.set_state("restoring")
            self.restored_at = time.monotonic()
        else:
            self.set_state("running")

    def go_on(self):
        """A moment later, so that somebody may look at the state before."""
        if self.state != "restoring" or self.behaviour.get("restore") == "hang":
            return
        if time.monotonic() < self.restored_at + 0.05:
            return
        if self.behaviour.get("restore") == "fail":
            self.end("code", "QEMU refused the device state", 1)
        if self.restore.get("ephemeral"):
            self.warm()
        self.set_state("running")

    def warm(self):
        subprocess.run([os.path.join(self.bin, "make_snapshot"), "--working-set", self.restore["folder"]], check=True)
        shutil.rmtree(self.run)
        sys.exit(0)

    def serve(self):
        while True:
            ready, _, _ = select.select([self.listener, *(c.connection for c in self.clients)], [], [], 0.05)
            if self.listener in ready:
                self.clients.append(Client(self.listener.accept()[0]))
            for client in list(self.clients):
                if client.connection not in ready:
                    continue
                data = client.connection.recv(65536)
                if not data:
                    self.clients.remove(client)
                    continue
                client.buffer += data
                while b"\0" in client.buffer:
                    frame, _, client.buffer = client.buffer.partition(b"\0")
                    self.answer(client, json.loads(frame))
            self.go_on()


def main():
    words = sys.argv[1:]
    plan_fd, sync_fd = int(words[words.index("--plan-fd") + 1]), int(words[words.index("--sync-fd") + 1])
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with os.fdopen(plan_fd) as f:
        plan = json.load(f)
    sync = socket.socket(fileno=sync_fd)
    try:
        shim = Shim(words[-1], plan)
    except OSError as error:
        sync.sendall(f"{error}\n".encode())
        return 1
    shim.bin = os.path.dirname(plan["qemu"]["path"])  # make_snapshot is beside the fake QEMU
    sync.sendall(b"R")
    if sync.recv(1) != b"G":
        return 0
    sync.close()
    shim.begin()
    shim.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
