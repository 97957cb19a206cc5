"""What the verbs of every day load: nothing that takes longer to load than they take to run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stratum.cli import main as command_line
from stratum.cli import start
from stratum.cli.everyday import plain
from tests.cli.trees import make_tree
from tests.support.cold import COLD, COLD_FOR_MOUNTS
from tests.support.command import Command

pytestmark = pytest.mark.root

NEVER = COLD | {"stratum.hook"}

PROGRAM = """
import sys
from stratum.cli.start import run

code = run(sys.argv[1:])
print("\\n" + " ".join(sys.modules))
sys.exit(code)
"""


def loaded(cli: Command, *args: str | Path) -> set[str]:
    """The modules that ``stratum ARGS`` has loaded when it is done."""
    # Isolated, so that nothing a person or a package manager adds to every start is counted.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path = {sys.path!r}\n{PROGRAM}", *args],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.rpartition("\n\n")[2].split())
    assert "stratum.errors" in modules
    return modules


def test_mounting_loads_little(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+main", "app:latest")
    mountpoint = tmp_path / "mnt"
    cli.ok("mount", "app:latest", mountpoint)  # the first mount of a commit makes its image
    cli.ok("unmount", mountpoint)
    for args, never in (
        (("mount", "app+main", mountpoint), COLD_FOR_MOUNTS),
        (("status",), COLD),
        (("status", "app+main"), COLD),
        (("status", "--short", mountpoint), COLD_FOR_MOUNTS),
        (("unmount", mountpoint), COLD),  # which looks whether there is something to fold
        (("mount", "app:latest"), COLD_FOR_MOUNTS),
        (("unmount", "app:latest"), COLD_FOR_MOUNTS),
    ):
        slow = loaded(cli, *args) & (never | {"stratum.hook"})
        assert not slow, args


def test_the_line_of_a_prompt_goes_without_the_command_line(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    mountpoint = tmp_path / "mnt"
    cli.ok("mount", "app+main", mountpoint)
    program = "from stratum.cli.start import main; main(); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path = {sys.path!r}\n{program}", "status", "--short"],
        env=cli.environment,
        cwd=mountpoint,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == cli.ok("status", "--short", mountpoint) + "\n" == "app+main latest\n"
    assert {"click", "stratum.cli.main", *NEVER}.isdisjoint(done.stderr.split())
    cli.ok("unmount", mountpoint)
    broken = {**cli.environment, "STRATUM_HISTORY_MAX": "nonsense"}
    by_prompt, by_command = (
        subprocess.run(
            [sys.executable, "-m", "stratum", *words], env=broken, capture_output=True, text=True, check=False
        )
        for words in (["status", "--short"], ["status", "--short", "."])
    )
    assert (by_prompt.returncode, by_prompt.stderr) == (by_command.returncode, by_command.stderr)
    assert by_prompt.stderr.startswith("error: ")


def test_commits_load_what_they_need(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    mountpoint = tmp_path / "mnt"
    cli.ok("mount", "app+main", mountpoint)
    (mountpoint / "b").write_bytes(bytes(100))
    slow = loaded(cli, "commit", "app+main") & NEVER
    # What a commit is made with.
    assert slow <= {
        "backports",
        "blake3",
        "hashlib",
        "stratum.zstd",
        "stratum.ingest",
        "stratum.composefs.verity",
    }
    cli.ok("unmount", mountpoint)


def test_the_verbs_of_every_day_are_the_same_without_the_command_line(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is printed, and the exit code, of the same words given in both ways; and what those words are."""
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    place, no_text = str(tmp_path / "mnt"), os.fsdecode(b"\xff\xfe")
    for name in ("STRATUM_STORE", "STRATUM_RUNTIME_DIR", "SOURCE_DATE_EPOCH"):
        monkeypatch.setenv(name, cli.environment[name]) if name in cli.environment else None
    given = [
        ["mount", "app+dev", place],
        ["mount", "app+dev", place],  # taken
        ["commit", "app+dev"],
        ["commit", place, "v1"],
        ["commit", "app+dev", "v1"],  # there
        ["-q", "commit", "app+dev"],
        ["commit", "app+dev", "--quiet"],
        ["unmount", place],
        ["unmount", place],  # not mounted any more
        ["mount", "app:v1"],
        ["unmount", "app:v1"],
        ["mount", place, "app:v1"],  # the other way round
        ["commit", "app:v1"],
        ["commit", "nothing+here", "v1"],
        ["push", "app"],  # nowhere
        ["push", "app+dev", f"oci:{tmp_path}/layout", "--quiet"],
        ["push", "nothing:here", f"oci:{tmp_path}/layout"],
        *(
            [verb, word]
            for verb in ("mount", "commit", "unmount", "push")
            for word in ("help", "+", ":", "a b", no_text, "~")
        ),
    ]
    printed = []
    for run in (start.run, command_line.run):
        for args in given:
            assert plain(args) is not None
            code, (out, err) = run(args), capfd.readouterr()
            printed.append((args, code, out, re.sub(r"since [-0-9T:]+Z", "since then", err)))
        if run is start.run:
            cli.ok("remove", "app:v1")
    half = len(printed) // 2
    assert printed[:half] == printed[half:]
    assert {code for _, code, *_ in printed} == {0, 2, 3, 4}
    for verb in ("mount", "commit", "unmount", "push"):
        for words in ([], [""], ["-"], ["--"], ["-x"], ["--help"], ["app+dev@3"], ["a", "--json"], ["a", "b", "c"]):
            assert plain([verb, *words]) is None
    assert (
        plain(["unmount", "a", "b"]) is plain(["umount", "a"]) is plain(["status"]) is plain(["app", "commit"]) is None
    )
    monkeypatch.setenv("_STRATUM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "stratum comm")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        start.run(["commit", "app+dev"])
    assert "commit" in capfd.readouterr().out
