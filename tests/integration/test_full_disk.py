"""A store on a disk that is full, out of inodes, or read-only: one clear error and the old state; what frees space and
what only reads still works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.containers import Container
from tests.support.disks import disk, fill, use_up_inodes
from tests.support.leftovers import unmount_below
from tests.support.reading import READING
from tests.support.stores import check, leftovers, snapshot

pytestmark = pytest.mark.root


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 12 MiB with 300 inodes."""
    with disk(tmp_path / "image", tmp_path / "disk", size=12 << 20, inodes=300) as path:
        yield path


@pytest.fixture
def store_dir(small: Path) -> Path:
    return small / "store"


@pytest.fixture
def stratum(cli: Command, tmp_path: Path, store_dir: Path) -> Iterator[Command]:
    """``app`` with two tags, a commit that only the history names, a mounted worktree and an unmounted one."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"f{number}").write_bytes(os.urandom(9000))
    cli.ok("import", "--bare", source, "app:v1")
    (source / "big").write_bytes(os.urandom(1 << 20))
    cli.ok("import", "--bare", source, "app:old")
    cli.ok("remove", "app:old")
    (source / "big").write_bytes(os.urandom(1 << 20))
    cli.ok("import", "--bare", source, "app:v2")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    cli.ok("worktree", "add", "app+idle", "app:v1")
    (tmp_path / "mnt").mkdir()
    cli.ok("mount", "app+dev", tmp_path / "mnt")
    (tmp_path / "mnt/f0").write_bytes(os.urandom(500_000))
    yield cli
    unmount_below(tmp_path / "mnt")
    unmount_below(tmp_path / "other")


def take_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below ``path``."""
    return {name: (mode, content) for name, (mode, _, content) in snapshot(path).items()}


@pytest.mark.parametrize("exhaust", [fill, use_up_inodes], ids=["space", "inodes"])
def test_a_full_disk(stratum: Command, tmp_path: Path, store_dir: Path, exhaust: Callable[[Path], Path]) -> None:
    from stratum.store import Store

    mountpoint = tmp_path / "mnt"
    (tmp_path / "source/another").write_bytes(os.urandom(50_000))
    filler = exhaust(store_dir.parent)
    before = snapshot(store_dir / "refs/app/tags") | snapshot(store_dir / "commits")
    for args in (
        ("import", "--bare", tmp_path / "source", "app:v3"),
        ("commit", mountpoint),
        ("tag", "app:v1", "again"),
        ("worktree", "add", "app+more", "app:v1"),
        ("rebase", "app+idle", "app:v2"),
    ):
        code, _, err = stratum(*args)
        assert code in (0, 1), args
        if code:
            assert "No space left on device" in err, args
            assert err.count("error: ") == 1
            assert "Traceback" not in err
    check(Store.open(store_dir))
    after = snapshot(store_dir / "refs/app/tags") | snapshot(store_dir / "commits")
    assert before.items() <= after.items()
    for args in (("status",), ("list", "app"), ("show", "app:v2"), ("verify", "app:v2"), ("diff", "app:v1", "app:v2")):
        stratum.ok(*args)
    stratum.ok("fsck")
    stratum.ok("unmount", mountpoint)
    stratum.ok("remove", "app:v2")
    freed = stratum.json("gc", "--reflog-age", "0")
    assert freed["bytes_freed"] > 2 << 20
    assert len(freed["removed_commits"]) >= 2
    stratum.ok("fsck")
    stratum.ok("worktree", "remove", "--discard", "app+dev")
    take_away(filler)
    stratum.ok("import", "--bare", tmp_path / "source", "app:v3")
    stratum.ok("fsck")
    assert not leftovers(Store.open(store_dir))


