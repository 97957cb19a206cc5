"""Records of services: what is written is read, what is damaged is told and in nobody's way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stratum.errors import DamagedError, UsageError
from stratum.store import Store
from stratum.store.records import Records
from tests.support.services import kubernetes_volume, kubernetes_volumes, named_volumes, put_records


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def test_records_are_kept(store: Store) -> None:
    records = kubernetes_volumes(store)
    assert records.get("one") is None
    assert records.list() == []
    records.remove("one")
    second, first = kubernetes_volume("a", created=2), kubernetes_volume("b", created=1)
    records.put(second)
    records.put(first)
    assert kubernetes_volumes(Store.open(store.root)).list() == [first, second]
    records.put(kubernetes_volume("a", created=3))
    assert records.get("a") == kubernetes_volume("a", created=3)
    records.remove("a")
    assert records.list() == [first]
    assert os.listdir(store.root / "csi/volumes") == ["b.json"]
    assert (store.root / "csi").stat().st_mode & 0o777 == 0o700
    assert (store.root / "csi/volumes/b.json").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_writer_left_goes(store: Store) -> None:
    records = kubernetes_volumes(store)
    records.put(kubernetes_volume("a"))
    left = store.root / "csi/volumes" / (".tmp-" + "0" * 16)
    left.write_text("half")
    assert len(records.list()) == 1
    records.put(kubernetes_volume("b"))
    assert not left.exists()


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "-a", "a\n", "a" * 129, "\udcff"])
def test_keys_that_are_no_names(store: Store, key: str) -> None:
    with pytest.raises(UsageError):
        kubernetes_volumes(store).get(key)


def damage_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"nothing", b"notting"))


def damage_space(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n ", b"\n  ", 1))


def other_key(path: Path) -> None:
    path.with_name("b.json").write_bytes(path.read_bytes())
    path.unlink()


def wrong_types(path: Path) -> None:
    table = json.loads(path.read_bytes())
    del table["check"]
    path.write_text(json.dumps({**table, "attributes": {"tag": 1}}))


def missing_field(path: Path) -> None:
    table = json.loads(path.read_bytes())
    del table["check"], table["commit"]
    path.write_text(json.dumps(table))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


DAMAGES = [
    damage_text,
    damage_space,
    other_key,
    wrong_types,
    missing_field,
    fifo,
    link,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"[" * 100_000),
    lambda path: path.write_bytes(b"[]"),
    lambda path: path.write_bytes(b" " * (1 << 20) + b" "),
    lambda path: (path.unlink(), path.mkdir()),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_that_is_damaged_is_told_and_keeps_none_of_the_others_from_being_read(store: Store, damage: object) -> None:
    records = kubernetes_volumes(store)
    records.put(kubernetes_volume("a"))
    records.put(kubernetes_volume("whole"))
    assert callable(damage)
    damage(store.root / "csi/volumes/a.json")
    found, damaged = records.scan()
    assert found == [kubernetes_volume("whole")]
    assert len(damaged) == 1
    assert str(store.root / "csi/volumes") in damaged[0].message
    with pytest.raises(DamagedError):
        records.list()


def test_a_record_without_a_check_is_read_and_gets_one_when_it_is_written(store: Store) -> None:
    """As they were written before there were checks, the volume plugin's without a name."""
    put_records(store)
    for path in store.root.glob("csi/*/*.json"):
        table = json.loads(path.read_bytes())
        del table["check"]
        path.write_text(json.dumps({**table, "later": 1}, indent=1) + "\n")
    volume = store.root / "volumes/data.json"
    volume.write_text(json.dumps({"options": {"ref": "app"}, "created": "2026"}, indent=1))
    (found,) = kubernetes_volumes(store).list()
    assert found.attributes == {"tag": "t"}
    (named,) = named_volumes(store).list()
    assert (named.key, named.options, named.created) == ("data", {"ref": "app"}, "2026")
    named_volumes(store).put(named)
    assert json.loads(volume.read_bytes())["check"]
    assert named_volumes(store).list() == [named]


def test_a_link_in_the_way_leads_nowhere(store: Store, tmp_path: Path) -> None:
    (store.root / "csi").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (store.root / "csi/volumes").symlink_to(tmp_path / "elsewhere")
    records: Records[object] = kubernetes_volumes(store)  # type: ignore[assignment]
    with pytest.raises(DamagedError, match="symbolic link"):
        records.put(kubernetes_volume("a"))
    with pytest.raises(DamagedError, match="symbolic link"):
        records.scan()
    assert os.listdir(tmp_path / "elsewhere") == []
