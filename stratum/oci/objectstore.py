"""An object store as a place to push to and pull from.

Below the prefix of the reference::

    blobs/sha256/<64 hex digits>       manifests, configs and layers
    tags/<tag>                         the descriptor of the tag's manifest: {"mediaType":...,"digest":...,"size":...}
    referrers/<64 hex digits>          the index of manifests that refer to the manifest with this digest
    conditions.json                    which servers were seen to heed conditions of a put (``bucketremote``)
    clock                              written to read the server's clock
    gc/...                             of whoever removes what nothing names any more, and of pushes, which look out
                                       for that (``guard``)

A blob has its name when all of its bytes are there and are those of its digest; manifests are blobs, too. A tag is one
small object, moved by a put that names the version which is replaced: of two writers one is told that it was too late,
looks again and writes once more. A tag that was removed is an empty object, put in the same way, as deleting depends on
no version. The same goes for an index of referrers, to which both add theirs. So nobody's tag or referrer is lost,
whoever else writes. What is read is the word of a stranger, and is verified like what a registry sends.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from stratum.errors import ChangedError, DamagedError, NotFoundError, StratumError, quoted
from stratum.oci.access import Access
from stratum.oci.bucket import ABSENT, BucketStore, Match, open_bucket
from stratum.oci.bucketerrors import NoBucketError
from stratum.oci.descriptor import (
    MANIFEST_MAX,
    Descriptor,
    MalformedError,
    describe,
    digest_of,
    is_digest,
    json_object,
    read_descriptor,
)
from stratum.oci.guard import Guard, Machine
from stratum.oci.mediatypes import INDEX_OF_MANIFESTS_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from stratum.oci.referrers import is_referrers_tag, subject_of, with_referrer
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target, is_tag

BLOBS, TAGS, REFERRERS = "blobs/sha256/", "tags/", "referrers/"
_TAG_MAX = 4096
_TAGS_MAX = 100_000
_TRIES = 60
_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
_KINDS = {MANIFEST_MEDIA_TYPE: MANIFEST_MAX, INDEX_OF_MANIFESTS_MEDIA_TYPE: MANIFEST_MAX}


class ObjectStore(Sink):
    """The object store that ``target`` names, also to write to (``writes``). ``bucket`` are its objects, where it is
    open already."""

    def __init__(
        self,
        target: Target,
        access: Access,
        *,
        writes: bool = False,
        bucket: BucketStore | None = None,
        machine: Machine | None = None,
    ) -> None:
        assert target.bucket is not None
        self.target = target
        self.bucket = bucket if bucket is not None else open_bucket(target.bucket, access)
        self._guard = Guard(self.bucket, machine)
        self._writes = writes
        self.local = self.bucket.local
        self.lasting = target.bucket.scheme != "memory"
        self._ready = False
        self._lock = threading.Lock()

    @property
    def noted(self) -> Target:
        return replace(self.target, bucket=self.bucket.located)

    def close(self) -> None:
        self._guard.close()
        self.bucket.close()

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        if is_referrers_tag(reference):
            data = self._listed(reference.partition("-")[2])[0]
            if data is None:
                raise NotFoundError(f"nothing refers to {referrers_subject(reference)} in {self.target.place}")
            return data, digest_of(data)
        if is_digest(reference):
            digest = reference
        elif is_tag(reference):
            digest = self.read_tag(reference)[0].digest
        else:
            raise NotFoundError(f"there is no tag {quoted(reference)} in {self.target.place}")
        data = self.bucket.get(_blob_key(digest), MANIFEST_MAX)[0]
        if digest_of(data) != digest:
            raise DamagedError(f"the manifest {digest} in {self.target.place} does not match its digest")
        return data, digest

    def read_tag(self, tag: str) -> tuple[Descriptor, str]:
        """What a tag names, and the version of the tag. ``NotFoundError``, ``DamagedError``."""
        found, version = self._tag(tag)
        if found is None or version is None:
            raise NotFoundError(f"there is no tag {quoted(tag)} in {self.target.place}")
        return found, version

    def _tag(self, tag: str) -> tuple[Descriptor | None, str | None]:
        """What a tag names, None where there is no such tag; and the version of its object, where there is one."""
        if not is_tag(tag) or is_referrers_tag(tag):
            return None, None
        try:
            data, version = self.bucket.get(TAGS + tag, _TAG_MAX)
        except NoBucketError:
            raise
        except NotFoundError:
            return None, None
        if not data:  # it was removed
            return None, version
        return read_tag(data, tag, self.target.place), version

    def list_tags(self) -> list[str]:
        found = []
        for entry in self.bucket.list(TAGS):
            tag = entry.key.removeprefix(TAGS)
            if entry.size and is_tag(tag) and not is_referrers_tag(tag):
                found.append(tag)
            if len(found) > _TAGS_MAX:
                raise DamagedError(f"{self.target.place} has more than {_TAGS_MAX} tags")
        return sorted(found)

    def has_blob(self, blob: Descriptor) -> bool:
        if self._writes:
            self._guard.begin()
        entry = self.bucket.head(_blob_key(blob.digest))
        if entry is None or entry.size != blob.size:
            return False
        self._guard.there(blob.digest)
        return True

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._pieces(blob), blob, self.target.place)

    def _pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """The blob's bytes, and one more where there are more than there should be."""
        left = blob.size + 1
        for piece in self.bucket.read(_blob_key(blob.digest)):
            if len(piece) >= left:
                yield piece[:left]
                return
            left -= len(piece)
            yield piece

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        return self.bucket.read_range(_blob_key(blob.digest), start, size)

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        file = self.bucket.file(_blob_key(blob.digest))
        return (file, 0) if file is not None else None

    # Writing

    def prepare(self) -> None:
        """See to it once that this may be written to. ``UnsupportedError`` where the store heeds no conditions."""
        if not self._ready:
            with self._lock:
                self.bucket.ready_to_write()
                self._ready = True

    def put_blob(self, upload: Upload) -> None:
        self.prepare()
        self._guard.begin()
        self._guard.sending()
        self._put_blob(upload)
        self._guard.there(upload.descriptor.digest)

    def _put_blob(self, upload: Upload) -> None:
        blob = upload.descriptor
        self.bucket.put_stream(_blob_key(blob.digest), verified(upload.read(0), blob, "the store"), blob.size)

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        self.prepare()
        self._guard.begin()
        return self.bucket.copy_from(repository, _blob_key(blob.digest)) and self.has_blob(blob)

    def put_manifest(self, data: bytes, tag: str) -> None:
        self._publish(data, tag, lambda: self._move(data, tag))

    def replace_manifest(self, data: bytes, tag: str, expected: str | None) -> None:
        """As ``put_manifest``, but only where the tag still names the manifest with the digest ``expected``; None:
        where there is no such tag. ``ChangedError`` otherwise."""
        self._publish(data, tag, lambda: self._move(data, tag, (expected,)))

    def _publish(self, data: bytes, tag: str, move: Callable[[], None]) -> None:
        """Store a manifest, then ``move`` the tag, or the index of referrers that a tag stands for."""
        self.prepare()
        if len(data) > MANIFEST_MAX:
            raise StratumError(f"a manifest of {len(data)} bytes is too large: {MANIFEST_MAX} is the limit")
        manifest = Upload.of_bytes(describe(MANIFEST_MEDIA_TYPE, data), data)
        if is_referrers_tag(tag):
            name = tag.partition("-")[2]
            self._guard.publish(
                data,
                REFERRERS + name,
                lambda: None,
                lambda: self._again(lambda: self._put_index(name, lambda _: data)),
            )
        else:
            self._guard.publish(data, TAGS + tag, lambda: self._put_blob(manifest), lambda: self._again(move))

    def _move(self, data: bytes, tag: str, expected: tuple[str | None] | None = None) -> None:
        """Have the tag name the manifest ``data``, which is there. ``_RaceLostError`` where somebody was faster."""
        try:
            before, version = self._tag(tag)
        except DamagedError:
            if expected is not None:
                raise
            before, version = None, self.bucket.get(TAGS + tag, MANIFEST_MAX)[1]
        if expected is not None and (before.digest if before else None) != expected[0]:
            now = f"names {before.digest} now" if before else "is not there any more"
            raise ChangedError(
                f"the tag {tag} in {self.target.place} was moved by somebody else meanwhile: it {now}",
                hint="pull what is there, and push again",
            )
        if before is not None and before.digest == digest_of(data):
            return
        kind = json.loads(data).get("mediaType")
        kind = kind if kind in _KINDS else MANIFEST_MEDIA_TYPE
        value = {"mediaType": kind, "digest": digest_of(data), "size": len(data)}
        self._guard.check()
        self._put_small(TAGS + tag, json.dumps(value, separators=(",", ":")).encode(), version)

    def list_referrer(self, data: bytes) -> None:
        self.prepare()
        name = subject_of(data).partition(":")[2]
        manifest = Upload.of_bytes(describe(MANIFEST_MEDIA_TYPE, data), data)

        def add(index: bytes | None) -> bytes:
            return with_referrer(index, data, self.target.place)

        def write() -> None:
            self._again(lambda: self._put_index(name, add))

        self._guard.publish(data, REFERRERS + name, lambda: self._put_blob(manifest), write)

    def remove_tag(self, tag: str, expected: str | None = None) -> str:
        """Remove a tag, unless somebody else moves it meanwhile; the digest of the manifest that it named.

        The manifest and its blobs stay, until a collection finds that nothing names them. ``NotFoundError``;
        ``ChangedError`` where it does not name the manifest with the digest ``expected`` any more.
        """
        self.prepare()
        named = self.read_tag(tag)[0].digest if expected is None else expected

        def remove() -> None:
            found, version = self.read_tag(tag)
            if found.digest != named:
                raise ChangedError(
                    f"the tag {tag} in {self.target.place} was moved by somebody else meanwhile: it names "
                    f"{found.digest} now",
                    hint="see what that is, and remove it again",
                )
            self._put_small(TAGS + tag, b"", version)

        self._again(remove)
        return named

    def _put_index(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        index, version = self._listed(name)
        changed = change(index)
        if changed != index:
            self._guard.check()
            self._put_small(REFERRERS + name, changed, version)

    def _listed(self, name: str) -> tuple[bytes | None, str | None]:
        """The index of those who refer to a manifest, and its version; None where there is none."""
        try:
            return self.bucket.get(REFERRERS + name, MANIFEST_MAX)
        except NoBucketError:
            raise
        except NotFoundError:
            return None, None

    def _put_small(self, key: str, data: bytes, version: str | None) -> None:
        try:
            self.bucket.put(key, data, when=ABSENT if version is None else Match(version))
        except ChangedError as exc:
            raise _RaceLostError(exc.message, hint=exc.hint) from None

    def _again(self, write: Callable[[], None]) -> None:
        """Write, and once more each time that somebody else was faster."""
        for attempt in range(_TRIES):
            try:
                write()
                return
            except _RaceLostError:  # noqa: PERF203  (a retry)
                if attempt == _TRIES - 1:
                    raise
                time.sleep(random.random() * min(_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311


class _RaceLostError(ChangedError):
    """Somebody else wrote between reading and writing."""


def read_tag(data: bytes, tag: str, where: str) -> Descriptor:
    """What the object of a tag names; ``DamagedError`` says ``where`` it is."""
    try:
        return read_descriptor(json_object(data), "the tag", _KINDS)
    except MalformedError as exc:
        raise DamagedError(f"the tag {tag} in {where} is not valid: {exc}") from None


def referrers_subject(tag: str) -> str:
    """The digest that the tag of an index of referrers is made of."""
    return tag.replace("-", ":", 1)


def _blob_key(digest: str) -> str:
    return BLOBS + digest.partition(":")[2]
