"""The sp-vm watchdog's whole flow, with none of its programs: VM files in its folder, a release that is fetched from a web server over TLS,
booted, verified by its guest, replaced by the next one, and pruned; and the ways in which a fetch goes wrong, which delay this VM alone."""
import json
import os
import re
import shutil
import subprocess

from disk_case import DiskTest
from harness import guest_folder, main, wait_for
from images_case import ImagesCase
from release import make_release

SLOW = "limit_rate 3m;"


class Flow(DiskTest, ImagesCase):
    def setUp(self):
        DiskTest.setUp(self)
        self.imaged = self.nginx = self.server = None
        self.addCleanup(self.stop_imaged)
        self.www = os.path.join(self.host.root, "www")
        self.vms = os.path.join(self.host.root, "watchdog", "vms")
        self.made = os.path.join(self.host.root, "made")
        self.configmap = os.path.join(self.host.root, "configmap.yaml")
        self.keys = os.path.join(self.host.root, "authorized_keys")
        for folder in (self.www, self.vms, self.made):
            os.makedirs(folder)
        for path, text in ((self.configmap, "tee: yes\n"), (self.keys, "ssh-ed25519 AAAA operator\n")):
            with open(path, "w") as f:
                f.write(text)

    def configure(self, source=None, name="sp-vm", **images):
        images = {"retry_delay": "10ms", "margin": "1M", "retries": 3, "check_interval": "1s", **images, "sources": {name: source}}
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump({"vm_config": {"configs_dir": self.vms, "authorized_keys_file": self.keys}, "images": images,
                       "watch": {"delete_grace": "1s", "restart_interval": "0"}}, f)

    def stopEverything(self):
        self.stop_imaged()
        self.stop_nginx()
        super().stopEverything()

    # ---- what an operator has ----

    def publish(self, version, pack=False):
        """A release of sp-vm's, where GitHub and the bucket have it. Returns its root hash."""
        root_hash = make_release(self.made, version, guest_folder(), pack)
        bucket = os.path.join(self.www, "builds", version)
        shutil.move(os.path.join(self.made, version), bucket)
        with open(os.path.join(bucket, "vm.json")) as f:
            self.write_manifest(version, json.load(f))
        return root_hash

    def vm_file(self, name="sp", run=None, enabled=True, **qemu):
        file = {"name": name, "enabled": enabled,
                "run_configuration": {"debug": True, "vm_build": "auto", "argo_branch": "test",
                                      "provider_config": {"execution_controller_tee_prov_configmap": self.configmap}, **(run or {})},
                "qemu_configuration": {"mode": "auto", "cores": 1, "mem_gb": 1, "state_disk_size_gb": 2, "ssh_port": 22022, "wg_port": 51822,
                                       **qemu}}
        if not os.path.exists("/dev/vhost-vsock"):
            # Every VM of sp-vm has a vsock device. On a host that has none to give, the file's native form goes without.
            file = json.loads(self.host.vmctl("convert", "-", stdin=json.dumps(file)).stdout)
            del file["vsock"]
        path = os.path.join(self.vms, name + ".json")
        with open(path + "~", "w") as f:
            json.dump(file, f)
        os.rename(path + "~", path)
        return path

    def begin(self):
        self.start_imaged()
        self.host.start_manager()

    def reason(self, name="sp"):
        return self.host.list().get(name, {}).get("reason") or ""

    def runs(self, name="sp"):
        self.host.wait_state(name, "running", deadline=90)
        self.started(name)

    def assertReleaseIn(self, version, root_hash, name="sp", again=False):
        """The guest runs from that release, and has verified it itself; again: in this boot, so that the device is there."""
        cmdline = self.sh(name, "cat /proc/cmdline")
        self.assertIn(f"root=LABEL=rootfs rootfs_verity.scheme=dm-verity rootfs_verity.hash={root_hash} ", cmdline)
        self.assertIn("argo_branch=test", cmdline)
        since = self.host.mark(name)
        if again:
            self.sh(name, "mount -t ext4 -o ro /dev/rootfs /mnt")
        else:
            self.host.say(name, "verity /dev/vda")
            self.host.wait_said(name, "verity mounted /dev/vda at /mnt", since)
        self.assertEqual(self.sh(name, "cat /mnt/etc/release"), f"release {version}")
        self.sh(name, "umount /mnt")

    # ---- the flow ----

    def test_from_a_file_to_the_next_release(self):
        first = self.publish("build-1", pack=True)
        self.serve_with_nginx(limit=SLOW, keep_versions=1)
        self.begin()
        self.vm_file()
        wait_for(lambda: re.search(r"downloading \d+ %", self.reason()), "the download to be shown", 30, 0.02)
        self.assertEqual(self.host.vm("sp")["state"], "preparing")
        self.runs()
        self.assertReleaseIn("build-1", first)

        # Its own disks: a fresh state disk, and the provider's files.
        self.assertEqual(self.sectors("sp", "vdb"), 2 << 30)
        self.assertEqual(self.sh("sp", "dd if=/dev/vdc bs=1 skip=1144 count=15 2>/dev/null"), "provider_config", "the label of an ext4")
        self.sh("sp", "mount -t ext4 -o ro /dev/vdc /mnt")
        self.assertEqual(self.sh("sp", "cat /mnt/manifests/configmap.execution-controller-tee-prov.yaml"), "tee: yes")
        self.assertEqual(self.sh("sp", "cat /mnt/authorized_keys"), "ssh-ed25519 AAAA operator")
        self.sh("sp", "umount /mnt")
        self.mark_disk("sp", "vdb")

        # In use, so that neither a person nor the pruning takes it away.
        release = json.loads(self.host.vmctl("image", "show", "sp-vm/build-1", "--json").stdout)
        self.assertEqual((release["in_use_by"], release["locked"], release["verified"]), (["sp"], True, True))
        refused = self.host.vmctl("image", "delete", "sp-vm/build-1", check=False)
        self.assertEqual(refused.returncode, 6, refused.stderr)
        self.assertIn("sp-vm/build-1 is what sp runs with", refused.stderr)

        # Another release is there: what runs goes on with its own until it is restarted.
        second = self.publish("build-2")
        self.host.vmctl("image", "pull", "sp-vm")
        self.assertEqual(self.host.vmctl("image", "list", "-q").stdout, "sp-vm/build-2\nsp-vm/build-1\n")
        self.assertReleaseIn("build-1", first, again=True)
        self.host.vmctl("restart", "sp")
        self.started("sp")
        self.assertReleaseIn("build-2", second)
        self.assertEqual(self.disk_head("sp", "vdb"), "", "the state disk is made anew")
        self.host.vmctl("image", "prune")
        self.assertEqual(self.host.vmctl("image", "list", "-q").stdout, "sp-vm/build-2\n")

        # With neither service nor source a VM starts with what is here.
        self.stop_imaged()
        self.host.vmctl("restart", "sp")
        self.started("sp")
        self.assertReleaseIn("build-2", second)

        # A file that is gone is a VM that is stopped, a second later.
        os.unlink(os.path.join(self.vms, "sp.json"))
        self.host.wait_state("sp", "stopped", "exited")
        self.stopEverything()

    def test_a_newer_release_at_its_time(self):
        """The policy of the host config says so; the time is made to come by changing it."""
        self.publish("build-1")
        self.serve_with_nginx()
        self.begin()
        self.vm_file()
        self.runs()
        second = self.publish("build-2")
        with open(os.path.join(self.host.dirs["config"], "holdfast.json")) as f:
            config = json.load(f)
        soon = subprocess.run(["date", "-d", "+1 minute", "+%H:%M"], check=True, capture_output=True, text=True).stdout.strip()
        config["image_update"] = {"policy": "auto", "time": soon}
        with open(os.path.join(self.host.dirs["config"], "holdfast.json"), "w") as f:
            json.dump(config, f)
        wait_for(lambda: self.host.vm("sp")["incarnation"] == 2 and self.host.vm("sp")["state"] == "running",
                 "the restart for the newer release", 120, 0.2)
        self.started("sp")
        self.assertReleaseIn("build-2", second)
        self.assertIn("is restarted for a newer release of its image", self.host.manager_log())
        self.stopEverything()

    def test_a_release_that_was_saved_with_its_guest(self):
        """A snapshot is of the disks it was made with: restored with that release, which is kept for it, whatever is the newest."""
        first = self.publish("build-1")
        self.serve_with_nginx(keep_versions=1)
        self.begin()
        self.vm_file(run={"debug": True})
        self.runs()
        self.host.vmctl("snapshot", "create", "sp", "before")
        self.publish("build-2")
        self.host.vmctl("image", "pull", "sp-vm")
        self.host.vmctl("restart", "sp")
        self.started("sp")
        refused = self.host.vmctl("image", "delete", "sp-vm/build-1", check=False)
        self.assertEqual(refused.returncode, 6, refused.stderr)
        self.assertIn("snapshot sp/before", refused.stderr)
        self.host.vmctl("restore", "sp", "before", "--force")
        self.assertReleaseIn("build-1", first)
        self.stopEverything()

    def test_an_edit_that_names_another_release(self):
        """It is got while the guest runs on; then the guest is restarted with it."""
        self.publish("build-1")
        second = self.publish("build-2")
        server = self.serve_with_faults(stall_timeout="60s")
        path = "/builds/build-2/sp-vm-build-2.img"
        server.behaviours[path] = [{"hang": 1 << 20}]
        self.begin()
        self.vm_file(run={"vm_build": "build-1"})
        self.runs()
        self.vm_file(run={"vm_build": "build-3"})  # there is none of that name
        wait_for(lambda: "build-3" in self.reason() and "404" in self.reason(), "that to be told", 30, 0.02)
        self.vm_file(run={"vm_build": "build-2"})
        wait_for(lambda: re.search(r"its new image: downloading \d+ %", self.reason()), "the download to be shown", 30, 0.02)
        vm = self.host.vm("sp")
        self.assertEqual((vm["state"], vm["incarnation"]), ("running", 1))
        # The next manager finds the edit and waits too. What the service had asked for is cut off, and goes on.
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: "downloading" in self.reason(), "the next manager to wait for it", 30, 0.02)
        server.behaviours[path] = [{}]
        self.stop_imaged()
        self.start_imaged()
        wait_for(lambda: self.host.vm("sp")["incarnation"] == 2 and self.host.vm("sp")["state"] == "running", "the restart", 60, 0.05)
        self.started("sp")
        self.assertReleaseIn("build-2", second)
        self.assertEqual(self.reason(), "")
        self.stopEverything()

    def test_an_edit_while_it_waits(self):
        """The download may take hours: what the spec says by then counts, and whether it is enabled at all."""
        first = self.publish("build-1")
        self.publish("build-2")
        server = self.serve_with_faults(stall_timeout="60s")
        server.behaviours["/builds/build-2/sp-vm-build-2.img"] = [{"hang": 1 << 20}]
        self.begin()
        self.host.vmctl("image", "pull", "sp-vm/build-1")
        self.vm_file(run={"vm_build": "build-2"})
        wait_for(lambda: "downloading" in self.reason(), "the download to be shown", 30, 0.02)
        self.vm_file(run={"vm_build": "build-2"}, enabled=False)
        self.host.wait_state("sp", "stopped")
        self.assertEqual(self.host.vm("sp")["wanted"], "stopped")
        self.vm_file(run={"vm_build": "build-2"})
        wait_for(lambda: "downloading" in self.reason(), "the download to be awaited again", 30, 0.02)
        self.vm_file(run={"vm_build": "build-1"})
        self.runs()
        self.assertReleaseIn("build-1", first)
        self.host.vmctl("stop", "sp", "--force")
        # The same of a command.
        spec = {"name": "sp", "memory": "128M", "accel": "tcg", "image": {"name": "sp-vm", "version": "build-2"}}
        self.host.vmctl("apply", "--no-wait", "-", stdin=json.dumps(spec))
        wait_for(lambda: "downloading" in self.reason(), "the download to be awaited for a command", 30, 0.02)
        spec["image"]["version"] = "build-1"
        self.host.apply(spec)
        self.host.wait_state("sp", "running")
        self.stopEverything()

    def test_what_a_release_that_is_not_here_would_change(self):
        """That is told without it, and nothing is fetched for the question."""
        for version in ("build-1", "build-2"):
            self.publish(version)
        self.serve_with_faults()
        self.begin()
        old, new = ({"name": "sp", "memory": "128M", "accel": "tcg", "image": {"name": "sp-vm", "version": v}} for v in ("build-1", "build-2"))
        self.assertEqual(self.host.vmctl("apply", "--dry-run", "-", stdin=json.dumps(old)).stdout, "sp: would be created\n")
        self.assertEqual(self.host.vmctl("image", "list", "-q").stdout, "")
        self.host.apply(old)
        one, = json.loads(self.host.vmctl("diff", "-", "--json", stdin=json.dumps(new)).stdout)
        self.assertEqual((one["effect"], one["differences"]), ("restart", [{"what": "/image/version", "old": "build-1", "new": "build-2", "live": False}]))
        self.assertIn("vmctl restart sp", self.host.apply(new).stdout)
        restarted = self.host.vmctl("restart", "sp", check=False)
        self.assertEqual(restarted.returncode, 1)
        self.assertIn("vmctl image pull sp-vm/build-2", restarted.stderr)
        self.assertEqual(self.host.vm("sp")["state"], "running")
        self.host.vmctl("stop", "sp", "--force")
        one, = json.loads(self.host.vmctl("diff", "sp", "--json").stdout)
        self.assertEqual((one["effect"], one["differences"]), ("start", []))
        self.assertEqual(self.host.vmctl("image", "list", "-q").stdout, "sp-vm/build-1\n")
        self.stopEverything()

    def test_a_snapshot_of_another_release_than_the_spec_names(self):
        """The guest goes on, and boots again, with kernel and root hash of the disks it was saved with."""
        first = self.publish("build-1")
        self.serve_with_faults()
        self.begin()
        self.vm_file(run={"vm_build": "build-1"})
        self.runs()
        self.host.vmctl("snapshot", "create", "sp", "before")
        self.publish("build-2")
        self.host.vmctl("stop", "sp", "--force")
        self.vm_file(run={"vm_build": "build-2"})  # which isn't here, and needn't be
        self.host.vmctl("restore", "sp", "before")
        self.assertReleaseIn("build-1", first)
        self.assertEqual(self.host.read_json("state", "sp", "image.json")["version"], "build-1")
        since = self.host.mark("sp")
        self.host.vmctl("reset", "sp")
        self.host.wait_said("sp", "holdfast-guest: ready", since)
        self.assertReleaseIn("build-1", first)
        self.stopEverything()

    # ---- what goes wrong ----

    def test_a_cut_connection(self):
        root_hash = self.publish("build-1")
        server = self.serve_with_faults()
        path = "/builds/build-1/sp-vm-build-1.img"
        server.behaviours[path] = [{"cut": 1 << 20}, {"cut": 2 << 20}, {}]
        self.begin()
        self.vm_file()
        self.runs()
        self.assertEqual([asked[0] for asked in server.asked(path)], [None, f"bytes={1 << 20}-", f"bytes={3 << 20}-"])
        self.assertReleaseIn("build-1", root_hash)
        self.stopEverything()

    def test_a_wrong_hash(self):
        self.publish("build-1")
        server = self.serve_with_faults()
        server.behaviours["/builds/build-1/vmlinuz"] = [{"wrong": True}]
        self.begin()
        self.vm_file()
        wait_for(lambda: "vmlinuz" in self.reason() and self.host.list().get("sp", {}).get("state") in ("failed", "backoff"), "the failure to be told", 30, 0.05)
        self.assertFalse(os.path.exists(self.store("sp-vm", "build-1")))
        # It is tried again by itself; then the file is right.
        server.behaviours["/builds/build-1/vmlinuz"] = [{}]
        self.runs()
        self.stopEverything()

    def test_a_source_that_hangs(self):
        """Nobody else waits for it, and a stop ends the waiting."""
        self.publish("build-1")
        server = self.serve_with_faults(stall_timeout="60s")
        server.behaviours["/builds/build-1/sp-vm-build-1.img"] = [{"hang": 1 << 20}]
        self.begin()
        self.vm_file()
        wait_for(lambda: "downloading" in self.reason(), "the download to begin", 30, 0.02)
        self.host.apply(self.host.fake_spec("other"))
        self.host.wait_state("other", "running")
        self.host.kill_manager()
        self.host.start_manager()
        wait_for(lambda: "downloading" in self.reason(), "the next manager to wait for it", 30, 0.02)
        self.host.vmctl("stop", "sp")
        self.assertEqual(self.host.vm("sp")["state"], "stopped")
        self.assertEqual(len(self.pulls()), 1, "the pull goes on")
        self.stopEverything()

    def test_no_service(self):
        self.publish("build-1")
        self.serve_with_faults()
        self.host.start_manager()
        self.vm_file()
        wait_for(lambda: "holdfast-imaged doesn't run" in self.reason(), "that to be told", 30, 0.02)
        self.start_imaged()
        self.runs()
        self.stopEverything()

    def test_a_full_disk(self):
        self.mount_small_state("24M")  # less than kernel and image together
        self.publish("build-1")
        self.serve_with_faults()
        self.begin()
        self.vm_file(state_disk_persistent=True)
        wait_for(lambda: self.host.list().get("sp", {}).get("state") in ("failed", "backoff") and "not enough room" in self.reason(),
                 "the failure to be told", 30, 0.05)
        self.host.vmctl("stop", "sp")
        self.stopEverything()


if __name__ == "__main__":
    main()
