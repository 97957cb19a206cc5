"""Fetching a commit: nothing that arrives is believed.

The tag is resolved once, to a manifest whose digest is kept. The dump must be canonical and hash to the commit ID, its
Merkle root and the metadata must agree; an object is kept only when its bytes have the fs-verity digest that the tree
names; the image is made anew from the dump. The commit appears when everything is there. Objects that were verified
before something failed stay in the store, and what has arrived of a pack stays until then (``store.packcache``), also
when this process is killed: another try fetches the rest only.

What is in the store already is not fetched, but the artifact has to list it: a tree alone gives nobody what it names.
Where the store has what others may not see (``isolated``), all is fetched, unless a pull of that kind has fetched this
very commit from this very repository before.

The registry takes its time, so the store is not locked while it does. The transaction tells garbage collections what
it needs (``Transaction.need``), be it there already or still to come, and they keep that. At the end, with the store
locked until the caller has given the commit a name, it is looked at once more; what is gone is fetched again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast

from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.places import open_source
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target
from stratum.store import packcache
from stratum.store.layout import NoSpaceError, storing
from stratum.sys.atomic import write_all
from stratum.transfer.artifact import Manifest, PackLayers, read_manifest
from stratum.transfer.packs import Member, PackIndex, read_index
from stratum.transfer.packwork import Span
from stratum.transfer.resume import complete
from stratum.transfer.treeblobs import join_tree
from stratum.transfer.workers import Workers

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.store.transaction import Transaction
    from stratum.tree.blocks import Dump
    from stratum.tree.model import Directory

WORKERS = 4
"""Blobs fetched and unpacked at the same time; each needs a pack's worth of temporary disk and a frame of memory."""

RANGES_MAX = 8
"""A pack of which more pieces than this are needed is fetched whole."""

RANGE_BYTES_MAX = 32 << 20
"""So is a pack of which more compressed bytes than this are needed, or more than half."""

_PUBLISH_SECONDS = 10.0
"""What was verified is given its place in the store at least this often, so that a power cut costs little."""

_STORE_WAIT = 300.0
"""Seconds to wait for the store at the end: there is more to lose than for a verb that only begins."""

_WHOLE = "whole"
"""Key of a commit's origin: true where everything of it came from there."""

_ROUNDS = 5
"""How often what disappeared from the store meanwhile is fetched again."""

Progress = Callable[[int, "int | None"], None]
"""Called with (bytes done, bytes in total or None)."""


@dataclass(frozen=True, slots=True)
class PullResult:
    """``manifest_digest`` is what the tag named; ``bytes_received`` counts blobs and the manifest."""

    commit: str
    manifest_digest: str
    bytes_received: int


def pull(
    store: Store,
    source: Target,
    access: Access,
    *,
    jobs: int = 1,
    isolated: bool = False,
    progress: Progress | None = None,
) -> PullResult:
    """Bring the commit that ``source`` names into the store; no tag of the store is moved.

    ``jobs`` processes unpack and verify. ``isolated``: the artifact is the only place where anything is taken from.
    Raises ``NotFoundError`` where there is none, ``DamagedError`` for anything that does not match, ``StratumError`` in
    the registry's words.
    """
    with pulled(store, source, access, jobs=jobs, isolated=isolated, progress=progress) as done:
        return done


@contextmanager
def pulled(
    store: Store,
    source: Target,
    access: Access,
    *,
    jobs: int = 1,
    isolated: bool = False,
    progress: Progress | None = None,
    accept: Callable[[Manifest], None] | None = None,
) -> Iterator[PullResult]:
    """As ``pull``; the store is locked until the block ends, so that no garbage collection finds the commit without the
    name that the block gives it. Until the commit is there, the store is not locked.

    ``accept`` is given the manifest before anything else is fetched, and may raise.
    """
    with open_source(source, access) as remote:
        pulling = pulled_from(
            store, remote, source.reference, jobs=jobs, isolated=isolated, progress=progress, accept=accept
        )
        with pulling as done:
            yield done


def pull_from(
    store: Store,
    remote: Source,
    reference: str,
    *,
    kind: str = "pull",
    jobs: int = 1,
    progress: Progress | None = None,
) -> PullResult:
    """As ``pull``, of the manifest that ``reference`` (a tag or digest) is in ``remote``.

    ``kind`` is the origin that a new commit gets.
    """
    with pulled_from(store, remote, reference, kind=kind, jobs=jobs, progress=progress) as done:
        return done


