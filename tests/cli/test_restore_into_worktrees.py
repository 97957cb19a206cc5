"""``restore`` into worktrees, mounted and not: what is there, what stays, and symbolic links that lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.trees import BIG, make_tree, shown
from tests.support.command import Command

pytestmark = pytest.mark.root


@pytest.fixture
def mnt(tmp_path: Path) -> Path:
    """An empty directory to mount at."""
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def worktree(cli: Command, tmp_path: Path) -> str:
    """``app+w`` over a commit with a directory ``d``."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"d/x": "old x", "d/y": BIG}), "app")
    cli.ok("worktree", "add", "app+w", "app:latest")
    return "app+w"


def test_no_symbolic_link_leads_out_of_a_mounted_worktree(
    cli: Command, worktree: str, mnt: Path, tmp_path: Path
) -> None:
    outside = make_tree(tmp_path / "outside", {"x": "not yours"})
    cli.ok("mount", worktree, mnt)
    (mnt / "d").rename(mnt / "moved")
    (mnt / "d").symlink_to(outside)
    assert cli("restore", "app:latest", "d/x", "--to", worktree).code == 3
    assert cli("restore", "app:latest", "d", "--to", worktree).code == 4
    assert shown(outside) == {"x": "not yours"}
    cli.ok("unmount", mnt)
    assert cli("restore", "app:latest", "d/x", "--to", worktree).code == 3
    assert shown(outside) == {"x": "not yours"}


@pytest.mark.parametrize("mounted", [True, False])
def test_a_restored_directory_keeps_what_else_is_in_it(cli: Command, worktree: str, mnt: Path, mounted: bool) -> None:
    cli.ok("mount", worktree, mnt)
    (mnt / "d" / "x").write_text("changed")
    (mnt / "d" / "mine").write_text("mine")
    (mnt / "d" / "y").unlink()
    if not mounted:
        cli.ok("unmount", mnt)
    cli.ok("restore", "app:latest", "d", "--to", worktree)
    if not mounted:
        cli.ok("mount", worktree, mnt)
    assert shown(mnt) == {"d": None, "d/x": "old x", "d/y": BIG, "d/mine": "mine"}
    cli.ok("restore", "app:latest", "/", "--to", worktree)
    assert shown(mnt / "d") == {"x": "old x", "y": BIG, "mine": "mine"}
    cli.ok("unmount", mnt)


@pytest.mark.parametrize("mounted", [True, False])
def test_restored_from_what_a_worktree_shows_now(
    cli: Command, worktree: str, mnt: Path, tmp_path: Path, mounted: bool
) -> None:
    cli.ok("mount", worktree, mnt)
    (mnt / "d" / "new").write_text(BIG + "not committed")
    if not mounted:
        cli.ok("unmount", mnt)
    out = make_tree(tmp_path / "out", {})
    cli.ok("restore", worktree, "./d//new", "--to", out)
    assert shown(out) == {"new": BIG + "not committed"}
    if mounted:
        cli.ok("unmount", mnt)
