"""What every place has to hold to (``stratum.oci.remote``): the tests that each implementer runs.

A new place is a ``Shelf`` and a class of tests with it as the fixture ``shelf``: of ``SourceContract`` for what can be
read, of ``SinkContract`` for what can be written, of ``SharedSinkContract`` for what stays open to other writers, and
to those who try again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, describe, digest_of
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.referrers import referrers_tag
from stratum.oci.remote import Sink, Source, Upload, fetch

SMALL = b"a blob"
MEDIUM = random.Random(7).randbytes((2 << 20) + 5)
LARGE = bytes((16 << 20) + 5)
"""More than a registry is sent in one request, by a little."""

HOSTILE = (
    "../../../etc/passwd",
    "..",
    "",
    "a b",
    "a\nb",
    "a\0b",
    "sha256:zz",
    "sha256:" + "A" * 64,
    "x" * 5000,
)
"""What no manifest is named by."""


class Shelf(ABC):
    """One place of the kind that is tested; nothing is in it."""

    ranges = True
    """Whether parts of blobs can be read."""

    @abstractmethod
    def sink(self) -> Sink:
        """Open it to write."""

    @abstractmethod
    def source(self) -> Source:
        """Open it to read, when nothing more is written."""

    @abstractmethod
    def spoil(self, digest: str, data: bytes) -> None:
        """Have ``data`` where the blob with this digest is."""


def blob_of(data: bytes) -> Descriptor:
    return describe("application/x-test", data)


def manifest_of(*blobs: Descriptor, **annotations: str) -> bytes:
    """A manifest of the blobs, the first of them its config, laid out as nobody else would."""
    values = [{"digest": blob.digest, "size": blob.size, "mediaType": blob.media_type} for blob in blobs]
    manifest = {"mediaType": MANIFEST_MEDIA_TYPE, "schemaVersion": 2, "artifactType": "application/x-test"}
    return json.dumps(
        {**manifest, "layers": values[1:], "config": values[0], "annotations": annotations}, indent=3
    ).encode()


def referrer_of(subject: bytes, kind: str, *blobs: Descriptor, **annotations: str) -> bytes:
    """A manifest of the blobs that refers to the manifest ``subject``."""
    value = json.loads(manifest_of(*blobs, **annotations))
    about = {"mediaType": MANIFEST_MEDIA_TYPE, "digest": digest_of(subject), "size": len(subject)}
    return json.dumps({**value, "artifactType": f"application/{kind}", "subject": about}).encode()


def put(sink: Sink, *contents: bytes) -> list[Descriptor]:
    """Store blobs; their descriptors."""
    for data in contents:
        sink.put_blob(Upload.of_bytes(blob_of(data), data))
    return [blob_of(data) for data in contents]


def taken(source: Source, blob: Descriptor) -> int:
    """Read a blob that is not what it should be; the bytes that were given before that was noticed."""
    given: list[bytes] = []
    with pytest.raises(DamagedError):
        given.extend(source.read_blob(blob))
    return sum(map(len, given))


class SourceContract:
    """Reading, after SMALL and MEDIUM were stored, and a manifest of both with the tags ``one`` and ``two``."""

    @pytest.fixture
    def shelf(self) -> Shelf:
        raise NotImplementedError

    @pytest.fixture
    def manifest(self, shelf: Shelf) -> bytes:
        """What is stored: its manifest."""
        with shelf.sink() as sink:
            data = manifest_of(*put(sink, SMALL, MEDIUM), key="v\u00e4lue")
            for tag in ("two", "one"):
                sink.put_manifest(data, tag)
        return data

    def test_manifests_by_tag_and_by_digest(self, shelf: Shelf, manifest: bytes) -> None:
        with shelf.source() as source:
            assert source.list_tags() == ["one", "two"]
            for reference in ("one", "two", digest_of(manifest)):
                assert source.get_manifest(reference) == (manifest, digest_of(manifest))

    def test_blobs(self, shelf: Shelf, manifest: bytes) -> None:
        with shelf.source() as source:
            for data in (SMALL, MEDIUM):
                assert source.has_blob(blob_of(data))
                assert fetch(source, blob_of(data)) == data
            assert max(map(len, source.read_blob(blob_of(MEDIUM)))) <= 1 << 20, "memory is bounded"

    def test_ranges(self, shelf: Shelf, manifest: bytes) -> None:
        blob, size = blob_of(MEDIUM), len(MEDIUM)
        with shelf.source() as source:
            for start, length in ((0, 1), (0, size), (size - 1, 1), (1234, 1_000_000), (size // 2, 1)):
                part = source.read_range(blob, start, length)
                assert part == (MEDIUM[start : start + length] if shelf.ranges else None)

    def test_files(self, shelf: Shelf, manifest: bytes) -> None:
        """A file that a blob lies in is the caller's: it stays open when the place is closed."""
        with shelf.source() as source:
            found = source.blob_file(blob_of(MEDIUM))
            assert (found is not None) == source.local
        if found is not None:
            with found[0] as file:
                file.seek(found[1])
                assert file.read(len(MEDIUM)) == MEDIUM

    def test_what_is_not_there(self, shelf: Shelf, manifest: bytes) -> None:
        missing = blob_of(b"nothing")
        with shelf.source() as source:
            assert not source.has_blob(missing)
            with pytest.raises(NotFoundError):
                fetch(source, missing)
            for ask in (lambda: source.read_range(missing, 0, 1), lambda: source.blob_file(missing)):
                with contextlib.suppress(NotFoundError):
                    assert ask() is None
            for reference in ("three", missing.digest):
                with pytest.raises(NotFoundError):
                    source.get_manifest(reference)

    @pytest.mark.parametrize("name", HOSTILE)
    def test_names_that_cannot_be(self, shelf: Shelf, manifest: bytes, name: str) -> None:
        with shelf.source() as source, pytest.raises(NotFoundError):
            source.get_manifest(name)

    @pytest.mark.parametrize("size", [0, 1, len(SMALL) - 1, len(SMALL) + 1, 1 << 60])
    def test_sizes_that_are_wrong(self, shelf: Shelf, manifest: bytes, size: int) -> None:
        """No more than the size is given, and the end is an error."""
        wrong = Descriptor("application/x-test", digest_of(SMALL), size)
        with shelf.source() as source:
            assert not source.has_blob(wrong)
            assert taken(source, wrong) <= size

    @pytest.mark.parametrize(
        "bad", [b"a bl0b", b"a blo", b"", b"x" * (1 << 20)], ids=["other", "short", "none", "long"]
    )
    def test_bytes_that_are_wrong(self, shelf: Shelf, manifest: bytes, bad: bytes) -> None:
        shelf.spoil(digest_of(SMALL), bad)
        with pytest.raises(DamagedError), shelf.source() as source:
            fetch(source, blob_of(SMALL))

    @pytest.mark.parametrize("bad", [b"{}", b"x" * (MANIFEST_MAX + 1)], ids=["other", "large"])
    def test_a_manifest_that_is_wrong(self, shelf: Shelf, manifest: bytes, bad: bytes) -> None:
        shelf.spoil(digest_of(manifest), bad)
        with pytest.raises(StratumError), shelf.source() as source:
            source.get_manifest("one")

    def test_nothing_stays_open(self, shelf: Shelf, manifest: bytes) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with shelf.source() as source:
            source.get_manifest("one")
            next(source.read_blob(blob_of(MEDIUM)))
        with contextlib.suppress(StratumError), shelf.source() as source:
            source.get_manifest("three")
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_threads(self, shelf: Shelf, manifest: bytes) -> None:
        with shelf.source() as source, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(fetch, source, blob_of(data)) for data in (SMALL, MEDIUM) * 8]
            jobs += [pool.submit(lambda: source.get_manifest("one")[0]) for _ in range(8)]
            assert {job.result() for job in jobs} == {SMALL, MEDIUM, manifest}


