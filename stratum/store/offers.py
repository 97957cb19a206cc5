"""Artifacts of commits that are computed when somebody asks for them (``transfer.offering``), as far as they are kept.

::

    offers/commits/<commit>     the digest of its manifest, and of all blobs that this names
    offers/blobs/<SHA-256>      manifests, and blobs that are small and cannot be made again byte for byte: indexes of
                                packs, hashes of large objects, metadata, tree layers that are no frames of the store
    offers/packs/<SHA-256>      what is in a pack, whose bytes follow from that; so it is found by the pack's digest
    offers/lists/<BLAKE3>       the same file, by the members of the pack

Each file tells by its own bytes whether it is whole. What an offer names is there, durably, before the offer is; where
something of it is lost all the same, it is made anew. All of it goes with the commits (``store.gc``). Whoever writes
here holds the store's lock shared.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.refs import is_hash
from stratum.store.layout import Layout, storing
from stratum.sys.atomic import fsync_dir

if TYPE_CHECKING:
    from stratum.store.transaction import Transaction

COMMITS, BLOBS, PACKS, LISTS = "commits", "blobs", "packs", "lists"
DIRECTORIES = (COMMITS, BLOBS, PACKS, LISTS)

_FILE_MAX = 64 << 20
_DIGEST_SIZE = 32
_SIZE = 8
_PACK_HEAD = b"stratum-pack 1\n"
_OFFER_HEAD = b"stratum-offer 1\n"
_SUM = re.compile(rb"([a-z]+) ([0-9a-f]{64}) ([0-9]{1,15})\n")


class Blob(NamedTuple):
    """A blob of an artifact: the hex digits of its SHA-256, and its size in bytes."""

    sha: str
    size: int


@frozen
class OfferedPack:
    """A pack that is computed: what it is as a blob, its index, the hashes of a large object, and its members
    (digest of 32 bytes, size in bytes), in order."""

    pack: Blob
    index: Blob
    verity: Blob | None
    members: Sequence[tuple[bytes, int]]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """The blobs, in the order of a manifest."""
        return (self.index, self.pack, *((self.verity,) if self.verity is not None else ()))


@frozen
class Offer:
    """The artifact of a commit: its manifest, and all blobs that the manifest names, the config first. ``pushed`` are
    those of them that are blobs which others pushed (``store.blobs``)."""

    commit: str
    manifest: Blob
    blobs: tuple[Blob, ...]
    pushed: frozenset[str] = frozenset()


class Offers:
    """What is kept of the computed artifacts of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, kind: str, name: str) -> Path:
        """Where a file is or would be; ``kind`` is one of ``DIRECTORIES``."""
        return self._layout.offers / kind / name

    def names(self, kind: str) -> list[str]:
        """The names of all files of a kind, sorted."""
        return [name for name in self._layout.names_in(self._layout.offers / kind) if is_hash(name)]

    def of(self, commit: str) -> Offer | None:
        """The artifact of a commit; None where none is kept, or it is damaged."""
        data = self._read(COMMITS, commit)
        return read_offer(commit, data) if data is not None else None

    def blob(self, sha: str) -> bytes | None:
        """A blob that is kept as it is; None where it is not, or is damaged."""
        data = self._read(BLOBS, sha)
        return data if data is not None and hashlib.sha256(data).hexdigest() == sha else None

    def blob_path(self, sha: str) -> Path | None:
        """The file of such a blob; None as ``blob``."""
        return self.path(BLOBS, sha) if self.blob(sha) is not None else None

    def pack(self, sha: str) -> OfferedPack | None:
        """The pack with this digest; None where none is known, or what is known is damaged."""
        data = self._read(PACKS, sha)
        found = read_pack(data) if data is not None else None
        return found if found is not None and found.pack.sha == sha else None

    def listed_as(self, sha: str) -> str | None:
        """What the list of the members of a pack is called; None as ``pack``. Quicker than that."""
        data = self._read(PACKS, sha)
        body = _unchecked(data, _PACK_HEAD) if data is not None else None
        return _name_of_list(body.partition(b"\n\n")[2]) if body is not None else None

    def pack_of(self, members: Sequence[tuple[bytes, int]]) -> OfferedPack | None:
        """The pack with these members; None as ``pack``."""
        data = self._read(LISTS, list_name(members))
        found = read_pack(data) if data is not None else None
        return found if found is not None and tuple(found.members) == tuple(members) else None

    def keep(self, tx: Transaction, files: Iterable[tuple[str, str, bytes]]) -> None:
        """Keep some files (kind, name, content), all of which are durable when this returns. Those that are there as
        they are, are left alone; two names of one content become one file."""
        new: dict[bytes, Path] = {}
        staged: list[tuple[Path, Path]] = []
        for kind, name, data in files:
            target = self.path(kind, name)
            if self._read(kind, name) == data:
                continue
            path = tx.new_path(kind)
            if data in new:
                with storing(f"keep {target}"):
                    os.link(new[data], path)
            else:
                tx.write_file(path, data)
                new[data] = path
            staged.append((path, target))
        if not staged:
            return
        tx.sync()
        with storing(f"write to {self._layout.offers}"):
            directories = self._make_directories()
            try:
                for path, target in staged:
                    os.rename(path, target.name, dst_dir_fd=directories[target.parent.name])
                for fd in directories.values():
                    os.fsync(fd)
            finally:
                for fd in directories.values():
                    os.close(fd)

    def _make_directories(self) -> dict[str, int]:
        root = self._layout.offers
        made = False
        for path in (root, *(root / kind for kind in DIRECTORIES)):
            with suppress(FileExistsError):
                path.mkdir(mode=0o755)
                made = True
        if made:
            fsync_dir(root)
            fsync_dir(root.parent)
        opened: dict[str, int] = {}
        try:
            for kind in DIRECTORIES:
                opened[kind] = self._layout.open_beneath(root / kind, os.O_RDONLY | os.O_DIRECTORY)
        except BaseException:
            for fd in opened.values():
                os.close(fd)
            raise
        return opened

    def _read(self, kind: str, name: str) -> bytes | None:
        try:
            return self._layout.content_of(self.path(kind, name), _FILE_MAX)
        except DamagedError:
            return None


