#!/usr/bin/env python3
"""Rules about files as such.

    tree.py [ROOT]      exit status 1 and one line per problem
    tree.py --self-test

No C file is longer than 500 lines; every folder says in a README what lives in it; no note-to-self words are left behind; and
no test sleeps for a fixed time instead of waiting for a condition.
"""
import os
import re
import sys
import tempfile

LINES_MAX = 500
TOPS = ("cmd", "lib", "proto", "shim", "tests", "packaging")
TOP_FILES = {"CMakeLists.txt", "CMakePresets.json", "LICENSE", "README.md"}
# Folders of data, described by the README above them; Debian's folder has a layout of its own.
DATA = ("tests/golden/", "tests/fuzz/corpus", "packaging/debian")
TEXT = (".c", ".h", ".py", ".go", ".sh", ".md", ".txt", ".json", ".varlink", ".scd", ".cmake", ".service", ".supp", "")
# Put together so that this file doesn't hold the words itself.
NOTES = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
SLEEP = re.compile(r"\b(?:u|nano|time\.)?sleep(?:\s+|\(\s*)([0-9.]+)(?!\s*&|[0-9.])")
POLL_MAX = 0.1  # a shorter one is the pace of a loop that waits for a condition


def walk(root):
    """Relative path and the names of the files of every folder that is the project's."""
    for top in TOPS:
        for where, folders, files in os.walk(os.path.join(root, top)):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
            yield os.path.relpath(where, root), sorted(files)


def is_data(folder):
    return (folder + "/").startswith(DATA) or folder.startswith(DATA)


def read_text(path):
    try:
        with open(path, encoding="utf-8") as text:
            return text.read().splitlines()
    except UnicodeDecodeError:
        return []


def sleeps(line):
    match = SLEEP.search(line)
    return match and not 0 < float(match.group(1)) < POLL_MAX


def check_file(root, path):
    lines = read_text(os.path.join(root, path))
    problems = []
    if path.endswith((".c", ".h")) and len(lines) > LINES_MAX:
        problems.append(f"{path}: {len(lines)} lines, more than {LINES_MAX}: split it")
    sleepless = path.startswith("tests/") or path == "packaging/quickstart"
    for number, line in enumerate(lines, 1):
        if NOTES.search(line):
            problems.append(f"{path}:{number}: {NOTES.search(line).group(1)}: do it, or open an issue")
        if sleepless and sleeps(line):
            problems.append(f"{path}:{number}: sleeps for a fixed time: wait for a condition with a deadline")
    return problems


def check(root):
    problems = []
    for name in sorted(os.listdir(root)):
        if not name.startswith(".") and name not in TOPS and name not in TOP_FILES and name != "build":
            problems.append(f"{name}: doesn't belong at the top level")
    for folder, files in walk(root):
        if is_data(folder):
            continue
        if not any(name.startswith("README") for name in files):
            problems.append(f"{folder}: has no README that says what lives here")
        for name in files:
            if os.path.splitext(name)[1] in TEXT:
                problems += check_file(root, os.path.join(folder, name))
    return problems


def self_test():
    cases = {
        "lib/a/long.c": "int x;\n" * (LINES_MAX + 1),
        "lib/a/note.c": "/* " + "TO" + "DO: later */\n",
        "tests/a/test.py": "time.sl" + "eep(0.5)\n",
        "tests/a/test.sh": "sleep" + " 1\n",
        "tests/a/test.c": "    usleep" + "( 10);\n",
        "stray.txt": "",
        "lib/b/lonely.c": "",
    }
    fine = {
        "lib/a/ok.c": "int x;\n" * LINES_MAX,
        "tests/a/poll.py": "time.sleep(every)\ntime.sleep(0.01)\n",
        "tests/a/background.sh": "sleep 1000 & wait\n",
        "lib/a/template.c": 'mkstemp("x.XXXXXX");\n',
        "tests/golden/good/data.txt": "",
    }
    for path, text in cases.items():
        with tempfile.TemporaryDirectory() as root:
            for top in (*TOPS, "lib/a", "tests/a", "tests/golden"):
                os.makedirs(os.path.join(root, top), exist_ok=True)
                with open(os.path.join(root, top, "README.md"), "w", encoding="utf-8") as out:
                    out.write("A folder.\n")
            for p, t in {**fine, path: text}.items():
                os.makedirs(os.path.dirname(os.path.join(root, p)), exist_ok=True)
                with open(os.path.join(root, p), "w", encoding="utf-8") as out:
                    out.write(t)
            found = check(root)
            assert len(found) == 1 and found[0].startswith(path.replace("/lonely.c", "")), (path, found)
    print(f"tree: {len(cases)} kinds of mistakes are found, and nothing else")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    problems = check(sys.argv[1] if len(sys.argv) > 1 else ".")
    print("\n".join(problems) if problems else "tree: every file is in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
