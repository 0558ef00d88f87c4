#!/usr/bin/env python3
"""proto/holdfast-vm.schema.json against the checker: what `vmctl check` accepts the schema accepts, and what it refuses the schema refuses
too, unless all that is wrong is beyond the shape of values (BEYOND). Over the golden specs, and over thousands made of them."""
import copy
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

import jsonschema

HERE = os.path.dirname(os.path.abspath(__file__))
VMCTL = os.path.join(os.environ.get("HOLDFAST_BIN", os.path.join(HERE, "../../build/dev/bin")), "vmctl")

# Reasons that no schema can know: sizes and durations are texts to it, and one place knows nothing of another.
BEYOND = re.compile(r"""expected\ a\ size\ from|expected\ whole\ mebibytes|which\ is\ too\ large|expected\ a\ duration\ from
    |is\ shorter\ than\ "delay"|is\ taken\ by|is\ also\ (used\ by|the\ (name|path|address)\ of)|is\ not\ possible\ here
    |is\ already\ the\ name\ of\ the\ VM\ in|expected\ an\ IPv4\ or\ IPv6\ address|regular\ expression|path\ is\ longer
    |expected\ "ADDRESS:PORT"|expected\ a\ unicast\ address|forwards,\ at\ most|only\ of\ a\ qcow2\ image|is\ the\ same\ device\ as
    |is\ the\ label\ of|is\ a\ file\ too|disks\ and\ those\ of|less\ than\ the\ guest's\ memory|is\ more\ than\ memory_max""", re.X)
# What only this host says, after everything else was found good; and what the names of the files made here lead to.
HOST = re.compile(r"can't be (found|read|written|executed)|can't read|is (a|not a) (folder|file)|there is no (network|PCI) device|this host offers no|is already the name of the VM in")

VALUES = [None, True, 0, 1, -1, 2.5, 70000, 5000000000, "", "x", "a/b", "/x", "1G", "5s", "5s1h", "0", "auto", "tap", "raw", "127.0.0.1:80", [],
          [1], ["/x"], {}, {"x": 1}]


def load(path):
    with open(path) as f:
        return json.load(f)


def places(value, path=()):
    """Every place in a value, as a path of keys and indices."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def changed(spec, path, change):
    copied = copy.deepcopy(spec)
    at = copied
    for key in path[:-1]:
        at = at[key]
    change(at, path[-1])
    return copied


def variants(spec):
    for path in places(spec):
        if not path:
            continue
        for value in VALUES:
            yield changed(spec, path, lambda at, key, v=value: at.__setitem__(key, v))
        yield changed(spec, path, lambda at, key: at.__delitem__(key))
        yield changed(spec, path, lambda at, key: at[key].__setitem__("unknwon", 1) if isinstance(at[key], dict) else None)


def check(specs):
    """What the checker says of each: a list of reasons."""
    with tempfile.TemporaryDirectory(prefix="holdfast-schema-") as folder:
        for i, spec in enumerate(specs):
            with open(os.path.join(folder, f"{i:06}.json"), "w") as f:
                json.dump(spec, f)
        done = subprocess.run([VMCTL, "check", "--json", folder], capture_output=True, text=True, timeout=300)
    assert done.stderr == "", done.stderr
    return [[p["reason"] for p in one["problems"]] for one in json.loads(done.stdout)]


class Schema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.schema = load(os.path.join(HERE, "../../proto/holdfast-vm.schema.json"))
        jsonschema.Draft202012Validator.check_schema(cls.schema)
        cls.validator = jsonschema.Draft202012Validator(cls.schema)
        cls.good = [path for path in sorted(glob.glob(os.path.join(HERE, "good", "*.json"))) if not path.endswith(".plan.json")]
        cls.bad = sorted(glob.glob(os.path.join(HERE, "bad", "*.json")))

    def test_good_specs(self):
        self.assertGreater(len(self.good), 10)
        for path in self.good:
            self.assertEqual([e.message for e in self.validator.iter_errors(load(path))], [], path)

    def test_bad_specs(self):
        self.assertGreater(len(self.bad), 30)
        refused = 0
        for path in self.bad:
            with open(path.replace(".json", ".errors")) as f:
                reasons = f.read().splitlines()
            if reasons[0].startswith("line "):
                continue  # no JSON, or none that we take
            if all(BEYOND.search(reason) for reason in reasons) or reasons[0].startswith(("no-kvm: ", "no-confidential: ", "no-firmware: ", "old-qemu: ")):
                continue
            self.assertFalse(self.validator.is_valid(load(path)), f"{path}: {reasons}")
            refused += 1
        self.assertGreater(refused, 25)

    def test_what_sp_vm_files_become(self):
        for path in glob.glob(os.path.join(HERE, "sp-vm/good/*.native")):
            with open(path) as f:
                spec = json.loads("".join(line for line in f if not line.startswith("warning: ")))
            self.validator.validate(spec)

    def test_as_the_checker(self):
        # Of those that differ in the host alone, or in how many devices they have, one is as good as all.
        alike = re.compile(r"too-many|/(snp|milan|gpu)-|/tdx-(0|8|auto|untrusted)")
        specs = [spec for path in self.good if not alike.search(path) for spec in variants(load(path))]
        unlike = []
        good = bad = 0
        for spec, reasons in zip(specs, check(specs), strict=True):
            valid = self.validator.is_valid(spec)
            reasons = [reason for reason in reasons if not HOST.search(reason)]
            good += not reasons
            bad += bool(reasons)
            if not reasons and not valid:
                unlike.append(f"refused, though good: {json.dumps(spec)}: {next(self.validator.iter_errors(spec)).message}")
            elif valid and not all(BEYOND.search(reason) for reason in reasons):
                unlike.append(f"accepted, though bad: {json.dumps(spec)}: {reasons}")
        print(f"{good} good and {bad} bad variants", file=sys.stderr)
        self.assertGreater(min(good, bad), 500)
        self.assertFalse(unlike, "\n".join([f"{len(unlike)} verdicts differ", *unlike[:20]]))


if __name__ == "__main__":
    unittest.main()
