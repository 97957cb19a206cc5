"""Stores on full, read-only and foreign disks, and worktrees whose root has an owner and attributes."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stratum.errors import StratumError, UnsupportedError
from stratum.refs import parse_ref
from stratum.store import Store
from stratum.store.imageroom import Room
from stratum.store.images import LOCK
from stratum.store.layout import NoSpaceError
from stratum.tree.model import Directory
from tests.support.grounds import Stack, check_kept, collect, grown, many, name
from tests.support.injection import REFUSED, calls_of, failed_at
from tests.support.stores import check, commit, directory, file, leftovers, snapshot

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 MiB and 200 files."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200,mode=0700", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_what_a_disk_refuses_of_a_sync_that_was_begun_ahead_is_told(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")

    def change() -> None:
        with store.begin() as tx:
            digest = tx.add_bytes(b"x" * 5000)
            tx.sync_ahead()
            tx.sync_ahead()
            tx.publish_objects()
            assert store.objects.has(digest)

    outcome = failed_at(change, "syncfs", 1, "EIO")  # the first of each thread: what is ahead is waited for
    assert (outcome.status, "Input/output error" in outcome.message) == (REFUSED, True), outcome
    assert not list(store.objects.names())
    assert not leftovers(store)
    assert calls_of(change, "syncfs")["syncfs"] == 2  # what was synced ahead is not synced again, but its names are


def fill(path: Path) -> None:
    """Use up all space below ``path``."""
    with open(path / "filler", "wb", buffering=0) as filler:
        size = 1 << 16
        while size:
            with suppress(OSError):
                filler.write(bytes(size))
                continue
            size //= 2


def test_a_full_disk_is_one_clear_error_and_the_old_state(small_disk: Path) -> None:
    store = Store.create(small_disk / "store")
    old = commit(store, {b"a": b"x" * 1000})
    store.tags.set("app", "latest", old)
    before = snapshot(store.root)
    with pytest.raises(StratumError, match="No space left on device") as caught, store.begin() as tx:
        tx.add_pieces([bytes(1 << 20)] * 8, 8 << 20)
    assert "gc" in caught.value.hint
    with pytest.raises(StratumError, match="No space left on device"), store.begin() as tx:
        tx.add_bytes(os.urandom(8 << 20))
    assert snapshot(store.root) == before
    fill(small_disk)
    with pytest.raises(StratumError, match="No space left on device"):
        commit(store, {b"b": b"y" * 100_000})
    with pytest.raises(StratumError, match="No space left on device"):
        store.worktrees.create("app", "main", old)
    (small_disk / "filler").unlink()
    check(store)
    assert store.commits.list() == [old]
    assert store.worktrees.names("app") == []
    assert not leftovers(store)


def test_a_disk_without_room_for_files(small_disk: Path) -> None:
    store = Store.create(small_disk / "store")
    old = commit(store, {b"a": b"x" * 1000})
    store.tags.set("app", "latest", old)
    with pytest.raises(StratumError, match="No space left on device"):
        commit(store, {b"%d" % number: b"%d" % number * 100 for number in range(300)})
    check(store)
    assert not leftovers(store)
    assert store.commits.list() == [old]


def test_removing_works_on_a_full_disk(small_disk: Path) -> None:
    store = Store.create(small_disk / "store")
    store.tags.set("app", "latest", commit(store, {b"a": b"x" * 1000}))
    worktree = store.worktrees.create("app", "main", store.resolve_commit(parse_ref("app")))
    (worktree.upperdir / "big").write_bytes(bytes(1 << 20))
    fill(small_disk)
    store.worktrees.remove("app", "main")
    store.remove("app")
    assert store.names() == []
    assert not leftovers(store)


def test_commits_on_each_other_on_a_full_disk(small_disk: Path) -> None:
    """None is made, every one can be read, and those that go make room, also those that others are stored on."""
    stack = Stack(Store.create(small_disk / "store"))
    store = stack.store
    fill(small_disk)
    before = snapshot(store.root)
    for content, on in (({name(3): b"n" * 30_000}, "third"), (many(9, 1200), "whole")):
        with pytest.raises(NoSpaceError, match="No space left on device"):
            grown(store, content, on=stack.commits[on])
    assert snapshot(store.root).items() >= before.items()
    for tag in ("first", "whole", "shared"):
        store.tags.remove("stack", tag)
    collect(store)
    kept = {stack.commits[tag] for tag in ("second", "third", "orphan")}
    assert set(store.commits.list()) == kept
    check(store)
    check_kept(store)
    grown(store, {name(3): b"n" * 30_000}, on=stack.commits["third"])


def test_a_read_only_store_can_be_read(small_disk: Path) -> None:
    store = Store.create(small_disk / "store")
    made = commit(store, {b"a": b"x" * 1000})
    store.tags.set("app", "latest", made)
    store.worktrees.create("app", "main", made)
    other = commit(store, {b"a": b"2"})
    store.images.ensure(made)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = Store.open(small_disk / "store")
    for text in ("app", "app:latest", "app+main", made[:8]):
        assert store.resolve_mountable(parse_ref(text)).commit == made
    assert store.images.ensure(made).exists()
    assert store.commits.tree(made).children
    assert store.tags.list("app") == {"latest": made}
    assert len(store.reflog.read("app")) == 2
    for change in (
        lambda: commit(store, {b"b": b"1"}),
        lambda: store.tags.set("app", "v1", made),
        lambda: store.worktrees.remove("app", "main"),
        lambda: store.remove("app"),
        lambda: store.images.ensure(other),
        lambda: Store.create(small_disk / "another"),
    ):
        with pytest.raises(UnsupportedError, match="Read-only file system") as caught:
            change()
        assert "read-only" in caught.value.hint


def test_a_store_of_somebody_else_is_refused(store_dir: Path, tmp_path: Path) -> None:
    Store.create(store_dir)
    os.chown(store_dir, 1234, 1234)
    with pytest.raises(UnsupportedError, match="belongs to user 1234") as caught:
        Store.open(store_dir)
    assert caught.value.hint
    (tmp_path / "foreign").mkdir()
    os.chown(tmp_path / "foreign", 1234, 1234)
    with pytest.raises(UnsupportedError, match="belongs to user 1234"):
        Store.create(tmp_path / "foreign")
    assert os.listdir(tmp_path / "foreign") == []


def test_a_user_can_read_roots_store_where_it_lets_him_and_cannot_write(store_dir: Path) -> None:
    made = commit(Store.create(store_dir), {b"a": b"x" * 1000})
    store_dir.chmod(0o755)
    for parent in (store_dir, *store_dir.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(1234)
            os.setuid(1234)
            store = Store.open(store_dir)
            assert store.commits.tree(made).children
            try:
                store.tags.set("app", "latest", made)
            except UnsupportedError as exc:
                assert "Permission denied" in exc.message  # noqa: PT017  (in a child of the test)
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel takes it: version 2, then (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL = acl((1, 7, NOBODY), (2, 5, 1000), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY))


def test_the_upperdir_is_what_the_root_of_the_base_is(store_dir: Path) -> None:
    store = Store.create(store_dir)
    xattrs = (
        (b"system.posix_acl_access", ACL),
        (b"system.posix_acl_default", ACL),
        (b"trusted.overlay.opaque", b"y"),
        (b"user.note", b"\0\xff"),
    )
    root = Directory(0o42750, 12345, 54321, 1_600_000_000_123_456_789, xattrs)
    with store.begin() as tx:
        root.children[b"file"] = file(tx, b"x" * 100)
        base = store.commits.write(tx, root).metadata_hash
    upperdir = store.worktrees.create("app", "main", base).upperdir
    info = upperdir.stat()
    assert (info.st_mode, info.st_uid, info.st_gid) == (0o42750, 12345, 54321)
    assert info.st_mtime_ns == 1_600_000_000_123_456_789
    assert {name: os.getxattr(upperdir, name) for name in os.listxattr(upperdir)} == {
        "system.posix_acl_access": ACL,
        "system.posix_acl_default": ACL,
        "trusted.overlay.overlay.opaque": b"y",
        "user.note": b"\0\xff",
    }


def test_the_upperdir_inherits_nothing_from_the_store(store_dir: Path) -> None:
    store = Store.create(store_dir)
    os.setxattr(store_dir / "tmp", "system.posix_acl_default", ACL)
    os.chown(store_dir / "tmp", 0, 1234)
    (store_dir / "tmp").chmod(0o2755)
    with store.begin() as tx:
        base = store.commits.write(tx, directory({}, mode=0o40700)).metadata_hash
    upperdir = store.worktrees.create("app", "main", base).upperdir
    assert os.listxattr(upperdir) == ["trusted.overlay.stratum.root"]  # ours, which nobody sees in the mount
    assert (upperdir.stat().st_mode, upperdir.stat().st_gid) == (0o40700, os.getegid())


def test_an_image_that_has_no_room_takes_that_of_others(small_disk: Path) -> None:
    store = Store.create(small_disk / "store")
    made = [commit(store, {b"%d-%d" % (number, each): b"" for each in range(10_000)}) for number in range(2)]
    first, second = (store.images.path(each) for each in made)
    store.images.ensure(made[0])
    os.utime(first, (0, 0))
    fill(small_disk)

    def room() -> Room:
        return Room(1 << 40)

    with first.open("rb"), pytest.raises(NoSpaceError, match="No space left on device") as caught:
        store.images.ensure(made[1], room)
    assert "stratum gc" in caught.value.hint
    assert set(os.listdir(store.layout.images)) == {LOCK, first.name}
    assert store.images.ensure(made[1], room) == second
    assert set(os.listdir(store.layout.images)) == {LOCK, second.name}
    store.images.check(made[1], store.commits.tree(made[1]))
    assert not leftovers(store)
