"""What ``status`` and ``unmount`` know of mounts, however they were named; strata that two processes make or remove."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree, shown
from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.root


@pytest.fixture
def commit(cli: Command, tmp_path: Path) -> str:
    """The commit of ``app:latest``."""
    return cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")


def mounts(cli: Command) -> dict[str, list[str]]:
    """Stratum -> the refs of its read-only mounts in ``status``."""
    return {entry["name"]: [m["ref"] for m in entry["mounted_tags"]] for entry in cli.json("status")}


def test_mounts_of_commits_are_in_the_status(cli: Command, commit: str, tmp_path: Path) -> None:
    cli.ok("mount", f"app:{commit[:10]}", tmp_path / "one")
    assert mounts(cli) == {"app": [f"app:{commit}"]}
    assert commit in cli.ok("status", tmp_path / "one")
    cli.ok("unmount", commit[:12])
    cli.ok("mount", commit[:10], tmp_path / "one")
    assert mounts(cli) == {"app": [], "": [commit]}
    assert commit in cli.ok("status")
    assert commit in cli.ok("status", tmp_path / "one")
    cli.ok("unmount", f"app:{commit[:9]}")
    assert mounts(cli) == {"app": []}


def test_one_of_two_that_init_the_same_stratum_wins(cli: Command, tmp_path: Path) -> None:
    places = [make_tree(tmp_path / f"place{n}", {"a": "1"}) for n in range(2)]
    running = [
        subprocess.Popen(
            [SCRIPT, "init", "app", place, "--migrate"],
            env=cli.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for place in places
    ]
    codes = [process.wait(60) for process in running]
    assert sorted(codes) == [0, 4]
    winner = places[codes.index(0)]
    (winner / "b").write_text("in the worktree")
    cli.ok("commit", winner, "v1")
    assert cli.json("status", "app")[0]["worktrees"][0]["mounts"][0]["mountpoint"] == str(winner)
    cli.ok("unmount", "app")
    assert shown(winner) == {"a": "1"}
