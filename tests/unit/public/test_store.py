"""The API for other programs: stores, commits, trees in the making."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

import stratum
from stratum.composefs.verity import verity_digest

LARGE = bytes(range(256)) * 40_000
"""Of more than is read whole, and of several chunks."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a file of each kind there is."""
    top = tmp_path / "source"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "note").write_text("a note\n")
    (top / "sub" / "large").write_bytes(LARGE)
    (top / "sub" / "up").symlink_to("../note")
    (top / "absolute").symlink_to("/sub")
    (top / "round").symlink_to("round")
    os.mkfifo(top / "fifo")
    os.setxattr(top / "note", "user.colour", b"red")
    with open(top / "sparse", "wb") as file:
        file.seek(30 << 20)
        file.write(b"end")
    return top


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stratum.Store]:
    monkeypatch.setenv("STRATUM_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with stratum.open_store(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture
def commit(store: stratum.Store, source: Path) -> stratum.Commit:
    return store.commit(source, "app", message="the first")


def test_what_is_said_of_a_commit(store: stratum.Store, commit: stratum.Commit) -> None:
    assert len(commit.id) == 64
    assert (commit.message, commit.parents, commit.store) == ("the first", (), store)
    assert commit.time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert commit.origin["kind"] == "import"
    assert (commit.file_count, commit.total_size) == (3, 7 + len(LARGE) + (30 << 20) + 3)
    assert store.resolve("app") == store.resolve("app:latest") == store.resolve(commit.id[:12]) == commit
    assert hash(store.resolve("app")) == hash(commit)
    assert commit != commit.id
    assert commit.id[:12] in repr(commit)


def test_what_is_in_a_commit(commit: stratum.Commit, source: Path) -> None:
    found = {entry.path: entry for entry in commit.walk()}
    assert list(found) == sorted(found, key=os.fsencode)
    assert {path: entry.kind for path, entry in found.items()} == {
        "/": "directory",
        "/absolute": "symlink",
        "/fifo": "fifo",
        "/note": "file",
        "/round": "symlink",
        "/sparse": "file",
        "/sub": "directory",
        "/sub/empty": "directory",
        "/sub/large": "file",
        "/sub/up": "symlink",
    }
    for path, entry in found.items():
        info = os.lstat(f"{source}{path}")
        assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
        )
        assert entry.size == (info.st_size if stat.S_ISREG(info.st_mode) else 0)
    note = found["/note"]
    assert (note.name, note.xattrs, note.digest) == ("note", {"user.colour": b"red"}, verity_digest(b"a note\n").hex())
    assert found["/sub/large"].digest == verity_digest(LARGE).hex()
    assert (found["/sub/up"].target, note.target, found["/fifo"].digest) == ("../note", None, None)
    assert [entry.path for entry in commit.walk("sub/")] == ["/sub", "/sub/empty", "/sub/large", "/sub/up"]
    assert [entry.path for entry in commit.listdir("/absolute")] == [
        "/absolute/empty",
        "/absolute/large",
        "/absolute/up",
    ]


def test_paths_lead_through_links(commit: stratum.Commit) -> None:
    assert commit.stat("absolute/up").size == 7
    assert commit.stat(b"/absolute/up", follow_symlinks=False).target == "../note"
    assert commit.read_text("absolute/./up") == commit.read_text(Path("/note")) == "a note\n"
    assert commit.exists("sub/up")

    assert not commit.exists("note/below")
    with pytest.raises(stratum.UsageError, match="more than 40"):
        commit.exists("round")
    with pytest.raises(stratum.UsageError, match=r"no '\.\.'"):
        commit.stat("sub/../note")


def test_what_is_not_there(store: stratum.Store, commit: stratum.Commit) -> None:
    with pytest.raises(stratum.NotFoundError) as raised:
        commit.open("nots")
    assert "/note" in raised.value.hint
    for call in (lambda: commit.open("sub"), lambda: commit.open("fifo")):
        with pytest.raises(stratum.UsageError, match="no regular file"):
            call()
    for call in (lambda: commit.walk("note"), lambda: commit.listdir("fifo")):
        with pytest.raises(stratum.UsageError, match="no directory"):
            call()
    with pytest.raises(stratum.UsageError, match="a path in a commit") as usage:
        store.resolve("app:latest:/note")
    assert "resolve app:latest" in usage.value.hint
    for ref, kind in (("none", stratum.NotFoundError), ("app:v9", stratum.NotFoundError), ("a b", stratum.UsageError)):
        with pytest.raises(kind):
            store.resolve(ref)
    gone = stratum.Commit(store, "0" * 64)
    for look in (lambda: gone.time, lambda: gone.stat("/")):
        with pytest.raises(stratum.NotFoundError):
            look()


