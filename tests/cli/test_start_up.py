"""What the verbs of every day load: nothing that takes longer to load than they take to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
