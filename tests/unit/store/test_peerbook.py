"""The book of peers: who is known, what is shared, and what is counted on."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stratum.errors import DamagedError, ExistsError, NotFoundError, UsageError
from stratum.peers.keys import certificate_in, make_key_file
from stratum.peers.tls import server_context
from stratum.store import Store
from stratum.store.fsck import check
from stratum.store.peerbook import finder
from tests.support.stores import commit

WHEN = "2026-01-01T00:00:00Z"


def certificate() -> bytes:
    return certificate_in(make_key_file(), "a file")


def test_who_is_known_and_what_is_shared(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    book, other = store.peers, Store.open(tmp_path / "store").peers
    assert (book.now().peers, check(store).findings) == ({}, [])
    card = book.own("attic")
    assert other.own() == card == book.own()
    assert stat.S_IMODE(book.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.key_file.parent.stat().st_mode) == 0o700
    first, second = certificate(), certificate()
    assert book.add("laptop", first, None, WHEN)
    assert not book.add("laptop", first, None, WHEN)
    assert book.share("data.1", "laptop", write=True)
    assert book.add("laptop", first, "laptop:5443", "later")
    assert not book.add("laptop", first, None, WHEN)
    seen = other.now().by_certificate(first)
    assert seen is not None
    assert (seen.address, seen.added, seen.strata) == ("laptop:5443", WHEN, {"data.1": True})
    for name, der in (("laptop", second), ("phone", first)):
        with pytest.raises(ExistsError):
            book.add(name, der, None, WHEN)
    with pytest.raises(UsageError, match="itself"):
        book.add("me", card.certificate, None, WHEN)
    assert not book.share("data.1", "laptop", write=True)
    assert book.share("data.1", "laptop", write=False)
    book.share("data.2", "laptop", write=False)
    assert finder(tmp_path / "store")("laptop").address == "laptop:5443"
    assert book.remove("laptop").strata == {"data.1": False, "data.2": False}
    assert other.now().by_certificate(first) is None
    for ask in (lambda: book.get("laptop"), lambda: finder(tmp_path / "store")("laptop")):
        with pytest.raises(NotFoundError):
            ask()
    book.add("laptop", first, None, WHEN)
    assert book.get("laptop").strata == {}, "who comes back gets nothing by that"
    assert book.own(new=True).certificate != card.certificate
    assert check(store).findings == []


def test_many_writers_and_a_stratum_that_goes(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    root = commit(store, {b"a": b"x"})
    store.tags.set("app", "v1", root, why="a test")
    store.peers.add("laptop", certificate(), None, WHEN)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: Store.open(store.root).peers.share(f"s{n}", "laptop", write=n % 2 > 0), range(12)))
    assert store.peers.get("laptop").strata == {f"s{n}": n % 2 > 0 for n in range(12)}
    store.peers.share("app", "laptop", write=True)
    store.promises.add(root, store.peers.get("laptop").key_id, "app", 0, store.commits.exists)
    assert store.promises.commits() == {root}
    key = store.peers.get("laptop").key_id
    store.promises.add(root, key, "app", 7, store.commits.exists)
    store.promises.drop(root, key, 7)  # it comes late
    assert store.promises.commits() == {root}
    store.promises.drop(root, key, 8)
    assert store.promises.commits() == frozenset()
    assert [store.promises.era(), store.promises.begin_era(), store.promises.era()] == [0, 1, 1]
    store.promises.add(root, key, "app", 8, store.commits.exists)
    store.remove("app")
    assert "app" not in store.peers.get("laptop").strata, "another stratum of that name is another's business"
    assert store.promises.commits() == frozenset()


def test_what_is_damaged_lets_nobody_in(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.peers.own()
    store.peers.add("laptop", certificate(), None, WHEN)
    files = [store.peers.key_file.with_name(name) for name in ("book.toml", "key.pem")]
    for path in files:
        before = path.read_bytes()
        path.write_bytes(before.replace(b"MI", b"IM").replace(b"added", b"addad"))
        with pytest.raises(DamagedError):
            server_context(store.peers.key_file, [peer.certificate for peer in store.peers.now().peers.values()])
        assert [finding.path for finding in check(store).findings] == [f"peers/{path.name}"]
        path.write_bytes(before)
    (files[0].parent / "stray").touch()
    assert [finding.kind for finding in check(store).findings] == ["stray"]
