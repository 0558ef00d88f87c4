#!/usr/bin/env python3
"""Repeats check's own summary lines, and lists what was skipped; with CI set, a skip for any other reason than a missing kernel
or CPU feature is a failure.

    report.py JUNIT.XML

A skip is a test that exited 77, a line "SKIP reason: …" in the output of any test (one case of many), or a case that Python's unittest says it
skipped, whose reason holds such a line.
"""
import os
import re
import sys
import xml.etree.ElementTree

LINE = re.compile(r"\bSKIP (.*)")
ALLOWED = re.compile(r"(kernel|cpu): \S")
CHECK = re.compile(r"^[0-9]+%: Checks: .*$", re.MULTILINE)
UNITTEST = re.compile(r"\(skipped=([0-9]+)\)")


def output_of(case):
    return "".join(case.findtext(tag) or "" for tag in ("system-out", "system-err"))


def skips_of(case):
    """The reasons given in one test's output, "" for each skip that gives none."""
    output = output_of(case)
    reasons = [m.group(1).rstrip("' ") for m in LINE.finditer(output)]
    counted = sum(int(m.group(1)) for m in UNITTEST.finditer(output))
    skipped = case.get("status") == "notrun" or case.find("skipped") is not None
    wanted = max(counted, 1 if skipped else 0)
    return reasons + [""] * (wanted - len(reasons))


def main():
    strict = bool(os.environ.get("CI"))
    bad = 0
    for case in xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        if case.get("status") == "disabled":
            continue
        for line in CHECK.findall(output_of(case)):
            print(f"{case.get('name')}: {line}")
        for reason in skips_of(case):
            fine = bool(ALLOWED.match(reason))
            bad += not fine
            print(f"skipped in {case.get('name')}: {reason or 'no reason given'}{'' if fine else ' (not a reason that may be)'}")
    if bad and strict:
        print(f"{bad} skipped for a reason that doesn't count: only SKIP kernel: and SKIP cpu: do")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
