"""What uses the disk, as users ask for it: the figures are those of du(1), and of what is freed in the end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root

SHARED, OWN, WRITTEN = 1_000_000, 700_000, 400_000
SLACK = 200_000
"""Bytes of directories, metadata and images, about."""


@pytest.fixture
def strata(cli: Command, tmp_path: Path) -> Command:
    """``db`` with the tags v1 and v2, where v2 has a file more, and a worktree with something written over v1;
    ``other`` with v1's commit too, and ``gone``, which was removed and had a file that nobody else has."""
    source = make_tree(tmp_path / "src", {"shared": os.urandom(SHARED)})
    cli.ok("import", "--bare", source, "db:v1")
    cli.ok("tag", "db:v1", "other:v1")
    make_tree(source, {"own": os.urandom(OWN)})
    cli.ok("import", "--bare", source, "db:v2")
    cli.ok("import", "--bare", make_tree(tmp_path / "gone", {"gone": os.urandom(OWN)}), "gone:v1")
    cli.ok("remove", "gone", "--yes")
    cli.ok("worktree", "add", "db+main", "db:v1")
    make_tree(Path(cli.ok("mount", "db+main")), {"written": os.urandom(WRITTEN)})
    cli.ok("unmount", "db+main")
    return cli


def on_disk(cli: Command, *how: str) -> int:
    return int(subprocess.check_output(["du", "-s", "-B1", *how, cli.store]).split()[0])


def about(expected: int) -> Any:
    return pytest.approx(expected, abs=SLACK)


def test_the_parts_are_what_du_says_and_gc_frees_what_was_told(strata: Command) -> None:
    found = strata.json("du", "-s")
    assert found["store"]["total"]["disk"] == on_disk(strata)
    assert sum(part["disk"] for part in found["store"]["parts"].values()) == on_disk(strata)
    assert found["store"]["parts"]["worktrees"]["apparent"] == about(WRITTEN)
    assert (found["store"]["objects"], found["store"]["commits"], found["store"]["remote"]) == (3, 3, 0)
    assert found["strata"] == found["commits"] == found["worktrees"] == []
    assert found["store"]["gc"] == about(OWN)
    before = on_disk(strata)
    assert strata.json("gc")["bytes_freed"] == found["store"]["gc"]
    assert on_disk(strata) == pytest.approx(before - found["store"]["gc"], abs=16384)
    assert strata.json("du", "-s")["store"]["gc"] == 0


def test_strata_commits_and_worktrees(strata: Command) -> None:
    db, other = strata.json("du")["strata"]
    assert [db["name"], other["name"]] == ["db", "other"]
    assert (db["commits"], db["worktrees"]) == (2, 1)
    assert db["total"]["disk"] == about(SHARED + OWN + WRITTEN)
    assert db["exclusive"]["disk"] == about(OWN + WRITTEN)
    assert other["total"]["disk"] == other["shared"]["disk"] == about(SHARED)
    assert other["exclusive"]["disk"] == 0
    commits = strata.json("du", "--commits")["commits"]
    by_refs = {tuple(c["refs"]): (c["exclusive"]["disk"], c["gc"], c["kept"]) for c in commits}
    assert by_refs == {
        ("db:v2",): (about(OWN), 0, "db:v2"),
        (): (about(OWN), about(OWN), None),
        ("db+main", "db:v1", "other:v1"): (about(0), 0, "other:v1"),
    }
    assert commits == sorted(commits, key=lambda row: -row["exclusive"]["disk"])
    (worktree,) = strata.json("du", "--worktrees", "db")["worktrees"]
    assert worktree["exclusive"]["disk"] == worktree["written"]["disk"] == about(WRITTEN)
    assert worktree["total"]["disk"] == about(SHARED + WRITTEN)
    asked = strata.json("du", "db+main", "db:v2", "other")
    assert (asked["worktrees"], [row["name"] for row in asked["strata"]]) == ([worktree], ["other"])
    assert [row["refs"] for row in asked["commits"]] == [["db:v2"]]
    assert strata.json("du", "db:v2@{now}")["commits"] == asked["commits"]
    assert strata("du", "db+main@1").code == 2
    out = strata.ok("du", "--commits", "db")
    assert all(len(line.split("\t")) == 7 for line in out.splitlines())
    assert strata("du", "none").code == 3
    assert strata("du", "-s", "db").code == 2


def test_dry_runs_tell_bytes(strata: Command) -> None:
    would = strata.json("gc", "-n")
    (going,) = would["by_stratum"]
    assert (going["stratum"], going["commits"], going["objects"]) == (None, 1, 1)
    assert going["bytes"] == would["bytes_freed"] == about(OWN)
    assert "would free" in strata.ok("gc", "-n")
    assert strata.json("remove", "-n", "db:v1")["frees"]["disk"] == 0
    frees = strata.json("remove", "-n", "db:v2")["frees"]["disk"]
    assert frees == about(OWN)
    assert strata.json("remove", "-n", "db+main")["frees"]["disk"] == about(WRITTEN)
    assert strata.json("remove", "-n", "db")["frees"]["disk"] == about(OWN + WRITTEN)
    strata.ok("gc")
    strata.ok("remove", "db:v2")
    (going,) = strata.json("gc", "-n", "--reflog-age", "0")["by_stratum"]
    assert (going["stratum"], going["bytes"]) == ("db", frees)
    done = strata.json("gc", "--reflog-age", "0")
    assert (done["bytes_freed"], done["by_stratum"]) == (frees, None)


def test_nothing_is_said_to_be_free_where_gc_would_refuse(strata: Command) -> None:
    path = (strata.store / "refs/db/tags/v2").resolve()
    path.write_bytes(path.read_bytes()[:-10])
    result = strata("du", "-s", "--format", "json")
    assert result.code == 0
    assert "does not count whole" in result.stderr
    assert json.loads(result.stdout)["store"]["gc"] == 0
    assert [row["gc"] for row in strata.json("du", "--commits")["commits"]] == [0, 0, 0]
    assert strata("gc").code == 5


def test_what_is_not_here_is_remote(cli: Command, tmp_path: Path) -> None:
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"far": os.urandom(SHARED)}), "db:v1")
    cli.ok("push", "db:v1", f"oci:{tmp_path}/layout:v1")
    cli.ok("remove", "db", "--yes")
    cli.ok("gc", "--reflog-age", "0")
    cli.ok("pull", "--lazy", f"oci:{tmp_path}/layout:v1", "db")
    (db,) = cli.json("du")["strata"]
    assert (db["remote"], db["total"]["disk"]) == (SHARED, about(0))
    assert cli.json("du", "-s")["store"]["remote"] == SHARED