def test_files_are_read_from_anywhere(commit: stratum.Commit) -> None:
    with commit.open("sub/large") as file:
        assert file.readable()
        assert file.seekable()
        for start in (0, 524_280, 9_999_999, 5_000_000, len(LARGE) - 3, len(LARGE), len(LARGE) + 9):
            file.seek(start)
            assert file.read(20) == LARGE[start : start + 20]
        file.seek(-4, os.SEEK_END)
        assert file.read() == LARGE[-4:]
        file.seek(0)
        assert file.read() == LARGE
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    with commit.open("sub/large", verify=False) as file:
        assert file.read() == LARGE
    with commit.open("sparse") as file:
        assert 0 < file.seek(0, os.SEEK_DATA) <= 30 << 20
        file.seek((30 << 20) - 4)
        assert file.read() == b"\0\0\0\0end"


@pytest.mark.parametrize("path", ["sub/large", "sparse"])
def test_damage_is_never_returned(store: stratum.Store, commit: stratum.Commit, path: str) -> None:
    digest = commit.stat(path).digest
    assert digest is not None
    stored = store.path / "objects" / digest[:2] / digest[2:]
    with commit.open(path) as before:
        before.read(10)
        stored.chmod(0o644)
        with open(stored, "r+b") as damaged:
            damaged.seek(-2, os.SEEK_END)
            damaged.write(b"\xff\xff")
        before.seek(-5, os.SEEK_END)
        with pytest.raises(stratum.DamagedError, match=digest):
            before.read()
    with stratum.open_store(store.path) as again:
        with again.resolve("app").open(path) as file, pytest.raises(stratum.DamagedError, match="does not match"):
            file.read(1)
        with again.resolve("app").open(path, verify=False) as file:
            assert file.read(1) == b"\0"


def test_a_small_file_that_is_damaged(store: stratum.Store, tmp_path: Path) -> None:
    tree = stratum.Tree()
    tree.write("file", b"x" * 1000)
    commit = store.commit(tree, "small")
    digest = commit.stat("file").digest
    assert digest is not None
    stored = store.path / "objects" / digest[:2] / digest[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"y" * 1000)
    with commit.open("file") as file, pytest.raises(stratum.DamagedError):
        file.read(1)
    stored.write_bytes(b"x" * 500)
    with commit.open("file", verify=False) as file, pytest.raises(stratum.DamagedError):
        file.read()


def test_a_directory_without_some_of_it(store: stratum.Store, source: Path) -> None:
    (source / ".stratumignore").write_text("note\n")
    commit = store.commit(str(source), "app", exclude=["sub/", "sp*"])
    assert [entry.name for entry in commit.listdir()] == [".stratumignore", "absolute", "fifo", "round"]
    whole = store.commit(source, "app:whole", ignore_files=False)
    assert whole.exists("note")
    with pytest.raises(stratum.NotFoundError, match="does not exist"):
        store.commit("docker://registry.example.com/app", "app")
    with pytest.raises(stratum.UsageError, match="is no directory"):
        store.commit(source / "note", "app")


def test_tags(store: stratum.Store, commit: stratum.Commit, source: Path) -> None:
    (source / "more").write_text("more")
    second = store.commit(source, "app")
    assert second.parents == (commit.id,)
    assert store.resolve("app~1") == commit
    store.tag("app", "app:v2")
    with pytest.raises(stratum.ExistsError):
        store.tag(commit, "app:v2")
    store.tag(commit, "app:v2", force=True)
    store.tag("app:latest", "other:one")
    assert store.strata() == ["app", "other"]
    assert store.tags("app") == {"latest": second, "v2": commit}
    store.untag("app:v2")
    assert store.tags("app") == {"latest": second}
    for call in (lambda: store.untag("app:v2"), lambda: store.tags("none"), lambda: store.worktrees("none")):
        with pytest.raises(stratum.NotFoundError):
            call()
    for wrong in (lambda: store.untag("app"), lambda: store.tag("app", "v3")):
        with pytest.raises(stratum.UsageError):
            wrong()


