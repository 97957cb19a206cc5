"""Large files in a worktree from one commit to the next: read again wherever they may have changed, and only there."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.ingest.reader import Pending
from stratum.ingest.remembered import REMEMBERED_MIN, RememberingReader, is_at_rest
from stratum.ingest.upperdir import read_upperdir
from stratum.ingest.worktree import hash_upperdir, store_upperdir
from stratum.tree.model import Directory, File, lookup
from tests.integration.overlay_ops import Lab, Worktree, lines
from tests.support.disks import disk

pytestmark = pytest.mark.root

SIZE = REMEMBERED_MIN + 12345
CONTENT = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """On ext4, whatever the tests run on."""
    place = tmp_path_factory.mktemp("lab")
    with disk(place / "disk", place / "mnt", size=256 << 20) as mountpoint:
        yield Lab(mountpoint)


@pytest.fixture
def tree(lab: Lab) -> Iterator[Worktree]:
    source = lab.place / "source"
    source.mkdir(exist_ok=True)
    with lab.worktree(lab.commit_directory(source)) as worktree:
        yield worktree


def commit(tree: Worktree) -> Directory:
    """What a commit makes of the worktree, which is what the mounted view shows."""
    store = tree.lab.store
    with store.begin() as tx:
        root = store_upperdir(tx, store.objects, tree.base, tree.upper, lambda warning: None)
        store.commits.write(tx, root)
    assert lines(root) == lines(tree.walk())
    assert lines(hash_upperdir(store.objects, tree.base, tree.upper, lambda warning: None)) == lines(root)
    return root


def wait_for_the_clock(path: Path) -> None:
    """Wait until what was changed just now can be told from a later state."""
    while time.time_ns() < path.lstat().st_ctime_ns + 150_000_000:
        time.sleep(0.01)


class Asked:
    """A content reader that only says which files it was to read."""

    def __init__(self) -> None:
        self.names: list[bytes] = []

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        self.names += [file.name for file in files]

    def finish(self) -> None:
        """Nothing is under way."""


def asked(tree: Worktree) -> list[bytes]:
    """The files that a commit would read."""
    asked = Asked()
    read_upperdir(tree.base, tree.upper, RememberingReader(asked, tree.lab.store.objects, tree.upper))
    return sorted(asked.names)


def remembered(tree: Worktree) -> Path:
    """A large file that was there for the last commit and is not read for the next; its path in the view."""
    for name in ("file", "same", "small"):
        (tree.view / name).write_bytes(CONTENT if name != "small" else b"s" * 50)
    assert asked(tree) == [b"file", b"same", b"small"]
    wait_for_the_clock(tree.upper / "same")
    commit(tree)
    assert asked(tree) == [b"small"]
    commit(tree)
    assert asked(tree) == [b"small"]
    return tree.view / "file"


def restore_times(path: Path, change: Callable[[], None]) -> None:
    """Change a file and give it back the modification time that it had."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(OTHER)


def rewrite_a_byte_mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as view:
        view[SIZE // 2] ^= 1


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(OTHER)
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.rename(path)


def punch(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(SIZE - 1)
        file.truncate(SIZE)


@pytest.mark.parametrize("change", [rewrite, rewrite_a_byte_mapped, replace, punch])
def test_a_change_that_keeps_size_and_time_is_seen(tree: Worktree, change: Callable[[Path], None]) -> None:
    path = remembered(tree)
    before = file_digest(commit(tree))
    restore_times(path, lambda: change(path))
    assert asked(tree) == [b"file", b"small"]
    assert file_digest(commit(tree)) not in (before, None)


def file_digest(root: Directory) -> bytes | None:
    inode = lookup(root, b"file")
    assert isinstance(inode, File)
    return inode.digest


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_a_file_that_somebody_may_write_to_is_always_read(tree: Worktree, how: str) -> None:
    """A page that is dirty already is written again without any sign of it in the file's times."""
    path = tree.view / "file"
    path.write_bytes(CONTENT)
    file = path.open("r+b", buffering=0)
    with mmap.mmap(file.fileno(), SIZE) as view:
        if how == "mapped":
            file.close()
        view[0] ^= 1
        wait_for_the_clock(tree.upper / "file")
        for _ in range(3):
            assert file_digest(commit(tree)) == verity_digest(path.read_bytes())
            assert asked(tree) == [b"file"]
            view[0] ^= 1
            view[SIZE - 1] ^= 1
            assert file_digest(commit(tree)) == verity_digest(path.read_bytes())
    file.close()
    wait_for_the_clock(tree.upper / "file")
    commit(tree)
    assert asked(tree) == []


def test_metadata_are_those_of_now(tree: Worktree) -> None:
    path = remembered(tree)
    path.chmod(0o600)
    os.setxattr(path, "user.x", b"y")
    assert asked(tree) == [b"file", b"small"]
    commit(tree)
    (tree.view / "moved").mkdir()
    path.rename(tree.view / "moved/away")
    commit(tree)


def test_what_the_store_lost_is_read_again(tree: Worktree) -> None:
    remembered(tree)
    for file in ("file", "same"):
        tree.lab.store.objects.path(verity_digest((tree.view / file).read_bytes())).unlink(missing_ok=True)
    assert asked(tree) == [b"file", b"same", b"small"]
    commit(tree)
    assert asked(tree) == [b"small"]


def test_a_damaged_cache_is_ignored(tree: Worktree) -> None:
    remembered(tree)
    for path in tree.lab.store.layout.ingest_cache.iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert asked(tree) == [b"file", b"same", b"small"]
    commit(tree)
    assert asked(tree) == [b"small"]


def test_only_what_cannot_be_written_to_unseen_is_at_rest(lab: Lab, tmp_path: Path) -> None:
    path = lab.place / "plain"
    path.write_bytes(b"x")
    wait_for_the_clock(path)
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        assert is_at_rest(file.fileno(), info)
        with path.open("ab"):
            assert not is_at_rest(file.fileno(), info)
        assert is_at_rest(file.fileno(), info)
        path.chmod(0o600)
        assert not is_at_rest(file.fileno(), info)
    shared = Path("/dev/shm") / f"stratum-{os.getpid()}"
    try:
        shared.write_bytes(b"x")
        wait_for_the_clock(shared)
        with shared.open("rb") as file:
            assert not is_at_rest(file.fileno(), os.fstat(file.fileno()))
    finally:
        shared.unlink()
