"""Run by tests/bench/virsh in its copy of the system: starts libvirtd and times saves and restores of /var/lib/web.xml."""
import json
import os
import re
import statistics
import subprocess
import sys
import time

CONSOLE, SAVED = "/var/lib/console.log", "/var/lib/web.save"


def virsh(*words, check=True):
    return subprocess.run(["virsh", "--quiet", *words], check=check, capture_output=not check)


def wait_for(condition, every, deadline=120):
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("virsh_times: waited too long")
        time.sleep(every)


def said(pattern, since=0):
    with open(CONSOLE, "rb") as f:
        size = os.path.getsize(CONSOLE)
        f.seek(since if since <= size else 0)  # a restore begins the file anew
        return re.search(pattern, f.read(), re.M)


def main():
    os.makedirs("/run/libvirt", exist_ok=True)
    with open("/var/lib/libvirtd.log", "w") as log:
        daemon = subprocess.Popen(["libvirtd"], stdout=log, stderr=log)
    wait_for(lambda: virsh("list", check=False).returncode == 0, 0.05)
    virsh("create", "/var/lib/web.xml")
    wait_for(lambda: said(rb"^pattern held"), 0.05)
    saves, restores = [], []
    for _ in range(int(sys.argv[1])):
        begin = time.monotonic()
        virsh("save", "web", SAVED)
        saves.append(time.monotonic() - begin)
        since, begin = os.path.getsize(CONSOLE), time.monotonic()
        child = subprocess.Popen(["virsh", "--quiet", "restore", SAVED])
        wait_for(lambda: said(rb"^tick \d+\r?$", since), 0.001)
        restores.append(time.monotonic() - begin)
        child.wait()
    virsh("destroy", "web")
    daemon.terminate()
    daemon.wait()
    print(json.dumps({"save": statistics.median(saves), "restore": statistics.median(restores)}))


main()
