"""A made-up host below a folder, for holdfastd --sysfs-root: PCI devices as plain files, and a thread that does what the kernel does when a
driver's files are written to. A FIFO in the place of "unbind" holds a writer up, as a driver that doesn't let go."""
import contextlib
import os
import stat
import threading


class Sysfs:
    def __init__(self, root):
        self.root = root
        self.stopped = threading.Event()
        self.file("sys/bus/pci/drivers_probe")
        self.driver("vfio-pci")
        self.kernel = threading.Thread(target=self.run)
        self.kernel.start()

    def stop(self):
        self.stopped.set()
        self.kernel.join()

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def file(self, name, text=""):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as f:
            f.write(text)

    def driver(self, name):
        for file in ("bind", "unbind"):
            if not os.path.exists(self.path("sys/bus/pci/drivers", name, file)):
                self.file(f"sys/bus/pci/drivers/{name}/{file}")

    def device(self, address, driver=None, group=1, device_class="0x030200"):
        folder = f"sys/bus/pci/devices/{address}"
        for name, text in (("class", device_class), ("vendor", "0x10de"), ("driver_override", "(null)")):
            self.file(f"{folder}/{name}", text + "\n")
        self.file(f"dev/vfio/{group}")
        os.makedirs(self.path(f"sys/kernel/iommu_groups/{group}/devices"), exist_ok=True)
        os.symlink(self.path(folder), self.path(f"sys/kernel/iommu_groups/{group}/devices", address))
        os.symlink(self.path(f"sys/kernel/iommu_groups/{group}"), self.path(folder, "iommu_group"))
        if driver:
            self.driver(driver)
            self.bind(address, driver)

    def bind(self, address, driver):
        with contextlib.suppress(FileExistsError):
            os.symlink(self.path("sys/bus/pci/drivers", driver), self.path("sys/bus/pci/devices", address, "driver"))

    def unbind(self, address):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("sys/bus/pci/devices", address, "driver"))

    def driver_of(self, address):
        with contextlib.suppress(FileNotFoundError):
            return os.path.basename(os.readlink(self.path("sys/bus/pci/devices", address, "driver")))
        return None

    def override_of(self, address):
        with open(self.path("sys/bus/pci/devices", address, "driver_override")) as f:
            return f.read().strip()

    def owner_of(self, group):
        return os.stat(self.path("dev/vfio", str(group))).st_uid

    # ---- the kernel ----

    def take(self, name):
        """What was written to a file since, which is emptied. A FIFO isn't even opened: that would let go on who waits for a reader."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.stat(self.path(name)).st_mode):
                with open(self.path(name), "r+") as f:
                    text = f.read().strip()
                    if text:
                        f.truncate(0)
                    return text
        return ""

    def look(self):
        for driver in os.listdir(self.path("sys/bus/pci/drivers")):
            address = self.take(f"sys/bus/pci/drivers/{driver}/unbind")
            if address and self.driver_of(address) == driver:
                self.unbind(address)
            address = self.take(f"sys/bus/pci/drivers/{driver}/bind")
            if address:
                self.bind(address, driver)
        address = self.take("sys/bus/pci/drivers_probe")
        if address and self.driver_of(address) is None and self.override_of(address) == "vfio-pci":
            self.bind(address, "vfio-pci")

    def run(self):
        while not self.stopped.wait(0.002):
            self.look()