def test_what_changed(store: stratum.Store, commit: stratum.Commit) -> None:
    tree = stratum.Tree(commit)
    tree.write("note", b"another\n")
    tree.remove("fifo")
    tree.mkdir("new", mode=0o700)
    second = store.commit(tree, "app")
    changes = {change.path: change for change in store.diff("app~1", second)}
    assert {path: change.kind for path, change in changes.items()} == {
        "/fifo": "deleted",
        "/new": "added",
        "/note": "modified",
    }
    note = changes["/note"]
    assert note.fields == ("content", "mtime")
    assert (note.old, note.new) == (commit.stat("note"), second.stat("note"))
    assert (changes["/fifo"].new, changes["/new"].old) == (None, None)
    assert list(store.diff(commit, commit)) == []


def test_places(store: stratum.Store, commit: stratum.Commit, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    pushed = store.push("app", f"oci:{tmp_path}/layout", progress=lambda done, total: told.append((done, total)))
    assert pushed.place == f"oci:{tmp_path}/layout:latest"
    assert pushed.manifest.startswith("sha256:")
    assert pushed.bytes_sent > 0
    assert told
    with stratum.open_store(tmp_path / "other", create=True) as other:
        pulled = other.pull(f"oci:{tmp_path}/layout", "mine:v1")
        assert (pulled.id, other.tags("mine")) == (commit.id, {"v1": pulled})
        assert pulled != commit, "it is the same tree in another store"
        assert pulled.read_bytes("sub/large") == LARGE
        with pytest.raises(stratum.UsageError, match="began with a commit of"):
            store.commit(stratum.Tree(pulled), "app")
    with pytest.raises(stratum.StratumError):
        store.pull(f"oci:{tmp_path}/nothing")


def test_a_commit_that_is_here_in_part(store: stratum.Store, commit: stratum.Commit, tmp_path: Path) -> None:
    store.push("app", f"oci:{tmp_path}/layout")
    with stratum.open_store(tmp_path / "other", create=True) as other:
        lazy = other.pull(f"oci:{tmp_path}/layout", lazy=True)
        assert not list((other.path / "objects").rglob("*/*"))
        assert lazy.stat("sub/large").size == len(LARGE)
        assert lazy.read_bytes("sub/large") == LARGE
        assert len(list((other.path / "objects").rglob("*/*"))) == 1


def test_a_worktree(store: stratum.Store, commit: stratum.Commit) -> None:
    from stratum.store import Store

    Store.open(store.path).worktrees.create("app", "dev", commit.id)
    (worktree,) = store.worktrees("app")
    assert worktree == stratum.Worktree("app+dev", commit.id, None)
    assert store.resolve("app+dev") == commit
    assert store.commit_worktree("app+dev", "kept") == commit
    assert store.tags("app")["kept"] == commit
    with pytest.raises(stratum.NotFoundError):
        store.commit_worktree("app+none")


def test_a_store_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(stratum.NotFoundError, match="no store at") as raised:
        stratum.open_store(tmp_path / "none")
    assert "create=True" in raised.value.hint
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("STRATUM_STORE", str(tmp_path / "by-environment"))
    assert stratum.open_store(create=True).path == tmp_path / "by-environment"
    assert stratum.open_store().strata() == []


def test_a_closed_store(store: stratum.Store, commit: stratum.Commit) -> None:
    with commit.open("sub/large") as file:
        store.close()
        assert file.read() == LARGE
    for call in (lambda: commit.time, store.strata, lambda: store.resolve("app"), lambda: commit.open("note")):
        with pytest.raises(stratum.UsageError, match="was closed"):
            call()


def test_what_it_gives_can_be_sent_to_other_processes(store: stratum.Store, commit: stratum.Commit) -> None:
    again = pickle.loads(pickle.dumps(commit))
    assert again == commit
    assert again.read_text("note") == "a note\n"
    entries = list(commit.walk())
    assert pickle.loads(pickle.dumps(entries)) == entries
    assert {entry: entry.path for entry in entries}


def test_threads_share_a_store(store: stratum.Store, commit: stratum.Commit) -> None:
    def work(number: int) -> str:
        tree = stratum.Tree(commit)
        tree.write(f"of/{number}", b"%d" % number * 100)
        with commit.open("sub/large") as file:
            file.seek(number * 1000)
            assert file.read(50) == LARGE[number * 1000 : number * 1000 + 50]
        assert len(list(commit.walk())) == 10
        return store.commit(tree, f"app:t{number}").id

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(16)))
    assert len(set(made)) == 16
    assert store.resolve("app:t7").read_bytes("of/7") == b"7" * 100
