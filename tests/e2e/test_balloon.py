"""Memory the guest gives back: a page that left through the balloon, or was reported as free, reads zero when it is touched again, not
what the snapshot has in its place.

The guest itself can't see it, since its kernel clears what it hands out. So memory is filled with a known word, the guest is saved, and
after a restore the memory is freed and given back; then QEMU is asked what is in those pages of the guest's memory."""
import os
import random
import re

from harness import main, wait_for
from memory_case import MIB, PAGE, MemoryTest

WORD = 81985529  # 0x4e2fff9: no content of a kernel's page begins with it
MEMORY, PATTERN, STAIN, GIVEN = 192, 40, 64, 72
SAMPLE = 300


class Balloon(MemoryTest):
    DEVICE = "virtio-balloon-pci,id=balloon0,addr=0x1d"

    @classmethod
    def begin(cls):
        cls.start_manager()
        host = cls.shared
        host.boot("base", memory=MEMORY, pattern=PATTERN, qemu={"extra_args": ["-device", cls.DEVICE]})
        host.ask("base", f"stain {WORD} {STAIN}", rf"stained {STAIN} MiB")
        host.vmctl("snapshot", "create", "base", "one")
        host.vmctl("stop", "base", "--force")

    def stained(self):
        """Pages of the snapshot that hold the word, as many as a sample takes."""
        word, found = WORD.to_bytes(8, "little"), []
        with open(os.path.join(self.host.folder("base", "one"), "memory.raw"), "rb") as f:
            for page in range(MEMORY * MIB // PAGE):
                f.seek(page * PAGE)
                if f.read(8) == word:
                    found.append(page)
        self.assertGreater(len(found), STAIN * MIB // PAGE * 8 // 10)
        return random.Random(7).sample(found, SAMPLE)

    def word_at(self, name, page):
        """The first word of a page of the guest's memory, through QEMU's own mapping: a page that is missing is asked for."""
        text = self.host.qmp(name, "human-monitor-command", command_line=f"xp /1gx {page * PAGE:#x}")
        return int(re.search(r": (0x[0-9a-f]+)", text).group(1), 16)

    def inflate_to(self, name, mib):
        self.host.qmp(name, "balloon", value=mib * MIB)
        wait_for(lambda: self.host.qmp(name, "query-balloon")["actual"] == mib * MIB, f"{name}'s balloon to have left {mib} MiB", 60, 0.05)

    def count(self, name, pages):
        words = [self.word_at(name, page) for page in pages]
        return words.count(0), words.count(WORD)

    def restored(self, mode, prefetch=True):
        if not prefetch:
            self.addCleanup(self.host.configure)
            self.host.configure(prefetch=False)
        name = f"{mode}-{'ahead' if prefetch else 'asked'}"
        self.restore(name, mode=mode)
        self.assertEqual(self.host.memory(name)["mode"], mode)
        return name

    def check(self, mode, prefetch=True):
        pages = self.stained()
        name = self.restored(mode, prefetch)
        self.give_back(name)
        # Most of the free memory was stained, and most of the free memory is given: so is most of the sample.
        zero, old = self.count(name, pages)
        self.assertGreater(zero, SAMPLE // 2, f"{zero} pages of {SAMPLE} read zero, {old} what the snapshot had")
        self.inflate_to(name, MEMORY)
        again, old_again = self.count(name, pages)
        self.assertLessEqual(old_again, old, "a page that was given back doesn't get its old content later")
        self.assertGreater(again, SAMPLE // 2)
        self.use_again(name, mode)

    def use_again(self, name, mode):
        self.host.ask(name, f"stain 99 {STAIN // 2}", r"stained \d+ MiB")
        self.host.ask(name, "unstain", "unstained")
        self.assertRestored(name, mode)

    def give_back(self, name):
        self.host.ask(name, "unstain", "unstained")
        self.inflate_to(name, MEMORY - GIVEN)

    def test_lazy_of_pages_nobody_asked_for(self):
        self.check("lazy", prefetch=False)

    def test_lazy_while_it_is_loaded_ahead(self):
        self.check("lazy")

    def test_eager(self):
        self.check("eager")

    def test_mapped(self):
        self.check("mapped")

    def test_live_snapshot_with_an_inflated_balloon(self):
        """What was given back is no part of the next snapshot."""
        pages = self.stained()
        name = self.restored("lazy")
        self.give_back(name)
        self.addCleanup(self.drop, f"{name}/two")
        self.host.vmctl("snapshot", "create", name, "two")
        self.restore("smaller", f"{name}/two", "lazy")
        zero, old = self.count("smaller", pages)
        self.assertGreater(zero, SAMPLE // 2, f"{old} pages are back")
        self.assertEqual(self.host.qmp("smaller", "query-balloon")["actual"], (MEMORY - GIVEN) * MIB)
        self.assertRestored("smaller", "lazy")
        self.assertRestored(name, "lazy")

    def test_inflating_during_a_live_snapshot(self):
        """Pages that leave while they are write-protected and being copied: one that leaves before it was saved is nobody's any more, so that
        such a snapshot is refused, and nothing else happens."""
        name = self.restored("eager")
        self.addCleanup(self.drop, f"{name}/during")
        self.host.ask(name, "unstain", "unstained")
        self.host.qmp(name, "balloon", value=(MEMORY - GIVEN) * MIB)
        taken = self.host.vmctl("snapshot", "create", name, "during", check=False)
        wait_for(lambda: self.host.qmp(name, "query-balloon")["actual"] == (MEMORY - GIVEN) * MIB, "the balloon", 60, 0.05)
        self.assertRestored(name)
        if taken.returncode != 0:
            self.assertIn("the guest gave memory back (balloon, free page reporting) before it was saved: try again", taken.stderr)
            self.host.vmctl("snapshot", "create", name, "during")
        self.restore("during", f"{name}/during", "lazy")
        self.assertRestored("during", "lazy")


class Reporting(Balloon):
    """The same by free page reporting, which gives whole blocks of 2 MiB about two seconds after they were freed, and takes them back by
    touching them."""
    DEVICE = "virtio-balloon-pci,id=balloon0,addr=0x1d,free-page-reporting=on"

    def check(self, mode, prefetch=True):
        pages = self.stained()[:SAMPLE // 5]
        name = self.restored(mode, prefetch)
        self.host.ask(name, "unstain", "unstained")
        wait_for(lambda: self.count(name, pages)[0] > len(pages) // 2, f"free pages to be given back ({self.count(name, pages)})", 30, 0.5)
        self.use_again(name, mode)

    # What is about the balloon's size has nothing to do with reporting.
    test_live_snapshot_with_an_inflated_balloon = None
    test_inflating_during_a_live_snapshot = None


if __name__ == "__main__":
    main()
