"""holdfast-imaged and vmctl image: real transfers, from nginx over TLS and from a server with faults."""
import fcntl
import json
import os
import signal
import subprocess

from harness import main, program, wait_for
from images_case import IMAGES, MIB, ImagesCase, sha256
from vmctl_case import Terminal


class WholePull(ImagesCase):
    """From nginx over TLS, as an operator does it."""

    def test_by_vmctl(self):
        manifest = self.make_release("v1")
        self.serve_with_nginx()
        done = self.host.vmctl("image", "list", check=False)
        self.assertEqual(done.returncode, 4)
        self.assertIn("start it: systemctl start holdfast-imaged", done.stderr)
        self.assertIn("VMs are not affected", done.stderr)
        self.start_imaged()
        self.assertIn("no images", self.host.vmctl("image", "list").stdout)
        done = self.host.vmctl("image", "pull", "sp-vm")
        self.assertIn("sp-vm/v1: fetched and verified", done.stdout)
        self.assertEqual(done.stderr, "")
        self.assertHere("v1", manifest)
        self.assertIn("sp-vm/v1: is here", self.host.vmctl("image", "pull", "sp-vm/v1").stdout)
        pulled = json.loads(self.host.vmctl("image", "pull", "sp-vm", "--json").stdout)
        self.assertEqual((pulled[0]["already"], pulled[0]["release"]["version"]), (True, "v1"))
        self.assertIn("newest", self.host.vmctl("image", "list").stdout)
        self.assertEqual(self.host.vmctl("image", "list", "-q").stdout, "sp-vm/v1\n")
        listed = json.loads(self.host.vmctl("image", "list", "--json").stdout)
        self.assertEqual((listed["releases"][0]["problem"], listed["sources"][0]["newest"]), (None, "v1"))
        shown = self.host.vmctl("image", "show", "sp-vm", "--json").stdout
        self.assertEqual(json.loads(shown)["size"], sum(f["size"] for f in manifest.values()))
        for word in ("sp-vm/v1", "sp-vm"):
            self.assertIn("sp-vm/v1\n  state        verified, the newest", self.host.vmctl("image", "show", word, "--verify").stdout)
        for words in (("show", "sp-vm/v2"), ("pull", "sp-vm/v2"), ("delete", "sp-vm/v2"), ("show", "other"), ("show", "--verify", "other"), ("pull", "other")):
            done = self.host.vmctl("image", *words, check=False)
            self.assertEqual((done.returncode, done.stdout), (3, ""), (words, done.stderr))
        for words in (("show", "a/b/c"), ("pull", "/"), ("delete", "sp-vm")):
            self.assertEqual(self.host.vmctl("image", *words, check=False).returncode, 2, words)
        for word in ("../up/v1", "sp-vm/..", "-x/v1", "sp-vm/.v"):
            done = self.host.vmctl("image", "show", "--", word, check=False)
            self.assertIn(done.returncode, (2, 6), (word, done.stderr))
        self.assertIn("freed", self.host.vmctl("image", "delete", "sp-vm/v1").stdout)
        self.assertEqual(self.call("List")["releases"], [])
        self.assertNotIn("sp-vm/v1", os.listdir(self.store()))

    def test_signed(self):
        manifest = self.make_release("v1")
        self.make_release("v2", newest=False)
        keys = os.path.join(self.host.root, "keys")
        subprocess.run(["minisign", "-G", "-W", "-p", keys + ".pub", "-s", keys + ".sec"], check=True, capture_output=True,
                       stdin=subprocess.DEVNULL)
        with open(keys + ".pub") as f:
            key = f.read().splitlines()[1]
        vm_json = os.path.join(self.www, "releases/download/v1/vm.json")
        subprocess.run(["minisign", "-S", "-s", keys + ".sec", "-m", vm_json, "-t", "the first"], check=True, capture_output=True,
                       stdin=subprocess.DEVNULL)
        self.serve_with_nginx(source={"public_key": key})
        self.start_imaged()
        release = self.pull("v1")["release"]
        self.assertEqual(sha256(os.path.join(release["path"], "vm.json.minisig")), sha256(vm_json + ".minisig"))
        self.assertEqual({f["role"] for f in release["files"]}, set(manifest))
        reason = self.error("Failed", "Pull", name="sp-vm", version="v2")
        self.assertEqual(reason["id"], "bad-signature")
        self.assertIn("not signed", reason["reason"])
        # The signature of another manifest.
        os.link(vm_json + ".minisig", os.path.join(self.www, "releases/download/v2/vm.json.minisig"))
        reason = self.error("Failed", "Pull", name="sp-vm", version="v2")
        self.assertEqual(reason["id"], "bad-signature")
        self.assertIn("isn't a signature of this manifest", reason["reason"])
        self.assertFalse(os.path.exists(self.store("sp-vm", "v2")))

    def test_a_stranger_certificate(self):
        self.make_release("v1")
        self.serve_with_nginx(ca_file=None)
        self.start_imaged()
        self.assertIn("ca_file", self.error("SourceFailed", "Pull", name="sp-vm", version="v1")["reason"])

    def test_killed_in_the_middle(self):
        """Another service goes on where the killed one was, unasked."""
        manifest = self.make_release("v1", {"image": 12 * MIB, "bios": 1000})
        self.serve_with_nginx(limit="limit_rate 3m;")
        self.start_imaged()
        for round_ in range(2):
            self.begin_pull("v1") if round_ == 0 else None
            self.wait_done((3 + 3 * round_) * MIB, "v1")
            self.stop_imaged(signal.SIGKILL)
            self.start_imaged()
        self.wait_here("v1")
        self.assertHere("v1", manifest)
        ranges = [line for line in self.access_log().splitlines() if '" 206 ' in line]
        self.assertGreaterEqual(len(ranges), 2, self.access_log())

    def test_stopped_while_publishing(self):
        manifest = self.make_release("v1")
        self.serve_with_nginx()
        for name in ("images.files-named", "images.before-publish"):
            once = os.path.join(self.host.root, "once")
            with open(once, "w"):
                pass
            self.start_imaged(HOLDFAST_FAILPOINT=f"{name}=kill@{once}")
            with self.connect() as v:
                v.send(IMAGES + "Pull", {"name": "sp-vm", "version": "v1"})
                with self.assertRaises((EOFError, ConnectionError)):
                    v.receive()
            self.imaged.wait(20)
            self.assertEqual(self.call_offline(), [])
            self.start_imaged()
            self.wait_here("v1")
            self.assertHere("v1", manifest)
            self.call("Delete", name="sp-vm", version="v1")
            self.stop_imaged()

    def call_offline(self):
        """What is in the store with no service."""
        return [name for name in os.listdir(self.store("sp-vm")) if not name.startswith(".")]

    def test_terminal_closed(self):
        manifest = self.make_release("v1", {"image": 8 * MIB, "bios": 1000})
        self.serve_with_nginx(limit="limit_rate 2m;")
        self.start_imaged()
        terminal = Terminal([program("vmctl"), "image", "pull", "sp-vm"], self.host.environment(TERM="xterm"), 120)
        self.addCleanup(lambda: terminal.process.poll() is None and terminal.process.kill())
        for wanted in (b"pulling sp-vm: downloading [", b" % (", b"MiB/s", b" left"):
            terminal.read_until(wanted)
        os.close(terminal.slave)
        os.close(terminal.master)
        terminal.process.wait(20)
        self.wait_here("v1")
        self.assertHere("v1", manifest)

    def test_joined_and_cancelled(self):
        manifest = self.make_release("v1", {"image": 6 * MIB})
        self.serve_with_nginx(limit="limit_rate 2m;")
        self.start_imaged()
        with self.connect() as one, self.connect() as two:
            for v in (one, two):
                v.send(IMAGES + "Pull", {"name": "sp-vm", "version": "v1"})
            self.wait_done(MIB, "v1")
            self.assertEqual(len(self.pulls()), 1)
            self.call("Cancel", name="sp-vm", version="v1")
            for v in (one, two):
                self.assertEqual(v.receive()["parameters"]["id"], "cancelled")
        self.assertEqual([n for n in os.listdir(self.store("sp-vm")) if "v1" in n], [])
        self.error("NoSuchImage", "Cancel", name="sp-vm", version="v1")
        self.assertEqual(self.access_log().count("/bucket/"), 1)
        self.begin_pull("v1")
        self.wait_here("v1")
        self.assertHere("v1", manifest)


