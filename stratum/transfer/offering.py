"""The artifact of a commit that others ask this store for: made of what is here, and not kept but for its digests.

Objects are put into packs in tree order, and a pack ends where the digests of its objects say so, so that commits which
differ little have nearly all packs in common. A pack is made of zstd frames of raw blocks (``tree.rawframe``): its size
and each of its bytes follow from its members, so any range of it is read from the objects themselves. Its SHA-256 takes
one pass over them, in which each is compared with its name, and is kept from then on (``store.offers``), as is the
manifest. Several processes may do this for one commit at once.

What is not here but in blobs that others pushed to this store (``store.blobs``) is offered in the packs in which it
came, where these hold nothing but what is the commit's; else it is taken out of them first. A commit of which something
is elsewhere has no such artifact.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.descriptor import Descriptor, describe
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE, VERITY_MEDIA_TYPE
from stratum.oci.ownblobs import OwnBlobs
from stratum.oci.remote import fetch
from stratum.store.layout import storage_error
from stratum.store.offers import (
    BLOBS,
    COMMITS,
    LISTS,
    PACKS,
    Blob,
    Offer,
    OfferedPack,
    list_name,
    write_offer,
    write_pack,
)
from stratum.transfer.artifact import (
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Manifest,
    Pack,
    PackLayers,
    read_manifest,
    write_manifest,
)
from stratum.transfer.catalogs import target_of
from stratum.transfer.outgoing import Outgoing
from stratum.transfer.packs import (
    FRAME_SIZE,
    LARGE_OBJECT,
    Member,
    PackIndex,
    archived_size,
    header,
    header_size,
    plan_packs,
    read_index,
    seek_table,
    write_index,
)
from stratum.transfer.realize import fetch_own, mark_whole
from stratum.transfer.running import running
from stratum.tree.contents import objects_of
from stratum.tree.rawframe import frame_parts, stored_size
from stratum.tree.zstdframe import compress

if TYPE_CHECKING:
    from stratum.progress import Progress
    from stratum.store import Store
    from stratum.store.objects import Opener
    from stratum.store.sources import CommitSource
    from stratum.store.transaction import Transaction
    from stratum.store.trees import Layer
    from stratum.transfer.running import Running

PACK_MIN = 2 << 20
"""A pack of several objects has at least so many bytes, but for the last. Were it more beside the next, cuts that a
change moved would take long to be where they were."""

PIECE = 1 << 20
"""Bytes of a pack that are in memory at once for each who reads it, at most."""

_CUT_EACH = 12 << 20
"""Bytes of objects behind these, on average, after which a pack ends."""

_WRITE_EACH = 10.0
"""Seconds after which what was found out by then is kept."""


def cut_packs(objects: Iterable[Member]) -> list[tuple[Member, ...]]:
    """How ``objects`` (distinct, in tree order) are put into packs. A change of some changes few packs. Pure."""
    return plan_packs(objects, _ends)


def _ends(member: Member, filled: int) -> bool:
    # The larger an object, the likelier it ends a pack, so packs are of like size whatever is in them.
    return filled >= PACK_MIN and int.from_bytes(member.digest[:4], "big") * _CUT_EACH < archived_size(member) << 32


class RawPack:
    """A pack of ``members`` whose bytes are made of the objects when they are asked for."""

    def __init__(self, members: Sequence[tuple[bytes, int]]) -> None:
        listed = tuple(Member(digest, size) for digest, size in members)
        self._head = header_size(listed[0]) if len(listed) == 1 and listed[0].size >= LARGE_OBJECT else 0
        archive = PackIndex((), listed).archive_size
        sizes = [self._head] if self._head else []
        whole, rest = divmod(archive - self._head, FRAME_SIZE)
        sizes += [FRAME_SIZE] * whole + ([rest] if rest else [])
        self.index = PackIndex(tuple((stored_size(size), size) for size in sizes), listed)

    @property
    def size(self) -> int:
        """Bytes of the pack as a blob."""
        return self.index.blob_size

    def read(self, objects: Opener, start: int, end: int) -> Iterator[memoryview]:
        """Bytes [start, end) of the pack, in pieces of at most ``PIECE`` bytes. ``NotFoundError``, ``DamagedError``
        where an object is missing or has another size; its content is not compared with its name."""
        for at in range(start, min(end, self.size), PIECE):
            piece = memoryview(bytearray(min(end, self.size, at + PIECE) - at))
            self._fill(objects, piece, at)
            yield piece

    def around(self, start: int, end: int) -> Iterator[bytes | tuple[int, int]]:
        """Bytes [start, end) of the pack of one object: what is put around its content, and ranges [first, last) of
        that."""
        for part in self._parts(start, end):
            if isinstance(part, tuple):
                yield part[1:]
            else:
                yield part if isinstance(part, bytes) else bytes(part)

    def _fill(self, objects: Opener, piece: memoryview, start: int) -> None:
        """Put the bytes from ``start`` on into ``piece``, which is zero."""
        at = 0
        for part in self._parts(start, start + len(piece)):
            if isinstance(part, bytes):
                size = len(part)
                piece[at : at + size] = part
            elif isinstance(part, tuple):
                member, first, last = part
                size = last - first
                _read_object(objects, member, piece[at : at + size], first)
            else:
                size = part
            at += size

    def _parts(self, start: int, end: int) -> Iterator[bytes | int | tuple[Member, int, int]]:
        """What bytes [start, end) of the pack are: bytes, a number of zeros, a range [first, last) of an object."""
        stored, archive = self.index.frame_starts
        for number in range(bisect_right(stored, start) - 1, len(self.index.frames)):
            if stored[number] >= end:
                return
            first, last = max(start - stored[number], 0), end - stored[number]
            for part in frame_parts(self.index.frames[number][1], first, last):
                if isinstance(part, bytes):
                    yield part
                else:
                    yield from self._archive_parts(archive[number] + part[0], archive[number] + part[1])
        if end > stored[-1]:
            yield seek_table(self.index.frames)[max(start - stored[-1], 0) : end - stored[-1]]

    def _archive_parts(self, start: int, end: int) -> Iterator[bytes | int | tuple[Member, int, int]]:
        """The same of bytes [start, end) of the archive."""
        members, offsets = self.index.members, self.index.offsets
        for number in range(max(bisect_right(offsets, start) - 1, 0), len(members)):
            member, offset = members[number], offsets[number]
            blocks = header(member)
            begin = offset - len(blocks)
            if begin >= end:
                break
            if start < begin:
                yield begin - start
                start = begin
            if start < offset:
                part = blocks[start - begin : end - begin]
                yield part
                start += len(part)
            last = min(end, offset + member.size)
            if start < last:
                yield member, start - offset, last - offset
                start = last
        if start < end:
            yield end - start


def _read_object(objects: Opener, member: Member, piece: memoryview, start: int) -> None:
    """Fill ``piece`` with the bytes of an object from ``start`` on."""
    fd = objects.open(member.digest)
    try:
        done = os.preadv(fd, (piece,), start)
        while done < len(piece) and (more := os.preadv(fd, (piece[done:],), start + done)):
            done += more
    except OSError as exc:
        raise storage_error(exc, f"read object {member.digest.hex()}") from None
    finally:
        os.close(fd)
    if done != len(piece):
        raise DamagedError(f"object {member.digest.hex()} is shorter than its commits say", hint="run 'stratum fsck'")


def offered(
    store: Store, commit: str, *, jobs: int = 1, again: bool = False, progress: Progress | None = None
) -> Offer:
    """The artifact of the commit, made where none is kept, or ``again``. ``NotFoundError`` where there is no such
    commit, or it is not here whole; ``DamagedError`` where it is damaged; ``StratumError``."""
    if not store.commits.exists(commit):
        raise NotFoundError(f"there is no commit {commit}")
    kept = store.offers.of(commit)
    if not again and kept is not None and _is_there(store, kept):
        return kept
    what = f"the artifact of {commit}"
    with ExitStack() as stack:
        with store.locks.store():
            if not store.commits.exists(commit):
                raise NotFoundError(f"there is no commit {commit}")
            tx = stack.enter_context(store.begin(what, apart=True))
            tx.hold(commit)
        return _make(store, tx, commit, stack.enter_context(running(what, jobs, progress)), jobs)


def _is_there(store: Store, offer: Offer) -> bool:
    """Whether an artifact that was made once can be given now."""
    if store.offers.blob(offer.manifest.sha) is None:
        return False
    if any(store.blobs.size(sha) is None for sha in offer.pushed):
        return False
    if not store.sources.is_partial(offer.commit):
        return True
    packs = (store.offers.pack(blob.sha) for blob in offer.blobs if blob.sha not in offer.pushed)
    return not any(store.residence.missing(dict(pack.members)) for pack in packs if pack is not None)


def _pushed_packs(store: Store, commit: str, objects: Mapping[bytes, int], jobs: int) -> list[Pack]:
    """The packs among the blobs of the store that have what is not here of a commit's objects, and nothing that is not
    the commit's; what is in others is here by then. ``NotFoundError`` where something is neither here nor in any."""
    missing = store.residence.missing(objects) if store.sources.is_partial(commit) else {}
    found: list[Pack] = []
    for source in store.sources.of(commit) if missing else ():
        mixed = dict[bytes, int]()
        for pack in _packs_of(store, source) if source.is_own else ():
            brings = {digest: size for digest, size in pack.index.members if missing.get(digest) == size}
            if brings and all(objects.get(digest) == size for digest, size in pack.index.members):
                found.append(pack)
            else:
                mixed.update(brings)
            missing = {digest: size for digest, size in missing.items() if digest not in brings}
        if mixed:
            fetch_own(store, source, mixed, jobs)
    if missing:
        raise NotFoundError(
            f"commit {commit} is not here whole: {len(missing)} of its files are elsewhere",
            hint=f"'stratum realize {commit}' fetches them",
        )
    if not found:
        mark_whole(store, [commit])
    return found


