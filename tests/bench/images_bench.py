#!/usr/bin/env python3
"""The image service against what an operator would do by hand.

    images_bench.py [--smoke] [--size MIB]

pull     a release of one file, from nginx on the loopback: over `curl URL | tee FILE | sha256sum`, in turn; medians
release  GetRelease of a release of 10 GiB (sparse), median and worst of 200

It measures HOLDFAST_BIN, else build/release when it is there, else build/dev. With --smoke all is small, and nothing is judged but that it works.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
if "HOLDFAST_BIN" not in os.environ:
    RELEASE = os.path.join(SOURCE, "build/release/bin")
    os.environ["HOLDFAST_BIN"] = RELEASE if os.path.exists(os.path.join(RELEASE, "holdfast-imaged")) else os.path.join(SOURCE, "build/dev/bin")
sys.path.insert(0, os.path.join(SOURCE, "tests/e2e"))

from images_case import IMAGES, MIB, ImagesCase  # noqa: E402

PULL_RATIO, RELEASE_MS = 0.8, 5.0


class Bench(ImagesCase):
    def runTest(self):
        pass


def pull_once(bench, version):
    begin = time.monotonic()
    bench.pull(version)
    return time.monotonic() - begin


def by_hand_once(bench, url, manifest):
    path = bench.file_path(manifest, "image")
    target = os.path.join(bench.host.root, "by-hand")
    begin = time.monotonic()
    command = f'set -o pipefail; curl -sS --fail --cacert "$1" "$2" | tee "$3" | sha256sum; sync "$3"'
    done = subprocess.run(["bash", "-c", command, "by-hand", os.path.join(bench.host.root, "tls/ca.crt"), url + path, target], check=True,
                          capture_output=True, text=True)
    took = time.monotonic() - begin
    assert done.stdout.split()[0] == manifest["image"]["sha256"]
    os.unlink(target)
    return took


def measure_pull(bench, size, runs):
    manifest = bench.make_release("v1", {"image": size})
    url = bench.serve_with_nginx()
    bench.start_imaged()
    ours, theirs = [], []
    for _ in range(runs):
        theirs.append(by_hand_once(bench, url, manifest))
        ours.append(pull_once(bench, "v1"))
        bench.call("Delete", name="sp-vm", version="v1")
    rate = size / MIB
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"pull of {size // MIB} MiB over TLS: {rate / statistics.median(ours):.0f} MiB/s; curl | tee | sha256sum: "
          f"{rate / statistics.median(theirs):.0f} MiB/s; {ratio:.2f} x (reach: {PULL_RATIO} x)")
    return ratio >= PULL_RATIO


def make_sparse(bench, size):
    """In the store as a pull leaves it; its checksum is never looked at."""
    folder = bench.store("sp-vm", "big")
    os.makedirs(folder)
    path = os.path.join(folder, "disk.img")
    with open(path, "wb") as f:
        f.truncate(size)
    st = os.stat(path)
    with open(os.path.join(folder, "image.json"), "w") as f:
        json.dump({"schema": 1, "name": "sp-vm", "version": "big", "files": [
            {"role": "image", "filename": "disk.img", "size": size, "sha256": "0" * 64, "mtime_ns": st.st_mtime_ns, "inode": st.st_ino}]}, f)


def measure_release(bench, runs):
    make_sparse(bench, 10 << 30)
    times = []
    with bench.connect() as v:
        for _ in range(runs):
            begin = time.monotonic()
            reply = v.call(IMAGES + "GetRelease", {"name": "sp-vm", "version": "auto"})
            times.append((time.monotonic() - begin) * 1000)
            assert reply["parameters"]["release"]["version"] == "big" and reply["parameters"]["release"]["verified"], reply
    print(f"GetRelease of 10 GiB: {statistics.median(times):.2f} ms, worst {max(times):.2f} ms (reach: {RELEASE_MS:.0f} ms)")
    return statistics.median(times) <= RELEASE_MS


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--smoke", action="store_true")
    options.add_argument("--size", type=int, default=1024, metavar="MIB")
    given = options.parse_args()
    bench = Bench()
    bench.setUp()
    try:
        good = measure_pull(bench, 8 * MIB if given.smoke else given.size * MIB, 1 if given.smoke else 5)
        good = measure_release(bench, 20 if given.smoke else 200) and good
    finally:
        bench.doCleanups()
    return 0 if good or given.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
