"""Object stores hold to the contract of places: in memory, in a directory, at a server that speaks S3."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stratum.errors import ChangedError
from stratum.oci.access import Access
from stratum.oci.descriptor import MANIFEST_MAX, digest_of
from stratum.oci.objectstore import BLOBS, REFERRERS, ObjectStore
from stratum.oci.places import open_sink, open_source
from stratum.oci.remote import Sink, Source
from stratum.oci.target import parse_target
from tests.contracts.places import SMALL, SharedSinkContract, Shelf, manifest_of, put, referrer_of
from tests.support.s3server import S3Server

ACCESS = Access(connect_timeout=5, read_timeout=20)


class BucketShelf(Shelf):
    def __init__(self, text: str, access: Access = ACCESS) -> None:
        self.target, self.access = parse_target(text), access

    def sink(self) -> ObjectStore:
        sink = open_sink(self.target, self.access, create=True)
        assert isinstance(sink, ObjectStore)
        return sink

    def source(self) -> Source:
        return open_source(self.target, self.access)

    def spoil(self, digest: str, data: bytes) -> None:
        """A blob, or the index of referrers that has these bytes."""
        with self.sink() as sink:
            key = BLOBS + digest.partition(":")[2]
            for entry in sink.bucket.list(REFERRERS):
                if digest_of(sink.bucket.get(entry.key, MANIFEST_MAX)[0]) == digest:
                    key = entry.key
            sink.bucket.put(key, data)


class BucketContract(SharedSinkContract):
    """What object stores promise besides: nobody's tag or referrer is lost."""

    @pytest.fixture
    def shelf(self) -> BucketShelf:
        raise NotImplementedError

    def test_referrers_of_writers_side_by_side(self, shelf: BucketShelf) -> None:
        with shelf.sink() as sink:
            blobs = put(sink, SMALL)
            subject = manifest_of(*blobs)
            sink.put_manifest(subject, "v1")
        made = [referrer_of(subject, "x", *blobs, at=str(number)) for number in range(12)]
        ready = threading.Barrier(4)

        def write(some: list[bytes]) -> None:
            with shelf.sink() as sink:
                ready.wait()
                for data in some:
                    sink.put_referrer(data)

        threads = [threading.Thread(target=write, args=(made[number::4],)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with shelf.source() as source:
            found = source.list_referrers(digest_of(subject), "application/x")
            assert {each.manifest.digest for each in found} == {digest_of(data) for data in made}

    def test_a_tag_that_moved_meanwhile(self, shelf: BucketShelf) -> None:
        with shelf.sink() as sink:
            first, second, third = (manifest_of(*put(sink, SMALL), number=str(number)) for number in range(3))
            sink.replace_manifest(first, "v1", None)
            sink.replace_manifest(second, "v1", digest_of(first))
            for expected in (None, digest_of(first)):
                with pytest.raises(ChangedError, match="moved by somebody else"):
                    sink.replace_manifest(third, "v1", expected)
            assert sink.get_manifest("v1")[0] == second
            with pytest.raises(ChangedError, match="not there any more"):
                sink.replace_manifest(third, "v2", digest_of(first))


class TestMemory(BucketContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> BucketShelf:
        return BucketShelf(f"memory://{tmp_path.name}/of/ours")


class TestFile(BucketContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> BucketShelf:
        return BucketShelf(f"file://{tmp_path}/made/anew")


class TestS3(BucketContract):
    @pytest.fixture
    def shelf(self, s3_server: S3Server, tmp_path: Path) -> BucketShelf:
        access = Access(connect_timeout=5, read_timeout=20, environment=s3_server.environment)
        return BucketShelf(s3_server.reference("contract", tmp_path.name.replace("[", "-")), access)


def test_memory_is_not_lasting(tmp_path: Path) -> None:
    def lasting(sink: Sink) -> bool:
        with sink:
            return sink.lasting

    assert not lasting(open_sink(parse_target("memory://x"), ACCESS, create=False))
    assert lasting(open_sink(parse_target(f"file://{tmp_path}"), ACCESS, create=False))