class SinkContract(SourceContract):
    """Writing besides."""

    def test_what_was_put_is_known(self, shelf: Shelf) -> None:
        with shelf.sink() as sink:
            (blob,) = put(sink, SMALL)
            assert sink.has_blob(blob)
            assert not sink.has_blob(blob_of(LARGE))
            assert sink.list_tags() == []
            data = manifest_of(blob)
            sink.put_manifest(data, "v1")
            assert sink.list_tags() == ["v1"]
            for reference in ("v1", digest_of(data)):
                assert sink.get_manifest(reference) == (data, digest_of(data))

    def test_tags_move(self, shelf: Shelf) -> None:
        with shelf.sink() as sink:
            first, second = (manifest_of(*put(sink, SMALL), number=number) for number in ("1", "2"))
            sink.put_manifest(first, "v1")
            sink.put_manifest(second, "v1")
            assert sink.get_manifest("v1")[0] == second
        with shelf.source() as source:
            assert source.list_tags() == ["v1"]
            assert source.get_manifest("v1")[0] == second
            assert source.get_manifest(digest_of(first))[0] == first

    def test_referrers_are_found_by_what_they_refer_to(self, shelf: Shelf) -> None:
        with shelf.sink() as sink:
            blobs = put(sink, SMALL, MEDIUM)
            first, second = (manifest_of(*blobs, number=number) for number in ("1", "2"))
            sink.put_manifest(first, "v1")
            made = [referrer_of(first, kind, *blobs, at=str(at)) for kind in ("x", "y") for at in range(2)]
            for data in made:
                assert sink.list_referrers(digest_of(second), "application/x") == []
                sink.put_referrer(data)
            sink.put_referrer(made[0])
        with shelf.source() as source:
            assert source.list_tags() == ["v1"]
            for kind, expected in (("x", made[:2]), ("y", made[2:]), ("z", [])):
                found = source.list_referrers(digest_of(first), f"application/{kind}")
                digests = {referrer.manifest.digest: referrer.annotations for referrer in found}
                assert digests == {digest_of(data): {"at": str(at)} for at, data in enumerate(expected)}
                assert len(found) == len(digests)
                for digest in digests:
                    assert source.get_manifest(digest)[0] in expected
            assert source.list_referrers(digest_of(second), "application/x") == []

    @pytest.mark.parametrize("index", [b"[]", b'{"manifests": 5}', b'{"manifests": [{"digest": "../x"}]}'])
    def test_a_list_of_referrers_that_is_none(self, shelf: Shelf, index: bytes) -> None:
        with shelf.sink() as sink:
            (blob,) = put(sink, SMALL)
            data = manifest_of(blob)
            sink.put_manifest(data, "v1")
            sink.put_referrer(referrer_of(data, "x", blob))
            listed = sink.get_manifest(referrers_tag(digest_of(data)))[1]
        shelf.spoil(listed, index)
        with pytest.raises(StratumError), shelf.source() as source:
            source.list_referrers(digest_of(data), "application/x")

    def test_a_mount_that_cannot_be(self, shelf: Shelf) -> None:
        with shelf.sink() as sink:
            assert sink.mount_blob(blob_of(b"nothing"), "no/where") is False
            assert not sink.has_blob(blob_of(b"nothing"))

    def test_a_manifest_that_nobody_takes(self, shelf: Shelf) -> None:
        """It is refused when it is written or when it is read."""

        def write_and_read() -> None:
            with shelf.sink() as sink:
                sink.put_manifest(manifest_of(*put(sink, SMALL), padding="x" * MANIFEST_MAX), "v1")
            with shelf.source() as source:
                source.get_manifest("v1")

        with pytest.raises(StratumError):
            write_and_read()


