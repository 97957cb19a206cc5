"""Sending a commit: blobs first, the manifest and with it the tag last.

What the repository has is not sent again: the tag's present manifest (or that of the parent commit under another tag)
tells which packs and tree layers can stay, and every other blob is asked for before it is sent. A push that dies
publishes nothing, and the blobs that it sent are found by the next.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError, UsageError
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.oci.places import open_sink, open_source
from stratum.oci.remote import Sink, Source, Upload, fetch
from stratum.oci.target import Target
from stratum.progress import Progress
from stratum.store.ancestry import Ancestry
from stratum.transfer.artifact import (
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Manifest,
    PackLayers,
    read_manifest,
    write_manifest,
)
from stratum.transfer.packs import (
    PACK_MAX,
    Member,
    PackIndex,
    PackWriter,
    archived_size,
    plan_packs,
    read_index,
    write_index,
)
from stratum.transfer.packwork import store_opener
from stratum.transfer.relatives import relatives
from stratum.transfer.reuse import BasePack, Plan, plan_reuse
from stratum.transfer.treeblobs import tree_blobs
from stratum.transfer.workers import Workers
from stratum.tree.contents import objects_of

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.tree.blocks import Blocks

WORKERS = 4
"""Blobs made and sent at the same time; each needs a pack's worth of temporary disk and one chunk of memory."""

_BASES_MAX = 8
_READ = 1 << 20

_Made = TypeVar("_Made")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PushResult:
    """``target`` is the reference without scheme; ``bytes_sent`` and ``blobs_sent`` count the manifest too."""

    commit: str
    target: str
    manifest_digest: str
    bytes_sent: int
    blobs_sent: int
    blobs_reused: int


