#!/usr/bin/env python3
"""Who may include whom: reads every #include line and compares it with the arrows of the design.

    include_direction.py [ROOT]      exit status 1 and one line per wrong include
    include_direction.py --self-test

A quoted include names a file by its path from the project's root; system headers that belong to one layer are listed too.
"""
import os
import re
import sys
import tempfile

# Folder → folders it may include from, beside itself and lib/base. The longest matching folder counts.
ARROWS = {
    "lib/base": set(),
    "lib/loop": set(),
    "lib/varlink": {"lib/loop"},
    "proto": set(),
    "lib/host": set(),
    "lib/spec": {"lib/host", "proto"},
    "lib/qemu": {"lib/host", "lib/spec", "proto"},
    "lib/images": {"lib/varlink", "lib/loop", "proto"},
    "lib/disk": {"lib/spec", "proto"},
    "lib/manager": {"lib/host", "lib/spec", "lib/qemu", "lib/disk", "lib/varlink", "lib/loop", "lib/images", "proto"},
    "shim": {"shim/memory", "shim/agent", "lib/qemu", "lib/disk", "lib/varlink", "lib/loop", "proto"},
    "shim/agent": set(),
    "shim/memory": {"shim/agent", "proto"},
    "cmd/vmctl": {"lib/host", "lib/spec", "lib/qemu", "lib/disk", "lib/varlink", "lib/loop", "proto"},
    "cmd/holdfastd": {"lib/host", "lib/spec", "lib/qemu", "lib/varlink", "lib/loop", "lib/images", "lib/manager", "proto"},
    "cmd/holdfast-mkdisk": {"lib/disk", "lib/spec", "proto"},
    "cmd/holdfast-imaged": {"lib/varlink", "lib/loop", "lib/images", "proto"},
    "tests/fake": set(),
}
# Tests may look into everything.
FREE = ("tests",)
# System headers that would make a pure layer impure.
FORBIDDEN_HEADERS = {
    "ev.h": ("lib/base", "lib/host", "proto", "lib/spec", "lib/qemu", "cmd/vmctl"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')


def folder_of(path, folders):
    """The longest of the folders that holds the path."""
    inside = [f for f in folders if path == f or path.startswith(f + "/")]
    return max(inside, key=len, default=None)


def sources(root):
    for top in ("cmd", "lib", "proto", "shim", "tests"):
        for where, folders, files in os.walk(os.path.join(root, top)):
            folders.sort()
            for name in sorted(files):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(where, name), root)


def includes(path):
    with open(path, encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            match = INCLUDE.match(line)
            if match:
                yield number, match.group(1), match.group(2)


def check_quoted(root, path, target):
    """What is wrong with this include, or None."""
    if not os.path.exists(os.path.join(root, target)):
        return f'"{target}" is no path from the project\'s root'
    source, wanted = folder_of(path, ARROWS), folder_of(target, ARROWS)
    if source is None:
        return None if path.startswith(FREE) else f"folder {os.path.dirname(path)} has no arrows: add it to ARROWS in tests/lint"
    if wanted is None:
        return f'"{target}" belongs to no part that may be included'
    if wanted in (source, "lib/base") or wanted in ARROWS[source]:
        return None
    return f"{source} may not include {wanted}: {target}"


def check_system(path, target):
    for folder in FORBIDDEN_HEADERS.get(target, ()):
        if folder_of(path, ARROWS) == folder:
            return f"{folder} may not include <{target}>"
    return None


def check_own_header_first(root, path, found):
    own = re.sub(r"\.c$", ".h", path)
    if not path.endswith(".c") or not os.path.exists(os.path.join(root, own)) or not found:
        return None
    return None if found[0][1] == own else f'its own header must be its first include: "{own}"'


def check(root):
    problems = []
    for path in sources(root):
        found = list(includes(os.path.join(root, path)))
        wrong = check_own_header_first(root, path, found)
        if wrong:
            problems.append(f"{path}:{found[0][0]}: {wrong}")
        for number, quoted, system in found:
            wrong = check_quoted(root, path, quoted) if quoted else check_system(path, system)
            if wrong:
                problems.append(f"{path}:{number}: {wrong}")
    return problems


GOOD_TREE = {
    "lib/base/err.h": "",
    "lib/base/err.c": '#include "lib/base/err.h"\n',
    "lib/loop/loop.h": "#include <ev.h>\n",
    "lib/manager/vm.h": '#include "proto/plan.h"\n#include "lib/loop/loop.h"\n',
    "proto/plan.h": '#include "lib/base/err.h"\n',
    "shim/vm.h": '#include "proto/plan.h"\n',
    "cmd/holdfastd/main.c": '#include "lib/manager/vm.h"\n',
    "tests/unit/test_vm.c": '#include "shim/vm.h"\n#include "lib/manager/vm.h"\n',
}
BAD_FILES = {
    "lib/base/up.h": '#include "proto/plan.h"\n',
    "lib/manager/cross.h": '#include "shim/vm.h"\n',
    "shim/cross.h": '#  include "lib/manager/vm.h"\n',
    "proto/loop.h": '#include "lib/loop/loop.h"\n',
    "proto/ev.h": "#include <ev.h>\n",
    "lib/loop/down.h": '#include "cmd/holdfastd/main.c"\n',
    "cmd/vmctl/manager.c": '#include "lib/manager/vm.h"\n',
    "shim/short.h": '#include "vm.h"\n',
    "lib/new/x.h": '#include "lib/base/err.h"\n',
    "shim/vm.c": '#include "lib/base/err.h"\n#include "shim/vm.h"\n',
}


def write_tree(root, files):
    for path, text in files.items():
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        with open(os.path.join(root, path), "w", encoding="utf-8") as out:
            out.write(text)


def self_test():
    """The good tree passes, and each bad file by itself is found, in one line that names it."""
    with tempfile.TemporaryDirectory() as root:
        write_tree(root, GOOD_TREE)
        assert check(root) == [], check(root)
        for path, text in BAD_FILES.items():
            write_tree(root, {path: text})
            found = check(root)
            assert len(found) == 1 and found[0].startswith(path + ":"), (path, found)
            os.unlink(os.path.join(root, path))
    print(f"include_direction: a good tree passes, {len(BAD_FILES)} bad ones are found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    problems = check(sys.argv[1] if len(sys.argv) > 1 else ".")
    print("\n".join(problems) if problems else "include_direction: all arrows point the right way")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
