"""Contents in a directory: the layout that the program c4 has too, kills, power cuts, hostile hands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stratum.c4.ids import C4Id, id_of_bytes
from stratum.content import LocalStore, TreeStore
from stratum.errors import DamagedError, NotFoundError, StratumError

LARGE = bytes(range(256)) * (5 << 12)


def c4_path(root: Path, c4id: str) -> Path:
    """Where the program c4 looks for a content, and puts one: in the deepest directory on the way of its ID."""
    directory = root
    for start in range(0, len(c4id), 2):
        if not (directory / c4id[start : start + 2]).is_dir():
            break
        directory /= c4id[start : start + 2]
    return directory / c4id


def c4_split(root: Path, directory: Path, names: list[str]) -> None:
    """Move contents one level down as the program c4 does: one after another."""
    depth = 2 * len(directory.relative_to(root).parts)
    for name in names:
        (directory / name[depth : depth + 2]).mkdir(exist_ok=True)
        (directory / name).rename(directory / name[depth : depth + 2] / name)


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


def taken(store: TreeStore, c4id: C4Id) -> bytes:
    with store.get(c4id) as stream:
        return stream.read()


def contents(count: int) -> dict[C4Id, bytes]:
    return {id_of_bytes(b"%d" % number): b"%d" % number for number in range(count)}


def test_the_layouts(tmp_path: Path) -> None:
    """Of the seed: two levels from the first content on. Of c4: none, until there are too many."""
    one = LocalStore(tmp_path / "local").put(b"one")
    assert files_of(tmp_path / "local") == {f"c4/{one[2:4]}/{one}"}
    assert (tmp_path / "local/c4" / one[2:4] / one).stat().st_mode & 0o777 == 0o600
    assert TreeStore(tmp_path / "tree").put(b"one") == one
    assert files_of(tmp_path / "tree") == {one}


def test_what_is_put_is_where_c4_looks(tmp_path: Path) -> None:
    for name, store in {
        "local": LocalStore(tmp_path / "local", split=3),
        "tree": TreeStore(tmp_path / "tree", split=3, durable=False),
    }.items():
        for c4id, data in contents(60).items():
            store.put(data)
            assert c4_path(tmp_path / name, c4id).read_bytes() == data
        for c4id, data in contents(60).items():
            assert c4_path(tmp_path / name, c4id).read_bytes() == data
        assert {entry[:2] for entry in store.entries()} == {(c4id, len(data)) for c4id, data in contents(60).items()}
        assert not [path for path in files_of(tmp_path / name) if ".tmp" in path]


def test_directories_split_when_they_have_too_many(tmp_path: Path) -> None:
    store = TreeStore(tmp_path, split=20, durable=False)
    ids = list(contents(21))
    list(store.put_all(b"%d" % number for number in range(20)))
    assert files_of(tmp_path) == set(ids[:20])
    store.put(b"20")
    assert files_of(tmp_path) == {f"c4/{c4id[2:4]}/{c4id}" for c4id in ids}, "both levels, as all IDs begin with c4"


def test_what_c4_moves_meanwhile_is_found(tmp_path: Path) -> None:
    """Also where it was killed in between: half of the contents above, half below."""
    store, known = TreeStore(tmp_path), contents(12)
    list(store.put_all(known.values()))
    names = sorted(known)
    c4_split(tmp_path, tmp_path, names[:6])
    for c4id, data in known.items():
        assert taken(store, c4id) == data
    store.put(known[C4Id(names[0])])
    store.put(known[C4Id(names[-1])])
    for name in names:
        store.delete(C4Id(name))
    assert {entry[0] for entry in store.entries()} == {names[0], names[-1]}, "each once"


def test_what_c4_puts_is_counted_once(tmp_path: Path) -> None:
    store, c4id = TreeStore(tmp_path), id_of_bytes(b"theirs")
    (tmp_path / c4id).write_bytes(b"theirs")
    assert taken(store, c4id) == b"theirs"
    store.delete(c4id)
    assert not store.has(c4id)


def test_a_split_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut: each content is found by us and by c4, is listed once, and goes with its last reference."""
    real_link, real_unlink = os.link, os.unlink
    for cut in range(0, 24, 3):
        root = tmp_path / str(cut)
        store, left = TreeStore(root, split=9, durable=False), [cut]

        def counting(call: object, left: list[int] = left) -> object:
            def counted(*args: object, **options: object) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                call(*args, **options)  # type: ignore[operator]

            return counted

        list(store.put_all(b"%d" % number for number in range(9)))
        monkeypatch.setattr(os, "link", counting(real_link))
        monkeypatch.setattr(os, "unlink", counting(real_unlink))
        with contextlib.suppress(KeyboardInterrupt):
            store.put(b"9")
        monkeypatch.undo()
        again = TreeStore(root, split=9, durable=False)
        for c4id, data in contents(9).items():
            assert taken(again, c4id) == data
            assert c4_path(root, c4id).read_bytes() == data
        again.put(b"9")
        assert len(list(again.entries())) == 10
        again.put(b"10")
        for c4id in contents(9):
            again.delete(c4id)
        assert {entry[0] for entry in again.entries()} == {id_of_bytes(b"9"), id_of_bytes(b"10")}
        assert {Path(path).name for path in files_of(root)} == {id_of_bytes(b"9"), id_of_bytes(b"10")}


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = TreeStore(tmp_path, split=4)
    for data in contents(30).values():
        store.put(data)
    for c4id, data in contents(30).items():
        assert c4_path(tmp_path, c4id).read_bytes() == data


