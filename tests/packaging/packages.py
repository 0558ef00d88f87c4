"""The packages that tests/packaging/run has built."""
import glob
import os

PACKAGES = os.environ["HOLDFAST_PACKAGES"]


def package(build):
    """Path of the package of a build: "first", or "next", which is of a later version."""
    return glob.glob(f"{PACKAGES}/{build}/holdfast_*.deb")[0]


def version(build):
    return os.path.basename(package(build)).split("_")[1]
