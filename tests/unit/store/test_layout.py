from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from stratum.errors import DamagedError, ExistsError, NotFoundError, UnsupportedError, UsageError
from stratum.store import Store
from stratum.store.layout import store_id
from tests.support.stores import check, commit


def test_a_new_store_is_private_and_says_its_format(store_dir: Path) -> None:
    store = Store.create(store_dir)
    assert store.root == store_dir
    assert stat.S_IMODE(store_dir.stat().st_mode) == 0o700
    assert re.fullmatch('format = 2\nid = "[0-9a-f]{32}"\n', (store_dir / "stratum.toml").read_text())
    assert sorted(os.listdir(store_dir)) == ["commits", "lock", "objects", "refs", "stratum.toml", "tmp"]
    assert Store.open(store_dir).names() == []


def test_parents_are_made(tmp_path: Path) -> None:
    Store.create(tmp_path / "a" / "b")
    Store.open(tmp_path / "a" / "b")


def test_an_empty_directory_and_a_fresh_file_system_become_stores(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "lost+found").mkdir()
    Store.create(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_making_a_store_goes_on_where_it_was_interrupted(store_dir: Path) -> None:
    store_dir.mkdir()
    (store_dir / "objects").mkdir()
    (store_dir / "lock").touch()
    (store_dir / ".tmp-0123").write_text("for")
    commit(Store.open_or_create(store_dir), {b"a": b"1"})
    assert not (store_dir / ".tmp-0123").exists()


@pytest.mark.parametrize("name", ["file", "objects/ab", "refs/app", "stratum.toml.bak"])
def test_a_directory_in_use_is_refused_and_left_alone(store_dir: Path, name: str) -> None:
    path = store_dir / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = sorted(store_dir.rglob("*"))
    for make in (Store.create, Store.open_or_create):
        with pytest.raises(UsageError, match="neither empty nor a Stratum store"):
            make(store_dir)
    assert sorted(store_dir.rglob("*")) == before


def test_a_store_is_not_made_twice(store_dir: Path) -> None:
    Store.create(store_dir)
    with pytest.raises(ExistsError):
        Store.create(store_dir)
    Store.open_or_create(store_dir)


def test_a_file_is_no_store(store_dir: Path) -> None:
    store_dir.write_text("")
    for call in (Store.open, Store.create, Store.open_or_create):
        with pytest.raises(UsageError, match="not a directory"):
            call(store_dir)


def test_many_may_make_one_store_at_once(store_dir: Path) -> None:
    made: list[str] = []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        made.append(commit(Store.open_or_create(store_dir), {b"a": b"%d" % number * 100}))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(store_dir)
    assert store.commits.list() == sorted(made)
    assert len(made) == 8
    check(store)


def test_a_missing_store_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFoundError) as caught:
            Store.open(path)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"format = 1\n", UnsupportedError),
        (b"format = 3\n", UnsupportedError),
        (b"format = 999999999999\n", UnsupportedError),
        (b"format = 0\n", DamagedError),
        (b"format = true\n", DamagedError),
        (b"format = '2'\n", DamagedError),
        (b"", DamagedError),
        (b"format = ", DamagedError),
        (b"\xff\xfe", DamagedError),
        (b"x" * 100_000, DamagedError),
    ],
)
def test_other_formats_are_refused(store_dir: Path, content: bytes, error: type[Exception]) -> None:
    Store.create(store_dir)
    (store_dir / "stratum.toml").write_bytes(content)
    with pytest.raises(error, match=r"stratum\.toml|format"):
        Store.open(store_dir)


def test_no_bit_of_the_format_file_may_change(store_dir: Path) -> None:
    """Also none of the store's ID, by which its mounts are told from others'."""
    Store.create(store_dir)
    file = store_dir / "stratum.toml"
    said = file.read_bytes()
    for place in range(len(said) * 8):
        changed = bytearray(said)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises((DamagedError, UnsupportedError)):
            Store.open(store_dir)
    file.write_bytes(b"format = 2\n")
    assert store_id(store_dir) is None
    Store.open(store_dir)  # as earlier versions made them


@pytest.mark.parametrize("name", ["objects", "commits", "refs", "tmp"])
def test_a_missing_or_replaced_part_is_damage(store_dir: Path, tmp_path: Path, name: str) -> None:
    Store.create(store_dir)
    (store_dir / name).rmdir()
    with pytest.raises(DamagedError, match=name):
        Store.open(store_dir)
    (tmp_path / "elsewhere").mkdir()
    (store_dir / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match=name):
        Store.open(store_dir)


def test_the_format_file_is_not_read_through_a_link_or_from_a_pipe(store_dir: Path, tmp_path: Path) -> None:
    Store.create(store_dir)
    (store_dir / "stratum.toml").rename(tmp_path / "elsewhere")
    (store_dir / "stratum.toml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="symbolic link"):
        Store.open(store_dir)
    (store_dir / "stratum.toml").unlink()
    os.mkfifo(store_dir / "stratum.toml")
    with pytest.raises(DamagedError, match="not a regular file"):
        Store.open(store_dir)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722, 0o1777])
def test_a_store_that_others_can_write_is_refused(store_dir: Path, mode: int) -> None:
    Store.create(store_dir)
    store_dir.chmod(mode)
    with pytest.raises(UnsupportedError, match="writable by others"):
        Store.open(store_dir)


def test_the_path_to_a_store_may_lead_through_links(store_dir: Path, tmp_path: Path) -> None:
    Store.create(store_dir)
    (tmp_path / "link").symlink_to(store_dir)
    assert Store.open(tmp_path / "link").root == store_dir
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError):
        Store.open(tmp_path / "loop")
