"""A place in memory: all that a place has to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.referrers import is_referrers_tag
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target


@dataclass
class Memory:
    """What is in it: digest -> bytes, tag -> digest."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class ToyPlace(Sink):
    def __init__(self, memory: Memory) -> None:
        self.target = Target("toy.example", "toy", "latest")
        self._memory = memory

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        digest = reference if is_digest(reference) else self._memory.tags.get(reference, "")
        data = self._data(digest, MANIFEST_MAX)
        if digest_of(data) != digest:
            raise DamagedError(f"the manifest {digest} is damaged")
        return data, digest

    def list_tags(self) -> list[str]:
        return sorted(tag for tag in self._memory.tags if not is_referrers_tag(tag))

    def has_blob(self, blob: Descriptor) -> bool:
        return len(self._memory.blobs.get(blob.digest, b"")) == blob.size and blob.digest in self._memory.blobs

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        data = self._data(blob.digest, blob.size + 1)
        return verified((data[start : start + 4096] for start in range(0, len(data), 4096)), blob, "memory")

    def put_blob(self, upload: Upload) -> None:
        blob = upload.descriptor
        self._memory.blobs[blob.digest] = b"".join(verified(upload.read(0), blob, "the sender"))

    def put_manifest(self, data: bytes, tag: str) -> None:
        self._memory.blobs[digest_of(data)] = data
        self._memory.tags[tag] = digest_of(data)

    def _data(self, digest: str, limit: int) -> bytes:
        if digest not in self._memory.blobs:
            raise NotFoundError(f"there is no {digest or 'such tag'} in memory")
        return self._memory.blobs[digest][: limit + 1]