def _packs_of(store: Store, source: CommitSource) -> Iterator[Pack]:
    """The packs of a manifest that was pushed, as far as they are here; none where it cannot be read."""
    own = OwnBlobs(target_of(source), store.layout.blobs)
    with suppress(StratumError):
        manifest = read_manifest(own.get_manifest(source.manifest)[0], source.manifest)
        for layers in manifest.packs:
            if all(map(own.has_blob, layers.blobs)):
                index = fetch(own, layers.index)
                yield Pack(layers, read_index(index, layers.pack.size, f"index {layers.index.digest}"))


def _make(store: Store, tx: Transaction, commit: str, job: Running, jobs: int) -> Offer:
    """The artifact of a commit that stays while this lasts, kept."""
    outgoing, kept = Outgoing(store, commit), _Keeping(store, tx)
    objects = objects_of(store.commits.dump(commit))  # which compares the dump with the commit's name
    trees = [_tree(store, layer, kept) for layer in store.trees.layers(commit)]
    pushed = _pushed_packs(store, commit, objects, jobs)
    known = {digest for pack in pushed for digest, _ in pack.index.members}
    left = (Member(digest, size) for digest, size in objects.items() if digest not in known)
    packs = _packs(store, cut_packs(left), job, kept)
    meta, lineage = outgoing.meta, outgoing.lineage
    config = kept(CONFIG_MEDIA_TYPE, meta.to_toml())
    manifest = Manifest(
        commit,
        meta.timestamp,
        config,
        tuple(trees),
        (*(pack.layers for pack in pushed), *map(_layers, packs)),
        meta.parent_commit,
        ancestors=lineage.ancestors,
        whole=lineage.whole,
    )
    written = kept(MANIFEST_MEDIA_TYPE, write_manifest(manifest))
    blobs = tuple(Blob(blob.hex, blob.size) for blob in manifest.blobs)
    of_others = frozenset(blob.hex for pack in pushed for blob in pack.layers.blobs)
    offer = Offer(commit, Blob(written.hex, written.size), blobs, of_others)
    kept.write()
    with store.locks.store():
        store.offers.keep(tx, [(COMMITS, commit, write_offer(offer))])
    return offer


