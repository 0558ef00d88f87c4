"""D: an allocation fails, in the manager or in a shim, at any place, once or from there on: no VM is lost, none runs twice, and a manager
and shim with memory put all in order."""
import contextlib
import os

from fault import BIN, FaultTest, LONG, alive, main, qemus, wait_for

FAILING = os.path.join(BIN, "failing")
# Dense where a program begins; then in strides that share no factor with anything.
COUNTS = list(range(1, 2000, 7 if LONG else 97)) + list(range(2000, 20000, 211 if LONG else 4999))


class Allocation(FaultTest):
    def vmctl_somehow(self, *words):
        """What it says is not the matter here; but it comes back."""
        self.host.vmctl(*words, check=False, timeout=60)

    def died_in_order(self, status):
        """With an error, not by a signal: nobody ran into a NULL."""
        self.assertIn(status, (None, 0, 1), self.host.manager_log()[-1500:])

    def operate(self):
        for words in (("list",), ("pause", "web"), ("resume", "web"), ("inspect", "web"), ("start", "other", "--no-wait"),
                      ("stop", "other", "--force", "--no-wait"), ("events",)):
            self.vmctl_somehow(*words)

    def answers(self):
        """A connection whose allocation failed is hung up; the next one isn't."""
        with contextlib.suppress(EOFError):
            return self.host.manager_answers()
        return False

    def end_manager(self):
        if self.host.manager.poll() is None:
            self.host.kill_manager()
        self.host.manager = None

    def test_manager(self):
        self.host.start_manager()
        self.host.apply(self.host.guest_spec("web"), self.host.fake_spec("other"))
        self.host.wait_ticks("web")
        before = self.host.vm("web")
        self.host.kill_manager()
        for n in COUNTS:
            for more in ("", "+") if LONG else ("",):
                self.host.start_manager(wait=False, binaries=FAILING, HOLDFAST_FAILPOINT=f"malloc.holdfastd={n}{more}")
                wait_for(lambda: self.host.manager.poll() is not None or self.answers(), f"it to serve or to give up ({n}{more})", 20)
                if self.host.manager.poll() is None and not more:
                    self.operate()
                self.died_in_order(self.host.manager.poll())
                self.end_manager()
                self.assertTrue(alive(before["qemu_pid"]), f"allocation {n}{more} of the manager killed the guest")
        self.host.start_manager()
        self.same(before, self.running("web"))
        self.host.wait_ticks("web")
        self.assertWhole("web")
        # its last shim may still be on its way out
        wait_for(lambda: self.host.state("other") not in ("unresponsive", "unknown"), "the other one to be known", 30)
        self.host.vmctl("start", "other")
        self.running("other")
        self.finish()

    def test_shim(self):
        """A start may fail for it; a QEMU that runs is not lost to it."""
        for n in COUNTS:
            self.host.start_manager(binaries=FAILING, HOLDFAST_FAILPOINT=f"malloc.holdfast-shim={n}")
            self.host.write_spec(self.host.fake_spec("web"))
            self.vmctl_somehow("apply", self.host.path("config", "web") + ".json", "--no-wait")
            with_qemu = wait_for(lambda: self.settled(), f"a VM that runs or failed ({n}): {self.host.list()}", 30)
            for words in (("pause", "web"), ("resume", "web"), ("status", "web")) if with_qemu["state"] == "running" else ():
                self.vmctl_somehow(*words)
            self.assertLessEqual(len(qemus(self.host, "web")), 1)
            if with_qemu["qemu_pid"] and with_qemu["state"] == "running":
                self.assertTrue(alive(with_qemu["qemu_pid"]), f"allocation {n} of the shim killed its QEMU")
            self.host.kill_manager()
            self.host.start_manager()
            # It may wait for an answer whose allocation failed, and so may the manager: but it can always be stopped.
            wait_for(lambda: self.host.vmctl("stop", "web", "--force", check=False, timeout=60).returncode == 0,
                     f"a stop after allocation {n} failed ({self.host.list()})", 30, 0.2)
            self.host.vmctl("start", "web", timeout=60)
            self.running("web")
            self.host.vmctl("stop", "web", "--force")
            self.assertEqual(qemus(self.host, "web"), [])
            self.host.kill_manager()
        self.host.start_manager()
        for folder, _, files in os.walk(self.host.dirs["log"]):
            for file in files:
                with open(os.path.join(folder, file), errors="replace") as f:
                    self.assertNotIn("Sanitizer", f.read())
        self.finish()

    def settled(self):
        vm = self.host.list().get("web")
        return vm if vm and vm["state"] in ("running", "failed", "exited", "backoff", "unknown", "stopped", "orphaned", "launching") else None


if __name__ == "__main__":
    main()