def push(
    store: Store,
    commit: str,
    target: Target,
    access: Access,
    *,
    dry_run: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PushResult:
    """Make ``target`` name the commit; ``dry_run`` only finds out what that would send.

    ``jobs`` processes make packs. Raises ``NotFoundError`` for an unknown commit, ``UsageError`` for a target with a
    digest, ``DamagedError`` where the store is damaged and ``StratumError`` in the registry's words.
    """
    check_pushable(target)
    meta = store.commits.meta(commit)
    with Workers(jobs) as workers:
        metadata = _metadata(store, meta, workers)
        dump = store.commits.dump(commit)
        objects = objects_of(dump)
        remote = open_sink(target, access, create=not dry_run)
        with remote, scratch(store, f"push of {commit} to {target}", objects) as directory:
            elsewhere = (open_source(place, access) for place in relatives(store, commit, target))
            return _Push(
                store, directory, remote, meta, metadata, target.tag, dry_run, workers, progress, elsewhere=elsewhere
            ).run(dump, objects)


def _metadata(store: Store, meta: CommitMeta, workers: Workers) -> Callable[[], bytes]:
    """What returns the config blob: metadata.toml with the image described, also where nobody made the image yet."""
    if meta.image_digest is not None:
        return meta.to_toml
    return workers.whole_metadata(store.root, meta.metadata_hash, meta.leaf_count)


def check_pushable(target: Target) -> None:
    """``UsageError`` for a target with a digest."""
    if target.digest is not None:
        raise UsageError(f"{target} is one fixed manifest; a push needs a tag", hint="leave the '@sha256:...' out")


def push_in_order(
    store: Store,
    commit: str,
    remote: Sink,
    tag: str,
    *,
    base: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PushResult:
    """As ``push``, with the blobs sent one after the other in the order of the manifest, the manifest last.

    ``base`` is the digest of the manifest in ``remote`` to build on.
    """
    meta, dump = store.commits.meta(commit), store.commits.dump(commit)
    objects = objects_of(dump)
    with scratch(store, f"push of {commit} to {remote.target}", objects) as directory, Workers(jobs) as workers:
        metadata = _metadata(store, meta, workers)
        push = _Push(store, directory, remote, meta, metadata, tag, False, workers, progress, base, in_order=True)
        return push.run(dump, objects)


@contextmanager
def scratch(store: Store, what: str, objects: Iterable[bytes]) -> Iterator[Path]:
    """A directory for packs in the making: in a transaction, and elsewhere where the store can only be read.

    The store is not locked meanwhile, as a registry takes its time; ``objects`` (digests) stay in it all the same.
    """
    with ExitStack() as stack:
        try:
            with store.locks.store():
                tx = stack.enter_context(store.begin(what, apart=True))
                tx.need(objects)
            directory = tx.directory
        except UnsupportedError:
            from tempfile import TemporaryDirectory

            directory = Path(stack.enter_context(TemporaryDirectory(prefix="stratum-push-")))
        yield directory


class _Push:
    """One push of one commit."""

    def __init__(
        self,
        store: Store,
        directory: Path,
        remote: Sink,
        meta: CommitMeta,
        metadata: Callable[[], bytes],
        tag: str,
        dry_run: bool,
        workers: Workers,
        progress: Progress | None,
        base: str | None = None,
        *,
        in_order: bool = False,
        elsewhere: Iterable[Source] = (),
    ) -> None:
        self._tag = tag
        self._turns = _Turns(in_order)
        self._base = base
        self._store = store
        self._directory = directory
        self._remote = remote
        self._elsewhere = elsewhere
        self._meta = meta
        self._metadata = metadata
        self._dry_run = dry_run
        self._workers = workers
        self._progress = progress
        self._stopped = False
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._sent = [0, 0]
        self._reused = 0
        self._done = self._total = 0

    def run(self, dump: Blocks, objects: dict[bytes, int]) -> PushResult:
        present, base = self._find_base()
        lineage = Ancestry(self._store).to_send(self._meta.metadata_hash)
        told = present is not None and set(lineage.ancestors) <= set(present[0].ancestors)
        if present is not None and told and present[0].config == describe(CONFIG_MEDIA_TYPE, self._meta.to_toml()):
            return self._result(present[1], len(present[0].blobs) + 1)
        with ThreadPoolExecutor(WORKERS) as pool:
            trees = list(tree_blobs(dump))
            plan = self._plan(base, objects, pool) if base is not None else self._mounted(objects, trees, pool)
            same = present is not None and base is present[0] and _same_tree(base, self._meta, trees)
            if present is not None and base is not None and same and told and not plan.members:
                return self._result(present[1], len(base.blobs) + 1)
            packs = plan_packs(plan.members)
            self._total = sum(member.size for member in plan.members)
            self._workers.start(self._total)
            self._reused += 2 * len(plan.kept)
            jobs = [pool.submit(self._send_tree, number, data) for number, data in enumerate(trees)]
            pack_jobs = [pool.submit(self._send_pack, number, pack) for number, pack in enumerate(packs, len(trees))]
            try:
                tree_layers = [job.result() for job in jobs]
                pack_layers = [job.result() for job in pack_jobs]
            except BaseException:
                self._stopped = True
                self._workers.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        config = self._send_bytes(CONFIG_MEDIA_TYPE, self._metadata())
        manifest = Manifest(
            self._meta.metadata_hash,
            self._meta.timestamp,
            config,
            tuple(tree_layers),
            (*plan.kept, *pack_layers),
            self._meta.parent_commit,
            ancestors=lineage.ancestors,
            whole=lineage.whole,
        )
        data = write_manifest(manifest)
        if not self._dry_run:
            self._remote.put_manifest(data, self._tag)
        self._count(len(data))
        return self._result(digest_of(data), self._reused)

    def _result(self, manifest_digest: str, reused: int) -> PushResult:
        target = str(self._remote.target)
        return PushResult(self._meta.metadata_hash, target, manifest_digest, self._sent[0], self._sent[1], reused)

    # What is there

    def _find_base(self) -> tuple[tuple[Manifest, str] | None, Manifest | None]:
        """The tag's present manifest with its digest, and the manifest whose blobs to build on.

        That is the parent commit's where it is found, else the tag's, else the newest-looking.
        """
        if self._base is not None:
            found = self._manifest(self._base)
            return None, found[0] if found is not None else None
        tag = self._tag
        present = self._manifest(tag)
        if present is not None:
            return present, present[0]
        candidates = []
        for other in sorted(set(self._remote.list_tags()) - {tag}, key=_natural, reverse=True)[:_BASES_MAX]:
            found = self._manifest(other)
            if found is not None and found[0].commit in (self._meta.parent_commit, self._meta.metadata_hash):
                return None, found[0]
            candidates += [found[0]] if found is not None else []
        return None, candidates[0] if candidates else None

    def _manifest(self, tag: str) -> tuple[Manifest, str] | None:
        """The commit that a tag names now, or None where it names none: then the tag is simply moved."""
        try:
            data, digest = self._remote.get_manifest(tag)
        except NotFoundError:
            return None
        try:
            return read_manifest(data, str(self._remote.target)), digest
        except StratumError:
            return None

    def _plan(self, base: Manifest, objects: dict[bytes, int], pool: ThreadPoolExecutor) -> Plan:
        """What of ``base`` can stay. A base that is damaged is not built on."""
        try:
            packs = self._packs(self._remote, base, pool)
        except (DamagedError, NotFoundError):
            return plan_reuse([], objects)
        self._known = {blob.digest for blob in base.trees}
        return plan_reuse(packs, objects)

    def _mounted(self, objects: dict[bytes, int], trees: Sequence[bytes], pool: ThreadPoolExecutor) -> Plan:
        """What can come from another repository, where the registry lets it be mounted: here is nothing to build on."""
        for remote in self._elsewhere:
            with remote:
                try:
                    base = read_manifest(remote.get_manifest(remote.target.reference)[0], str(remote.target))
                    packs = self._packs(remote, base, pool)
                except StratumError:
                    continue  # gone, or not for this user: then everything is sent
            plan = plan_reuse(packs, objects)
            wanted = {digest_of(tree) for tree in trees}
            blobs = [blob for layers in plan.kept for blob in (layers.index, layers.pack)]
            blobs += [tree for tree in base.trees if tree.digest in wanted]
            mount = partial(self._mount, remote.target.repository)
            if all(pool.map(mount, blobs)):
                self._known = wanted & {tree.digest for tree in base.trees}
                return plan
        return plan_reuse([], objects)

    def _mount(self, repository: str, blob: Descriptor) -> bool:
        return self._dry_run or self._remote.has_blob(blob) or self._remote.mount_blob(blob, repository)

    def _packs(self, remote: Source, base: Manifest, pool: ThreadPoolExecutor) -> list[BasePack]:
        """The packs of ``base``, which is in ``remote``, with their indexes."""

        def index(layers: PackLayers) -> PackIndex:
            return read_index(fetch(remote, layers.index), layers.pack.size, f"index {layers.index.digest}")

        return [BasePack(layers, found) for layers, found in zip(base.packs, pool.map(index, base.packs), strict=True)]

    # Sending

    def _send_tree(self, number: int, data: bytes) -> Descriptor:
        return self._turns.run(number, lambda: data, lambda data: self._send_bytes(TREE_MEDIA_TYPE, data))

    def _send_pack(self, number: int, members: Sequence[Member]) -> PackLayers:
        path = self._directory / f"pack-{number}"

        def make() -> tuple[Upload, PackIndex]:
            if sum(map(archived_size, members)) > PACK_MAX:
                return self._large_pack(members)
            return self._spooled_pack(members, path)

        def send(pack: tuple[Upload, PackIndex]) -> PackLayers:
            self._send(pack[0])
            return PackLayers(self._send_bytes(INDEX_MEDIA_TYPE, write_index(pack[1])), pack[0].descriptor)

        try:
            return self._turns.run(number, make, send)
        finally:
            path.unlink(missing_ok=True)

    def _spooled_pack(self, members: Sequence[Member], path: Path) -> tuple[Upload, PackIndex]:
        """Make the pack in a temporary file."""
        with path.open("xb", buffering=0) as file:
            pack, index = self._make_pack(members, None if self._dry_run else file.fileno())
        return Upload(pack, lambda start: file_pieces(path, start)), index

    def _large_pack(self, members: Sequence[Member]) -> tuple[Upload, PackIndex]:
        """Make the pack of a large object for its digest, and again when it is sent: the disk may have no room for a
        copy."""
        pack, index = self._make_pack(members, None)

        def again(start: int) -> Iterator[bytes]:
            for piece in PackWriter(members, store_opener(self._store.objects)).pieces():
                if start < len(piece):
                    yield piece[start:]
                start = max(0, start - len(piece))

        return Upload(pack, again), index

    def _make_pack(self, members: Sequence[Member], fd: int | None) -> tuple[Descriptor, PackIndex]:
        made = self._workers.make_pack(self._store.root, members, fd, self._advance)
        pack = Descriptor(PACK_MEDIA_TYPE, f"sha256:{made.sha256}", made.size)
        return pack, PackIndex(made.frames, tuple(members))

    def _send_bytes(self, media_type: str, data: bytes) -> Descriptor:
        blob = describe(media_type, data)
        self._send(Upload.of_bytes(blob, data))
        return blob

    def _send(self, upload: Upload) -> None:
        blob = upload.descriptor
        if blob.digest in self._known or self._remote.has_blob(blob):
            with self._lock:
                self._reused += 1
            return
        if not self._dry_run:
            self._remote.put_blob(Upload(blob, lambda start: self._unless_stopped(upload.read(start))))
        self._count(blob.size)

    def _unless_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._stopped:
                raise StratumError(f"the push to {self._remote.target} was stopped")
            yield piece

    def _count(self, size: int) -> None:
        with self._lock:
            self._sent[0] += size
            self._sent[1] += 1

    def _advance(self, size: int, _member: Member | None) -> None:
        """``size`` more bytes of objects are in a pack."""
        if self._progress is not None and size:
            with self._lock:
                self._done += size
                self._progress(self._done, self._total)


class _Turns:
    """Lets jobs that are made side by side act one after the other, in the order of their numbers (from 0).

    Jobs must be started in that order. Without ``in_order`` each acts as soon as it is made.
    """

    def __init__(self, in_order: bool) -> None:
        self._in_order = in_order
        self._changed = threading.Condition()
        self._next = 0
        self._failed: int | None = None

    def run(self, number: int, make: Callable[[], _Made], act: Callable[[_Made], _Result]) -> _Result:
        try:
            made = make()
            if self._in_order:
                self._wait(number)
            result = act(made)
        except BaseException:
            with self._changed:
                self._failed = number if self._failed is None else min(self._failed, number)
                self._changed.notify_all()
            raise
        with self._changed:
            self._next += 1
            self._changed.notify_all()
        return result

    def _wait(self, number: int) -> None:
        def failed() -> bool:
            return self._failed is not None and self._failed < number

        with self._changed:
            self._changed.wait_for(lambda: failed() or self._next == number)
            if failed():
                raise StratumError("a part of the commit that comes before this one could not be sent")


def _same_tree(base: Manifest, meta: CommitMeta, trees: Sequence[bytes]) -> bool:
    """Whether ``base`` is this very commit, pushed by somebody whose metadata differ in time or origin."""
    return base.commit == meta.metadata_hash and [tree.digest for tree in base.trees] == [digest_of(t) for t in trees]


def file_pieces(path: Path, start: int) -> Iterator[bytes]:
    """The file's content from byte ``start`` on."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(_READ):
            yield piece


def _natural(tag: str) -> list[tuple[int, str]]:
    """Sorts v9 before v10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag)]
