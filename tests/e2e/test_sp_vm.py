"""The sp-vm watchdog's folders taken over as they are: its host config and its VM files, under a manager."""
import json
import os
import subprocess

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
        self.keys = os.path.join(self.host.root, "keys")
        with open(self.keys, "w") as f:
            f.write("ssh-ed25519 KEY\n")
        with open(os.path.join(self.host.dirs["config"], "config.json"), "w") as f:
            json.dump({"vm_config": {"configs_dir": self.folder, "authorized_keys_file": self.keys}}, f)

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
        self.assertIn("/qemu_configuration/comment: unknown key, ignored", log)

        good = self.inspect("good")
        self.assertEqual((good["paths"]["spec"], good["spec"]), (path, spec))
        argv = good["next_plan"]["qemu"]["argv"]
        self.assertEqual(argv[argv.index("-append") + 1], "root=LABEL=rootfs rootfs_verity.scheme=dm-verity rootfs_verity.hash=0123abcd")
        self.assertIn("tcp:0.0.0.0:8080-:80", " ".join(argv))

        done = self.host.vmctl("start", "bad", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/qemu_configuration/mode: this host offers no TDX", done.stderr)
        self.assertIn("(and 1 more)", done.stderr)

    def test_provider_config(self):
        """On a disk of its own, with the operator's keys in debug; its problems have their place in the file."""
        config = os.path.join(self.host.root, "cm.yaml")
        run = {"debug": True, "provider_config": {"execution_controller_tee_prov_configmap": config}}
        path, spec = self.file("conf", run)
        self.host.start_manager()
        missing = f"/run_configuration/provider_config/execution_controller_tee_prov_configmap: '{config}' can't be found"
        for words in (("check", path), ("convert", path), ("start", "conf")):
            done = self.host.vmctl(*words, check=False)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(missing, done.stderr)
        with open(config, "w") as f:
            f.write("configmap\n")
        self.assertEqual(self.host.vmctl("check", path).stderr, "")
        files = {"manifests/configmap.execution-controller-tee-prov.yaml": config, "authorized_keys": self.keys}
        native = json.loads(self.host.vmctl("convert", path).stdout)
        self.assertEqual(native["config_disk"], {"label": "provider_config", "files": files})
        self.assertEqual([d["persistent"] for d in native["disks"]], [True, True])
        prepare = self.inspect("conf")["next_plan"]["prepare"]
        self.assertEqual([step["what"] for step in prepare], ["create disk state (1G)", "make disk provider_config"])
        image = prepare[1]["creates"]
        os.makedirs(os.path.dirname(image), exist_ok=True)
        subprocess.run(prepare[1]["argv"], check=True)
        for file, text in (("authorized_keys", "ssh-ed25519 KEY\n"), ("manifests/configmap.execution-controller-tee-prov.yaml", "configmap\n")):
            self.assertEqual(subprocess.run(["debugfs", "-R", f"cat /{file}", image], capture_output=True, text=True, check=True).stdout, text)
        disks = [word for word in self.inspect("conf")["next_plan"]["qemu"]["files"] if 32 <= word["fd"] < 96]
        self.assertEqual([os.path.basename(d["path"]) for d in disks], ["sp-vm-build-7.img", "state.qcow2", os.path.basename(image)])
        # The keys change, and with them the disk.
        with open(self.keys, "a") as f:
            f.write("ssh-ed25519 OTHER\n")
        self.assertNotEqual(self.inspect("conf")["next_plan"]["prepare"][1]["creates"], image)
        spec["run_configuration"]["debug"] = False
        self.assertNotIn("authorized_keys", json.dumps(json.loads(self.host.vmctl("convert", "-", stdin=json.dumps(spec)).stdout)))

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