class _Keeping:
    """Keeps small blobs, given with their media type, and packs: in the end, and after a while, so that little of a
    long work is lost. Threads may share it."""

    def __init__(self, store: Store, tx: Transaction) -> None:
        self._store, self._tx = store, tx
        self._lock = threading.Lock()
        self._files: list[tuple[str, str, bytes]] = []
        self._written = time.monotonic()

    def __call__(self, media_type: str, data: bytes) -> Descriptor:
        blob = describe(media_type, data)
        with self._lock:
            self._files.append((BLOBS, blob.hex, data))
        return blob

    def pack(self, pack: OfferedPack) -> OfferedPack:
        """Keep what a pack is, whose blobs were given before. By the thread that began."""
        data = write_pack(pack)
        with self._lock:
            self._files += ((PACKS, pack.pack.sha, data), (LISTS, list_name(pack.members), data))
        if time.monotonic() - self._written > _WRITE_EACH:
            self.write()
        return pack

    def write(self) -> None:
        """Have all of it in the store."""
        with self._lock:
            files, self._files = self._files, []
        # What tells of a blob comes after it.
        first = [file for file in files if file[0] == BLOBS]
        with self._store.locks.store():
            self._store.offers.keep(self._tx, first)
            self._store.offers.keep(self._tx, [file for file in files if file[0] != BLOBS])
        self._written = time.monotonic()