def test_a_stop_whose_commit_finds_the_disk_full_is_told_of(cli: Command, tmp_path: Path, store_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_bytes(os.urandom(9000))
    cli.ok("import", "--bare", tmp_path / "source", "app:v1")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    container = Container(tmp_path / "bundles")
    try:
        assert run_hook(cli, container, "createRuntime") == (0, "")
        content = os.urandom(500_000)
        place = Path(f"/proc/{container.process.pid}/root{container.rootfs}/data")
        (place / "two").write_bytes(content)
        filler = fill(store_dir.parent)
    finally:
        container.stop()
    code, said = run_hook(cli, container, "poststop")
    assert (code, "No space left on device" in said) == (1, True)
    (tree,) = cli.json("status", "app+dev")[0]["worktrees"]
    assert "No space left on device" in tree["failed"]
    assert tree["waiting"] == f"container {container.id[:12]}"
    assert tree["mounts"] == []
    shown = cli.ok("status", "app+dev")
    assert "failed       " in shown
    assert f"waiting      what container {container.id[:12]} left is not committed yet: stratum reconcile" in shown
    filler.unlink()
    (done,) = cli.json("reconcile")
    assert done["error"] is None
    (tree,) = cli.json("status", "app+dev")[0]["worktrees"]
    assert (tree["failed"], tree["waiting"]) == (None, None)
    cli.ok("restore", "app+dev", "two", "--to", tmp_path)
    assert (tmp_path / "two").read_bytes() == content


def test_a_container_gets_a_worktree_of_a_read_only_disk_read_only(
    cli: Command, tmp_path: Path, store_dir: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one").write_text("1")
    cli.ok("import", "--bare", tmp_path / "source", "app:v1")
    cli.ok("worktree", "add", "app+dev", "app:v1")
    subprocess.run(["mount", "-o", "remount,ro", store_dir.parent], check=True)
    container = Container(tmp_path / "bundles")
    try:
        assert run_hook(cli, container, "createRuntime", "app+dev:/data:ro") == (0, "")
        assert (Path(f"/proc/{container.process.pid}/root{container.rootfs}/data/one")).read_text() == "1"
    finally:
        container.stop()
    assert run_hook(cli, container, "poststop", "app+dev:/data:ro")[0] == 0


def run_hook(cli: Command, container: Container, stage: str, volume: str = "app+dev:/data") -> tuple[int, str]:
    """Run a stage of the hook for a container with the ``volume``; its exit status and stderr."""
    gone = {"status": "stopped", "pid": 0} if stage == "poststop" else {}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "stratum.hook", stage],
        input=container.state({"a": volume}, **gone),
        env={key: value for key, value in cli.environment.items() if key.startswith("STRATUM_")},
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("exhaust", [fill, use_up_inodes], ids=["space", "inodes"])
def test_removing_worktrees_on_a_full_disk(
    stratum: Command, tmp_path: Path, store_dir: Path, exhaust: Callable[[Path], Path]
) -> None:
    """One without changes needs no room; one with changes is not thrown away, and the error says what helps."""
    stratum.ok("commit", tmp_path / "mnt")
    stratum.ok("worktree", "add", "app+work", "app:v1")
    stratum.ok("mount", "app+work", tmp_path / "other")
    (tmp_path / "other/new").write_bytes(os.urandom(50_000))
    stratum.ok("unmount", tmp_path / "other")
    stratum.ok("unmount", tmp_path / "mnt")
    exhaust(store_dir.parent)
    code, _, err = stratum("remove", "--yes", "app+work")
    error, hint = err.splitlines()
    assert code == 1
    assert error.startswith("error: app+work has uncommitted changes, which cannot be kept: cannot write ")
    assert error.endswith(": No space left on device")
    assert hint == "hint: free some space on the store's file system, or remove it without its changes: --discard"
    assert (store_dir / "refs/app/worktrees/work/upperdir/new").stat().st_size == 50_000
    for clean in ("idle", "dev"):
        stratum.ok("remove", "--yes", f"app+{clean}")
        assert not (store_dir / f"refs/app/worktrees/{clean}").exists()
    stratum.ok("remove", "--yes", "--discard", "app+work")


def test_a_mount_on_a_full_disk_says_that_it_is_full(stratum: Command, tmp_path: Path, store_dir: Path) -> None:
    stratum.ok("worktree", "add", "app+fresh", "app:v1")
    fill(store_dir.parent)
    code, _, err = stratum("mount", "app+fresh", tmp_path / "other")
    assert (code, "No space left on device" in err, "stratum gc" in err, "xattrs" in err) == (1, True, True, False)
    assert not (tmp_path / "other").exists()


def test_worktrees_of_a_read_only_disk_are_mounted_read_only(stratum: Command, tmp_path: Path, store_dir: Path) -> None:
    """With all that its upperdir means; also one that has no lock file."""
    mnt, other = tmp_path / "mnt", tmp_path / "other"
    (mnt / "f1").unlink()
    (mnt / "f2").rename(mnt / "renamed")
    os.chmod(mnt / "f3", 0o600)
    shown = contents(mnt)
    stratum.ok("unmount", mnt)
    stratum.ok("worktree", "add", "app+fresh", "app:v1")
    (store_dir / "refs/app/worktrees/fresh.lock").unlink()
    subprocess.run(["mount", "-o", "remount,ro", store_dir.parent], check=True)
    stratum.ok("mount", "--read-only", "app+dev", mnt)
    assert contents(mnt) == shown
    with pytest.raises(OSError, match="Read-only file system"):
        (mnt / "f4").write_bytes(b"x")
    stratum.ok("mount", "--read-only", "app+fresh", other)
    assert (other / "f2").read_bytes() == (tmp_path / "source/f2").read_bytes()
    stratum.ok("unmount", other)
    stratum.ok("unmount", mnt)
    code, _, err = stratum("mount", "app+dev", mnt)
    assert (code, err) == (
        6,
        "error: cannot mount a worktree for writing: the store's file system is read-only\n"
        "hint: mount it read-only: --read-only, or the option ro of a container's volume\n",
    )


def test_a_read_only_disk(stratum: Command, tmp_path: Path, store_dir: Path) -> None:
    stratum.ok("unmount", tmp_path / "mnt")
    subprocess.run(["mount", "-o", "remount,ro", store_dir.parent], check=True)
    for args in (
        *READING,
        ("fsck",),
        ("restore", "app:v1", "f0", "--to", tmp_path),
        ("push", "app:v1", f"oci:{tmp_path}/layout:v1"),
        ("mount", "app:v1", tmp_path / "mnt"),
        ("unmount", tmp_path / "mnt"),
    ):
        stratum.ok(*args)
    for args in (
        ("import", "--bare", tmp_path / "source", "app:v3"),
        ("tag", "app:v1", "again"),
        ("commit", "app+dev"),
        ("gc",),
        ("fsck", "--repair"),
        ("remove", "app:v1"),
    ):
        code, _, err = stratum(*args)
        if code == 0:
            assert args[0] in ("gc", "fsck"), args  # there was nothing to do
        else:
            assert (code, "Read-only file system" in err) == (6, True), (args, err)