class SharedSinkContract(SinkContract):
    """Writing to what others write to, too, and what is left of writers that fail."""

    def test_a_place_without_anything(self, shelf: Shelf) -> None:
        with shelf.source() as source:
            assert source.list_tags() == []
            assert not source.has_blob(blob_of(SMALL))
            with pytest.raises(NotFoundError):
                source.get_manifest("latest")

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("lie", ["other", "short", "long"])
    def test_an_upload_of_other_bytes(self, shelf: Shelf, data: bytes, lie: str) -> None:
        sent = {"other": b"x" * len(data), "short": data[:-1], "long": data + b"x"}[lie]
        with shelf.sink() as sink:
            with pytest.raises(StratumError):
                sink.put_blob(Upload.of_bytes(blob_of(data), sent))
            assert not sink.has_blob(blob_of(data))
            put(sink, data)
            assert fetch(sink, blob_of(data)) == data

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize(
        "error", [StratumError("gone"), FileNotFoundError(errno.ENOENT, "gone")], ids=["ours", "os"]
    )
    def test_an_upload_that_is_cut_short(self, shelf: Shelf, data: bytes, error: Exception) -> None:
        def cut(start: int) -> Iterator[bytes]:
            yield data[start : len(data) - 1]
            raise error

        with shelf.sink() as sink:
            with pytest.raises((StratumError, OSError), match="gone"):
                sink.put_blob(Upload(blob_of(data), cut))
            assert not sink.has_blob(blob_of(data))
        with shelf.source() as source:
            assert not source.has_blob(blob_of(data))
        with shelf.sink() as sink:
            put(sink, data)
            assert fetch(sink, blob_of(data)) == data

    def test_the_same_again(self, shelf: Shelf) -> None:
        for _ in range(2):
            with shelf.sink() as sink:
                data = manifest_of(*put(sink, SMALL, SMALL))
                sink.put_manifest(data, "v1")
                sink.put_manifest(data, "v1")
        with shelf.source() as source:
            assert source.list_tags() == ["v1"]

    def test_writers_side_by_side(self, shelf: Shelf) -> None:
        """No tag is lost, and each names what one of its writers gave it."""
        contents = {f"v{number}": f"content {number}".encode() for number in range(6)}

        def write(tag: str) -> None:
            with shelf.sink() as sink:
                manifest = manifest_of(*put(sink, contents[tag]))
                for name in (tag, "latest"):
                    sink.put_manifest(manifest, name)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write, contents))
        with shelf.source() as source:
            assert source.list_tags() == sorted([*contents, "latest"])
            manifests = {tag: manifest_of(blob_of(data)) for tag, data in contents.items()}
            assert {tag: source.get_manifest(tag)[0] for tag in contents} == manifests
            assert source.get_manifest("latest")[0] in manifests.values()
