"""N: many at once, two of the same, and looking all the while."""
import threading

from fault import FaultTest, LONG, main, qemus, shims, wait_for

MANY = 64


class Concurrency(FaultTest):
    def in_threads(self, work, count):
        failures = []

        def one(i):
            try:
                work(i)
            except Exception as e:  # pylint: disable=broad-exception-caught
                failures.append(e)
        threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_many_starts_at_once(self):
        self.host.start_manager()
        names = [f"vm{i}" for i in range(MANY)]
        for name in names:
            self.host.write_spec(self.host.fake_spec(name))
        self.in_threads(lambda i: self.host.vmctl("apply", self.host.path("config", names[i]) + ".json"), MANY)
        vms = self.list_quickly()
        self.assertEqual({vm["state"] for vm in vms.values()}, {"running"})
        self.assertEqual(len({vm["qemu_pid"] for vm in vms.values()}), MANY)
        self.assertEqual(len(shims(self.host)), MANY)
        self.host.kill_manager()
        self.host.start_manager()
        again = self.list_quickly()
        for name in names:
            self.same(vms[name], again[name])
        self.host.vmctl("stop", "--all")
        self.assertEqual({vm["state"] for vm in self.host.list().values()}, {"stopped"})
        self.finish()

    def test_two_starts_of_one(self):
        self.host.start_manager()
        self.host.apply(self.host.fake_spec("web"))
        for incarnation in range(2, 8):
            self.host.vmctl("stop", "web", "--force")
            self.in_threads(lambda i: self.host.vmctl("start", "web"), 6)
            vm = self.running("web")
            self.assertEqual(vm["incarnation"], incarnation, "six starts are one")
            self.assertEqual(len(shims(self.host, "web")), 1)
        self.finish()

    def test_list_during_churn(self):
        self.host.start_manager()
        names = [f"vm{i}" for i in range(8)]
        for name in names:
            self.host.apply(self.host.fake_spec(name))
        over = threading.Event()

        def churn(i):
            name = names[i]
            for _ in range(20 if LONG else 6):
                self.host.vmctl("stop", name, "--force")
                self.host.vmctl("start", name)
                self.host.vmctl("restart", name, "--force")

        def look():
            while not over.is_set():
                self.assertEqual(sorted(self.list_quickly()), sorted(names), "all are shown all the time")
        looking = [threading.Thread(target=look) for _ in range(2)]
        seen = []
        threading.excepthook = lambda what: seen.append(what.exc_value)
        for thread in looking:
            thread.start()
        try:
            self.in_threads(churn, len(names))
        finally:
            over.set()
            for thread in looking:
                thread.join()
        self.assertEqual(seen, [])
        for name in names:
            wait_for(lambda n=name: self.host.vm(n)["state"] == "running" and len(qemus(self.host, n)) == 1, f"one QEMU of {name}")
        self.finish()


if __name__ == "__main__":
    main()
