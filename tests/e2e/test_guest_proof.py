"""The guest that all tests of memory rest on finds what is wrong with its memory and disk, and tells what it is: damaged here on purpose,
from outside, through the memory that QEMU shares with its shim."""
import os
import re

from harness import HostTest, main, wait_for
from memory_case import MIB, PAGE, MemoryHost



def mix(v):
    """pattern.c's, so that a page of the pattern is known by its first word."""
    mask = (1 << 64) - 1
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9 & mask
    v = (v ^ (v >> 27)) * 0x94d049bb133111eb & mask
    return v ^ (v >> 31)


class Proof(HostTest):
    SEED, PATTERN = 42, 24

    def setUp(self):
        self.host = MemoryHost()
        self.addCleanup(self.host.destroy)
        self.host.start_manager()
        self.host.boot("web", pattern=self.PATTERN, cpus=2)
        self.memory = os.open(f"/proc/{self.host.vm('web')['qemu_pid']}/fd/5", os.O_RDWR)
        self.addCleanup(os.close, self.memory)

    def find(self, wanted):
        """Where the pattern's pages of these numbers lie, and which generation each is."""
        found = {}
        for place in range(0, 128 * MIB, PAGE):
            word = int.from_bytes(os.pread(self.memory, 8, place), "little") ^ mix(self.SEED)
            if word >> 32 in wanted and word & 0xffffffff < 1 << 20:
                found[word >> 32] = (place, word & 0xffffffff)
        self.assertEqual(set(found), set(wanted))
        return found

    def held(self, change):
        """Changes memory while the pattern stands still; returns the lines about it: of the pass that it stood in, and of the next."""
        self.host.ask("web", "hold", "pattern held")
        change()
        since = self.host.mark("web")
        self.host.say("web", "go")
        self.host.wait_said("web", r"pattern pass \d+ WRONG: \d+ pages", since)
        wait_for(lambda: len(re.findall(r"^pattern pass \d+ (?:ok|WRONG: \d+ pages)\r?$", self.host.console("web", since), re.M)) >= 2,
                 "another pass", 60)
        return re.findall(r"^pattern WRONG page (\d+) word (\d+): got ([0-9a-f]{16}) expected ([0-9a-f]{16}) \((.*)\)\r?$",
                          self.host.console("web", since), re.M)

    def test_every_kind_of_wrong_page_is_told_from_the_others(self):
        # Two of each: what the guest happens to rewrite before it looks there is right again.
        old, zeros, moved, words = (5, 6), (2000, 2001), (3000, 3001), (6000, 6001)
        pages = (*old, *zeros, *moved, *words, 7)
        self.host.ask("web", "hold", "pattern held")
        first = self.find(pages)
        content = {page: os.pread(self.memory, PAGE, first[page][0]) for page in old}
        self.host.ask("web", "go", "pattern goes on")
        self.host.wait_checked("web", self.host.mark("web"), passes=200)
        now = self.find(pages)
        self.assertTrue(all(now[page][1] > first[page][1] for page in old), "pages are rewritten")

        def damage():
            places = {page: place for page, (place, _) in self.find(pages).items()}
            for page in old:
                os.pwrite(self.memory, content[page], places[page])
            for page in zeros:
                os.pwrite(self.memory, bytes(PAGE), places[page])
            for page in moved:
                os.pwrite(self.memory, os.pread(self.memory, PAGE, places[7]), places[page])
            for page in words:
                os.pwrite(self.memory, b"\xff", places[page] + 8 * 300 + 2)
        lines = {int(page): (int(word), got, what) for page, word, got, _, what in self.held(damage)}
        self.assertLessEqual(set(lines), {*old, *zeros, *moved, *words})
        for kind in (old, zeros, moved, words):
            self.assertTrue(set(kind) & set(lines), f"neither of {kind} was found")
        for page in set(lines) & set(old):
            self.assertRegex(lines[page][2], rf"^generation {first[page][1]}, not \d+$")
        for page in set(lines) & set(zeros):
            self.assertEqual(lines[page], (0, "0" * 16, "zeros"))
        for page in set(lines) & set(moved):
            self.assertEqual(lines[page][2], "page 7")
        for page in set(lines) & set(words):
            self.assertEqual((lines[page][0], lines[page][2]), (300, "wrong words"))

    def test_an_old_disk(self):
        since = self.host.mark("web")
        self.host.say("web", "sh dd if=/dev/vda of=/tmp/old bs=4096 count=128 2>/dev/null; echo copied")
        self.host.wait_said("web", "copied", since)
        self.host.wait_checked("web", self.host.mark("web"), disk=5)
        since = self.host.mark("web")
        self.host.say("web", "sh dd if=/tmp/old of=/dev/vda bs=4096 count=128 oflag=direct 2>/dev/null")
        self.host.wait_said("web", r"disk WRONG block \d+: got \d+ expected \d+", since)

    def test_a_touched_page_that_is_wrong(self):
        place = self.find((5,))[5][0]
        self.host.ask("web", "hold", "pattern held")
        for _ in range(20):  # each touches half of the pages
            os.pwrite(self.memory, bytes(PAGE), place)
            if "WRONG" in self.host.ask("web", f"touch {self.PATTERN // 2}", r"touched \d+ pages in \d+ us.*").group(0):
                return
        self.fail("twenty touches of half the pages each have missed it")


if __name__ == "__main__":
    main()