@contextmanager
def pulled_from(
    store: Store,
    remote: Source,
    reference: str,
    *,
    kind: str = "pull",
    jobs: int = 1,
    isolated: bool = False,
    progress: Progress | None = None,
    accept: Callable[[Manifest], None] | None = None,
) -> Iterator[PullResult]:
    """As ``pull_from``, with the store locked as by ``pulled``."""
    data, digest = remote.get_manifest(reference)
    manifest = read_manifest(data, str(remote.target))
    if accept is not None:
        accept(manifest)
    with store.begin(f"{kind} of {remote.target}", apart=True) as tx, Workers(jobs) as workers:
        job = _Pull(store, tx, remote, manifest, digest, workers, progress, len(data), kind, isolated)
        job.read()
        for _ in range(_ROUNDS):
            job.fetch()
            with store.locks.store(timeout=_STORE_WAIT):
                if job.is_complete():
                    yield job.write()
                    return
    raise BusyError(
        f"objects of {remote.target} disappear from the store as fast as they are fetched",
        hint="wait until whatever removes them is done, and pull again",
    )


def pull_objects(store: Store, remote: Source, reference: str, wanted: Mapping[bytes, int]) -> None:
    """Bring those of the objects ``wanted`` (digest -> size in bytes) that the artifact ``reference`` has."""
    data, digest = remote.get_manifest(reference)
    manifest = read_manifest(data, str(remote.target))
    with store.begin(f"fetching objects from {remote.target}") as tx, Workers(1) as workers:
        _Pull(store, tx, remote, manifest, digest, workers, None, len(data), "repair").fetch_available(wanted)


