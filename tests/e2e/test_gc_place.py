"""Garbage collection of an object store, beside real pushes to a real server that speaks S3."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import pytest

from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import BusyError
from stratum.oci.access import Access
from stratum.oci.bucket import BucketStore, open_bucket
from stratum.oci.guard import Machine
from stratum.oci.links import links_of
from stratum.oci.objectstore import ObjectStore
from stratum.oci.sweeprecord import LIMITS
from stratum.oci.target import Target, parse_target
from stratum.store import Store
from stratum.transfer.placegc import collect_place
from stratum.transfer.push import push
from tests.e2e.registry_artifacts import make_commit
from tests.support.pulling import pull
from tests.support.s3server import S3Server

pytestmark = pytest.mark.timeout(1200)  # the first time, versitygw is built


@pytest.fixture
def access(s3_server: S3Server, tmp_path: Path) -> Access:
    return Session(load_config({**s3_server.environment, "HOME": str(tmp_path)})).access()


@pytest.fixture
def target(s3_server: S3Server) -> Target:
    return parse_target(s3_server.reference(f"gc-{token_hex(4)}", "team/app"))


@contextmanager
def bucket(target: Target, access: Access) -> Iterator[BucketStore]:
    assert target.bucket is not None
    with open_bucket(target.bucket, access) as store:
        yield store


def check_whole(target: Target, access: Access, *tags: str) -> list[str]:
    """The tags, or all that are there: each leads to a manifest with all its blobs."""
    with ObjectStore(target, access) as place:
        found = list(tags) or place.list_tags()
        for tag in found:
            needed = set(links_of(place.get_manifest(tag)[0]).blobs)
            assert needed <= {entry.key[-64:] for entry in place.bucket.list("blobs/")}, tag
        return found


def at_once(*works: Callable[[], None]) -> None:
    """Run all of these side by side; what one of them raises is raised."""
    errors: list[BaseException] = []

    def body(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=body, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_pushes_and_removals_beside_collections_that_never_end(tmp_path: Path, target: Target, access: Access) -> None:
    """Each age is too young to protect anything; commits share most of their files, so blobs lose their names and get
    them again."""
    shared = {f"f{number}": random.Random(number).randbytes(3000) for number in range(6)}
    over, runs = threading.Event(), 0

    def pusher(name: str) -> None:
        store, source = Store.create(tmp_path / name), random.Random(name)
        commits = [make_commit(store, {**shared, "own": source.randbytes(5000)}) for _ in range(2)]
        for number in range(5):
            push(store, commits[number % 2], replace(target, tag=name), access)
            check_whole(target, access, name)
            if number < 4 and source.random() < 0.7:
                with ObjectStore(target, access) as place:
                    place.remove_tag(name)

    def collector(age: float) -> None:
        nonlocal runs
        while not over.wait(0.05):
            with suppress(BusyError), bucket(target, access) as store:
                collect_place(store, age, machine=Machine(limits=replace(LIMITS, young=0)))
                runs += 1

    def pushers() -> None:
        try:
            at_once(*(lambda name=name: pusher(name) for name in ("one", "two")))
        finally:
            over.set()

    push(Store.create(tmp_path / "first"), make_commit(Store.open(tmp_path / "first"), shared), target, access)
    at_once(pushers, lambda: collector(0), lambda: collector(0.2))
    assert runs > 1
    assert check_whole(target, access) == ["latest", "one", "two"]
    with bucket(target, access) as store:
        for _ in range(3):
            done = collect_place(store, 0)
        assert (done.pushes, done.missing, done.tags) == (0, 0, 3)
        assert not [key for key in done.removed if done.removed[key].objects]
        with ObjectStore(target, access) as place:
            named = {digest[7:] for digest in (place.get_manifest(tag)[1] for tag in place.list_tags())}
            named |= {blob for tag in place.list_tags() for blob in links_of(place.get_manifest(tag)[0]).blobs}
        assert {entry.key[-64:] for entry in store.list("blobs/")} == named
    fresh = Store.create(tmp_path / "fresh")
    for tag in ("latest", "one", "two"):
        pull(fresh, replace(target, tag=tag), access)


def test_a_push_whose_base_is_collected_begins_anew(tmp_path: Path, target: Target, access: Access) -> None:
    """The pack that it would keep goes between its look at the tag and its own manifest."""
    store = Store.create(tmp_path / "store")
    files = {"a": random.Random(1).randbytes(4000)}
    first, second = make_commit(store, files), make_commit(store, {**files, "b": b"new" * 2000})
    push(store, first, target, access)
    real, times = ObjectStore.replace_manifest, 0

    def collected_before(self: ObjectStore, data: bytes, tag: str, expected: str | None) -> None:
        nonlocal times
        if not times:
            with ObjectStore(target, access) as other, bucket(target, access) as objects:
                other.remove_tag("latest")
                collect_place(objects, 0, machine=Machine(limits=replace(LIMITS, young=-1e9)))
        times += 1
        real(self, data, tag, expected)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "replace_manifest", collected_before)
        push(store, second, replace(target, tag="other"), access)
    assert times == 2
    assert check_whole(target, access) == ["other"]
