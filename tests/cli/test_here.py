"""What is mounted at the current directory, or at a path, is what a verb without a REF, or with that path, is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.command import Command
from tests.support.leftovers import unmount_below

pytestmark = pytest.mark.root


@pytest.fixture
def mnt(cli: Command, tmp_path: Path) -> Iterator[Path]:
    """Where ``app+dev`` is mounted, with a change that is not committed."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"etc/app.conf": "1", "top": "1"}), "app:v1")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    mnt = tmp_path / "mnt"
    try:
        cli.ok("mount", "app+dev", mnt)
        (mnt / "etc/app.conf").write_text("2")
        yield mnt
    finally:
        unmount_below(tmp_path)


def test_a_session_in_a_mounted_worktree(cli: Command, mnt: Path, tmp_path: Path) -> None:
    etc = mnt / "etc"
    assert cli.ok("diff", cwd=etc) == "M /etc/app.conf"
    assert cli.ok("diff", ".", cwd=etc) == "M /etc/app.conf"
    assert cli.ok("diff", "./top", cwd=mnt) == ""
    commit = cli.ok("commit", "-m", "changed", cwd=etc)
    assert cli.ok("diff", cwd=etc) == ""
    lines = cli.ok("log", "--oneline", cwd=etc).splitlines()
    assert [line.split()[0] for line in lines] == [commit[:12], cli.ok("log", "app:v1", "--oneline").split()[0]]
    assert cli.ok("log", "./app.conf", cwd=etc).count("\n") == 1
    assert cli.ok("log", ".", cwd=etc).splitlines()[0].split("  ")[2] == "M"
    assert cli.ok("log", "./top", cwd=mnt).splitlines()[0].split("  ")[2] == "A"
    assert cli.ok("log", "--reflog", "-n1", cwd=mnt).split("  ")[1] == "app+dev"
    assert cli.json("show", ".", cwd=mnt)["commit"]["metadata_hash"] == commit
    assert cli.ok("show", "./app.conf", cwd=etc) == cli.ok("cat", etc / "app.conf") == "2"
    assert cli.ok("ls", "-R", mnt).splitlines() == ["etc/", "etc/app.conf", "top"]
    assert cli.ok("find", ".", "*.conf", cwd=mnt) == "/etc/app.conf"
    assert cli.json("tag", ".", "here", cwd=etc)["commit"] == commit
    cli.ok("push", ".", f"oci:{tmp_path / 'layout'}:x", cwd=mnt)
    cli.ok("export", mnt, tmp_path / "x.stratum.tar")
    assert cli.ok("verify", ".", cwd=mnt).startswith(commit)


def test_what_was_there_before(cli: Command, mnt: Path) -> None:
    cli.ok("commit", mnt)
    (mnt / "etc/app.conf").write_text("3")
    cli.ok("restore", "app+dev~1:/etc/app.conf", cwd=mnt)
    assert (mnt / "etc/app.conf").read_text() == "1"
    cli.ok("restore", "app+dev@{now}", "etc/app.conf")
    assert (mnt / "etc/app.conf").read_text() == "2"
    cli.ok("reset", mnt, "app+dev^")
    assert (mnt / "etc/app.conf").read_text() == "1"
    assert cli.ok("diff", "app+dev@{0s}", "app+dev") == ""


def test_who_keeps_a_mount_in_use(cli: Command, mnt: Path) -> None:
    with (mnt / "top").open() as _:
        result = cli("unmount", mnt, cwd=mnt)
    assert result.code == 4
    assert "/top" in result.stderr
    assert "stratum" not in result.stderr.partition("in use:")[2].splitlines()[0]
    assert cli.json("unmount", mnt)[0]["mountpoint"] == str(mnt)