class Faults(ImagesCase):
    def get(self, *behaviours, with_size=True, **images):
        """Pulls a release whose image is served so. The reply as it is, and what was asked for."""
        manifest = self.make_release("v1", {"image": 2 * MIB, "bios": 1000}, with_size)
        server = self.serve_with_faults(**images)
        path = self.file_path(manifest, "image")
        server.behaviours[path] = list(behaviours)
        self.start_imaged()
        reply = self.ask("Pull", name="sp-vm", version="v1")
        if "error" not in reply:
            self.assertHere("v1", manifest)
        else:
            self.assertFalse(os.path.exists(self.store("sp-vm", "v1")))
        return reply, server.asked(path)

    def test_cut_again_and_again(self):
        """More often than there are retries: each brought something."""
        reply, asked = self.get(*[{"cut": 200000}] * 9, {})
        self.assertIn("release", reply["parameters"], reply)
        self.assertGreater(len(asked), 5)
        self.assertEqual(asked[0], (None, None))
        self.assertEqual(asked[1], ("bytes=200000-", '"first"'))

    def test_cut_with_no_size_known(self):
        reply, asked = self.get({"cut": 500000}, {}, with_size=False)
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(asked[1][0], "bytes=500000-")

    def test_range_not_understood(self):
        reply, asked = self.get({"cut": 500000}, {"no_range": True})
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(len(asked), 2)

    def test_another_file_in_the_middle(self):
        """The first half is of a file that is no more: If-Range finds that out."""
        reply, asked = self.get({"cut": 500000, "wrong": True, "etag": "old"}, {"etag": "new"})
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(asked[1:], [("bytes=500000-", '"old"')])

    def test_wrong_once(self):
        reply, asked = self.get({"wrong": True}, {})
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(asked, [(None, None)] * 2)

    def test_wrong_for_good(self):
        reply, asked = self.get({"wrong": True})
        self.assertEqual((reply["error"], reply["parameters"]["id"]), (IMAGES + "Failed", "wrong-hash"))
        self.assertIn("the manifest says", reply["parameters"]["reason"])
        self.assertEqual(asked, [(None, None)] * 2)
        # Nothing of it is gone on with.
        pulls = self.pulls()
        self.assertIn("SHA-256", pulls[0]["problem"])
        self.server.behaviours.clear()
        self.pull("v1")
        self.assertEqual(self.pulls(), [])

    def test_wrong_size(self):
        reply, asked = self.get({"short": 7})
        self.assertEqual((reply["error"], reply["parameters"]["id"]), (IMAGES + "Failed", "wrong-size"))
        self.assertEqual(len(asked), 2)

    def test_errors_then_well(self):
        reply, asked = self.get({"status": 404}, {"status": 500}, {"status": 503}, {})
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(len(asked), 4)

    def test_errors_for_good(self):
        reply, asked = self.get({"status": 500}, retries=2)
        self.assertEqual(reply["error"], IMAGES + "SourceFailed")
        self.assertIn("HTTP status 500 (tried 3 times)", reply["parameters"]["reason"])
        self.assertEqual(len(asked), 3)

    def test_silence(self):
        reply, asked = self.get({"hang": 300000}, {}, stall_timeout="1s")
        self.assertIn("release", reply["parameters"], reply)
        self.assertEqual(asked[1][0], "bytes=300000-")

    def test_redirects(self):
        manifest = self.make_release("v1", {"image": 1000})
        server = self.serve_with_faults()
        path = self.file_path(manifest, "image")
        elsewhere = f"http://localhost:{server.port}{path}?key=secret"
        server.behaviours[path] = [{"redirect": elsewhere}]
        self.start_imaged()
        reason = self.error("SourceFailed", "Pull", name="sp-vm", version="v1")["reason"]
        self.assertIn("leads to http://localhost", reason)
        self.assertNotIn("secret", reason)
        self.configure(self.github(server.url, hosts=["localhost"]))
        server.behaviours[path + "?key=secret"] = [{}]
        os.rename(self.www + path, self.www + path + "?key=secret")
        self.pull("v1")
        self.assertHere("v1", manifest)

    def test_no_proxy_of_the_environment(self):
        manifest = self.make_release("v1", {"image": 1000})
        self.serve_with_faults()
        self.start_imaged(http_proxy="http://127.0.0.1:9", all_proxy="http://127.0.0.1:9")
        self.pull("v1")
        self.assertHere("v1", manifest)
        self.call("Delete", name="sp-vm", version="v1")
        self.configure(self.github(self.server.url), proxy="http://127.0.0.1:9", retries=0)
        self.error("SourceFailed", "Pull", name="sp-vm", version="v1")

    def test_bad_manifests(self):
        self.serve_with_faults()
        self.start_imaged()
        good = {"filename": "x", "sha256": "0" * 64}
        for manifest, wanted in (([], "isn't an object"), ({}, "names no file"), ({"image": {"filename": "x"}}, "sha256"),
                                 ({"image": {**good, "filename": "../x"}}, "filename"), ({"../i": good}, "no role"),
                                 ({"image": {**good, "sha256": "12"}}, "64 hex"),
                                 ({"image": {**good, "filename": "image.json"}}, "filename"),
                                 ({"image": good, "bios": {**good, "sha256": "1" * 64}}, "two files of one name")):
            self.write_manifest("v1", manifest)
            reason = self.error("Failed", "Pull", name="sp-vm", version="v1")
            self.assertEqual(reason["id"], "bad-manifest")
            self.assertIn(wanted, reason["reason"])
        with open(os.path.join(self.www, "releases/download/v1/vm.json"), "w") as f:
            f.write('{"image": ')
        self.assertIn("line 1", self.error("Failed", "Pull", name="sp-vm", version="v1")["reason"])

    def test_bad_config(self):
        self.start_imaged()
        for images, wanted in (({"sources": {"x": {"kind": "ftp"}}}, "/sources: x/kind"), ({"sorces": {}}, "sorces"),
                               ({"sources": {"x": {"kind": "folder"}}}, "/images/sources/x/path"),
                               ({"sources": {"x": {"kind": "command", "command": ["/bin/cat", "{file}"]}}}, "{file} stands for nothing"),
                               ({"rate_limit": "1"}, "rate_limit")):
            with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
                json.dump({"images": images}, f)
            self.assertIn(wanted, self.error("Failed", "Pull", name="sp-vm", version="v1")["reason"])