def test_names_come_after_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A content is synced before it has its name, and the name before its ID is returned."""
    done: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append("sync " + os.readlink(f"/proc/self/fd/{fd}").replace(str(tmp_path), "").lstrip("/"))
        real_fsync(fd)

    def rename(old: str, new: str, **options: int) -> None:
        done.append(f"rename {old} {new}")
        real_rename(old, new, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    for data in (b"small", LARGE):
        done.clear()
        c4id = TreeStore(tmp_path).put(data)
        file, rename_line, directory = done
        temporary = file.removeprefix("sync ")
        assert temporary.startswith(".tmp-")
        assert rename_line == f"rename {temporary} {c4id}"
        assert directory == "sync "


def test_directories_are_durable_whoever_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have been killed, or not have cared, before it synced what it made."""
    synced: list[str] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").replace(str(tmp_path), "") or "/")
        real_fsync(fd)

    c4id = id_of_bytes(b"one")
    for number, store in enumerate((LocalStore(tmp_path / "0"), LocalStore(tmp_path / "1"), TreeStore(tmp_path / "2"))):
        if number:
            (tmp_path / str(number) / "c4" / c4id[2:4]).mkdir(parents=True)
        monkeypatch.setattr(os, "fsync", fsync)
        synced.clear()
        store.put(b"one")
        monkeypatch.undo()
        assert synced[1:] == [f"/{number}/c4/{c4id[2:4]}", f"/{number}/c4", f"/{number}"]


def test_writers_that_are_killed(tmp_path: Path) -> None:
    """What has a name is whole, and what had none is taken away by the next one."""
    program = f"""
import itertools
from stratum.content import LocalStore
store = LocalStore({str(tmp_path)!r}, durable=False)
print("ready", flush=True)
for number in itertools.count():
    store.put(b"%d" % number * 300_000)
"""
    for pause in (0.02, 0.1, 0.2):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(pause)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    store = LocalStore(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp-")]
    for c4id, size, _ in store.entries():
        assert len(taken(store, c4id)) == size


def test_two_processes_count_the_same_references(tmp_path: Path) -> None:
    program = f"""
from stratum.content import LocalStore
store = LocalStore({str(tmp_path)!r}, durable=False, split=5)
for number in range(80):
    store.put(b"%d" % (number % 16))
    if number % 5 == 4:
        store.delete(store.put(b"%d" % (number % 16)))
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [child.wait() for child in running] == [0, 0]
    store = LocalStore(tmp_path)
    for c4id, data in contents(16).items():
        assert taken(store, c4id) == data
        for _ in range(10):
            store.delete(c4id)
        assert not store.has(c4id)


def test_nothing_follows_symbolic_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    c4id = id_of_bytes(b"one")
    (outside / c4id).write_bytes(b"one")
    file, directory, count = (TreeStore(tmp_path / name) for name in ("file", "directory", "count"))
    (tmp_path / "file" / c4id).symlink_to(outside / c4id)
    for what in (file.get, file.size, file.delete):
        with pytest.raises(DamagedError, match="symbolic link"):
            what(c4id)
    (tmp_path / "directory/c4").symlink_to(outside)
    for call in (lambda: directory.get(c4id), lambda: directory.put(b"one"), lambda: directory.delete(c4id)):
        with pytest.raises((DamagedError, NotFoundError)):
            call()
    with pytest.raises(DamagedError, match="symbolic link"):
        list(directory.entries())
    count.put(b"one")
    (tmp_path / "count/.counts").symlink_to(outside)
    with pytest.raises(StratumError):
        count.put(b"one")
    assert os.listdir(outside) == [c4id]
    assert (outside / c4id).read_bytes() == b"one"


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    store, c4id = TreeStore(tmp_path), id_of_bytes(b"one")
    os.mkfifo(tmp_path / c4id)
    for call in (lambda: store.get(c4id), lambda: store.put(b"one"), lambda: store.has(c4id)):
        with pytest.raises(DamagedError, match="not a regular file"):
            call()


def test_a_count_that_is_damaged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    c4id = store.put(b"one")
    store.put(b"one")
    path = tmp_path / ".counts" / c4id[2:4] / c4id
    assert path.read_text() == "2\n"
    for text in ("", "-1", "two", "0", "9" * 40, "\xb2"):
        path.write_text(text)
        with pytest.raises(DamagedError, match="references") as caught:
            store.delete(c4id)
        assert str(path) in caught.value.hint
        assert taken(store, c4id) == b"one"
    path.unlink()
    store.delete(c4id)
    assert not store.has(c4id)


def test_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IDs are given when their contents are there, however many there are, and whatever the reader does meanwhile."""
    monkeypatch.setattr("stratum.content.treestore._BATCH", 4)
    store = TreeStore(tmp_path, durable=False)
    given = 0
    for c4id in store.put_all(b"%d" % (number % 7) for number in range(30)):
        assert store.has(c4id)
        given += 1
        if given == 2:
            store.delete(id_of_bytes(b"0"))  # between two batches
    assert given == 30
    with pytest.raises(ZeroDivisionError):
        list(store.put_all(b"x%d" % (1 // number) for number in (1, 0)))
    assert not store.has(id_of_bytes(b"x1")), "the batch was not whole"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp-")]


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no content store at"):
        TreeStore(tmp_path / "none", create=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(StratumError):
        TreeStore(tmp_path / "file")
    store = TreeStore(tmp_path / "gone")
    for path in (tmp_path / "gone").iterdir():
        path.unlink()
    (tmp_path / "gone").rmdir()
    with pytest.raises(NotFoundError, match="no content store at"):
        store.put(b"one")


def test_directories_that_somebody_takes_away(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    c4id = store.put(b"one")
    path = tmp_path / "c4" / c4id[2:4] / c4id
    path.unlink()
    path.parent.rmdir()
    assert not store.has(c4id)
    store.put(b"one")
    assert taken(store, c4id) == b"one"
