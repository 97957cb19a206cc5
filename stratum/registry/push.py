"""Sending a commit: blobs first, the manifest and with it the tag last.

What the repository has is not sent again: the tag's present manifest (or that of the parent commit under another tag)
tells which packs and tree layers can stay, and every other blob is asked for before it is sent. A push that dies
publishes nothing, and the blobs that it sent are found by the next.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import fdopen
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError
from stratum.registry.artifact import (
    CONFIG_MEDIA_TYPE,
    INDEX_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    TREE_MEDIA_TYPE,
    Descriptor,
    Manifest,
    PackLayers,
    describe,
    digest_of,
    read_manifest,
    write_manifest,
)
from stratum.registry.packs import (
    PACK_MAX,
    Member,
    PackIndex,
    PackWriter,
    archived_size,
    plan_packs,
    read_index,
    write_index,
)
from stratum.registry.remote import Access, Remote, Upload, fetch, open_remote
from stratum.registry.reuse import BasePack, Plan, plan_reuse
from stratum.registry.target import Target
from stratum.registry.treeblobs import objects_of, tree_blobs

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.commits import CommitMeta

WORKERS = 4
"""Blobs made and sent at the same time; each needs a pack's worth of temporary disk and one chunk of memory."""

_BASES_MAX = 8
_READ = 1 << 20

Progress = Callable[[int, "int | None"], None]
"""Called with (bytes done, bytes in total or None)."""


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
    progress: Progress | None = None,
) -> PushResult:
    """Make ``target`` name the commit; ``dry_run`` only finds out what that would send.

    Raises ``NotFoundError`` for an unknown commit, ``UsageError`` for a target with a digest, ``DamagedError`` where
    the store is damaged and ``StratumError`` in the registry's words.
    """
    if target.digest is not None:
        raise UsageError(f"{target} is one fixed manifest; a push needs a tag", hint="leave the '@sha256:...' out")
    meta, dump = store.commits.meta(commit), store.commits.dump(commit)
    remote = open_remote(target, access, create=not dry_run)
    with remote, store.begin(f"push of {commit} to {target}") as tx:
        return _Push(store, tx.directory, remote, meta, dry_run, progress).run(dump)


