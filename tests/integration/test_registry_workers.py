"""Packs made and taken apart by worker processes: the same results, errors and leftovers as without them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.imageroom import Room
from stratum.store.objects import Staging
from stratum.transfer.packs import Member, PackIndex
from stratum.transfer.packwork import Made, Span
from stratum.transfer.push import push
from stratum.transfer.workers import TREE_WORTH_IT, WORTH_IT, Workers
from stratum.tree.blocks import Dump
from tests.e2e.registry_artifacts import FILES, make_commit
from tests.support.pulling import pull
from tests.support.stores import leftovers


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """None, and two."""
    with Workers(request.param) as made:
        made.start(WORTH_IT)
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store")
    make_commit(store, {**FILES, "large": random.Random(1).randbytes(3 << 20)})
    return store


def members_of(store: Store) -> list[Member]:
    return [Member(digest, size) for digest, size in store.objects.list()]


class Reports:
    def __init__(self) -> None:
        self.size = 0
        self.members: set[Member] = set()

    def __call__(self, size: int, member: Member | None) -> None:
        self.size += size
        self.members |= {member} if member is not None else set()


def make(workers: Workers, store: Store, path: Path, report: Reports) -> Made:
    with path.open("xb") as file:
        return workers.make_pack(store.root, members_of(store), file.fileno(), report)


def span_of(store: Store, made: Made, staging: Path) -> Span:
    members = members_of(store)
    return Span(
        PackIndex(made.frames, tuple(members)), (0, len(made.frames)), 0, range(len(members)), str(staging), "it"
    )


def test_there_and_back(workers: Workers, store: Store, tmp_path: Path) -> None:
    making, taking = Reports(), Reports()
    (tmp_path / "staging").mkdir()
    made = make(workers, store, tmp_path / "pack", making)
    assert made.size == (tmp_path / "pack").stat().st_size
    assert workers.make_pack(store.root, members_of(store), None, Reports()) == made
    with (tmp_path / "pack").open("rb") as file:
        workers.take_apart(span_of(store, made, tmp_path / "staging"), file.fileno(), taking)
    assert making.size == taking.size == sum(member.size for member in members_of(store))
    assert taking.members == set(members_of(store))
    for member in members_of(store):
        staged = Path(Staging(str(tmp_path / "staging")).path(member.digest))
        assert staged.read_bytes() == store.objects.path(member.digest).read_bytes()
        assert staged.stat().st_mode & 0o7777 == 0o444


def test_errors_keep_their_kind(workers: Workers, store: Store, tmp_path: Path) -> None:
    made = make(workers, store, tmp_path / "pack", Reports())
    data = bytearray((tmp_path / "pack").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "pack").write_bytes(data)
    taking = Reports()
    (tmp_path / "staging").mkdir()
    span = span_of(store, made, tmp_path / "staging")
    with (tmp_path / "pack").open("rb") as file, pytest.raises(DamagedError, match=r"^it "):
        workers.take_apart(span, file.fileno(), taking)
    assert taking.members < set(members_of(store))
    first = members_of(store)[0]
    store.objects.path(first.digest).unlink()
    with pytest.raises(NotFoundError, match=first.digest.hex()):
        workers.make_pack(store.root, [first], None, Reports())
    assert workers.make_pack(store.root, members_of(store), None, Reports()).frames


def test_an_object_that_cannot_be_written(workers: Workers, store: Store, tmp_path: Path) -> None:
    made = make(workers, store, tmp_path / "pack", Reports())
    (tmp_path / "staging").write_text("in the way")
    with (tmp_path / "pack").open("rb") as file, pytest.raises(StratumError, match="write an object to the store"):
        workers.take_apart(span_of(store, made, tmp_path / "staging"), file.fileno(), Reports())


def test_a_worker_that_is_killed(store: Store) -> None:
    with Workers(2) as workers:
        workers.start(WORTH_IT)
        for worker in workers.processes:
            os.kill(worker, signal.SIGKILL)
        with pytest.raises(StratumError, match="was killed by signal 9"):
            workers.make_pack(store.root, members_of(store), None, Reports())


@pytest.mark.parametrize("jobs", [1, 2])
def test_trees_are_read_and_drawn_beside_the_rest(store: Store, jobs: int, tmp_path: Path) -> None:
    commit = store.commits.list()[0]
    dump, meta = store.commits.dump(commit), store.commits.meta(commit)
    for text in (dump, Dump(lambda: [b"/ 0 40755 3 0 0 0 0.0 - - -\n"])):
        with Workers(jobs) as workers:
            workers.expect_tree(TREE_WORTH_IT)
            assert len(workers.processes) == (jobs > 1)
            wait = workers.read_tree(text, tmp_path / "image")
            if text is dump:
                assert wait() == (meta.file_count, meta.total_size)
                assert (tmp_path / "image").read_bytes() == store.images.ensure(commit).read_bytes()
                assert (tmp_path / "image").stat().st_mode & 0o7777 == 0o644
            else:
                with pytest.raises(DamagedError, match="link count"):
                    wait()
    with Workers(jobs) as workers:
        workers.expect_tree(TREE_WORTH_IT)
        assert workers.read_tree(dump)() == (meta.file_count, meta.total_size)
        with pytest.raises(StratumError, match="cannot write image"):
            workers.read_tree(dump, tmp_path / "no" / "image")()


@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_mounted_at_once_is_pulled_with_its_image(store: Store, lazy: bool, tmp_path: Path) -> None:
    commit, target = store.commits.list()[0], parse_target(f"oci:{tmp_path}/layout:v1")
    push(store, commit, target, Access())
    other = Store.create(tmp_path / "other")
    for mounted in (False, True, True):
        pull(other, target, Access(), lazy=lazy, image=(lambda: Room(0)) if mounted else None)
        assert list(other.images.list()) == ([commit] if mounted else [])
        assert leftovers(other) == []
    other.images.check(commit, store.commits.tree(commit))


def test_a_small_tree_is_read_here() -> None:
    with Workers(2) as workers:
        workers.expect_tree(TREE_WORTH_IT - 1)
        assert not workers.processes
