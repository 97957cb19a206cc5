"""Packs made and taken apart by worker processes: the same results, errors and leftovers as without them."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.objects import Staging
from stratum.transfer.packs import Member, PackIndex
from stratum.transfer.packwork import Made, Span
from stratum.transfer.push import push
from stratum.transfer.workers import ENTRIES_WORTH_IT, TREE_WORTH_IT, WORTH_IT, Workers
from stratum.tree.blocks import Dump
from stratum.tree.model import Directory, Symlink
from tests.e2e.registry_artifacts import FILES, assert_only_verified_objects, make_commit
from tests.support.pulling import pull


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


@pytest.fixture
def undescribed(store: Store) -> str:
    """A commit of which nobody asked for the image so far."""
    with store.begin("test") as tx:
        root = Directory(0o40755, 0, 0, 10**18, children={b"a": Symlink(0o120777, 0, 0, 10**18, target=b"b")})
        return store.commits.write(tx, root, image=False).metadata_hash


@pytest.mark.parametrize("jobs", [1, 2])
def test_images_are_described_beside_the_rest(store: Store, undescribed: str, jobs: int, tmp_path: Path) -> None:
    expected = store.commits.whole_meta(undescribed)
    assert expected.image_digest is not None
    with Workers(jobs) as workers:
        metadata = workers.whole_metadata(store.root, undescribed, ENTRIES_WORTH_IT)
        assert len(workers.processes) == jobs - 1
        assert metadata() == expected.to_toml()
        workers.start(WORTH_IT)  # which it does not stand in the way of
        made = make(workers, store, tmp_path / "pack", Reports())
        assert made.size == (tmp_path / "pack").stat().st_size
    assert sorted(os.listdir(store.layout.commit(undescribed))) == ["metadata.toml", "tree.dump.zst"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_images_that_cannot_be_described(store: Store, undescribed: str, jobs: int) -> None:
    (store.layout.commit(undescribed) / "tree.dump.zst").write_bytes(b"no tree")
    with Workers(jobs) as workers:
        metadata = workers.whole_metadata(store.root, undescribed, ENTRIES_WORTH_IT)
        with pytest.raises(DamagedError, match=undescribed):
            metadata()
    with Workers(2) as workers:
        metadata = workers.whole_metadata(store.root, undescribed, ENTRIES_WORTH_IT)
        workers.stop()
        with pytest.raises(StratumError):
            metadata()


def test_a_push_describes_an_image_that_nobody_made(store: Store, undescribed: str, tmp_path: Path) -> None:
    expected = store.commits.whole_meta(undescribed).to_toml()
    push(store, undescribed, parse_target(f"oci:{tmp_path}/layout:v1"), Access(), jobs=2)
    blobs = [path.read_bytes() for path in (tmp_path / "layout/blobs/sha256").iterdir()]
    assert expected in blobs
    assert store.commits.meta(undescribed).image_digest is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_trees_are_drawn_beside_the_rest(store: Store, jobs: int, tmp_path: Path) -> None:
    commit = store.commits.list()[0]
    dump, meta = store.commits.dump(commit), store.commits.meta(commit)
    with Workers(jobs) as workers:
        workers.expect_tree(TREE_WORTH_IT)
        assert len(workers.processes) == (jobs > 1)
        drawn = workers.draw(dump, tmp_path / "image")()
    assert drawn == (meta.file_count, meta.total_size, meta.image_digest, meta.image_size)
    assert (tmp_path / "image").read_bytes() == store.commits.ensure_image(commit).read_bytes()
    assert (tmp_path / "image").stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("jobs", [1, 2])
def test_trees_that_cannot_be_drawn(jobs: int, tmp_path: Path) -> None:
    for text, image, words in (
        (b"/ 0 40755 3 0 0 0 0.0 - - -\n", tmp_path / "image", "link count"),
        (b"/ 0 40755 2 0 0 0 0.0 - - -\n", tmp_path / "no" / "image", "cannot write image"),
    ):
        with Workers(jobs) as workers:
            workers.expect_tree(TREE_WORTH_IT)
            wait = workers.draw(Dump(lambda text=text: [text]), image)  # type: ignore[misc]
            with pytest.raises(StratumError, match=words):
                wait()


def test_a_small_tree_is_drawn_here() -> None:
    with Workers(2) as workers:
        workers.expect_tree(TREE_WORTH_IT - 1)
        assert not workers.processes


def test_stopping_ends_those_who_wait(store: Store, tmp_path: Path) -> None:
    errors = []

    def wait() -> None:
        try:
            workers.make_pack(store.root, members_of(store), pipe[1], Reports())
        except StratumError as exc:
            errors.append(exc)

    pipe = os.pipe()  # nobody reads, so whoever writes a pack to it waits
    with Workers(2) as workers:
        workers.start(WORTH_IT)
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        os.read(pipe[0], 1)
        workers.stop()
        for thread in threads:
            thread.join()
    for fd in pipe:
        os.close(fd)
    assert len(errors) == 3


def test_push_and_pull_with_workers(tmp_path: Path) -> None:
    first, second, third = (Store.create(tmp_path / name) for name in ("first", "second", "third"))
    numbers = random.Random(2)
    commit = make_commit(first, {f"file{n:03}": numbers.randbytes(100_000) for n in range(200)})
    target, same = (parse_target(f"oci:{tmp_path}/{name}:v1") for name in ("layout", "same"))
    pushed = push(first, commit, target, Access(), jobs=2)
    assert push(first, commit, same, Access(), jobs=1).manifest_digest == pushed.manifest_digest
    assert pull(second, target, Access(), jobs=2).commit == commit
    assert dict(second.objects.list()) == dict(first.objects.list())

    pack = max((tmp_path / "layout/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with pack.open("r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"damage")
    with pytest.raises(DamagedError):
        pull(third, target, Access(), jobs=2)
    assert_only_verified_objects(third)
    assert list(third.objects.list())
