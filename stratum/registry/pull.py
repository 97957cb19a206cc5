"""Fetching a commit: nothing that arrives is believed.

The tag is resolved once, to a manifest whose digest is kept. The dump must be canonical and hash to the commit ID, its
Merkle root and the metadata must agree; an object is kept only when its bytes have the fs-verity digest that the tree
names; the image is made anew from the dump. The commit appears when everything is there. Objects that were verified
before something failed stay in the store, so another try fetches the rest only.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast

from stratum.errors import DamagedError
from stratum.registry.artifact import Descriptor, Manifest, PackLayers, read_manifest
from stratum.registry.packs import Member, PackIndex, read_index, unpack
from stratum.registry.remote import Access, Remote, fetch, open_remote
from stratum.registry.target import Target
from stratum.registry.treeblobs import join_tree, objects_of
from stratum.sys.atomic import write_all

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.commits import CommitMeta
    from stratum.store.transaction import Transaction
    from stratum.tree.model import Directory

WORKERS = 4
"""Blobs fetched and unpacked at the same time; each needs a pack's worth of temporary disk and a frame of memory."""

RANGES_MAX = 8
"""A pack of which more pieces than this are needed is fetched whole."""

RANGE_BYTES_MAX = 32 << 20
"""So is a pack of which more compressed bytes than this are needed, or more than half."""

_PUBLISH_EVERY = 256 << 20

Progress = Callable[[int, "int | None"], None]
"""Called with (bytes done, bytes in total or None)."""


@dataclass(frozen=True, slots=True)
class PullResult:
    """``manifest_digest`` is what the tag named; ``bytes_received`` counts blobs and the manifest."""

    commit: str
    manifest_digest: str
    bytes_received: int


def pull(store: Store, source: Target, access: Access, *, progress: Progress | None = None) -> PullResult:
    """Bring the commit that ``source`` names into the store; no tag of the store is moved.

    Raises ``NotFoundError`` where there is none, ``DamagedError`` for anything that does not match, ``StratumError``
    in the registry's words.
    """
    with open_remote(source, access) as remote:
        return pull_from(store, remote, source.reference, progress=progress)


def pull_from(
    store: Store, remote: Remote, reference: str, *, kind: str = "pull", progress: Progress | None = None
) -> PullResult:
    """As ``pull``, of the manifest that ``reference`` (a tag or digest) is in ``remote``.

    ``kind`` is the origin that a new commit gets.
    """
    data, digest = remote.get_manifest(reference)
    manifest = read_manifest(data, str(remote.target))
    with store.begin(f"{kind} of {remote.target}") as tx, ThreadPoolExecutor(WORKERS) as pool:
        return _Pull(store, tx, remote, manifest, digest, pool, progress, len(data), kind).run()


def pull_objects(store: Store, remote: Remote, reference: str, wanted: Mapping[bytes, int]) -> None:
    """Bring those of the objects ``wanted`` (digest -> size in bytes) that the artifact ``reference`` has."""
    data, digest = remote.get_manifest(reference)
    manifest = read_manifest(data, str(remote.target))
    with store.begin(f"fetching objects from {remote.target}") as tx, ThreadPoolExecutor(WORKERS) as pool:
        _Pull(store, tx, remote, manifest, digest, pool, None, len(data), "repair").fetch_available(wanted)


