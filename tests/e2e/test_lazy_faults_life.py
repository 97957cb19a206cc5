"""What lazy strata live through: commits over what is not here, other registries, eviction that may not take all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.lazily import LARGE, SPARSE, SPARSE_SIZE, Far, Lazily

pytestmark = [pytest.mark.root, pytest.mark.registry, pytest.mark.timeout(600)]


def sums_of(tree: Path) -> dict[str, str]:
    """The SHA-256 of each file below ``tree``."""
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file()
    }


def test_a_commit_over_a_base_that_is_not_here_travels_whole(far: Far, tmp_path: Path) -> None:
    """Changed, pushed to a repository that has nothing of it, pulled from there with all of it: the same."""
    with Lazily(tmp_path / "lazily", far, worktree=True) as lazily:
        (lazily.mnt / "new").write_bytes(os.urandom(70_000))
        with (lazily.mnt / LARGE).open("r+b") as changed:
            changed.seek(5 << 20)
            changed.write(b"changed in the middle")
        (lazily.mnt / "d6/f00").unlink()
        commit = lazily.cli.ok("commit", "app+dev")
        lazily.cli.ok("push", "app+dev", f"{far.server.host}/elsewhere/app:v2")
        wanted = sums_of(lazily.mnt)
        assert set(wanted) == set(far.sums) - {"d6/f00"} | {"new"}
        lazily.cli.ok("fsck")
    other = Command(tmp_path / "other", tmp_path / "other-run")
    far.slow.die()
    assert other.ok("pull", f"{far.server.host}/elsewhere/app:v2", "app") == commit
    (tmp_path / "restored").mkdir()
    other.ok("restore", "app:v2", "/", "--to", tmp_path / "restored")
    assert sums_of(tmp_path / "restored") == wanted
    other.ok("fsck")


def test_what_only_this_store_has_is_never_dropped(far: Far, tmp_path: Path) -> None:
    with Lazily(tmp_path / "lazily", far, worktree=True) as lazily:
        local = os.urandom(90_000)
        (lazily.mnt / "local").write_bytes(local)
        assert lazily.read(far.sums, threads=8) == {}
        lazily.cli.ok("commit", "app+dev")
        lazily.cli.ok("unrealize", "app+dev")
        lazily.cli.ok("unrealize", "app:v1")
        far.slow.die()
        assert (lazily.mnt / "local").read_bytes() == local
        lazily.cli.ok("unmount", lazily.mnt)
        lazily.cli.ok("mount", "app+dev", lazily.mnt)
        assert (lazily.mnt / "local").read_bytes() == local
        assert (lazily.mnt / "d0/f00").stat().st_size == (far.tree / "d0/f00").stat().st_size
        far.slow.live()
        lazily.right_again(far.sums, 60)
        lazily.cli.ok("fsck")


def test_links_attributes_holes_and_programs_are_as_they_were(lazily: Lazily, far: Far) -> None:
    mnt = lazily.mnt
    assert (mnt / "links/a").stat().st_ino == (mnt / "links/b").stat().st_ino == (mnt / "d1/f03").stat().st_ino
    assert (mnt / "links/a").stat().st_nlink == 3
    for name in ("user.note", "user.other"):
        assert os.getxattr(mnt / "d3/f01", name) == os.getxattr(far.tree / "d3/f01", name)
    far.slow.forget()
    with (mnt / SPARSE).open("rb") as file, (far.tree / SPARSE).open("rb") as original:
        for position in (SPARSE_MIDDLE, 0, SPARSE_MIDDLE * 2 - 100_000):
            file.seek(position)
            original.seek(position)
            assert file.read(90_000) == original.read(90_000)
    assert os.spawnv(os.P_WAIT, mnt / "program", ["busybox", "true"]) == 0
    lazily.everything_is_right()
    lazily.cli.ok("unmount", mnt)
    lazily.cli.ok("fsck")
    lazily.cli.ok("verify", "app:v1")


SPARSE_MIDDLE = SPARSE_SIZE // 2


def test_a_piece_of_a_large_file_is_a_few_requests(lazily: Lazily, far: Far) -> None:
    far.slow.forget()
    with (lazily.mnt / LARGE).open("rb", buffering=0) as file:
        file.seek(10 << 20)
        found = file.read(1 << 20)
    with (far.tree / LARGE).open("rb") as original:
        original.seek(10 << 20)
        assert found == original.read(1 << 20)
    assert len(far.slow.asked()) <= 6, "not one for each of its 256 pages, however the kernel reads ahead"
    assert sum(one.sent for one in far.slow.ranges()) < 8 << 20


def test_a_store_with_partial_commits_is_used_like_any_other(lazily: Lazily, far: Far, tmp_path: Path) -> None:
    """Every verb that reads content brings what it needs; gc and fsck take nothing away."""
    cli = lazily.cli
    cli.ok("gc", "--reflog-age", "0")
    cli.ok("fsck")
    cli.ok("tag", "app:v1", "again")
    (tmp_path / "restored").mkdir()
    cli.ok("restore", "app:v1", "/", "--to", tmp_path / "restored")
    assert sums_of(tmp_path / "restored") == far.sums
    cli.ok("export", "app:v1", tmp_path / "app.stratum.tar")
    cli.ok("gc", "--reflog-age", "0")
    lazily.everything_is_right()
    other = Command(tmp_path / "other", tmp_path / "other-run")
    assert far.commit in other.ok("import", tmp_path / "app.stratum.tar", "app")
