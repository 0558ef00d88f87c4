"""PCI devices of VMs: taken from their drivers at the start, kept as long as the VM may live, given back afterwards. The host is made up, and
QEMU is one that believes it has the devices."""
import json
import os
import re
import resource
import signal
import subprocess

from fake_sysfs import Sysfs
from harness import HostTest, alive, main, wait_for

A, B = "0000:c1:00.0", "0000:c2:00.0"
GIB = 1 << 30


def has_capability(number):
    """Whether we have it, and so our manager: capabilities(7). 24 is CAP_SYS_RESOURCE."""
    with open("/proc/self/status") as f:
        return bool(int(re.search(r"CapEff:\s*([0-9a-f]+)", f.read()).group(1), 16) & 1 << number)


class Gpus(HostTest):
    def setUp(self):
        super().setUp()
        self.sysfs = Sysfs(os.path.join(self.host.root, "fakehost"))
        self.addCleanup(self.sysfs.stop)
        self.sysfs.device(A, "nvidia", 1)
        self.sysfs.device(B, None, 2)
        options = self.host.options()
        self.host.options = lambda: [*options, "--sysfs-root", self.sysfs.root]

    def spec(self, name="web", gpus=("c1:00.0",), *behaviour, **more):
        return {**self.host.fake_spec(name, *behaviour), "gpus": list(gpus), **more}

    def wait_driver(self, address, driver):
        wait_for(lambda: self.sysfs.driver_of(address) == driver, f"{address} of {driver}, not {self.sysfs.driver_of(address)}")

    def apply_fails(self, spec):
        """Why it doesn't run, in one line."""
        self.host.apply(spec, check=False)
        vm = self.host.wait_state(spec["name"], "failed")
        self.assertFalse(alive(vm["qemu_pid"]))
        return vm["reason"]

    def test_taken_kept_and_given_back(self):
        self.host.start_manager()
        self.host.apply(self.spec(gpus=["c1:00.0", "0000:C2:00.0"], restart={"policy": "always", "delay": "100ms"}))
        vm = self.host.wait_state("web", "running")
        self.assertEqual((self.sysfs.driver_of(A), self.sysfs.driver_of(B)), ("vfio-pci", "vfio-pci"))
        with open(f"/proc/{vm['qemu_pid']}/cmdline") as f:
            argv = f.read().split("\0")
        hosts = [json.loads(word)["host"] for word in argv if word.startswith("{") and "vfio-pci" in word]
        self.assertEqual(hosts, [A, B])
        self.assertEqual(self.sysfs.owner_of(1), os.stat(f"/proc/{vm['qemu_pid']}").st_uid)
        with open(f"/proc/{vm['qemu_pid']}/limits") as f:
            limits = re.search(r"Max locked memory +(\d+) +(\d+)", f.read()).groups()
        # As much as it needs, and where root may not raise limits as much as there is.
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        may = hard == resource.RLIM_INFINITY or hard >= GIB + (16 << 20) or has_capability(24)
        self.assertEqual([int(n) for n in limits], [GIB + (16 << 20) if may else hard] * 2)
        # Its shim starts QEMU again: nobody takes the devices meanwhile.
        os.kill(vm["qemu_pid"], signal.SIGKILL)
        wait_for(lambda: (lambda v: v["state"] == "running" and v["qemu_pid"] != vm["qemu_pid"] and alive(v["qemu_pid"]))(self.host.vm("web")),
                 "another QEMU")
        self.assertEqual((self.sysfs.driver_of(A), self.sysfs.driver_of(B)), ("vfio-pci", "vfio-pci"))
        self.host.vmctl("stop", "web", "--force")
        self.wait_driver(A, "nvidia")
        self.wait_driver(B, None)
        wait_for(lambda: self.sysfs.owner_of(1) == 0, "its group to be nobody's")
        self.assertNotEqual(self.sysfs.override_of(A), "vfio-pci")
        self.stopEverything()

    def test_delete_gives_back(self):
        self.host.start_manager()
        self.host.apply(self.spec())
        self.host.wait_state("web", "running")
        self.host.vmctl("delete", "web", "--force")
        self.wait_driver(A, "nvidia")
        self.stopEverything()

    def test_an_end_for_good_gives_back(self):
        self.host.start_manager()
        self.host.apply(self.spec("web", ["c1:00.0"], "shutdown-after=300", restart={"policy": "never"}))
        self.host.wait_state("web", "exited")
        self.wait_driver(A, "nvidia")
        self.stopEverything()

    def test_one_vm_at_a_time(self):
        self.host.start_manager()
        self.host.apply(self.spec())
        self.host.wait_state("web", "running")
        refused = self.host.apply(self.spec("db"), check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"/gpus/0: GPU {A} is taken by VM web", refused.stderr)
        self.host.vmctl("stop", "web", "--force")
        self.wait_driver(A, "nvidia")
        self.host.apply(self.spec("db"))
        self.host.wait_state("db", "running")
        self.assertEqual(self.sysfs.driver_of(A), "vfio-pci")
        self.stopEverything()

    def test_manager_killed_in_the_middle(self):
        for point in ("manager.gpus-saved", "vfio.after-override", "vfio.after-unbind", "vfio.after-bind"):
            with self.subTest(point):
                self.host.write_spec(self.spec())
                self.host.start_manager(wait=False, HOLDFAST_FAILPOINT=f"{point}=kill")
                self.assertEqual(self.host.manager.wait(30), -signal.SIGKILL)
                self.host.start_manager()
                self.host.wait_state("web", "running")
                self.assertEqual(self.sysfs.driver_of(A), "vfio-pci")
                self.host.vmctl("delete", "web", "--force", "--purge")
                self.wait_driver(A, "nvidia")
                self.host.kill_manager(signal.SIGTERM)

    def test_a_vm_that_is_no_more_gives_back(self):
        path = self.host.write_spec(self.spec())
        self.host.start_manager(wait=False, HOLDFAST_FAILPOINT="vfio.after-unbind=kill")
        self.assertEqual(self.host.manager.wait(30), -signal.SIGKILL)
        self.assertIsNone(self.sysfs.driver_of(A))
        os.unlink(path)
        subprocess.run(["rm", "-rf", self.host.path("run", "web"), self.host.path("state", "web")], check=True)
        self.host.start_manager()
        self.wait_driver(A, "nvidia")
        self.host.kill_manager(signal.SIGTERM)

    def test_a_manager_that_comes_later_gives_back(self):
        self.host.start_manager()
        self.host.apply(self.spec())
        vm = self.host.wait_state("web", "running")
        self.host.kill_manager()
        self.host.start_manager()
        self.assertEqual(self.host.wait_state("web", "running")["qemu_pid"], vm["qemu_pid"])
        self.assertEqual(self.sysfs.driver_of(A), "vfio-pci")
        self.host.vmctl("stop", "web", "--force")
        self.wait_driver(A, "nvidia")
        self.stopEverything()

    def test_a_driver_that_does_not_let_go_delays_nobody(self):
        unbind = self.sysfs.path("sys/bus/pci/drivers/nvidia/unbind")
        os.unlink(unbind)
        os.mkfifo(unbind)
        self.host.start_manager()
        self.host.write_spec(self.spec())
        self.host.vmctl("apply", "--no-wait", self.host.path("config", "web") + ".json", check=False)
        self.host.apply(self.spec("db", ["c2:00.0"]))
        self.host.wait_state("db", "running")
        vm = self.host.wait_state("web", "preparing")
        self.assertIn("1 PCI devices", vm["reason"])
        self.host.vmctl("stop", "db", "--force")
        self.wait_driver(B, None)
        # A manager that is told to leave does, and the next one knows.
        self.assertEqual(self.host.kill_manager(signal.SIGTERM), 1)
        os.unlink(unbind)
        self.sysfs.file("sys/bus/pci/drivers/nvidia/unbind")
        self.host.start_manager()
        self.host.wait_state("web", "running")
        self.stopEverything()
        self.wait_driver(A, "nvidia")

    def test_what_is_wrong_is_named(self):
        self.sysfs.device("0000:c3:00.0", "nvidia", 3)
        self.sysfs.device("0000:c3:00.1", "mlx5_core", 3, "0x020000")
        self.sysfs.device("0000:c4:00.0", "nvme", 4, "0x010802")
        self.host.start_manager()
        for gpu, words in (("c9:00.0", ["/gpus/0", "no PCI device 0000:c9:00.0"]),
                           ("c3:00.0", ["/gpus/0", "group 3", "0000:c3:00.1", "mlx5_core"]),
                           ("c4:00.0", ["/gpus/0", "0000:c4:00.0", "nvme"])):
            done = self.host.apply(self.spec(gpus=[gpu]), check=False)
            self.assertNotEqual(done.returncode, 0)
            for word in words:
                self.assertIn(word, done.stderr)
        self.assertEqual(self.host.list(), {})
        self.stopEverything()

    def test_confidential_needs_what_the_host_has(self):
        self.host.start_manager()
        firmware = {"boot": {"firmware": os.path.join(self.host.root, "kernel")}}
        done = self.host.apply({**self.spec(gpus=[]), **firmware, "accel": "auto", "confidential": "tdx"}, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("offers no TDX", done.stderr)
        # Nothing offered: "auto" is a VM like others.
        self.host.apply({**self.spec(gpus=[]), **firmware, "confidential": "auto"})
        self.host.wait_state("web", "running")
        self.host.vmctl("delete", "web", "--force", "--purge")
        # Offered, but not to be had here, since this one has no KVM: never run without.
        self.sysfs.file("sys/module/kvm_intel/parameters/tdx", "Y\n")
        self.assertIn("needs KVM", self.apply_fails({**self.spec(gpus=[]), **firmware, "confidential": "auto"}))
        self.stopEverything()

    def test_no_snapshots_of_private_memory(self):
        self.host.start_manager()
        self.host.apply(self.spec())
        self.host.wait_state("web", "running")
        done = self.host.vmctl("snapshot", "create", "web", "s1", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("private", done.stderr)
        self.stopEverything()


if __name__ == "__main__":
    main()