class _Pull:
    """One pull of one commit."""

    def __init__(
        self,
        store: Store,
        tx: Transaction,
        remote: Remote,
        manifest: Manifest,
        manifest_digest: str,
        pool: ThreadPoolExecutor,
        progress: Progress | None,
        received: int,
        kind: str,
    ) -> None:
        self._kind = kind
        self._store = store
        self._tx = tx
        self._remote = remote
        self._manifest = manifest
        self._manifest_digest = manifest_digest
        self._pool = pool
        self._progress = progress
        self._received = received
        self._where = str(remote.target)
        self._lock = threading.Lock()
        self._verified: deque[Member] = deque()
        self._done = self._total = 0

    def run(self) -> PullResult:
        from stratum.store.commits import CommitMeta

        config = self._fetch(self._manifest.config)
        meta = CommitMeta.from_toml(config, f"the metadata of {self._where}")
        timestamp = self._check_metadata(meta)
        if self._store.commits.exists(meta.metadata_hash):
            dump = self._store.commits.dump(meta.metadata_hash)
        else:
            dump = join_tree(self._pool.map(self._fetch, self._manifest.trees), self._where)
        root = self._check_tree(dump, meta)
        objects = objects_of(dump, self._where)
        missing = {digest: size for digest, size in objects.items() if not self._tx.has(digest, size)}
        if missing:
            self._fetch_objects(missing)
        self._store.commits.write(
            self._tx,
            root,
            parent=meta.parent_commit,
            message=meta.message,
            origin={"kind": self._kind, "reference": self._where, "manifest": self._manifest_digest},
            timestamp=timestamp,
        )
        return PullResult(meta.metadata_hash, self._manifest_digest, self._received)

    # Checking

    def _check_metadata(self, meta: CommitMeta) -> datetime:
        if meta.metadata_hash != self._manifest.commit:
            raise DamagedError(f"{self._where}: manifest and metadata name different commits")
        try:
            timestamp = datetime.fromisoformat(meta.timestamp.replace("Z", "+00:00"))
        except ValueError:
            timestamp = datetime.min
        if timestamp.tzinfo is None:
            raise DamagedError(f"{self._where}: the metadata have no valid timestamp")
        return timestamp

    def _check_tree(self, dump: bytes, meta: CommitMeta) -> Directory:
        from stratum.tree.digest import merkle_summary, metadata_hash
        from stratum.tree.dump import read_dump

        found = metadata_hash(dump)
        if found != meta.metadata_hash:
            raise DamagedError(
                f"{self._where}: the tree is commit {found}, not {meta.metadata_hash} as it is said to be"
            )
        try:
            root = read_dump(dump)
        except DamagedError as exc:
            raise DamagedError(f"{self._where}: {exc.message}", hint=exc.hint) from None
        summary = merkle_summary(dump)
        if summary.root != meta.merkle_root:
            raise DamagedError(f"{self._where}: the Merkle root in the metadata is not that of the tree")
        return root

    # Objects

    def fetch_available(self, wanted: Mapping[bytes, int]) -> None:
        """Fetch and publish what the packs have of ``wanted``."""
        members = (member for index in self._pool.map(self._index, self._manifest.packs) for member in index.members)
        found = {member.digest: member.size for member in members if wanted.get(member.digest) == member.size}
        if found:
            self._fetch_objects(found)

    def _fetch_objects(self, missing: dict[bytes, int]) -> None:
        """Fetch what is missing, pack by pack, and publish it as it comes."""
        self._total = sum(missing.values())
        indexes = self._pool.map(self._index, self._manifest.packs)
        jobs: dict[Future[None], int] = {}
        left = dict(missing)
        try:
            for layers, index in zip(self._manifest.packs, indexes, strict=True):
                wanted = {member for member in index.members if left.get(member.digest) == member.size}
                for member in wanted:
                    del left[member.digest]
                if wanted:
                    size = sum(member.size for member in wanted)
                    jobs[self._pool.submit(self._fetch_pack, layers, index, wanted)] = size
            if left:
                raise DamagedError(
                    f"{self._where}: object {next(iter(left)).hex()} of the tree is in none of its packs"
                )
            unpublished = 0
            for job in as_completed(jobs):
                job.result()
                unpublished += jobs[job]
                if unpublished >= _PUBLISH_EVERY:
                    self._publish()
                    unpublished = 0
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._publish()

    def _publish(self) -> None:
        """Give what the workers have verified its place in the store."""
        while self._verified:
            member = self._verified.popleft()
            self._tx.stage(member.digest, member.size)
        self._tx.publish_objects()

    def _fetch(self, blob: Descriptor) -> bytes:
        data = fetch(self._remote, blob)
        self._count(len(data))
        return data

    def _index(self, layers: PackLayers) -> PackIndex:
        return read_index(self._fetch(layers.index), layers.pack.size, f"index {layers.index.digest} of {self._where}")

    def _fetch_pack(self, layers: PackLayers, index: PackIndex, wanted: set[Member]) -> None:
        if self._remote.local:
            for span in _runs(index, wanted):
                reader = _Ranges(self._remote, layers.pack, index.frame_starts[0][span[0]], self._count)
                self._unpack(layers, index, span, reader.read, wanted)
        elif not self._fetch_parts(layers, index, wanted):
            with self._download(layers.pack) as file:
                self._unpack(layers, index, (0, len(index.frames)), file.read, wanted)

    def _fetch_parts(self, layers: PackLayers, index: PackIndex, wanted: set[Member]) -> bool:
        """Fetch just the frames that hold wanted objects; False where that does not pay or the registry cannot."""
        starts = index.frame_starts[0]
        runs = _runs(index, wanted)
        needed = sum(starts[last] - starts[first] for first, last in runs)
        if len(runs) > RANGES_MAX or needed > min(layers.pack.size // 2, RANGE_BYTES_MAX):
            return False
        for first, last in runs:
            data = self._remote.read_range(layers.pack, starts[first], starts[last] - starts[first])
            if data is None:
                return False
            self._count(len(data))
            self._unpack(layers, index, (first, last), io.BytesIO(data).read, wanted)
        return True

    def _unpack(
        self,
        layers: PackLayers,
        index: PackIndex,
        span: tuple[int, int],
        read: Callable[[int], bytes],
        wanted: set[Member],
    ) -> None:
        what = f"pack {layers.pack.digest} of {self._where}"
        unpack(index, span, read, wanted, self._receive, what)

    def _download(self, pack: Descriptor) -> BinaryIO:
        """The pack as a temporary file without a name, verified as a whole."""
        with ExitStack() as undo:
            with storing("write a pack to the store"):
                file = undo.enter_context(TemporaryFile(dir=self._tx.directory))
            for piece in self._remote.read_blob(pack):
                with storing("write a pack to the store"):
                    file.write(piece)
                self._count(len(piece))
            with storing("write a pack to the store"):
                file.seek(0)
            undo.pop_all()
        return cast("BinaryIO", file)

    def _receive(self, member: Member, pieces: Iterator[bytes]) -> None:
        """Write one object into the transaction; it counts only if its bytes are what its name says."""
        from stratum.composefs.verity import VerityHasher

        path = self._tx.object_staging / member.digest.hex()
        hasher = VerityHasher()
        with storing("write an object to the store"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
        with os.fdopen(fd, "wb", buffering=0) as file:
            for piece in pieces:
                hasher.update(piece)
                with storing("write an object to the store"):
                    write_all(file.fileno(), piece)
        if hasher.digest() != member.digest:
            path.unlink()
            raise DamagedError(f"{self._where}: the bytes of object {member.digest.hex()} do not match its digest")
        self._verified.append(member)
        self._advance(member.size)

    def _count(self, received: int) -> None:
        with self._lock:
            self._received += received

    def _advance(self, size: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += size
                self._progress(self._done, self._total)


class _Ranges:
    """A blob read from ``position`` on, part by part, without a copy of it."""

    def __init__(self, remote: Remote, blob: Descriptor, position: int, count: Callable[[int], None]) -> None:
        self._remote = remote
        self._blob = blob
        self._position = position
        self._count = count

    def read(self, size: int) -> bytes:
        data = self._remote.read_range(self._blob, self._position, size)
        assert data is not None, "a local blob can be read in parts"
        self._position += len(data)
        self._count(len(data))
        return data


def _runs(index: PackIndex, wanted: Set[Member]) -> list[tuple[int, int]]:
    """The runs [first, last) of consecutive frames that hold the wanted members."""
    runs: list[tuple[int, int]] = []
    for position, member in enumerate(index.members):
        if member not in wanted:
            continue
        first, last = index.frames_of(position)
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs


@contextmanager
def storing(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into the store's error for it."""
    from stratum.store.layout import storage_error

    try:
        yield
    except OSError as exc:
        raise storage_error(exc, doing) from None
