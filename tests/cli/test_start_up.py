"""What the verbs of every day load: modules that take longer to load than these verbs to run stay out of their way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root

PROGRAM = """
import sys
from stratum.cli.main import run

code = run(sys.argv[1:])
print("\\n" + " ".join(sys.modules))
sys.exit(code)
"""

OTHERS = {
    "rich",
    "oras",
    "requests",
    "urllib3",
    "podman",
    "pyzstd",
    "blake3",
    "grpc",
    "tomli_w",
    "subprocess",
    "difflib",
}
PARTS = {
    "stratum.ingest",
    "stratum.oci",
    "stratum.transfer",
    "stratum.composefs",
    "stratum.hook",
    "stratum.podman",
    "stratum.csi",
}


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
    assert "stratum.cli.main" in modules
    return modules


def test_mounting_loads_little(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    cli.ok("worktree", "add", "app+main", "app:latest")
    mountpoint = tmp_path / "mnt"
    for args in (
        ("mount", "app+main", mountpoint),
        ("status",),
        ("status", "app+main"),
        ("unmount", mountpoint),
        ("mount", "app:latest"),
        ("unmount", "app:latest"),
    ):
        slow = loaded(cli, *args) & (OTHERS | PARTS)
        assert not slow, args


def test_commits_load_what_they_need(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", make_tree(tmp_path / "src", {"a": "1"}), "app")
    mountpoint = tmp_path / "mnt"
    cli.ok("mount", "app+main", mountpoint)
    (mountpoint / "b").write_bytes(bytes(100))
    slow = loaded(cli, "commit", "app+main") & {
        *OTHERS,
        "stratum.oci",
        "stratum.transfer",
        "stratum.csi",
        "stratum.hook",
    }
    assert slow <= {"blake3", "pyzstd", "tomli_w", "subprocess"}  # which a commit is made with
    cli.ok("unmount", mountpoint)
