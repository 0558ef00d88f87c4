"""What the tests of the image service share: the service on a host of its own, releases made on the spot, nginx over TLS."""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

from harness import HostTest, Varlink, program, wait_for
from image_server import ImageServer

IMAGES = "io.holdfast.Images."
MIB = 1 << 20


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ImagesCase(HostTest):
    def setUp(self):
        super().setUp()
        self.imaged = self.nginx = None
        self.addCleanup(self.stop_imaged)
        self.www = os.path.join(self.host.root, "www")
        os.makedirs(self.www)
        self.server = None

    # ---- the service ----

    def configure(self, source=None, name="sp-vm", **images):
        images = {"retry_delay": "10ms", "margin": "1M", "retries": 3, **images}
        if source:
            images["sources"] = {name: source}
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"images": images}, f)

    def start_imaged(self, **environment):
        with open(os.path.join(self.host.root, "imaged.log"), "ab") as log:
            self.imaged = subprocess.Popen([program("holdfast-imaged"), *self.host.options()], stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log, start_new_session=True, env=self.host.environment(**environment))
        wait_for(self.answers, "an image service that answers", 20)

    def answers(self):
        with contextlib.suppress(OSError, EOFError):
            with self.connect() as v:
                return "parameters" in v.call("org.varlink.service.GetInfo")
        return False

    def stop_imaged(self, sig=signal.SIGTERM):
        if self.imaged is None:
            return
        imaged, self.imaged = self.imaged, None
        imaged.send_signal(sig)
        status = imaged.wait(20)
        if sig == signal.SIGTERM:
            self.assertEqual(status, 0, self.imaged_log())

    def imaged_log(self):
        with open(os.path.join(self.host.root, "imaged.log"), errors="replace") as f:
            return f.read()

    def connect(self, timeout=60):
        return Varlink(os.path.join(self.host.dirs["run"], "images.sock"), timeout)

    def call(self, method, **parameters):
        """The reply's parameters; an error is an exception."""
        reply = self.ask(method, **parameters)
        self.assertNotIn("error", reply, reply)
        return reply["parameters"]

    def ask(self, method, **parameters):
        with self.connect() as v:
            return v.call(IMAGES + method, parameters)

    def error(self, wanted, method, **parameters):
        reply = self.ask(method, **parameters)
        self.assertEqual(reply.get("error"), IMAGES + wanted, reply)
        return reply["parameters"]

    def pull(self, version="auto", name="sp-vm"):
        return self.call("Pull", name=name, version=version)

    def pulls(self):
        return self.call("List")["pulls"]

    def begin_pull(self, version):
        """A pull whose caller has gone already, but is known to have been heard."""
        with self.connect() as v:
            v.send(IMAGES + "Pull", {"name": "sp-vm", "version": version}, more=True)
            v.receive()

    def store(self, *parts):
        return os.path.join(self.host.dirs["state"], "images", *parts)

    def wait_done(self, amount, version):
        """Until that many bytes of the pull have come."""
        def far_enough():
            return any(p["version"] == version and p["progress"]["done"] >= amount for p in self.pulls())
        wait_for(far_enough, f"{amount} bytes of {version}", 30, 0.02)

    def wait_here(self, version, name="sp-vm"):
        def here():
            return any((r["name"], r["version"]) == (name, version) and r["verified"] for r in self.call("List")["releases"])
        wait_for(here, f"{name}/{version} in the store ({self.imaged_log()})", 60, 0.05)

    # ---- releases ----

    def make_release(self, version, sizes=None, with_size=True, newest=True):
        """Files below www as a bucket has them, and the manifest as GitHub has it. Returns the manifest."""
        sizes = sizes or {"image": 4 * MIB, "bios": 100000, "kernel": 300000, "rootfs_hash": 64}
        manifest = {}
        folder = os.path.join(self.www, "bucket", "pre", version)
        os.makedirs(folder, exist_ok=True)
        for role, size in sizes.items():
            filename = f"{role}-{version}.img"
            with open(os.path.join(folder, filename), "wb") as f:
                f.write(os.urandom(size))
            manifest[role] = {"bucket": "bucket", "prefix": f"pre/{version}", "filename": filename,
                              "sha256": sha256(os.path.join(folder, filename))}
            if with_size:
                manifest[role]["size"] = size
        self.write_manifest(version, manifest, newest)
        return manifest

    def write_manifest(self, version, manifest, newest=True):
        folder = os.path.join(self.www, "releases", "download", version)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "vm.json"), "w") as f:
            json.dump(manifest, f, indent=1)
        if newest:
            with open(os.path.join(self.www, "releases", "latest"), "w") as f:
                json.dump({"tag_name": version, "assets": [{"name": "vm.json"}]}, f)

    def file_path(self, manifest, role):
        """As in the URL."""
        file = manifest[role]
        return f"/{file['bucket']}/{file['prefix']}/{file['filename']}"

    def assertHere(self, version, manifest):
        release = self.call("GetRelease", name="sp-vm", version=version)["release"]
        self.assertTrue(release["verified"], release)
        for file in release["files"]:
            self.assertEqual(sha256(file["path"]), manifest[file["role"]]["sha256"])
        self.assertEqual({f["role"] for f in release["files"]}, set(manifest))
        self.assertEqual(sorted(os.listdir(release["path"])),
                         sorted({"image.json", "vm.json"} | {f["filename"] for f in manifest.values()}))
        self.assertFalse(os.path.exists(self.store("sp-vm", ".partial-" + version)))

    # ---- servers ----

    def github(self, url, **more):
        return {"kind": "github-releases", "url": url, "file_url": url + "/{bucket}/{prefix}/{filename}", **more}

    def serve_with_faults(self, **images):
        self.server = ImageServer(self.www)
        self.addCleanup(self.server.stop)
        self.configure(self.github(self.server.url), **images)
        return self.server

    def make_ca(self):
        """A CA of the test's, and a certificate of it for 127.0.0.1."""
        folder = os.path.join(self.host.root, "tls")
        os.makedirs(folder)
        with open(os.path.join(folder, "names"), "w") as f:
            f.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        for words in (
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=test-ca -keyout ca.key -out ca.crt",
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr",
                "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.crt"):
            subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
        return folder

    def serve_with_nginx(self, limit="", source=None, **images):
        tls, port, root = self.make_ca(), free_port(), self.host.root
        conf = os.path.join(root, "nginx.conf")
        with open(conf, "w") as f:
            f.write(f"""daemon off; pid {root}/nginx.pid; error_log {root}/nginx-error.log; user root; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log {root}/access.log; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {tls}/server.crt; ssl_certificate_key {tls}/server.key;
    root {self.www}; {limit}
  }}
}}
""")
        with open(os.path.join(root, "nginx.out"), "wb") as out:
            self.nginx = subprocess.Popen(["nginx", "-e", f"{root}/nginx-error.log", "-c", conf], stdout=out, stderr=out)
        self.addCleanup(self.stop_nginx)
        wait_for(lambda: self.connects(port), "nginx", 20)
        url = f"https://127.0.0.1:{port}"
        self.configure(self.github(url, **(source or {})), **{"ca_file": f"{tls}/ca.crt", **images})
        return url

    def stop_nginx(self):
        if self.nginx:
            self.nginx.terminate()
            self.nginx.wait(20)
        self.nginx = None

    @staticmethod
    def connects(port):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def access_log(self):
        with open(os.path.join(self.host.root, "access.log")) as f:
            return f.read()

    def mount_small_state(self, size):
        """The state folder becomes a small disk, where this may be done."""
        state = self.host.dirs["state"]
        os.makedirs(state, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "holdfast-test", state], capture_output=True)
        if done.returncode != 0:
            self.skipTest("kernel: can't mount a tmpfs here")
        self.addCleanup(lambda: subprocess.run(["umount", "-l", state], check=True))

    @staticmethod
    def remove(path):
        shutil.rmtree(path)

    @staticmethod
    def now():
        return time.monotonic()