class _Pull:
    """One pull of one commit."""

    def __init__(
        self,
        store: Store,
        tx: Transaction,
        remote: Source,
        manifest: Manifest,
        manifest_digest: str,
        workers: Workers,
        progress: Progress | None,
        received: int,
        kind: str,
        isolated: bool = False,
    ) -> None:
        self._kind = kind
        self._store = store
        self._tx = tx
        self._remote = remote
        self._manifest = manifest
        self._manifest_digest = manifest_digest
        self._isolated = isolated
        self._workers = workers
        self._progress = progress
        self._received = received
        self._where = str(remote.target)
        self._lock = threading.Lock()
        self._verified: deque[Member] = deque()
        self._apart: deque[Descriptor] = deque()
        self._repository = f"{remote.target.host}/{remote.target.repository}"
        self._done = self._total = 0
        self._stopped = False
        self._meta: CommitMeta
        self._timestamp: datetime
        self._root: Directory
        self._objects: dict[bytes, int] = {}
        self._indexes: list[PackIndex] = []
        self._missing: dict[bytes, int] = {}

    def read(self) -> None:
        """Fetch and check all but the packs."""
        from stratum.store.metadata import CommitMeta

        config = self._fetch(self._manifest.config)
        meta = self._meta = CommitMeta.from_toml(config, f"the metadata of {self._where}")
        self._timestamp = self._check_metadata(meta)
        fresh = self._isolated and not self._came_from_here(meta.metadata_hash)
        with ThreadPoolExecutor(WORKERS) as pool:
            dump, found = None if fresh else self._known_tree(meta.metadata_hash), meta.metadata_hash
            if dump is None:
                dump, found = join_tree(pool.map(self._fetch, self._manifest.trees), self._where)
            self._root = self._check_tree(dump, found, meta)
            self._indexes = list(pool.map(self._index, self._manifest.packs))
        self._check_listed()
        with self._store.locks.store():
            self._tx.need(self._objects)
            self._missing = self._objects if fresh else self._lacking()

    def fetch(self) -> None:
        """Fetch the objects that are missing, and give them their places in the store."""
        if self._missing:
            self._fetch_objects(self._missing)

    def is_complete(self) -> bool:
        """Whether the store has every object of the commit; what it has not is missing, then."""
        self._missing = self._lacking()
        return not self._missing

    def write(self) -> PullResult:
        """Make the commit."""
        meta = self._meta
        origin: dict[str, object] = {"kind": self._kind, "reference": self._where, "manifest": self._manifest_digest}
        if self._isolated:
            origin[_WHOLE] = True
        self._store.commits.write(
            self._tx,
            self._root,
            parent=meta.parent_commit,
            message=meta.message,
            origin=origin,
            timestamp=self._timestamp,
        )
        self._record_ancestors(meta.metadata_hash)
        self._forget_packs()
        return PullResult(meta.metadata_hash, self._manifest_digest, self._received)

    def _record_ancestors(self, commit: str) -> None:
        """Keep what the artifact tells of the commit's history, also of one that was here before."""
        from stratum.store.ancestry import Ancestry
        from stratum.store.lineage import Recorded

        told = Recorded(self._manifest.ancestors, self._manifest.whole)
        Ancestry(self._store).record(self._tx, commit, told)

    def _came_from_here(self, commit: str) -> bool:
        """Whether the store has the commit because an isolated pull fetched all of it from this repository."""
        if not self._store.commits.exists(commit):
            return False
        try:
            origin = self._store.commits.meta(commit).origin or {}
        except NotFoundError:
            return False
        here, reference = f"{self._remote.target.host}/{self._remote.target.repository}", str(origin.get("reference"))
        return origin.get(_WHOLE) is True and reference.startswith((f"{here}:", f"{here}@"))

    def _known_tree(self, commit: str) -> Dump | None:
        """The dump of a commit that the store has; None where it has not, or not any more."""
        if not self._store.commits.exists(commit):
            return None
        try:
            return self._store.commits.dump(commit)
        except NotFoundError:
            return None

    def _lacking(self) -> dict[bytes, int]:
        has = self._store.objects.has
        return {digest: size for digest, size in self._objects.items() if not has(digest, size)}

    def _forget_packs(self) -> None:
        """Remove what an earlier pull that was killed may have left of the packs: all is there now."""
        for layers in self._manifest.packs:
            packcache.remove(self._store.layout, self._repository, layers.pack.digest)

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

    def _check_tree(self, dump: Dump, found: str, meta: CommitMeta) -> Directory:
        from stratum.tree.contents import objects_of
        from stratum.tree.digest import merkle_summary
        from stratum.tree.dump import read_dump

        if found != meta.metadata_hash:
            raise DamagedError(
                f"{self._where}: the tree is commit {found}, not {meta.metadata_hash} as it is said to be"
            )
        try:
            root = read_dump(dump)
            self._objects = objects_of(dump)
        except DamagedError as exc:
            raise DamagedError(f"{self._where}: {exc.message}", hint=exc.hint) from None
        summary = merkle_summary(dump)
        if summary.root != meta.merkle_root:
            raise DamagedError(f"{self._where}: the Merkle root in the metadata is not that of the tree")
        return root

    def _check_listed(self) -> None:
        """The artifact has every object of the tree."""
        left = dict(self._objects)
        for index in self._indexes:
            for member in index.members:
                if left.get(member.digest) == member.size:
                    del left[member.digest]
        if left:
            raise DamagedError(f"{self._where}: object {next(iter(left)).hex()} of the tree is in none of its packs")

    # Objects

    def fetch_available(self, wanted: Mapping[bytes, int]) -> None:
        """Fetch and publish what the packs have of ``wanted``."""
        with ThreadPoolExecutor(WORKERS) as pool:
            self._indexes = list(pool.map(self._index, self._manifest.packs))
        members = (member for index in self._indexes for member in index.members)
        found = {member.digest: member.size for member in members if wanted.get(member.digest) == member.size}
        if found:
            self._fetch_objects(found)

    def _fetch_objects(self, missing: Mapping[bytes, int]) -> None:
        """Fetch what is missing, pack by pack, and publish it as it comes."""
        self._total = self._done + sum(missing.values())
        self._workers.start(self._total)
        pool = ThreadPoolExecutor(WORKERS)
        jobs: list[Future[None]] = []
        left = dict(missing)
        try:
            for layers, index in zip(self._manifest.packs, self._indexes, strict=True):
                wanted = {
                    number for number, member in enumerate(index.members) if left.get(member.digest) == member.size
                }
                for number in wanted:
                    del left[index.members[number].digest]
                if wanted:
                    jobs.append(pool.submit(self._fetch_pack, layers, index, wanted))
            published = time.monotonic()
            for job in as_completed(jobs):
                job.result()
                if time.monotonic() - published >= _PUBLISH_SECONDS:
                    with suppress(BusyError):  # then later
                        self._publish(settled=False, timeout=0)
                    published = time.monotonic()
        except BaseException:
            self._stopped = True
            self._workers.stop()
            pool.shutdown(cancel_futures=True)
            with suppress(BusyError):
                self._publish(settled=True, timeout=_STORE_WAIT)
            raise
        pool.shutdown()
        self._publish(settled=True, timeout=_STORE_WAIT)

    def _publish(self, *, settled: bool, timeout: float) -> None:
        """Give what was verified its place in the store; ``settled``: nothing is written any more."""
        with self._store.locks.store(timeout=timeout):
            apart = [self._apart.popleft() for _ in range(len(self._apart))]
            while self._verified:
                member = self._verified.popleft()
                name = member.digest.hex()
                self._tx.stage(member.digest, member.size, f"{name[:2]}/{name[2:]}")
            self._tx.publish_objects(settled=settled)
        for pack in apart:
            packcache.remove(self._store.layout, self._repository, pack.digest)

    def _fetch(self, blob: Descriptor) -> bytes:
        data = fetch(self._remote, blob)
        self._count(len(data))
        return data

    def _index(self, layers: PackLayers) -> PackIndex:
        return read_index(self._fetch(layers.index), layers.pack.size, f"index {layers.index.digest} of {self._where}")

    def _fetch_pack(self, layers: PackLayers, index: PackIndex, wanted: set[int]) -> None:
        found = self._remote.blob_file(layers.pack)
        if found is not None:
            with found[0] as file:
                for span in _runs(index, wanted):
                    self._take_apart(layers, index, span, file, found[1] + index.frame_starts[0][span[0]], wanted)
                    self._count(index.frame_starts[0][span[1]] - index.frame_starts[0][span[0]])
        elif not self._fetch_parts(layers, index, wanted):
            with self._downloaded(layers.pack) as file:
                self._take_apart(layers, index, (0, len(index.frames)), file, 0, wanted)
            self._apart.append(layers.pack)

    def _fetch_parts(self, layers: PackLayers, index: PackIndex, wanted: set[int]) -> bool:
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
            with open(os.memfd_create("pack"), "w+b", buffering=0) as file:
                write_all(file.fileno(), data)
                self._take_apart(layers, index, (first, last), file, 0, wanted)
        return True

    def _take_apart(
        self,
        layers: PackLayers,
        index: PackIndex,
        frames: tuple[int, int],
        file: BinaryIO,
        position: int,
        wanted: set[int],
    ) -> None:
        """Unpack and verify what is ``wanted`` (numbers of members) in the frames, which begin at ``position``."""
        what = f"pack {layers.pack.digest} of {self._where}"
        span = Span(index, frames, position, sorted(wanted), str(self._tx.object_staging), what)
        self._workers.take_apart(span, file.fileno(), self._advance)

    @contextmanager
    def _downloaded(self, pack: Descriptor) -> Iterator[BinaryIO]:
        """The pack as a file, verified as a whole: one that outlives this process, unless another pull has it."""
        with storing("write a pack to the store"):
            kept = None
            if self._remote.target.host is not None:
                kept = packcache.open_pack(self._store.layout, self._repository, pack.digest)
            file = kept or cast("BinaryIO", TemporaryFile(dir=self._tx.directory, buffering=0))  # noqa: SIM115
        with file:
            try:
                complete(self._remote, pack, file, self._count)
                yield file
            except (DamagedError, NoSpaceError):
                if kept is not None:  # it is no use, or in the way
                    packcache.remove(self._store.layout, self._repository, pack.digest)
                raise

    def _count(self, received: int) -> None:
        if self._stopped:
            raise StratumError(f"the {self._kind} of {self._where} was stopped")
        with self._lock:
            self._received += received

    def _advance(self, size: int, member: Member | None) -> None:
        """``size`` more bytes are done, and ``member``, verified, is in the transaction."""
        if member is not None:
            self._verified.append(member)
        if self._progress is not None and size:
            with self._lock:
                self._done += size
                self._progress(self._done, self._total)


def _runs(index: PackIndex, wanted: Set[int]) -> list[tuple[int, int]]:
    """The runs [first, last) of consecutive frames that hold the wanted members."""
    runs: list[tuple[int, int]] = []
    for number in sorted(wanted):
        first, last = index.frames_of(number)
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs
