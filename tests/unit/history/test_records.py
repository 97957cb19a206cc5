"""Which versions a log tells of, and how records are made."""

from __future__ import annotations

import pytest

from stratum.history.capture import Captured
from stratum.history.records import Mark, Telling, Version, sift
from stratum.sys.actors import Actor
from stratum.tree.model import Directory, File
from stratum.tree.operations import Operation
from stratum.tree.oplog import encode, inode_of, parse, when_text

NOW = 1_790_000_000_123_000_000
COMMIT = "ab" * 32


def captured(content: bytes, number: int = 1, unknown: str | None = None) -> Captured:
    signature = (1, number, len(content), 5, 6)
    return Captured((1, number), signature, len(content), None, None if unknown else content or None, unknown)


def version(
    content: bytes, path: bytes = b"/f", when: int = NOW, unknown: str | None = None, later: bool = False
) -> Version:
    return Version(path, captured(content, unknown=unknown), when, 0o100640, None, later)


def tree(**files: bytes) -> Directory:
    children = {
        name.encode(): File(0o100600, 7, 8, 9, size=len(content), content=content or None)
        for name, content in files.items()
    }
    return Directory(0o40755, 3, 4, 1, children=children)


@pytest.mark.parametrize(
    ("before", "closed", "after", "lost"),
    [
        (b"0", [b"1", b"2", b"3"], b"3", [b"1", b"2"]),
        (b"0", [b"1"], b"1", []),
        (b"0", [b"0"], b"0", []),
        (b"0", [b"0", b"0", b"1"], b"2", [b"1"]),
        (b"0", [b"1", b"0"], b"0", [b"1"]),
        (b"0", [b"1", b"1"], b"1", []),
        (b"0", [b"1"], None, [b"1"]),
        (None, [b"1", b""], None, [b"1", b""]),
        (None, [b"1", b"2"], b"2", [b"1"]),
        (None, [], b"2", []),
    ],
)
def test_versions_that_neither_tree_has_are_told(
    before: bytes | None, closed: list[bytes], after: bytes | None, lost: list[bytes]
) -> None:
    old = tree() if before is None else tree(f=before)
    new = tree() if after is None else tree(f=after)
    found, later = sift([version(content) for content in closed], old, new)
    assert [closed[place] for place in found] == lost
    assert later == []


def test_paths_do_not_mix() -> None:
    closed = [version(b"1", b"/f"), version(b"1", b"/g"), version(b"2", b"/f"), version(b"2", b"/g")]
    found, _ = sift(closed, tree(f=b"0", g=b"0"), tree(f=b"2", g=b"3"))
    assert found == [0, 1, 3]


@pytest.mark.parametrize(
    ("closed", "after", "lost", "later"),
    [
        ([(b"1", False), (b"2", True)], b"1", [], [1]),
        ([(b"1", False), (b"2", True)], b"2", [0], []),
        ([(b"1", False), (b"2", True), (b"3", True)], b"2", [0], [2]),
        ([(b"1", True)], b"0", [], [0]),
        ([(b"1", False)], b"0", [0], []),
        ([(b"1", True)], None, [], [0]),
    ],
)
def test_what_was_closed_after_the_look_is_for_the_next_batch(
    closed: list[tuple[bytes, bool]], after: bytes | None, lost: list[int], later: list[int]
) -> None:
    versions = [version(content, later=later) for content, later in closed]
    assert sift(versions, tree(f=b"0"), tree() if after is None else tree(f=after)) == (lost, later)


def test_of_an_upperdir_that_is_gone_all_versions_are_told() -> None:
    closed = [version(b"1"), version(b"1"), version(b"0", later=True)]
    assert sift(closed, tree(f=b"0"), None) == ([0, 2], [])


def told(old: Directory, new: Directory, **actors: Actor) -> Telling:
    return Telling(7, NOW, old, new, {b"/" + k.encode(): v for k, v in actors.items()}, lambda path, inode: "large")


def test_records_are_numbered_and_can_be_written() -> None:
    new = tree(f=b"new")
    telling = told(tree(), new, f=Actor(1, 1, "vim", "cd" * 32))
    telling.mark(Mark("gap", "nobody watched"))
    telling.mark(Mark("base", "the history begins", COMMIT))
    telling.version(version(b"old", when=NOW - 5_000_000))
    telling.operation(Operation("create", b"/f", new.children[b"f"]))
    telling.operation(Operation("rename", b"/g", new.children[b"f"], was=b"/f"))
    telling.operation(Operation("link", b"/h", None, link=b"/g"))
    assert [record.n for record in telling.records] == [7, 8, 9, 10, 11, 12]
    assert [parse(encode(record).rstrip(b"\n")) for record in telling.records] == telling.records
    gap, base, old, create, rename, link = telling.records
    assert (gap.op, gap.why, base.op, base.commit) == ("gap", "nobody watched", "base", COMMIT)
    assert old.when == when_text(NOW - 5_000_000)
    assert (create.by, create.container, create.when) == ("vim", "cd" * 32, when_text(NOW))
    assert (rename.was, rename.entry, link.link) == (b"/f", None, b"/g")


def test_a_version_has_the_metadata_of_its_path_but_its_own_content_and_time() -> None:
    telling = told(tree(f=b"0"), tree())
    telling.version(version(b"12"))
    [record] = telling.records
    assert record.entry is not None
    inode = inode_of(record.entry)
    assert isinstance(inode, File)
    assert (inode.mode, inode.uid, inode.gid, inode.mtime, inode.content) == (0o100600, 7, 8, 5, b"12")


def test_a_version_of_a_path_that_no_tree_has_belongs_to_the_owner_of_its_directory() -> None:
    telling = told(tree(), tree())
    telling.version(version(b"12"))
    assert telling.records[0].entry is not None
    inode = inode_of(telling.records[0].entry)
    assert (inode.mode, inode.uid, inode.gid) == (0o100640, 3, 4)


def test_why_a_content_is_not_known_is_told() -> None:
    telling = told(tree(), tree())
    telling.version(version(b"12", unknown="space"))
    telling.operation(Operation("create", b"/big", File(0o100644, 0, 0, 0, size=9)))
    telling.operation(Operation("create", b"/empty", File(0o100644, 0, 0, 0)))
    assert [record.why for record in telling.records] == ["space", "large", None]


def test_who_did_it_is_who_did_something_to_what_is_nearest_above() -> None:
    telling = told(tree(), tree(), d=Actor(1, 1, "tar", None))
    assert telling.actor(b"/d/deep/f") == Actor(1, 1, "tar", None)
    assert telling.actor(b"/e/f") is None


def test_what_no_log_can_hold_is_left_out_and_said() -> None:
    telling = told(tree(), tree())
    telling.operation(Operation("create", b"/f", File(0o100644, 1 << 40, 0, 0)))
    assert telling.records == []
    assert telling.unfit == {b"/f"}
