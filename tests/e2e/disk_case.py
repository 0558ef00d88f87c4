"""What the tests of disks share: guests that write to their disks and say what is on them, and QEMU's own word on image files."""
import json
import os
import subprocess

from harness import DEADLINE, HostTest, wait_for
from memory_case import MemoryHost

MIB = 1 << 20


class DiskTest(HostTest):
    def setUp(self):
        super().setUp()
        self.host.destroy()
        self.host = MemoryHost()
        self.addCleanup(self.host.destroy)

    def spec(self, name="web", disks=(), **more):
        return self.host.guest_spec(name, disks=list(disks), stop={"timeout": "0"}, **more)

    def sh(self, name, command):
        """What the command says in the guest, on one line. With an end of its own, since half a line may be read."""
        since = self.host.mark(name)
        self.host.say(name, f"sh echo \"said $({command}) .\"")
        return self.host.wait_said(name, r"said (.*?) \.", since).group(1).strip()

    def started(self, name):
        """Waits for the guest of this boot, whose console log is its own."""
        self.host.wait_said(name, "holdfast-guest: ready")

    def boot(self, *specs):
        self.host.apply(*specs)
        for spec in specs:
            self.started(spec["name"])

    def restart(self, name):
        self.host.vmctl("restart", name)
        self.started(name)

    def sectors(self, name, device):
        return int(self.sh(name, f"cat /sys/block/{device}/size")) * 512

    def mark_disk(self, name, device="vda", text="MARKER"):
        """Writes the text to the disk, and through to the host."""
        self.sh(name, f"echo {text} | dd of=/dev/{device} bs=512 conv=sync,fsync 2>/dev/null")

    def disk_head(self, name, device="vda"):
        return self.sh(name, f"dd if=/dev/{device} bs=512 count=1 2>/dev/null | tr -dc A-Z")

    def image(self, name, file):
        return self.host.path("state", name, file)

    def image_info(self, path):
        return json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", path], check=True, capture_output=True).stdout)

    def image_good(self, path, form):
        done = subprocess.run(["qemu-img", "check", "-q", "-f", form, path], check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def wait_event(self, name, text):
        wait_for(lambda: any(text in e["text"] for e in self.host.events(name)),
                 f"an event of {name} with {text!r}: {self.host.events(name)}", DEADLINE, 0.05)
