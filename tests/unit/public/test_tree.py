"""Trees that a program puts together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import stratum
from tests.unit.public.test_store import commit, source, store

__all__ = ["commit", "source", "store"]

Wrong = Callable[[stratum.Tree], None]


def test_a_tree_of_nothing_else(store: stratum.Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"y" * (5 << 20))
    tree = stratum.Tree()
    tree.write("a/b/small", b"small", mode=0o600, uid=5, gid=6, mtime_ns=7, xattrs={"user.x": b"1"})
    tree.write("medium", bytearray(b"m" * 100))
    tree.write("large", tmp_path / "large")
    tree.symlink("link", "a/b/small")
    tree.mkdir("empty", mode=0o2750)
    told: list[int] = []
    commit = store.commit(tree, "made:v1", message="made", progress=lambda done, _: told.append(done))
    small = commit.stat("a/b/small")
    assert (small.mode, small.uid, small.gid, small.mtime_ns, small.xattrs) == (0o100600, 5, 6, 7, {"user.x": b"1"})
    medium = commit.stat("medium")
    assert (medium.mode, medium.uid, medium.gid, medium.mtime_ns) == (0o100644, 0, 0, 1_700_000_000 * 10**9)
    assert commit.stat("empty").mode == 0o42750
    assert commit.stat("a").mode == 0o40755
    assert commit.read_text("link") == "small"
    assert commit.read_bytes("large") == b"y" * (5 << 20)
    assert (commit.message, told[-1]) == ("made", 5 + 100 + (5 << 20))
    assert store.commit(tree, "made:again") == commit, "it can be committed again, and is the same"


def test_what_is_replaced_keeps_its_attributes(store: stratum.Store, source: Path) -> None:
    (source / "note").chmod(0o4711)
    commit = store.commit(source, "app")
    tree = stratum.Tree(commit)
    tree.write("note", b"new")
    tree.write("sub/large", b"now small", mode=0o400)
    second = store.commit(tree, "app")
    note = second.stat("note")
    assert (note.mode, note.xattrs, note.size) == (0o104711, {"user.colour": b"red"}, 3)
    assert second.stat("sub/large").mode == 0o100400
    assert second.stat("sub").mtime_ns == 1_700_000_000 * 10**9
    assert second.stat("sub/empty") == commit.stat("sub/empty")
    assert second.parents == (commit.id,)


def test_a_tree_without_changes_is_the_same_commit(store: stratum.Store, commit: stratum.Commit) -> None:
    tree = stratum.Tree(commit)
    assert store.commit(tree, "app") == commit
    tree.write("new", b"")
    tree.remove("new")
    tree.mkdir("/", mtime_ns=commit.stat("/").mtime_ns)
    assert store.commit(tree, "app") == commit


def test_when_a_tag_moves(store: stratum.Store, commit: stratum.Commit) -> None:
    tree = stratum.Tree(commit)
    tree.write("one", b"1")
    one = store.commit(tree, "app")
    tree.write("two", b"2")
    with pytest.raises(stratum.ExistsError):
        store.commit(tree, "app")
    assert store.resolve("app") == one, "the tree began with what is not the last commit any more"
    forced = store.commit(tree, "app", force=True)
    assert forced.parents == (commit.id,)
    store.tag(one, "app:v1")
    with pytest.raises(stratum.ExistsError):
        store.commit(tree, "app:v1")


WRONG: dict[str, tuple[Wrong, type[stratum.StratumError], str]] = {
    "a file over a directory": (lambda t: t.write("sub", b""), stratum.ExistsError, "is a directory"),
    "a link over a directory": (lambda t: t.symlink("sub", "x"), stratum.ExistsError, "is a directory"),
    "a directory over a file": (lambda t: t.mkdir("note"), stratum.ExistsError, "is no directory"),
    "a file as the root": (lambda t: t.write("/", b""), stratum.ExistsError, "the top of the tree"),
    "below a file": (lambda t: t.write("note/x", b""), stratum.UsageError, "which is no directory"),
    "through a link": (lambda t: t.write("absolute/x", b""), stratum.UsageError, "which is no directory"),
    "out of the tree": (lambda t: t.write("../x", b""), stratum.UsageError, "no '..'"),
    "a long name": (lambda t: t.write("x" * 256, b""), stratum.UsageError, "255 is the limit"),
    "a long name of a directory": (lambda t: t.write("x" * 256 + "/y", b""), stratum.UsageError, "255 is the limit"),
    "a long path": (lambda t: t.mkdir("/x" * 3000), stratum.UsageError, "4096 is the limit"),
    "a NUL": (lambda t: t.write("a\0b", b""), stratum.UsageError, "no file can have"),
    "text": (lambda t: t.write("a", "text"), stratum.UsageError, "content is bytes"),  # type: ignore[arg-type]
    "an owner": (lambda t: t.write("a", b"", uid=-1), stratum.UsageError, "beyond 32 bits"),
    "an owner of a directory": (lambda t: t.mkdir("a", gid=1 << 32), stratum.UsageError, "beyond 32 bits"),
    "a time": (lambda t: t.mkdir("a", mtime_ns=1 << 100), stratum.UsageError, "beyond 64 bits"),
    "attributes": (lambda t: t.write("a", b"", xattrs={"user.a": bytes(40000)}), stratum.UsageError, "is the limit"),
    "a target": (lambda t: t.symlink("a", ""), stratum.UsageError, "1 to 4095"),
    "nothing to remove": (lambda t: t.remove("none"), stratum.NotFoundError, "has no /none"),
    "nothing to remove below": (lambda t: t.remove("none/x"), stratum.NotFoundError, "has no /none"),
    "the root removed": (lambda t: t.remove("/"), stratum.UsageError, "cannot be removed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be(store: stratum.Store, commit: stratum.Commit, case: str) -> None:
    call, kind, words = WRONG[case]
    tree = stratum.Tree(commit)
    with pytest.raises(kind, match=words):
        call(tree)
    assert {e.path for e in store.commit(tree, "app").walk()} == {e.path for e in commit.walk()}, "nothing came of it"


def test_files_that_cannot_be_read(store: stratum.Store, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "cannot read"), (tmp_path, "no regular file"), (Path("/dev/null"), "no r")):
        tree = stratum.Tree()
        tree.write("a", path)
        with pytest.raises(stratum.UsageError, match=words):
            store.commit(tree, "made")
    assert store.strata() == []
    assert list((store.path / "objects").iterdir()) == []
