"""What was committed while it was mounted is not kept twice once the mount is gone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command

pytestmark = pytest.mark.root


@pytest.fixture
def place(cli: Command, tmp_path: Path) -> Path:
    """``app+main``, mounted, with a file that is committed and in the upperdir."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "1"}), "app")
    mounted = Path(cli.ok("mount", "app+main"))
    (mounted / "large").write_text(BIG * 1000)
    cli.ok("commit", "app+main")
    return mounted


def upperdir(cli: Command) -> list[str]:
    return sorted(os.listdir(cli.store / "refs/app/worktrees/main/upperdir"))


def bases(cli: Command) -> tuple[str, str]:
    (tree,) = cli.json("worktree", "list", "app")
    return tree["base"], tree["head"]


def test_unmount_folds(cli: Command, place: Path) -> None:
    assert upperdir(cli) == ["large"]
    cli.ok("unmount", place)
    base, head = bases(cli)
    assert (upperdir(cli), base) == ([], head)
    again = Path(cli.ok("mount", "app+main"))
    assert shown(again) == {"a": "1", "large": BIG * 1000}
    cli.ok("unmount", "app+main")


def test_gc_says_what_is_kept_twice_while_it_is_in_use(cli: Command, place: Path) -> None:
    assert "app+main keeps up to" in cli.ok("gc")
    done = cli.json("gc", "-n")
    (kept,) = done["kept_in_use"]
    assert (kept["worktree"], done["kept_twice"], done["folded"]) == ("app+main", [], [])
    assert kept["bytes"] >= len(BIG) * 1000
    assert upperdir(cli) == ["large"]
    cli.ok("unmount", place)
    assert cli.json("gc")["kept_in_use"] == []


def test_what_is_not_committed_is_left_and_gc_says_so(cli: Command, place: Path) -> None:
    (place / "more").write_text("m")
    cli.ok("unmount", place)
    assert upperdir(cli) == ["large", "more"]
    assert "app+main" in cli.ok("gc")
    done = cli.json("gc")
    assert (done["folded"], [kept["worktree"] for kept in done["kept_twice"]]) == ([], ["app+main"])
    assert done["kept_twice"][0]["bytes"] >= len(BIG) * 1000
    assert upperdir(cli) == ["large", "more"]


def test_gc_folds_what_unmount_did_not(cli: Command, place: Path) -> None:
    cli.ok("unmount", place)
    _, head = bases(cli)
    cli.ok("mount", "app+main")
    (place / "second").write_text(BIG * 1000)
    cli.ok("commit", "app+main")
    assert cli.json("gc")["folded"] == []  # it is in use
    subprocess.run(["umount", place], check=True)  # behind Stratum's back
    would = cli.json("gc", "-n")["folded"]
    assert upperdir(cli) == ["second"]
    done = cli.json("gc")["folded"]
    assert done == would
    assert (done[0]["worktree"], done[0]["bytes"] >= len(BIG) * 1000) == ("app+main", True)
    assert upperdir(cli) == []
    assert bases(cli)[0] == bases(cli)[1] != head
    assert cli.json("gc")["folded"] == []


def test_a_fold_that_fails_does_not_fail_the_unmount(cli: Command, place: Path) -> None:
    tree = cli.store / "refs/app/worktrees/main/meta.toml"
    whole = tree.read_bytes()
    tree.write_bytes(whole[:-3])
    code, _, err = cli("unmount", place)
    tree.write_bytes(whole)
    assert code == 0
    assert "app+main committed while it was mounted is kept twice" in err
    assert upperdir(cli) == ["large"]
