"""The contract of a place that manifests and blobs are in: read from it (``Source``), write to it (``Sink``).

A registry (``client``), an object store (``objectstore``), an OCI image layout (``layout``), an archive (``archive``)
and a peer (``peerplace``) are such places; ``places`` opens the one that a target names. A new place is a class
with the abstract methods here, and has to pass the tests of the contract (``tests/contracts/places.py``).

For all methods of both:

- Errors are ``StratumError``, in the other side's words: ``NotFoundError`` for what is not there, ``DamagedError`` for
  bytes that are not what they should be or are too many, ``DeniedError``, ``UnreachableError``.
- A place may be used by several threads at once, unless its class says otherwise.
- A descriptor is well-formed: a sha256 digest, a size of at least 0. Tags may be any text; a name that the place cannot
  have is one that is not there.
- What a place sends is the word of a stranger: what it says of sizes, names and digests is checked before it counts.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from stratum.errors import ConflictError, DamagedError, NotFoundError
from stratum.frozen import frozen
from stratum.oci.descriptor import Descriptor, describe
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.referrers import Referrer, read_referrers, referrers_tag, subject_of, with_referrer
from stratum.oci.target import Target

_SourceT = TypeVar("_SourceT", bound="Source")


class CollectedError(ConflictError):
    """What a push relied on was removed by a garbage collection meanwhile. The push can be begun anew."""

    id = "collected"


@frozen
class Upload:
    """A blob to be sent: what it is, and how to read it from byte ``start`` on (again, if the first try fails)."""

    descriptor: Descriptor
    read: Callable[[int], Iterator[bytes]]

    @classmethod
    def of_bytes(cls, descriptor: Descriptor, data: bytes) -> Upload:
        return cls(descriptor, lambda start: iter((data[start:],)))


class Source(ABC):
    """One repository to read from. Used in a ``with`` block, or closed by ``close``."""

    target: Target
    local = False
    """Whether blobs are files of this machine: ``blob_file`` gives them, and bytes come at once and at no cost."""
    lasting = True
    """Whether ``target`` leads to it again, also another process."""

    @property
    def noted(self) -> Target:
        """``target`` as another process finds it, too: with what of it came from this one's environment."""
        return self.target

    def __enter__(self: _SourceT) -> _SourceT:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections. Nothing else may be called then."""
        return

    @abstractmethod
    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        """The bytes and the digest of the manifest that ``reference``, a tag or a digest, names.

        A digest that is asked for is verified. ``NotFoundError`` where there is none, ``DamagedError`` for other bytes
        than the digest's or more than ``descriptor.MANIFEST_MAX``.
        """

    @abstractmethod
    def list_tags(self) -> list[str]:
        """The tags, sorted, but for those of indexes of referrers; none where the repository does not exist."""

    def list_referrers(self, subject: str, artifact_type: str) -> list[Referrer]:
        """The manifests of a type that refer to the manifest with the digest ``subject``, be that there or not."""
        try:
            data, _ = self.get_manifest(referrers_tag(subject))
        except NotFoundError:
            return []
        return read_referrers(data, artifact_type, self.target.place)

    @abstractmethod
    def has_blob(self, blob: Descriptor) -> bool:
        """Whether a blob with this digest and size is there; its bytes are not looked at."""

    @abstractmethod
    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The blob in pieces of at most 1 MiB. Size and digest have been verified once they end without an error, not
        before.

        ``NotFoundError`` where it is not there, ``DamagedError`` where it is not what the descriptor says, before more
        than ``blob.size`` bytes were given.
        """

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        """``size`` bytes of the blob from byte ``start`` on, or None where only whole blobs can be had.

        The range lies in the blob. What is given is not verified, and is shorter where the place has less; never
        longer. ``NotFoundError`` where the blob is not there.
        """
        return None

    def blob_file(self, blob: Descriptor) -> tuple[BinaryIO, int] | None:
        """A file of this machine that the blob lies in, unverified and for the caller to close, and the byte of it that
        the blob begins at. None where the place is not ``local``. ``NotFoundError`` where the blob is not there."""
        return None


class Sink(Source):
    """One repository to write to. Blobs come first; a manifest, and with it the tag, when all that it names is there.

    What was cut short has no name: neither a blob that did not arrive whole nor a tag without a manifest. The same may
    be written again at any time. What was put is known at once: ``has_blob``, ``get_manifest`` and ``list_tags`` tell.
    """

    @abstractmethod
    def put_blob(self, upload: Upload) -> None:
        """Store a blob; one that is there already may be left as it is.

        ``StratumError`` where the upload's bytes are not what its descriptor says.
        """

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        """Have the blob here without sending it, for another repository at the same place has it; whether that
        worked."""
        return False

    @abstractmethod
    def put_manifest(self, data: bytes, tag: str) -> None:
        """Store a manifest whose blobs are all there, then point ``tag`` at it, in one step for whoever reads the tag.

        ``data`` is a manifest, or an index of some. Of two writers at the same time the last one's manifest has the
        tag; both are there by their digests. A place that looks whether the blobs are there, and does not find one,
        raises ``RefusedError`` or ``CollectedError``.
        """

    def replace_manifest(self, data: bytes, tag: str, expected: str | None) -> None:
        """As ``put_manifest``, but only where the tag still names the manifest with the digest ``expected`` (None:
        where there is no such tag): ``ChangedError`` otherwise. A place that cannot know does it in any case."""
        self.put_manifest(data, tag)

    def put_referrer(self, data: bytes) -> None:
        """Store a manifest that was made here and refers to another by its ``subject``: it has no tag, and
        ``list_referrers`` finds it. What it names is there. Of two writers at the same time one may be forgotten."""
        self.put_blob(Upload.of_bytes(describe(MANIFEST_MEDIA_TYPE, data), data))
        self.list_referrer(data)

    def list_referrer(self, data: bytes) -> None:
        """Add a manifest that is there to the index of those that refer to its ``subject``."""
        tag = referrers_tag(subject_of(data))
        try:
            index: bytes | None = self.get_manifest(tag)[0]
        except NotFoundError:
            index = None
        self.put_manifest(with_referrer(index, data, self.target.place), tag)


def verified(pieces: Iterable[bytes], blob: Descriptor, where: str) -> Iterator[bytes]:
    """Pass ``pieces`` on, never more than the blob's size, and check size and digest at the end.

    ``DamagedError``, which names ``where`` the bytes come from, for others than the blob's.
    """
    sha, size = hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > blob.size:
            raise DamagedError(f"{where} sent more than the {blob.size} bytes of blob {blob.digest}")
        sha.update(piece)
        yield piece
    if size != blob.size:
        raise DamagedError(f"{where} sent {size} of the {blob.size} bytes of blob {blob.digest}")
    if sha.hexdigest() != blob.hex:
        raise DamagedError(f"{where} sent bytes that do not match the digest of blob {blob.digest}")


def fetch(source: Source, blob: Descriptor) -> bytes:
    """A small blob as a whole, verified."""
    return b"".join(source.read_blob(blob))
