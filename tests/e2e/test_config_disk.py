"""Disks made of files: what is on them, when they are made again, and what snapshots, restores and clones have of them."""
import glob
import json
import os
import signal
import stat
import subprocess

from disk_case import DiskTest
from harness import main, program


class MadeDisks(DiskTest):
    def setUp(self):
        super().setUp()
        self.source = os.path.join(self.host.root, "sources")
        os.makedirs(os.path.join(self.source, "folder", "inner"))
        self.write("app.yaml", "FIRST-CONTENT")
        self.write("secret", "SECRET-CONTENT", 0o600)
        self.write("folder/inner/deep", "DEEP-CONTENT")
        self.host.start_manager()

    def write(self, file, text, mode=0o644):
        path = os.path.join(self.source, file)
        with open(path, "w") as f:
            f.write(text + "\n")
        os.chmod(path, mode)
        return path

    def config(self, **more):
        files = {"manifests/app.yaml": os.path.join(self.source, "app.yaml"), "secret": os.path.join(self.source, "secret")}
        return {"label": "provider_config", "files": files, "directory": os.path.join(self.source, "folder"), **more}

    def with_config(self, name="web", **more):
        return self.spec(name, [{"name": "data", "size": "16M"}], config_disk=self.config(), **more)

    def images(self, name="web", label="provider_config"):
        return glob.glob(self.host.path("state", name, f"{label}-*.img"))

    def image(self, name="web", label="provider_config"):
        found = self.images(name, label)
        self.assertEqual(len(found), 1, found)
        return found[0]

    def debugfs(self, image, command):
        return subprocess.run(["debugfs", "-R", command, image], capture_output=True, text=True, check=True).stdout

    def guest_has(self, text, name="web", device="vdb"):
        return self.sh(name, f"grep -ac {text} /dev/{device}") != "0"

    def test_what_is_on_it(self):
        self.boot(self.with_config())
        image = self.image()
        self.assertEqual(stat.S_IMODE(os.stat(image).st_mode), 0o600)
        self.assertEqual(os.path.getsize(image) % (1 << 20), 0)
        kind = subprocess.run(["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertIn("LABEL=provider_config", kind)
        self.assertIn("TYPE=ext4", kind)
        self.assertEqual(subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode, 0)
        for path, text in (("/manifests/app.yaml", "FIRST-CONTENT"), ("/secret", "SECRET-CONTENT"), ("/inner/deep", "DEEP-CONTENT")):
            self.assertEqual(self.debugfs(image, f"cat {path}"), text + "\n")
        listed = self.debugfs(image, "ls -l /")
        self.assertRegex(listed, r"\b100600 \(1\) +0 +0 +15 .* secret\n")
        self.assertTrue(self.guest_has("FIRST-CONTENT") and self.guest_has("DEEP-CONTENT"))
        self.assertEqual(self.sh("web", "cat /sys/block/vdb/ro"), "1")
        self.assertEqual(glob.glob(self.host.path("state", "web", ".making-*")), [])

    def test_made_again_only_when_the_content_is_another(self):
        self.boot(self.with_config())
        first = self.image()
        before = os.stat(first)
        os.utime(os.path.join(self.source, "app.yaml"), (1, 1))
        self.restart("web")
        after = os.stat(self.image())
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))
        self.assertFalse(json.loads(self.host.vmctl("apply", "-", "--json", "--no-wait", stdin=json.dumps(self.with_config())).stdout)[0]["restart_needed"])
        self.write("app.yaml", "SECOND-CONTENT")
        self.assertTrue(json.loads(self.host.vmctl("apply", "-", "--json", "--no-wait", stdin=json.dumps(self.with_config())).stdout)[0]["restart_needed"])
        self.restart("web")
        self.assertNotEqual(self.image(), first, "and the first is gone")
        self.assertTrue(self.guest_has("SECOND-CONTENT") and not self.guest_has("FIRST-CONTENT"))
        # Permissions are content too; and the bytes are those of a disk that was made at another time.
        second = self.image()
        with open(second, "rb") as f:
            bytes_before = f.read()
        os.chmod(os.path.join(self.source, "app.yaml"), 0o640)
        self.restart("web")
        self.assertNotEqual(self.image(), second)
        os.chmod(os.path.join(self.source, "app.yaml"), 0o644)
        self.restart("web")
        self.assertEqual(self.image(), second)
        with open(second, "rb") as f:
            self.assertEqual(f.read(), bytes_before)

    def test_no_secret_is_left_behind(self):
        """Neither by a maker that is killed in the middle nor by a spec that has no such disk any more."""
        self.boot(self.with_config())
        plan = json.loads(self.host.vmctl("inspect", "web").stdout)["next_plan"]
        step = next(s for s in plan["prepare"] if s["what"] == "make disk provider_config")
        self.assertEqual(step["argv"][0], program("holdfast-mkdisk"))
        self.host.vmctl("stop", "web", "--force")
        for place in ("mkdisk.filled", "mkdisk.made"):
            os.unlink(self.image())
            done = subprocess.run(step["argv"], check=False, env=self.host.environment(HOLDFAST_FAILPOINT=f"{place}=kill"))
            self.assertEqual(done.returncode, -signal.SIGKILL)
            left, = glob.glob(self.host.path("state", "web", ".making-*"))
            self.assertEqual(stat.S_IMODE(os.stat(left).st_mode), 0o700)
            for folder, _, files in os.walk(os.path.join(left, "root")):
                for file in files:
                    self.assertEqual(stat.S_IMODE(os.stat(os.path.join(folder, file)).st_mode), 0o600)
            self.assertEqual(self.images(), [], "half a disk has no name")
            self.boot(self.with_config())
            self.assertEqual(glob.glob(self.host.path("state", "web", ".making-*")), [])
            self.assertTrue(self.guest_has("SECRET-CONTENT"))
            self.host.vmctl("stop", "web", "--force")
        self.boot(self.spec(disks=[{"name": "data", "size": "16M"}]))
        self.assertEqual(self.images(), [])

    def test_files_that_can_not_be_used(self):
        os.mkfifo(os.path.join(self.source, "folder", "pipe"))
        missing = self.with_config()
        missing["config_disk"]["files"]["secret"] = os.path.join(self.source, "none")
        twice = self.with_config()
        twice["config_disk"]["directory"] = self.source
        twice["config_disk"]["files"] = {"app.yaml": os.path.join(self.source, "app.yaml")}
        os.rename(os.path.join(self.source, "folder", "pipe"), os.path.join(self.host.root, "pipe"))
        piped = self.with_config()
        piped["config_disk"]["files"]["pipe"] = os.path.join(self.host.root, "pipe")
        for spec, problem in ((missing, f"/config_disk/files/secret: '{self.source}/none' can't be found"),
                              (twice, "/config_disk: app.yaml comes twice"),
                              (piped, f"/config_disk: {self.host.root}/pipe is not a file")):
            for verb in ("check", "apply"):
                done = self.host.vmctl(verb, "-", stdin=json.dumps(spec), check=False)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(problem, done.stderr)
        self.assertEqual(self.host.list(), {})

    def test_snapshots_restores_and_clones(self):
        """A restored guest has the disk it had, to the byte; its next boot has what the files say then."""
        self.boot(self.with_config())
        with open(self.image(), "rb") as f:
            then = f.read()
        self.host.vmctl("snapshot", "create", "web", "one")
        self.write("app.yaml", "SECOND-CONTENT")
        self.restart("web")
        self.assertTrue(self.guest_has("SECOND-CONTENT"))
        kept = os.path.join(self.host.folder("web", "one"), "disks", "disk1.raw")
        with open(kept, "rb") as f:
            self.assertEqual(f.read(), then)
        self.host.vmctl("snapshot", "verify", "web/one")
        self.host.vmctl("snapshot", "warm", "web/one")

        since = self.host.mark("web")
        self.host.vmctl("restore", "web", "one", "--force")
        self.host.wait_said("web", r"tick \d+", since)
        self.assertTrue(self.guest_has("FIRST-CONTENT") and not self.guest_has("SECOND-CONTENT"))
        self.host.vmctl("clone", "web/one", "--count", "1", "--name", "copy-%d")
        self.assertTrue(self.guest_has("FIRST-CONTENT", "copy-1"))
        self.restart("web")
        self.assertTrue(self.guest_has("SECOND-CONTENT") and not self.guest_has("FIRST-CONTENT"))

        # The clone needs neither the snapshot nor the VM it came from.
        self.host.vmctl("stop", "web", "--force")
        self.host.wait_complete("copy-1")
        self.host.vmctl("snapshot", "delete", "web/one")
        self.host.vmctl("delete", "web", "--purge")
        self.assertTrue(self.guest_has("FIRST-CONTENT", "copy-1"))
        self.restart("copy-1")
        self.assertTrue(self.guest_has("SECOND-CONTENT", "copy-1"))
        self.image("copy-1")

    def test_seed(self):
        user, network = self.write("user", "#cloud-config"), self.write("network", "version: 2")
        spec = self.spec(disks=[], seed={"user_data": user, "network_config": network})
        self.boot(spec)
        image = self.image(label="cidata")
        self.assertIn("LABEL=cidata", subprocess.run(["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True).stdout)
        first = self.on_seed(image)
        self.assertEqual((first["user-data"], first["network-config"]), ("#cloud-config\n", "version: 2\n"))
        self.assertRegex(first["meta-data"], r"^instance-id: web-[0-9a-f]{32}\nlocal-hostname: web\n$")
        self.assertTrue(self.guest_has("cloud-config", device="vda"))
        inode = os.stat(image).st_ino
        self.restart("web")
        self.assertEqual(os.stat(image).st_ino, inode)
        self.write("user", "#cloud-config 2")
        self.restart("web")
        second = self.on_seed(self.image(label="cidata"))
        self.assertNotEqual(second["meta-data"], first["meta-data"], "another instance")
        meta = self.write("meta", "instance-id: mine")
        spec["seed"]["meta_data"] = meta
        self.host.apply(spec)
        self.restart("web")
        self.assertEqual(self.on_seed(self.image(label="cidata"))["meta-data"], "instance-id: mine\n")

    def on_seed(self, image):
        folder = os.path.join(self.host.root, f"seed-{len(os.listdir(self.host.root))}")
        subprocess.run(["xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", folder], capture_output=True, check=True)
        found = {}
        for file in os.listdir(folder):
            with open(os.path.join(folder, file)) as f:
                found[file] = f.read()
        return found


if __name__ == "__main__":
    main()