def list_name(members: Iterable[tuple[bytes, int]]) -> str:
    """What the list of a pack's members is called."""
    return _name_of_list(_packed(members))


def _name_of_list(packed: bytes) -> str:
    from blake3 import blake3

    return blake3(packed).hexdigest()


def write_pack(pack: OfferedPack) -> bytes:
    """The file about a pack."""
    lines = [_line(b"index", pack.index), _line(b"pack", pack.pack)]
    lines += [_line(b"verity", pack.verity)] if pack.verity is not None else []
    return _checked(b"".join((_PACK_HEAD, *lines, b"\n", _packed(pack.members))))


def read_pack(data: bytes) -> OfferedPack | None:
    """What such a file says; None where it is damaged."""
    body = _unchecked(data, _PACK_HEAD)
    if body is None:
        return None
    head, _, members = body.partition(b"\n\n")
    sums = {name: Blob(digest.decode(), int(size)) for name, digest, size in _SUM.findall(head + b"\n")}
    step = _DIGEST_SIZE + _SIZE
    if not {b"index", b"pack"} <= sums.keys() or len(members) % step:
        return None
    listed = tuple(
        (members[at : at + _DIGEST_SIZE], int.from_bytes(members[at + _DIGEST_SIZE : at + step], "little"))
        for at in range(0, len(members), step)
    )
    return OfferedPack(sums[b"pack"], sums[b"index"], sums.get(b"verity"), listed)


def write_offer(offer: Offer) -> bytes:
    """The file about a commit's artifact."""
    lines = [_line(b"manifest", offer.manifest)]
    lines += [_line(b"pushed" if blob.sha in offer.pushed else b"blob", blob) for blob in offer.blobs]
    return _checked(b"".join((_OFFER_HEAD, *lines)))


def read_offer(commit: str, data: bytes) -> Offer | None:
    """What such a file says of the commit; None where it is damaged."""
    body = _unchecked(data, _OFFER_HEAD)
    found = [(name, Blob(digest.decode(), int(size))) for name, digest, size in _SUM.findall(body or b"")]
    if len(found) < 2 or found[0][0] != b"manifest":
        return None
    pushed = frozenset(blob.sha for name, blob in found if name == b"pushed")
    return Offer(commit, found[0][1], tuple(blob for _, blob in found[1:]), pushed)


def _line(name: bytes, blob: Blob) -> bytes:
    return b"%b %b %d\n" % (name, blob.sha.encode(), blob.size)


def _packed(members: Iterable[tuple[bytes, int]]) -> bytes:
    return b"".join([digest + size.to_bytes(_SIZE, "little") for digest, size in members])


def _checked(body: bytes) -> bytes:
    from blake3 import blake3

    return body + blake3(body).digest()


def _unchecked(data: bytes, head: bytes) -> bytes | None:
    """What is behind the head of such a file; None where its check or head is not right."""
    from blake3 import blake3

    body, check = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    return body[len(head) :] if body.startswith(head) and blake3(body).digest() == check else None
