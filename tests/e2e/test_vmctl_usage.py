"""vmctl's command line: help, typing errors, exit status 2, and that nothing but the table of verbs is listed anywhere."""
import json
import os
import re
import shutil
import subprocess
import unittest

from vmctl_case import BIN, HERE, VMCTL, VmctlCase

SOURCE = os.path.dirname(os.path.dirname(HERE))
WANTED = """check convert diff apply delete list status inspect start stop restart kill pause resume reset drain wait logs console events qmp
            health doctor shim_list shim_status shim_events shim_call shim_adopt version completion help snapshot_create snapshot_list snapshot_show snapshot_delete
            snapshot_verify snapshot_warm restore clone image_list image_pull image_show image_import image_delete image_prune""".split()


class Usage(VmctlCase):
    def table(self):
        return json.loads(self.expect(0, "help", "--json").stdout)

    def test_the_verbs(self):
        self.assertEqual(sorted(v["name"] for v in self.table()["verbs"]), sorted(name.replace("_", " ") for name in WANTED))

    def test_help_lists_each_verb_once(self):
        text = self.expect(0, "--help", err="").stdout
        for verb in self.table()["verbs"]:
            line = re.compile(rf"^  {re.escape((verb['name'] + ' ' + verb['args']).strip())}\s+{re.escape(verb['summary'])}$", re.M)
            self.assertEqual(len(line.findall(text)), 1, verb["name"])
        self.assertEqual(text, self.expect(0, "help").stdout)
        self.assertTrue(all(len(line) <= 100 for line in text.splitlines()))

    def test_help_of_each_verb_has_an_example_and_its_options(self):
        for verb in self.table()["verbs"]:
            text = self.expect(0, *verb["name"].split(), "--help", err="").stdout
            self.assertIn("\nExample:\n  ", text)
            self.assertIn("vmctl " + verb["name"], text.split("Example:")[1])
            for flag in verb["flags"]:
                self.assertIn("--" + flag["name"], text)
            self.assertEqual(text, self.expect(0, "help", *verb["name"].split()).stdout)

    def test_help_of_a_family(self):
        for words in (("shim", "--help"), ("help", "shim"), ("--help", "shim")):
            self.assertIn("shim call NAME", self.expect(0, *words).stdout)

    def test_examples_are_good_usage(self):
        """Whatever an example says is understood: the exit status is anything but 2."""
        for verb in self.table()["verbs"]:
            for line in verb["example"].splitlines():
                words = re.search(r"vmctl [^|)]*", line).group(0)
                done = subprocess.run(["bash", "-c", words.replace("vmctl", '"$0"', 1), VMCTL],
                                      env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
                self.assertNotEqual(done.returncode, 2, f"{words}: {done.stderr}")

    def test_typing_errors(self):
        self.expect(2, "strat", err="did you mean: vmctl start?", out="")
        self.expect(2, "shim", "lst", err="did you mean: vmctl shim list?")
        self.expect(2, "frobnicate", err='unknown verb "frobnicate"')
        self.expect(2, "shim", err="vmctl shim --help")
        self.expect(2, err="vmctl --help")
        self.expect(2, "stop", "web", "--forse", err="did you mean --force?")
        self.expect(2, "--jsn", "list", err="did you mean --json?")
        self.expect(2, "stop", "-Z", err="unknown option -Z")
        self.expect(2, "stop", "--timeout", err="--timeout needs a value")
        self.expect(2, "stop", "--force=1", "web", err="--force takes no value")
        self.expect(2, "stop", "--timeout", "30", "web", err='expected a duration like 30s or 5m, got "30"')
        self.expect(2, "logs", "-n", "many", "web", err='expected a number, got "many"')
        self.expect(2, "wait", "web", "--for", "runing", err='did you mean "running"?')
        self.expect(2, "kill", "web", "--signal", "FOO", err='"FOO" is no signal')
        self.expect(2, "qmp", "web", err="qmp needs NAME COMMAND [JSON]")
        self.expect(2, "qmp", "web", "stop", "{", err="line 1")
        self.expect(2, "qmp", "web", "stop", "[]", err="must be a JSON object")
        self.expect(2, "list", "web", err='unexpected argument "web"')
        self.expect(2, "console", "web", "--escape", "abc", err="--escape")
        self.expect(2, "completion", "tcsh", err="bash, zsh and fish")
        self.expect(2, "help", "nothing", err="nothing")
        self.expect(2, "stop", err="needs the name of a VM, or --all")
        self.expect(2, "stop", "--all", "web", err="don't go together")
        self.expect(2, "logs", "web", "--qemu", "--shim", err="one of them")
        for name in ("../x", "a/b", ".", "", "a" * 65, "a\nb", "-x"):
            self.expect(2, "status", "--", name, err="is no VM name")
            self.expect(2, "console", "--", name, err="is no VM name")
            self.expect(2, "shim", "status", "--", name, err="is no VM name")

    def test_every_message_is_one_line(self):
        for words in (["status", "--", "a\nb"], ["a\x1b[31mb"], ["stop", "--x\ny"]):
            done = self.expect(2, *words)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertNotIn("\x1b", done.stderr)

    def test_options_anywhere(self):
        self.manager()
        for words in (["--json", "list"], ["list", "--json"], ["--run-dir", self.path("run"), "list", "--json"]):
            self.assertEqual(len(json.loads(self.expect(0, *words).stdout)), 2)
        self.expect(4, "--run-dir", self.path("nowhere"), "list", err=self.path("nowhere", "manager.sock"))

    def test_version(self):
        self.assertRegex(self.expect(0, "--version").stdout, r"^vmctl \d+\.\d+\.\d+\S*\n$")
        self.assertIn("doesn't answer", self.expect(0, "version", err="").stdout)
        self.manager()
        self.shim("web", GetStatus=lambda p, c: {"status": {"name": "web", "state": "running", "version": "0.0.9"}})
        self.assertIn("9.8.7", self.expect(0, "version").stdout)
        self.assertIn("0.0.9 (web)", self.expect(0, "version", "--all").stdout)
        answer = json.loads(self.expect(0, "version", "--all", "--json").stdout)
        self.assertEqual((answer["manager"]["version"], answer["shims"]), ("9.8.7", [{"name": "web", "version": "0.0.9"}]))

    def test_outputs_that_fail(self):
        """A reader that leaves is no mistake; a full disk is."""
        self.manager()
        for i in range(3000):
            self.vms[f"vm{i}"] = {**self.vms["web"], "name": f"vm{i}"}
        quiet = subprocess.run(["bash", "-c", '"$0" list --json | head -n 1; exit ${PIPESTATUS[0]}', VMCTL],
                               env=self.environment, capture_output=True, text=True, timeout=60)
        self.assertEqual((quiet.returncode, quiet.stderr), (0, ""))
        with open("/dev/full", "w") as full:
            done = subprocess.run([VMCTL, "list", "--json"], stdout=full, stderr=subprocess.PIPE,
                                  env=self.environment, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left", done.stderr)


class Completion(VmctlCase):
    """Completion as a shell does it: the words a user would be offered."""

    def setUp(self):
        super().setUp()
        self.manager()
        self.table = json.loads(self.expect(0, "help", "--json").stdout)

    def complete(self, *words):
        script = ('PATH="$1:$PATH"; source <(vmctl completion bash) || exit 1; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vmctl;'
                  ' printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", BIN, *words], env=self.environment, capture_output=True,
                              text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return set(done.stdout.split())

    def test_bash(self):
        firsts = {v["name"].split()[0] for v in self.table["verbs"]}
        self.assertEqual({w for w in self.complete("vmctl", "") if not w.startswith("-")}, firsts)
        self.assertEqual(self.complete("vmctl", "sta"), {"start", "status"})
        self.assertEqual(self.complete("vmctl", "shim", ""), {v["name"][5:] for v in self.table["verbs"] if v["name"].startswith("shim ")})
        self.assertEqual(self.complete("vmctl", "stop", ""), {"web", "db"})
        self.assertEqual(self.complete("vmctl", "--run-dir", "x", "stop", "w"), {"web"})
        self.assertEqual(self.complete("vmctl", "shim", "status", "d"), {"db"})
        self.assertNotIn("web", self.complete("vmctl", "logs", "web", ""))
        self.assertIn("healthy", self.complete("vmctl", "wait", "web", "--for", ""))
        for verb in self.table["verbs"]:
            flags = {"--" + f["name"] for f in verb["flags"] + self.table["flags"]}
            self.assertEqual(self.complete("vmctl", *verb["name"].split(), "-"), flags, verb["name"])

    def test_other_shells(self):
        for shell in ("zsh", "fish"):
            text = self.expect(0, "completion", shell).stdout
            for verb in self.table["verbs"]:
                for word in verb["name"].split():
                    self.assertRegex(text, rf"\b{word}\b")
                for flag in verb["flags"]:
                    self.assertIn(flag["name"], text)
            if shutil.which(shell):
                done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_installed_files_ask_vmctl(self):
        for file, shell in (("vmctl.bash", "bash"), ("_vmctl", "zsh"), ("vmctl.fish", "fish")):
            with open(os.path.join(SOURCE, "packaging/completions", file)) as f:
                self.assertIn(f"vmctl completion {shell}", f.read())


class ManPage(VmctlCase):
    """packaging/man/vmctl.1.scd tells of the table's verbs, their arguments and options, and of no others."""

    def test_man_page(self):
        table = json.loads(self.expect(0, "help", "--json").stdout)
        with open(os.path.join(SOURCE, "packaging/man/vmctl.1.scd")) as f:
            page = f.read()
        sections = dict(re.findall(r"^## (\S.*)\n((?:(?!^#).*\n?)*)", page, re.M))
        wanted = {(v["name"] + " " + v["args"]).strip(): v for v in table["verbs"]}
        self.assertEqual(sorted(name.replace("\\", "").replace("_", "") for name in sections), sorted(wanted))
        for title, text in sections.items():
            verb = wanted[title.replace("\\", "").replace("_", "")]
            self.assertEqual(set(re.findall(r"^\*(?:-\w\*, \*)?--([a-z-]+)\*", text, re.M)), {f["name"] for f in verb["flags"]}, title)
        options = page.split("# OPTIONS")[1].split("\n# ")[0]
        self.assertEqual(set(re.findall(r"^\*(?:-\w\*, \*)?--([a-z-]+)\*", options, re.M)), {f["name"] for f in table["flags"]})


if __name__ == "__main__":
    unittest.main()
