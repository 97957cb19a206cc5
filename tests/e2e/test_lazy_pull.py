"""Lazy pulls from a real registry: what they bring, what they record, and what they refuse."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import UnsupportedError
from stratum.mount.plan import check_lazy
from stratum.oci.access import Access
from stratum.oci.target import Target, parse_target
from stratum.store import Store
from stratum.store.residence import Condition
from stratum.transfer.catalogs import target_of
from stratum.transfer.packs import PACK_MAX
from stratum.transfer.pull import PullResult
from stratum.transfer.push import push
from stratum.tree.contents import objects_of
from tests.e2e.registry_artifacts import FILES, make_commit
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support.pulling import pull

pytestmark = pytest.mark.registry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.fixture
def origin(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "origin")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def app(server: RegistryServer, origin: Store, tmp_path: Path) -> Target:
    """A commit of ``FILES`` in a repository of its own."""
    target = parse_target(f"{server.host}/{tmp_path.name.lower().replace('_', '-')}/app:v1")
    push(origin, make_commit(origin, FILES), target, Access())
    return target


def lazily(store: Store, target: Target) -> PullResult:
    return pull(store, target, Access(), lazy=True)


def needed(store: Store, commit: str) -> dict[bytes, int]:
    return objects_of(store.commits.dump(commit))


def conditions(store: Store, commit: str) -> set[Condition]:
    return {store.residence.condition(commit, *item) for item in needed(store, commit).items()}


def test_names_come_and_contents_do_not(server: RegistryServer, store: Store, app: Target) -> None:
    before = len(server.requests())
    done = lazily(store, app)
    asked = server.requests()[before:]
    packs = [
        layer["digest"]
        for layer in server.manifest(app.repository, "v1")["layers"]
        if ".objects." in layer["mediaType"]
    ]
    assert packs
    assert not [line for line in asked if any(pack in line for pack in packs)]
    assert list(store.objects.list()) == []
    assert store.sources.is_partial(done.commit)
    assert conditions(store, done.commit) == {Condition.UNREAL}
    assert done.objects == done.unreal == (5, sum(needed(store, done.commit).values()))
    assert done.bytes_received < 10_000
    (source,) = store.sources.of(done.commit)
    assert (source.reference, source.tag, source.kind) == (f"{app.place}@{done.manifest_digest}", "v1", "pull")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", source.seen)
    assert dict(store.sources.catalog(source.manifest).digests()) == needed(store, done.commit)


def test_the_size_of_the_contents_costs_nothing(server: RegistryServer, origin: Store, store: Store) -> None:
    commit = make_commit(origin, {"large": random.Random(3).randbytes(PACK_MAX + 5), "other": b"some text\n" * 100})
    target = parse_target(f"{server.host}/team/large:v1")
    push(origin, commit, target, Access())
    done = lazily(store, target)
    assert done.bytes_received < 10_000
    assert done.unreal[1] > PACK_MAX


def test_what_is_here_already_is_real(store: Store, app: Target) -> None:
    make_commit(store, {"docs/readme": FILES["docs/readme"]})
    done = lazily(store, app)
    assert done.objects[0] - done.unreal[0] == 1
    assert conditions(store, done.commit) == {Condition.REAL, Condition.UNREAL}


def test_a_lazy_pull_of_what_is_here_whole_adds_a_source_and_nothing_else(store: Store, app: Target) -> None:
    commit = make_commit(store, FILES)
    meta = store.commits.meta(commit)
    assert store.sources.of(commit) == []
    done = lazily(store, app)
    assert (done.commit, done.unreal) == (commit, (0, 0))
    assert store.commits.meta(commit) == meta
    assert not store.sources.is_partial(commit)
    assert [source.kind for source in store.sources.of(commit)] == ["pull"]


def test_an_object_that_was_lost_is_unreal_with_the_source(store: Store, app: Target) -> None:
    commit = make_commit(store, FILES)
    digest, size = next(iter(needed(store, commit).items()))
    store.objects.path(digest).unlink()
    assert store.residence.condition(commit, digest, size) is Condition.LOST
    lazily(store, app)
    assert store.sources.is_partial(commit)
    assert store.residence.condition(commit, digest, size) is Condition.UNREAL


@pytest.mark.parametrize("first", ["lazy", "eager"])
def test_a_pull_after_another(store: Store, app: Target, first: str) -> None:
    for lazy in (True, False) if first == "lazy" else (False, True):
        done = pull(store, app, Access(), lazy=lazy)
        assert len(store.sources.of(done.commit)) == 1
    assert not store.sources.is_partial(done.commit)
    assert conditions(store, done.commit) == {Condition.REAL}


def test_an_eager_pull_and_a_push_record_where_the_commit_is(store: Store, origin: Store, app: Target) -> None:
    done = pull(store, app, Access())
    (source,) = store.sources.of(done.commit)
    assert (source.kind, target_of(source).digest) == ("pull", done.manifest_digest)
    assert dict(store.sources.catalog(source.manifest).digests()) == needed(store, done.commit)


def test_an_isolated_pull_is_never_lazy(store: Store, app: Target) -> None:
    with pytest.raises(UnsupportedError, match="cannot be lazy"):
        pull(store, app, Access(), isolated=True, lazy=True)
    assert store.commits.list() == []


def test_old_kernels_refuse_and_say_why() -> None:
    for release in ("6.5.0", "6.18.44-fc", "7.1"):
        check_lazy(release)
    for release in ("6.4.12", "5.10.0-30-amd64", "strange"):
        with pytest.raises(UnsupportedError, match=r"need Linux 6\.5"):
            check_lazy(release)