class _Push:
    """One push of one commit."""

    def __init__(
        self, store: Store, directory: Path, remote: Remote, meta: CommitMeta, dry_run: bool, progress: Progress | None
    ) -> None:
        self._store = store
        self._directory = directory
        self._remote = remote
        self._meta = meta
        self._dry_run = dry_run
        self._progress = progress
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._sent = [0, 0]
        self._reused = 0
        self._done = self._total = 0

    def run(self, dump: bytes) -> PushResult:
        config_data = self._meta.to_toml()
        config = describe(CONFIG_MEDIA_TYPE, config_data)
        present, base = self._find_base()
        if present is not None and present[0].config == config:
            return self._result(present[1], len(present[0].blobs) + 1)
        objects = objects_of(dump, self._meta.metadata_hash)
        with ThreadPoolExecutor(WORKERS) as pool:
            plan = self._plan(base, objects, pool)
            trees = list(tree_blobs(dump))
            if present is not None and base is present[0] and not plan.members and _same_tree(base, self._meta, trees):
                return self._result(present[1], len(base.blobs) + 1)
            packs = plan_packs(plan.members)
            self._total = sum(member.size for member in plan.members)
            self._reused += 2 * len(plan.kept)
            jobs = [pool.submit(self._send_bytes, TREE_MEDIA_TYPE, data) for data in trees]
            pack_jobs = [pool.submit(self._send_pack, number, pack) for number, pack in enumerate(packs)]
            try:
                tree_layers = [job.result() for job in jobs]
                pack_layers = [job.result() for job in pack_jobs]
            finally:
                pool.shutdown(cancel_futures=True)
        self._send_bytes(CONFIG_MEDIA_TYPE, config_data)
        manifest = Manifest(
            self._meta.metadata_hash,
            self._meta.timestamp,
            config,
            tuple(tree_layers),
            (*plan.kept, *pack_layers),
            self._meta.parent_commit,
        )
        data = write_manifest(manifest)
        if not self._dry_run:
            self._remote.put_manifest(data, self._remote.target.tag)
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
        tag = self._remote.target.tag
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

    def _plan(self, base: Manifest | None, objects: dict[bytes, int], pool: ThreadPoolExecutor) -> Plan:
        """What of ``base`` can stay. A base that is damaged is not built on."""
        packs: list[BasePack] = []
        if base is not None:
            try:
                indexes = list(pool.map(self._index, base.packs))
            except (DamagedError, NotFoundError):
                return plan_reuse([], objects)
            packs = [BasePack(layers, index) for layers, index in zip(base.packs, indexes, strict=True)]
            self._known = {blob.digest for blob in base.trees}
        return plan_reuse(packs, objects)

    def _index(self, layers: PackLayers) -> PackIndex:
        blob = fetch(self._remote, layers.index)
        return read_index(blob, layers.pack.size, f"index {layers.index.digest}")

    # Sending

    def _send_pack(self, number: int, members: Sequence[Member]) -> PackLayers:
        writer = PackWriter(members, self._open_object)
        if sum(map(archived_size, members)) > PACK_MAX:
            pack = self._send_large(writer, members)
        else:
            pack = self._send_spooled(writer, self._directory / f"pack-{number}")
        index_data = write_index(writer.index)
        return PackLayers(self._send_bytes(INDEX_MEDIA_TYPE, index_data), pack)

    def _send_spooled(self, writer: PackWriter, path: Path) -> Descriptor:
        """Make the pack in a temporary file, then send it."""
        sha, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            for piece in writer.pieces():
                sha.update(piece)
                size += len(piece)
                if not self._dry_run:
                    file.write(piece)
        pack = Descriptor(PACK_MEDIA_TYPE, "sha256:" + sha.hexdigest(), size)
        self._send(Upload(pack, lambda start: _file_pieces(path, start)))
        path.unlink()
        return pack

    def _send_large(self, writer: PackWriter, members: Sequence[Member]) -> Descriptor:
        """Make the pack of a large object twice, once for its digest and once to send it: the disk may have no room
        for a copy."""
        sha, size = hashlib.sha256(), 0
        for piece in writer.pieces():
            sha.update(piece)
            size += len(piece)
        pack = Descriptor(PACK_MEDIA_TYPE, "sha256:" + sha.hexdigest(), size)

        def again(start: int) -> Iterator[bytes]:
            for piece in PackWriter(members, self._store_object).pieces():
                if start < len(piece):
                    yield piece[start:]
                start = max(0, start - len(piece))

        self._send(Upload(pack, again))
        return pack

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
            self._remote.put_blob(upload)
        self._count(blob.size)

    def _count(self, size: int) -> None:
        with self._lock:
            self._sent[0] += size
            self._sent[1] += 1

    def _store_object(self, digest: bytes) -> BinaryIO:
        return fdopen(self._store.objects.open(digest), "rb", buffering=0)

    def _open_object(self, digest: bytes) -> BinaryIO:
        """Like ``_store_object``, for the one reading of an object that counts as progress."""
        file = self._store_object(digest)
        if self._progress is not None:
            with self._lock:
                self._done += self._store.objects.size(digest) or 0
                self._progress(self._done, self._total)
        return file


def _same_tree(base: Manifest, meta: CommitMeta, trees: Sequence[bytes]) -> bool:
    """Whether ``base`` is this very commit, pushed by somebody whose metadata differ in time or origin."""
    return base.commit == meta.metadata_hash and [tree.digest for tree in base.trees] == [digest_of(t) for t in trees]


def _file_pieces(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(_READ):
            yield piece


def _natural(tag: str) -> list[tuple[int, str]]:
    """Sorts v9 before v10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag)]