class FullDisk(ImagesCase):
    def test_known_before(self):
        self.mount_small_state("8m")
        self.make_release("v1", {"image": 16 * MIB})
        server = self.serve_with_faults()
        self.start_imaged()
        reason = self.error("Failed", "Pull", name="sp-vm", version="v1")
        self.assertEqual(reason["id"], "no-space")
        self.assertIn("16 MiB are still to come", reason["reason"])
        self.assertFalse([path for path, _, _ in server.requests if "bucket" in path])
        self.assertEqual(self.pulls(), [])

    def test_in_the_middle(self):
        """What had come is removed: others need the disk."""
        self.mount_small_state("8m")
        manifest = self.make_release("v1", {"image": 16 * MIB}, with_size=False)
        server = self.serve_with_faults(margin="0")
        server.behaviours[self.file_path(manifest, "image")] = [{"chunked": True}]
        self.start_imaged()
        reason = self.error("Failed", "Pull", name="sp-vm", version="v1")
        self.assertEqual(reason["id"], "no-space")
        self.assertIn("full", reason["reason"])
        self.assertFalse(os.path.exists(self.store("sp-vm", ".partial-v1")))
        self.assertEqual(self.pulls(), [])
        small = self.make_release("v2", {"image": 4 * MIB})
        self.pull("v2")
        self.assertHere("v2", small)


class Auto(ImagesCase):
    def test_the_source_is_down(self):
        manifest = self.make_release("v1")
        server = self.serve_with_faults(retries=0)
        self.start_imaged()
        self.pull()
        self.assertHere("auto", manifest)
        self.make_release("v2")
        server.behaviours["/releases/latest"] = [{"status": 500}]
        pulled = self.pull()
        self.assertEqual((pulled["release"]["version"], pulled["already"]), ("v1", True))
        self.assertIn("HTTP status 500; this is the newest verified release here", pulled["note"])
        answer = self.call("Resolve", name="sp-vm")
        self.assertEqual((answer["version"], answer["local"], answer["fallback"]), ("v1", True, "v1"))
        self.assertIn("500", answer["problem"])
        server.behaviours.clear()
        answer = self.call("Resolve", name="sp-vm", refresh=True)
        self.assertEqual((answer["version"], answer["local"], answer["fallback"]), ("v2", False, "v1"))
        self.assertNotIn("problem", answer)

    def test_a_source_that_hangs_holds_nobody_up(self):
        manifest = self.make_release("v1")
        server = self.serve_with_faults(retries=0, check_interval="1ms", stall_timeout="5m")
        self.start_imaged()
        self.pull()
        server.behaviours["/releases/latest"] = [{"accept": True}]
        self.assertTrue(self.call("Resolve", name="sp-vm")["checking"])
        for _ in range(10):
            answer = self.call("Resolve", name="sp-vm")
            self.assertEqual((answer["version"], answer["checking"]), ("v1", True))
            self.assertHere("auto", manifest)
        self.assertEqual(len(server.asked("/releases/latest")), 2)

    def test_nothing_known(self):
        self.make_release("v1")
        self.serve_with_faults()
        self.start_imaged()
        answer = self.call("Resolve", name="sp-vm")
        self.assertEqual((answer.get("version"), answer["local"], answer["checking"]), (None, False, True))
        wait_for(lambda: self.call("Resolve", name="sp-vm").get("version") == "v1", "the newest version", 20)
        self.error("NoSuchImage", "Resolve", name="other")
        self.error("NoSuchImage", "Pull", name="other", version="auto")
        self.error("NoSuchImage", "GetRelease", name="sp-vm", version="auto")

    def test_the_newest_is_what_the_source_says(self):
        """Names need no order of their own."""
        self.serve_with_faults(keep_versions=5)
        self.start_imaged()
        for version in ("zebra", "ant", "mule"):
            self.make_release(version, {"image": 1000})
            self.pull()
        self.assertEqual([r["version"] for r in self.call("List")["releases"]], ["mule", "ant", "zebra"])
        self.assertEqual(self.call("GetRelease", name="sp-vm", version="auto")["release"]["version"], "mule")