def _tree(store: Store, layer: Layer, keep: _Keeping) -> Descriptor:
    """A tree layer: a frame of the store, or what is cut anew."""
    if layer.frame is None:
        return keep(TREE_MEDIA_TYPE, compress(layer.piece))
    sha256 = layer.frame.sha256
    return Descriptor(TREE_MEDIA_TYPE, f"sha256:{sha256.hex()}", store.trees.frame_file_size(sha256))


def _packs(store: Store, cut: Sequence[tuple[Member, ...]], job: Running, keep: _Keeping) -> list[OfferedPack]:
    """What these packs are. Of those that nobody has asked for before, each object is read."""
    found = [_known(store, members) for members in cut]
    new = [members for members, pack in zip(cut, found, strict=True) if pack is None]
    if new:
        job.start(sum(member.size for members in new for member in members))
        with ThreadPoolExecutor(max(1, len(job.workers.processes))) as pool:
            made = pool.map(lambda members: _summed(store, members, job, keep), new)
            try:
                return [pack if pack is not None else keep.pack(next(made)) for pack in found]
            except BaseException:
                job.stop()
                pool.shutdown(cancel_futures=True)
                raise
    return [pack for pack in found if pack is not None]


def _known(store: Store, members: Sequence[Member]) -> OfferedPack | None:
    """A pack that was found out before, with all that goes with it."""
    pack = store.offers.pack_of(members)
    if pack is None or not all(store.offers.blob_path(blob.sha) for blob in pack.blobs if blob is not pack.pack):
        return None
    return pack if store.offers.pack(pack.pack.sha) is not None else None


def _summed(store: Store, members: Sequence[Member], job: Running, keep: _Keeping) -> OfferedPack:
    """A pack, found out by reading its objects."""
    job.check()
    made = job.workers.make_pack(store.root, members, None, lambda size, _: job.advance(size), raw=True)
    index = keep(INDEX_MEDIA_TYPE, write_index(PackIndex(made.frames, members)))
    verity = keep(VERITY_MEDIA_TYPE, made.verity) if made.verity is not None else None
    blob = Blob(verity.hex, verity.size) if verity is not None else None
    return OfferedPack(Blob(made.sha256, made.size), Blob(index.hex, index.size), blob, members)


def _layers(pack: OfferedPack) -> PackLayers:
    def layer(media_type: str, blob: Blob) -> Descriptor:
        return Descriptor(media_type, f"sha256:{blob.sha}", blob.size)

    verity = layer(VERITY_MEDIA_TYPE, pack.verity) if pack.verity is not None else None
    return PackLayers(layer(INDEX_MEDIA_TYPE, pack.index), layer(PACK_MEDIA_TYPE, pack.pack), verity)
