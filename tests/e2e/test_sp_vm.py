"""The sp-vm watchdog's folders taken over as they are: its host config and its VM files, under a manager."""
import json
import os

from harness import HostTest, main, program, wait_for


class SpVm(HostTest):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.host.root, "watchdog vms")
        self.build = os.path.join(self.host.root, "build")
        for folder in (self.folder, self.build):
            os.mkdir(folder)
        for file in ("vmlinuz", "OVMF.fd", "sp-vm-build-7.img"):
            with open(os.path.join(self.build, file), "w"):
                pass
        with open(os.path.join(self.build, "rootfs_hash.txt"), "w") as f:
            f.write("0123abcd\n")
        with open(os.path.join(self.host.dirs["config"], "config.json"), "w") as f:
            json.dump({"vm_config": {"configs_dir": self.folder, "authorized_keys_file": "/root/.ssh/authorized_keys"}}, f)

    def tearDown(self):
        self.stopEverything()

    def file(self, name, run=None, **qemu):
        """A VM that isn't enabled, since not every host has a vsock device to give."""
        spec = {"name": name, "enabled": False, "run_configuration": {"build_dir": self.build, **(run or {})},
                "qemu_configuration": {"qemu_path": program("fake_qemu"), "mode": "untrusted", "cores": 2, "mem_gb": 1, "state_disk_size_gb": 1,
                                       "state_disk_persistent": True, **qemu}}
        path = os.path.join(self.folder, name + ".json")
        with open(path, "w") as f:
            json.dump(spec, f)
        return path, spec

    def inspect(self, name):
        return json.loads(self.host.vmctl("inspect", name).stdout)

    def test_files_that_are_there(self):
        path, spec = self.file("good", http_port=8080, comment="mine")
        self.file("bad", mode="tdx", gpus=["c1:00.0"])
        with open(os.path.join(self.folder, "torn.json"), "w") as f:
            f.write('{"name": "torn", "run_conf')
        self.host.start_manager()
        self.assertEqual(set(self.host.list()), {"good", "bad", "torn"})
        self.assertEqual({vm["wanted"] for vm in self.host.list().values()}, {"stopped"})
        log = self.host.manager_log()
        self.assertIn("/vm_config/authorized_keys_file: not used by this version", log)
        self.assertIn("/qemu_configuration/comment: unknown key, ignored", log)

        good = self.inspect("good")
        self.assertEqual((good["paths"]["spec"], good["spec"]), (path, spec))
        argv = good["next_plan"]["qemu"]["argv"]
        self.assertEqual(argv[argv.index("-append") + 1], "root=LABEL=rootfs rootfs_verity.scheme=dm-verity rootfs_verity.hash=0123abcd")
        self.assertIn("tcp:0.0.0.0:8080-:80", " ".join(argv))

        done = self.host.vmctl("start", "bad", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/qemu_configuration/mode: \"tdx\" is not supported by this version", done.stderr)
        self.assertIn("(and 1 more)", done.stderr)

    def test_apply_writes_what_was_given(self):
        self.host.start_manager()
        path, spec = self.file("web", cpus=2)
        os.unlink(path)
        given = json.dumps(spec)
        self.assertIn("web: created", self.host.vmctl("apply", "-", stdin=given).stdout)
        with open(path) as f:
            self.assertEqual(json.load(f), spec)
        self.assertIn("web: unchanged", self.host.vmctl("apply", "-", stdin=given).stdout)
        spec["qemu_configuration"]["cores"] = 3
        self.assertIn("web: updated", self.host.vmctl("apply", "-", stdin=json.dumps(spec)).stdout)
        plan = self.inspect("web")["next_plan"]
        self.assertIn("3", plan["qemu"]["argv"][plan["qemu"]["argv"].index("-smp") + 1])
        self.host.vmctl("delete", "web")
        wait_for(lambda: not os.path.exists(path), "the file to be gone")

    def test_native_specs_beside(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("native"))
        self.assertEqual(self.host.state("native"), "running")
        self.assertTrue(os.path.exists(os.path.join(self.folder, "native.json")))
        self.host.vmctl("delete", "native", "--force")

    def test_problems_of_the_manager_have_their_place_in_the_file(self):
        self.host.start_manager()
        path, spec = self.file("web")
        os.unlink(path)
        os.unlink(os.path.join(self.build, "OVMF.fd"))
        done = self.host.vmctl("apply", "-", stdin=json.dumps(spec), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/run_configuration/build_dir: '" + os.path.join(self.build, "OVMF.fd"), done.stderr)
        self.assertEqual(self.host.list(), {})


if __name__ == "__main__":
    main()
