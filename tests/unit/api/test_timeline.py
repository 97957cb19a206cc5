"""The history of a stratum as one list, and archives of what is in commits."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

from stratum.api.archives import archive
from stratum.api.session import Session
from stratum.api.timeline import Moment, in_reflog, timeline
from stratum.config import load_config
from stratum.errors import NotFoundError, UnsupportedError, UsageError
from stratum.store import Store
from stratum.tree.model import Directory, File, Inode, Special, Symlink
from tests.support.stores import directory, file, partial_commit


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = Session(load_config({}, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run")))
    made.create_store()
    return made


def commit(store: Store, number: int, parent: str | None, second: int) -> str:
    with store.begin("a test") as tx:
        root = directory({b"n": file(tx, b"%d" % number)})
        made = store.commits.write(
            tx, root, parent=parent, timestamp=datetime(2026, 1, 1, 0, 0, second, tzinfo=timezone.utc)
        )
    return made.metadata_hash


def is_in_order(moments: list[Moment]) -> bool:
    """Whether no commit comes before one that was made of it."""
    seen: set[str] = set()
    for moment in moments:
        seen.add(moment.commit)
        if moment.parent in seen:
            return False
    return True


def test_a_timeline_has_each_commit_once_newest_first_and_parents_behind_children(session: Session) -> None:
    store, rng = session.store, random.Random(3)
    made: list[str] = []
    for number in range(60):  # many of one time: one a second is not to be hoped for
        parent = rng.choice(made[-6:]) if made and rng.random() < 0.9 else None
        made.append(commit(store, number, parent, number // 15))
    for number, tip in enumerate(made):
        store.tags.set("app", f"t{number}", tip, why="a test")
    store.tags.set("other", "x", commit(store, 99, None, 0), why="a test")
    lines = timeline(session, "app")
    assert lines.upto(5) == lines.upto(60)[:5]
    moments = list(lines.upto(100))
    assert sorted(moment.commit for moment in moments) == sorted(made)
    assert is_in_order(moments)
    assert [m.timestamp for m in moments] == sorted((m.timestamp for m in moments), reverse=True)
    assert all(map(lines.has, made))
    assert not timeline(session, "app").has(store.tags.get("other", "x"))
    assert in_reflog(store, "app", made[0])
    assert not in_reflog(store, "app", store.tags.get("other", "x"))
    with pytest.raises(NotFoundError):
        timeline(session, "none")


def odd_tree(store: Store) -> str:
    """A commit of whatever a tree may hold."""
    with store.begin("a test") as tx:
        large = file(tx, b"large" * 1000)
        inner: dict[bytes, Inode] = {
            b"\xff\n": file(tx, b"bytes"),
            b"back\\slash": large,
            b"again": large,
            b"empty": file(tx, b""),
            b"link": Symlink(0o120777, 0, 0, -5, target=b"\xfe"),
            b"fifo": Special(0o010644, 0, 0, 0),
            b"socket": Special(0o140644, 0, 0, 0),
            b"x" * 200: File(0o104755, 1 << 22, 5, 10**18 + 7, ((b"user.a", b"\0"),), size=2, content=b"hi"),
        }
        root = directory({b"dir": Directory(0o40700, 0, 0, 0, children=inner)})
        return store.commits.write(tx, root).metadata_hash


def test_archives_hold_what_a_commit_does(session: Session) -> None:
    store = session.store
    made = odd_tree(store)
    data = b"".join(archive(session, made, "/", "tar", "app-1"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {os.fsencode(member.name): member for member in tar}
        long = members[b"app-1/dir/" + b"x" * 200]
        assert (long.mode, long.uid, long.mtime, long.pax_headers["SCHILY.xattr.user.a"]) == (
            0o4755, 1 << 22, 10**9 + 7e-9, "\0",
        )  # fmt: skip
        assert members[b"app-1/dir/link"].linkname == "\udcfe"
        assert members[b"app-1/dir/fifo"].isfifo()
        assert b"app-1/dir/socket" not in members
        assert b"app-1/dir/\xff\n" in members
        pair = [members[b"app-1/dir/again"], members[b"app-1/dir/back\\slash"]]
        assert [member.islnk() for member in pair] == [False, True]
        content = tar.extractfile(pair[1])
        assert content is not None
        assert content.read() == b"large" * 1000
    with zipfile.ZipFile(io.BytesIO(b"".join(archive(session, made, "/dir", "zip", "app-1")))) as packed:
        assert packed.testzip() is None
        assert packed.read("dir/%FF%0A") == b"bytes"
        assert packed.read("dir/back%5Cslash") == packed.read("dir/again") == b"large" * 1000
        assert stat.S_ISLNK(packed.getinfo("dir/link").external_attr >> 16)
        assert {"dir/fifo", "dir/socket"}.isdisjoint(packed.namelist())
    assert b"".join(archive(session, made, "/dir/empty", "tar", "app-1"))[:9] == b"empty\0\0\0\0"


def test_an_archive_fetches_nothing_and_begins_only_where_all_is_here(session: Session) -> None:
    made = partial_commit(session.store, {b"far": b"far" * 100})
    for kind in ("tar", "zip"):
        with pytest.raises(UnsupportedError):
            archive(session, made, "/", kind, "app")
    with pytest.raises(UsageError):
        archive(session, odd_tree(session.store), "/", "rar", "app")
    with pytest.raises(NotFoundError):
        archive(session, odd_tree(session.store), "/none", "tar", "app")
