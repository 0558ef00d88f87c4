#!/usr/bin/env python3
"""Snapshots, restores and clones of a real guest, as an operator does them. The guest counts aloud, once a moment: a restored one goes
on with the count, a booted one begins anew."""
import json
import os
import signal
import subprocess

from harness import HostTest, Varlink, main, processes_of, program, wait_for


class Flow(HostTest):
    def setUp(self):
        super().setUp()
        self.host.start_manager()

    def expect(self, code, *words, err=None, out=None):
        done = self.host.vmctl(*words, check=False, timeout=300)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}{self.host.manager_log()}{self.host.shim_logs()}")
        if err is not None:
            self.assertIn(err, done.stderr)
        if out is not None:
            self.assertIn(out, done.stdout)
        return done

    def web(self, **more):
        self.host.apply(self.host.guest_spec("web", **more))
        self.host.wait_ticks("web", 3)

    def snapshot(self, name="before", *options):
        """Takes one, and returns a number the guest had reached by then."""
        count = self.host.ticks("web")[-1]
        self.expect(0, "snapshot", "create", "web", name, *options, out=f"web/{name}: taken")
        return count

    def snapshots(self):
        return {f"{s['vm']}/{s['name']}": s for s in json.loads(self.host.vmctl("snapshot", "list", "--json").stdout)}

    def memory(self, name):
        with Varlink(os.path.join(self.host.dirs["run"], "manager.sock"), 20) as v:
            return v.call("io.holdfast.Manager.Memory", {"name": name})["parameters"]

    def assertGoesOn(self, name, count):
        """What the VM says now is not said by a guest that was booted, and lacks nothing."""
        self.host.wait_ticks(name, 3)
        self.assertGreaterEqual(self.host.ticks(name)[0], count, f"{name} was booted")
        self.assertWhole(name)

    def test_create_list_show_verify(self):
        self.web(disks=[{"name": "data", "size": "16M"}])
        self.snapshot()
        self.host.wait_ticks("web", 3)
        self.assertWhole("web")
        self.assertOneQemu("web")
        one = self.snapshots()["web/before"]
        self.assertTrue(one["live"])
        self.assertIsNone(one["damaged"])
        self.assertTrue(0 < one["present"] < one["ram_size"] == 128 << 20)
        shown = json.loads(self.expect(0, "snapshot", "show", "web/before", "--json").stdout)
        self.assertEqual(shown["present_pages"] * 4096, one["present"])
        self.assertEqual(len(shown["details"]["disks"]), 1)
        self.expect(0, "snapshot", "show", "web/before", out="not known yet")
        self.expect(0, "snapshot", "verify", "web/before", out="web/before: whole")
        self.expect(6, "snapshot", "create", "web", "before", err="there is a snapshot web/before")
        self.snapshot("standing", "--stop")
        self.assertFalse(self.snapshots()["web/standing"]["live"])
        self.host.wait_ticks("web", 3)
        self.assertWhole("web")
        self.expect(0, "snapshot", "delete", "web/before", "web/standing")
        self.assertFalse(os.path.exists(os.path.join(self.host.dirs["state"], "snapshots", "web")))
        self.host.wait_ticks("web", 3)
        self.stopEverything()

    def test_restore_into_new_vms_in_each_mode(self):
        self.web(network=[{"mode": "user"}])
        count = self.snapshot()
        for mode in ("lazy", "mapped", "eager"):
            self.expect(0, "restore", mode, "web/before", "--mode", mode, out="restored from web/before")
            self.assertGoesOn(mode, count)
            self.assertOneQemu(mode)
            self.assertEqual(self.memory(mode)["mode"], mode)
        self.expect(0, "status", "mapped", out="mapped from web/before")
        wait_for(lambda: self.memory("lazy")["present"] == self.memory("lazy")["total"], "all of the lazy one's memory to be in")
        self.expect(6, "snapshot", "delete", "web/before", err="in use by mapped")
        self.host.wait_ticks("web", 3)
        self.assertWhole("web")
        self.host.vmctl("restart", "lazy", "--force")
        self.host.wait_ticks("lazy", 1)
        self.assertLess(self.host.ticks("lazy")[0], count, "a restart boots")
        self.stopEverything()

    def test_restore_over_the_vm_itself(self):
        self.web(disks=[{"name": "data", "size": "16M"}])
        count = self.snapshot()
        self.host.wait_ticks("web", 10)
        self.expect(6, "restore", "web", "before", err="web is running: stop it first")
        incarnation = self.host.vm("web")["incarnation"]
        self.expect(0, "restore", "web", "before", "--force")
        self.assertEqual(self.host.vm("web")["incarnation"], incarnation + 1)
        self.assertGoesOn("web", count)
        self.host.kill_manager()
        self.host.start_manager()
        self.assertGoesOn("web", count)
        self.stopEverything()

    def test_a_file_that_a_snapshot_consists_of_is_not_written(self):
        """By the VM whose disk it was, once nothing is known of its layers any more; nor by another one."""
        path = os.path.join(self.host.root, "disk.raw")
        with open(path, "w") as f:
            f.truncate(16 << 20)
        self.web(disks=[{"path": path, "format": "raw"}])
        self.snapshot()
        os.unlink(path)
        os.link(os.path.join(self.host.dirs["state"], "snapshots/web/before/disks/disk0.raw"), path)  # by whatever name
        self.host.vmctl("restart", "web", "--force")
        self.host.vmctl("delete", "web", "--force", "--purge")
        for name in ("web", "other"):
            spec = self.host.guest_spec(name, disks=[{"path": path, "format": "raw"}])
            done = self.host.apply(spec, check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("disk.raw is part of snapshot web/before", done.stderr)
            self.host.vmctl("delete", name, "--force", "--purge")
        self.expect(0, "restore", "copy", "web/before")
        self.host.wait_ticks("copy", 3)
        self.host.vmctl("restart", "copy", "--force")
        self.host.vmctl("delete", "copy", "--force", "--purge")
        self.expect(0, "snapshot", "delete", "web/before")
        self.host.apply(self.host.guest_spec("web", disks=[{"path": path, "format": "raw"}]))
        self.stopEverything()

    def test_clones_and_delete(self):
        self.web(disks=[{"name": "data", "size": "16M"}])
        count = self.snapshot()
        done = self.expect(0, "clone", "web/before", "--count", "2", "--name", "web-%d")
        self.assertEqual(done.stdout, "web-1: running\nweb-2: running\n")
        for name in ("web-1", "web-2"):
            self.assertGoesOn(name, count)
        self.host.wait_ticks("web", 3)
        self.assertWhole("web")
        self.host.vmctl("delete", "web-1", "web-2", "--force", "--purge")
        self.expect(0, "snapshot", "delete", "web/before")
        self.assertEqual(self.snapshots(), {})
        self.host.wait_ticks("web", 3)
        self.stopEverything()

    def test_warm(self):
        self.web()
        count = self.snapshot()
        self.expect(0, "snapshot", "warm", "web/before", out="web/before: warm")
        self.assertTrue(self.snapshots()["web/before"]["working_set"])
        self.assertEqual(os.listdir(os.path.join(self.host.dirs["run"], "warm")), [])
        shown = json.loads(self.expect(0, "snapshot", "show", "web/before", "--json").stdout)
        self.assertTrue(0 < shown["working_set_pages"] <= shown["pages"])
        self.expect(0, "snapshot", "verify", "web/before", out="whole")
        self.expect(0, "restore", "copy", "web/before", "--mode", "lazy")
        self.assertGoesOn("copy", count)
        self.assertGreater(self.memory("copy")["prefetched"], 0)
        self.stopEverything()

    def test_warm_whose_shim_is_killed(self):
        self.web()
        self.snapshot()
        folder = os.path.join(self.host.dirs["run"], "warm")
        warm = subprocess.Popen([program("vmctl"), "snapshot", "warm", "web/before"], stderr=subprocess.DEVNULL, env=self.host.environment())
        self.addCleanup(warm.wait)
        self.addCleanup(warm.kill)

        def shims():
            return [pid for pid, line in processes_of(folder) if "/holdfast-shim" in line]
        for pid in wait_for(shims, "its shim", 20, 0.002):
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(warm.wait(30), 1)
        self.assertEqual(os.listdir(folder), [])
        self.assertEqual(processes_of(folder), [])
        self.expect(0, "snapshot", "warm", "web/before")
        self.stopEverything()

    def test_a_first_lazy_restore_learns(self):
        self.web()
        count = self.snapshot()
        self.expect(0, "restore", "copy", "web/before", "--mode", "lazy")
        self.assertGoesOn("copy", count)
        wait_for(lambda: self.snapshots()["web/before"]["working_set"], "the working set to be stored once the guest has settled")
        self.stopEverything()

    def test_one_that_cannot_be_restored(self):
        """The device state is torn: QEMU refuses it, and nothing of the VM is left."""
        self.web()
        self.snapshot()
        path = os.path.join(self.host.dirs["state"], "snapshots", "web", "before", "device.state")
        with open(path, "r+b") as f:
            f.write(b"\0" * os.path.getsize(path))
        done = self.expect(1, "restore", "copy", "web/before", err="copy could not be restored")
        self.assertEqual(len(done.stderr.splitlines()), 1)
        self.host.wait_state("copy", "failed")
        self.assertEqual(self.host.qemus("copy"), [])
        self.host.wait_ticks("web", 3)
        self.assertWhole("web")
        self.host.vmctl("start", "copy")
        self.host.wait_ticks("copy", 1)
        self.stopEverything()


if __name__ == "__main__":
    main()