class Kinds(ImagesCase):
    def index_of(self, manifest, version):
        files = {role: {**file, "url": f"bucket/{file['prefix']}/{file['filename']}"} for role, file in manifest.items()}
        return {"version": version, "files": files}

    def test_index(self):
        old, new = self.make_release("v1"), self.make_release("v2")
        self.serve_with_faults()
        with open(os.path.join(self.www, "index.json"), "w") as f:
            json.dump({"schema": 1, "versions": [self.index_of(new, "v2"), self.index_of(old, "v1")]}, f)
        self.configure({"kind": "https-index", "url": self.server.url + "/index.json"})
        self.start_imaged()
        self.pull()
        self.assertHere("v2", new)
        self.pull("v1")
        self.assertHere("v1", old)
        self.assertIn('has no version "v3"', self.error("NoSuchImage", "Pull", name="sp-vm", version="v3")["reason"])

    def make_folder(self, version, manifest):
        folder = os.path.join(self.host.root, "folder", version)
        os.makedirs(folder)
        for role, file in manifest.items():
            os.link(self.www + self.file_path(manifest, role), os.path.join(folder, file["filename"]))
        with open(os.path.join(folder, "vm.json"), "w") as f:
            json.dump(manifest, f)
        return folder

    def test_folder_and_import(self):
        manifest = self.make_release("v10")
        folder = self.make_folder("v10", manifest)
        self.configure({"kind": "folder", "path": os.path.dirname(folder)})
        os.makedirs(os.path.join(os.path.dirname(folder), "v9"))
        self.start_imaged()
        self.assertEqual(self.pull()["release"]["version"], "v10")
        self.assertHere("v10", manifest)
        self.host.vmctl("image", "import", "sp-vm/v11", folder)
        self.assertHere("v11", manifest)
        self.assertEqual(self.host.vmctl("image", "import", "sp-vm/v11", folder, check=False).returncode, 6)
        self.assertEqual(self.call("GetRelease", name="sp-vm", version="auto")["release"]["version"], "v11")
        self.host.vmctl("image", "import", "private/one", folder)
        self.assertEqual(self.call("GetRelease", name="private", version="auto")["release"]["version"], "one")
        # Wrong, or not there.
        path = os.path.join(folder, manifest["image"]["filename"])
        os.unlink(path)
        os.symlink("/etc/passwd", path)
        done = self.host.vmctl("image", "import", "sp-vm/v12", folder, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(sorted(os.listdir(self.store("sp-vm"))), [".newest.json", "v10", "v11"])
        # The share is not mounted: tried again, and told as what it is.
        away = os.path.join(self.host.root, "away")
        self.configure({"kind": "folder", "path": away}, retries=1)
        done = self.host.vmctl("image", "pull", "sp-vm/v13", check=False)
        self.assertEqual((done.returncode, done.stderr), (1, f"vmctl: {away}: No such file or directory (tried 2 times)\n"))

    def test_command(self):
        manifest = self.make_release("v1", {"image": 2 * MIB, "bios": 1000})
        script = os.path.join(self.host.root, "fetch")
        with open(script, "w") as f:
            f.write(f"""#!/bin/sh
echo "$@" >>{self.host.root}/asked
case $1 in
newest) echo v1 ;;
manifest) cat {self.www}/releases/download/$3/vm.json || exit 3 ;;
file)
    [ -e {self.host.root}/failed ] || {{ touch {self.host.root}/failed; head -c 100000 {self.www}/$5/$6/$7; echo "line lost" >&2; exit 1; }}
    tail -c +$(($8 + 1)) {self.www}/$5/$6/$7 ;;
esac
""")
        os.chmod(script, 0o755)
        words = [script, *(f"{{{key}}}" for key in ("action", "name", "version", "role", "bucket", "prefix", "filename", "offset"))]
        self.configure({"kind": "command", "command": words}, parallel=1)
        self.start_imaged()
        self.pull()
        self.assertHere("v1", manifest)
        with open(os.path.join(self.host.root, "asked")) as f:
            asked = f.read()
        self.assertIn("newest sp-vm", asked)
        self.assertIn(f"file sp-vm v1 image bucket pre/v1 {manifest['image']['filename']} 100000", asked)
        self.error("NoSuchImage", "Pull", name="sp-vm", version="v7")

    def test_command_that_hangs(self):
        self.configure({"kind": "command", "command": ["/bin/sh", "-c", f"sleep 1000 & : {self.host.root}; wait"]}, retries=0,
                       stall_timeout="300ms")
        self.start_imaged()
        self.assertIn("says nothing", self.error("SourceFailed", "Pull", name="sp-vm", version="v1")["reason"])
        self.configure({"kind": "command", "command": ["/bin/sh", "-c", f"sleep 1000 & : {self.host.root}; wait"]})
        self.begin_pull("v1")
        self.call("Cancel", name="sp-vm", version="v1")
        wait_for(lambda: not self.pulls(), "the end of the pull", 20)
        wait_for(lambda: [line for _, line in self.host.left_behind()] == [" ".join(self.imaged.args)], "the end of the command", 20)

    def test_packed(self):
        self.make_release("v1", {"bios": 1000})
        raw, packed = os.path.join(self.host.root, "raw"), os.path.join(self.www, "bucket/pre/v1/disk.img.zst")
        with open(raw, "wb") as f:
            f.write(os.urandom(MIB))
            f.seek(40 * MIB)
            f.write(os.urandom(3 * MIB))
            f.truncate(64 * MIB)
        subprocess.run(["zstd", "-q", raw, "-o", packed], check=True)
        image = {"bucket": "bucket", "prefix": "pre/v1", "filename": "disk.img.zst", "sha256": sha256(packed)}
        self.write_manifest("v1", {"image": {**image, "unpacked_sha256": sha256(raw), "unpacked_size": 64 * MIB}})
        server = self.serve_with_faults()
        server.behaviours[f"/bucket/pre/v1/disk.img.zst"] = [{"cut": 3 * MIB}, {}]
        self.start_imaged()
        file = self.pull()["release"]["files"][0]
        self.assertEqual((file["filename"], file["size"], file["sha256"]), ("disk.img", 64 * MIB, sha256(raw)))
        self.assertEqual(sha256(file["path"]), sha256(raw))
        self.assertLess(os.stat(file["path"]).st_blocks * 512, 6 * MIB)
        self.assertEqual(sorted(os.listdir(self.store("sp-vm", "v1"))), ["disk.img", "image.json", "vm.json"])
        self.assertEqual(server.asked("/bucket/pre/v1/disk.img.zst")[1][0], f"bytes={3 * MIB}-")
        self.call("Verify", name="sp-vm", version="v1")
        self.write_manifest("v2", {"image": {**image, "unpacked_sha256": "0" * 64}})
        self.assertEqual(self.error("Failed", "Pull", name="sp-vm", version="v2")["id"], "wrong-hash")


class Keeping(ImagesCase):
    def setUp(self):
        super().setUp()
        self.serve_with_faults(keep_versions=10)
        self.start_imaged()

    def versions(self):
        return [r["version"] for r in self.call("List")["releases"]]

    def make_many(self, *versions):
        for version in versions:
            self.make_release(version, {"image": 100000, "bios": 1000})
            self.pull()

    def use(self, vm, text):
        folder = self.host.path("state", vm)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "image.json"), "w") as f:
            f.write(text)

    def test_prune(self):
        self.make_many("v1", "v2", "v3", "v4", "v5")
        self.use("web", json.dumps({"schema": 1, "name": "sp-vm", "version": "v1"}))
        held = os.open(self.store("sp-vm", "v2"), os.O_RDONLY)
        self.addCleanup(os.close, held)
        fcntl.flock(held, fcntl.LOCK_SH)
        self.configure(self.github(self.server.url), keep_versions=1)
        dry = json.loads(self.host.vmctl("image", "prune", "--dry-run", "--json").stdout)
        self.assertEqual(self.versions(), ["v5", "v4", "v3", "v2", "v1"])
        done = self.call("Prune")
        self.assertEqual([d["version"] for d in done["deleted"]], ["v4", "v3"])
        self.assertEqual([d["version"] for d in dry["deleted"]], ["v4", "v3"])
        self.assertEqual({k["version"]: k["reason"] for k in done["kept"]},
                         {"v2": "image sp-vm/v2 is held by a running VM or another process",
                          "v1": "image sp-vm/v1 is what web was started with last"})
        self.assertEqual(self.versions(), ["v5", "v2", "v1"])
        releases = {r["version"]: r for r in self.call("List")["releases"]}
        self.assertEqual((releases["v1"]["in_use_by"], releases["v2"]["locked"], releases["v5"]["locked"]), (["web"], True, False))
        for version in ("v1", "v2"):
            self.error("Refused", "Delete", name="sp-vm", version=version)
        self.assertEqual(self.host.vmctl("image", "delete", "sp-vm/v1", check=False).returncode, 6)
        # A record nobody understands is no reason to delete anything.
        self.use("web", '{"schema": 99, "name": "sp-vm"}')
        self.assertEqual(self.call("Prune")["deleted"], [])
        self.assertIn("can't tell", self.error("Refused", "Delete", name="sp-vm", version="v1")["reason"])
        self.use("web", json.dumps({"schema": 1, "name": "sp-vm", "version": "v5"}))
        self.assertEqual([d["version"] for d in self.call("Prune")["deleted"]], ["v1"])

    def test_prune_after_a_pull(self):
        self.configure(self.github(self.server.url), keep_versions=2)
        self.make_many("v1", "v2", "v3")
        self.assertEqual(self.versions(), ["v3", "v2"])

    def test_the_newest_verified_one_stays(self):
        self.make_many("v1", "v2")
        self.configure(self.github(self.server.url), keep_versions=1)
        with open(self.store("sp-vm", "v2", "bios-v2.img"), "r+b") as f:
            f.write(b"?")
        kept = self.call("Prune")["kept"]
        self.assertEqual([(k["version"], k["reason"]) for k in kept], [("v1", "it is the newest verified one")])
        self.assertEqual(self.call("GetRelease", name="sp-vm", version="auto")["release"]["version"], "v1")

    def test_what_has_no_record_stays(self):
        """It may be a release that somebody is just copying there."""
        self.configure(self.github(self.server.url), keep_versions=1)
        for version, file in (("u1", "vmlinuz"), ("u2", "image.json")):
            os.makedirs(self.store("sp-vm", version))
            with open(self.store("sp-vm", version, file), "w") as f:
                f.write('{"schema": 99}')
        self.make_many("v1", "v2")
        self.assertEqual(self.versions(), ["v2", "u2", "u1"])
        kept = {k["version"]: k["reason"] for k in self.call("Prune")["kept"]}
        self.assertIn("No such file", kept["u1"])
        self.assertIn("schema", kept["u2"])
        self.assertEqual(os.listdir(self.store("sp-vm", "u1")), ["vmlinuz"])
        self.call("Delete", name="sp-vm", version="u1")
        self.assertEqual(self.versions(), ["v2", "u2"])

    def test_damage(self):
        self.make_many("v1")
        path = self.store("sp-vm", "v1", "bios-v1.img")
        with open(path, "rb") as f:
            before = f.read()
        with open(path, "r+b") as f:
            f.write(bytes([before[0] ^ 1]))
        release = self.call("GetRelease", name="sp-vm", version="v1")["release"]
        self.assertIn("changed or replaced", release["problem"])
        self.error("NoSuchImage", "GetRelease", name="sp-vm", version="auto")
        self.assertEqual(self.error("Failed", "Verify", name="sp-vm", version="v1")["id"], "damaged")
        self.assertEqual(self.host.vmctl("image", "show", "sp-vm/v1", "--verify", check=False).returncode, 1)
        self.assertIn("damaged", self.host.vmctl("image", "list").stdout)
        # As it was: reading it says so.
        with open(path, "r+b") as f:
            f.write(before[:1])
        self.assertFalse(self.call("GetRelease", name="sp-vm", version="v1")["release"]["verified"])
        self.assertTrue(self.call("Verify", name="sp-vm", version="v1")["release"]["verified"])
        # Touched isn't damaged.
        os.utime(path)
        self.assertTrue(self.pull("v1")["already"])
        # While there is no other, what is damaged stays.
        os.unlink(path)
        self.server.behaviours["/releases/download/v1/vm.json"] = [{"status": 404}, {}]
        self.error("NoSuchImage", "Pull", name="sp-vm", version="v1")
        self.assertIn("bios-v1.img", self.call("GetRelease", name="sp-vm", version="v1")["release"]["problem"])
        # A pull replaces it, unless somebody has it.
        held = os.open(self.store("sp-vm", "v1"), os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        self.assertIn("can't be replaced", self.error("Refused", "Pull", name="sp-vm", version="v1")["reason"])
        os.close(held)
        self.assertFalse(self.pull("v1")["already"])
        self.assertTrue(self.call("GetRelease", name="sp-vm", version="auto")["release"]["verified"])

    def test_two_services(self):
        for run in (self.host.dirs["run"], os.path.join(self.host.root, "run2")):
            done = subprocess.run([program("holdfast-imaged"), *self.host.options(), "--run-dir", run], capture_output=True, text=True,
                                  timeout=30)
            self.assertEqual(done.returncode, 1)
            self.assertIn("another holdfast-imaged holds", done.stderr)


if __name__ == "__main__":
    main()
