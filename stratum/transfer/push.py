"""Sending a commit: blobs first, the manifest and with it the tag last.

What the repository has is not sent again: the tag's present manifest (or that of the parent commit under another tag)
tells which packs and tree layers can stay, and every other blob is asked for before it is sent, but for small ones
where there is such a manifest. Where it turns out that something of these is gone (a registry refuses the manifest, an
object store is looked at before its tag is moved, and files of this machine before anything), the push is planned once
more, and every blob is asked for. A push that dies publishes nothing, and the blobs that it sent are
found by the next.

Objects that are not here are left in the packs that they are in, where these are in the repository already, or can be
mounted from another of the same registry; what has to go into a new pack is fetched first. The target is recorded as a
source of the commit.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stratum.errors import RefusedError, UnsupportedError, UsageError
from stratum.frozen import frozen
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor, describe, digest_of
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE, VERITY_MEDIA_TYPE
from stratum.oci.places import open_sink, open_source
from stratum.oci.remote import CollectedError, Sink, Upload
from stratum.oci.target import Target
from stratum.progress import Progress
from stratum.transfer.artifact import CONFIG_MEDIA_TYPE, PACK_MEDIA_TYPE, Pack, PackLayers
from stratum.transfer.bases import Bases, There, find_there, has_all, read_base
from stratum.transfer.keeptag import keep
from stratum.transfer.outgoing import Outgoing
from stratum.transfer.packs import PACK_MAX, Member, PackIndex, PackWriter, archived_size, write_index
from stratum.transfer.packwork import store_opener
from stratum.transfer.planning import Plan, is_told
from stratum.transfer.profiles import send_profile
from stratum.transfer.realize import check_real, fetch_missing
from stratum.transfer.recording import Listed, Recording, sources_in
from stratum.transfer.relatives import relatives
from stratum.transfer.running import Running, running

if TYPE_CHECKING:
    from stratum.store import Store

WORKERS = 4
"""Packs made and sent at the same time; each needs its size of temporary disk and one chunk of memory."""
_SMALL = 8
"""Other blobs sent at the same time: all that a small change has, so that each waits for an answer once."""

_ASKED = 256 << 10
"""Bytes of a blob that is always asked for: to send a smaller one costs little more, and it seldom is there."""
_READ = 1 << 20
_TRIES = 3

Need = Callable[[Iterable[bytes]], None]
"""Has objects (digests) stay in the store."""

_T = TypeVar("_T")


@frozen
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
    offline: bool = False,
    keep_tag: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PushResult:
    """Make ``target`` name the commit; ``dry_run`` only finds out what that would send.

    ``jobs`` processes make packs. ``keep_tag``: another tag keeps the manifest there. What is not here and has to be
    sent is fetched, unless ``offline``, or for a dry run: then ``UnsupportedError`` says where it is. Raises
    ``NotFoundError`` for an unknown commit, ``UsageError`` for a target with a digest, ``DamagedError`` where the store
    is damaged and ``StratumError`` in the registry's words.
    """
    check_pushable(target)
    with running(f"the push to {target}", jobs, progress) as job:
        remote = open_sink(target, access, create=not dry_run)
        with remote, scratch(store, commit, f"push of {commit} to {target}") as (directory, need):
            outgoing = Outgoing(store, commit)
            bring = partial(_bring, store, commit, access, jobs, fetch=not (offline or dry_run))
            packer = _Packer(store, directory, job, need, dry_run=dry_run, bring=bring)
            recording = Recording(store, commit, remote, access)

            def attempt(*, anew: bool) -> tuple[PushResult, Listed | None]:
                sender = Sender(remote, job, dry_run=dry_run)
                there = find_there(remote, target.tag, commit, outgoing.meta.parent_commit)
                anew = anew or (remote.local and there.base is not None and not has_all(remote, there.base[0]))
                there = There(there.base, None, there.digest) if anew else there
                elsewhere = (open_source(place, access) for place in relatives(store, commit, target))
                known = sources_in(store, commit, remote)
                bases = Bases(remote, there, elsewhere, known, packer.lacking, sender.mount, outgoing.listing, anew)
                try:
                    done = _push(outgoing, sender, packer, bases, target.tag, None if dry_run else recording)
                    if keep_tag and not dry_run:
                        keep(remote, done[0].manifest_digest)
                except RefusedError as exc:
                    if anew or not sender.trusts:
                        raise
                    raise CollectedError(exc.message, hint=exc.hint) from exc
                return done

            done, catalog = until_all_is_there(attempt)
            if not dry_run:
                send_profile(store, commit, remote, done.manifest_digest)
                recording.record(done.manifest_digest, catalog)
            return done


def until_all_is_there(push: Callable[..., _T]) -> _T:
    """Push, and again, ``anew``, where what was built on is not there any more: then for each blob is asked."""
    for attempt in range(_TRIES):
        with suppress(CollectedError):
            return push(anew=attempt > 0)
    return push(anew=True)


def _bring(store: Store, commit: str, access: Access, jobs: int, objects: dict[bytes, int], *, fetch: bool) -> None:
    """Have ``objects`` of the commit here, or say where they are."""
    if not store.sources.is_partial(commit):
        return
    if fetch:
        fetch_missing(store, objects, access, commits=[commit], jobs=jobs)
    else:
        check_real(store, objects, [commit])


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
    what = f"push of {commit} to {remote.target}"
    with running(f"the {what}", jobs, progress) as job, scratch(store, commit, what) as (directory, need):
        outgoing = Outgoing(store, commit)
        found = read_base(remote, base) if base is not None else None
        sender, packer = Sender(remote, job, in_order=True), _Packer(store, directory, job, need)
        bases = Bases(remote, There(found), (), (), packer.lacking, sender.mount, outgoing.listing)
        return _push(outgoing, sender, packer, bases, tag)[0]


@contextmanager
def scratch(store: Store, commit: str, what: str) -> Iterator[tuple[Path, Need]]:
    """A directory for packs in the making: in a transaction, and elsewhere where the store can only be read; and what
    has objects stay here that could be had elsewhere.

    The store is not locked meanwhile, as a registry takes its time; the commit stays in it all the same.
    ``NotFoundError`` where it is not there.
    """
    with ExitStack() as stack:
        try:
            with store.locks.store():
                store.commits.meta(commit)
                tx = stack.enter_context(store.begin(what, apart=True))
                tx.hold(commit)
        except UnsupportedError:
            from tempfile import TemporaryDirectory

            yield Path(stack.enter_context(TemporaryDirectory(prefix="stratum-push-"))), lambda objects: None
            return

        def need(objects: Iterable[bytes]) -> None:
            with store.locks.store():
                tx.need(objects)

        yield tx.directory, need


def _push(
    outgoing: Outgoing, sender: Sender, packer: _Packer, bases: Bases, tag: str, recording: Recording | None = None
) -> tuple[PushResult, Listed | None]:
    """Send what the repository lacks. What was done, and the catalog of the manifest, where it had to be looked at.

    ``recording`` is begun beside the sending of the manifest.
    """
    meta, lineage, there, metadata = outgoing.meta, outgoing.lineage, bases.there, outgoing.meta.to_toml()
    present, config = there.present, describe(CONFIG_MEDIA_TYPE, metadata)
    if present is not None and there.digest and present.config == config and is_told(present, lineage):
        return sender.result(meta.metadata_hash, there.digest, len(present.blobs) + 1), None
    with ThreadPoolExecutor(WORKERS) as pool:
        is_change = there.base is not None and not bases.asks
        verified = pool.submit(outgoing.verify) if is_change else None  # beside the plan, which looks at little of it
        plan = outgoing.small_plan(there.base) if is_change else None
        if plan is None or packer.lacking(plan.packs):
            plan = bases.best(outgoing.plan_on, pool)
        if present is not None and there.digest and plan.brings_nothing_to(present):
            return sender.result(meta.metadata_hash, there.digest, len(present.blobs) + 1), plan.catalog(())
        plan.check()
        packer.check(plan.packs)
        verified = verified or pool.submit(outgoing.verify)
        is_there = there.base is not None and not bases.asks and there.base[0].config == config
        known = [*plan.known, *([config] if is_there else ())]
        packs = sender.send_plan(plan, known, Upload.of_bytes(config, metadata), packer, pool)
        verified.result()
        manifest, catalog = plan.manifest(config, [pack.layers for pack in packs]), plan.catalog(packs)
        if recording is not None:
            pool.submit(recording.begin, digest_of(manifest), catalog)
        digest = sender.send_manifest(manifest, tag, there.digest)
    return sender.result(meta.metadata_hash, digest), catalog


class Sender:
    """Sends blobs and manifests to ``remote``, but for blobs that are there; threads may share it.

    ``dry_run`` only finds out what that is; ``in_order``: a plan's blobs go in the order of its manifest.
    """

    def __init__(self, remote: Sink, job: Running, *, dry_run: bool = False, in_order: bool = False) -> None:
        self.remote = remote
        self._job = job
        self._dry_run = dry_run
        self._in_order = in_order
        self.trusts = True
        """Whether it relies on anything there that was not asked for."""
        self._known: frozenset[str] = frozenset()
        self._is_small_change = False
        self._sent: list[int] = []
        self._reused: list[str] = []

    def result(self, commit: str, manifest_digest: str, reused: int = 0) -> PushResult:
        """What was done; ``reused`` blobs besides were there."""
        reused += len(self._reused)
        return PushResult(commit, str(self.remote.target), manifest_digest, sum(self._sent), len(self._sent), reused)

    def mount(self, repository: str, blob: Descriptor) -> bool:
        """Have a blob that another repository of the registry has; whether that worked."""
        return self._dry_run or self.remote.has_blob(blob) or self.remote.mount_blob(blob, repository)

    def send(self, upload: Upload) -> None:
        """Send a blob, unless it is there."""
        if self._lacks(upload.descriptor):
            self._put(upload)

    def _lacks(self, blob: Descriptor) -> bool:
        asks = not self._is_small_change or blob.size >= _ASKED
        if blob.digest not in self._known and not (asks and self.remote.has_blob(blob)):
            return True
        self._reused.append(blob.digest)
        return False

    def _put(self, upload: Upload) -> None:
        blob = upload.descriptor
        if not self._dry_run:
            self.remote.put_blob(Upload(blob, lambda start: self._unless_stopped(upload.read(start))))
        self._sent.append(blob.size)

    def _unless_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._job.check()
            yield piece

    def send_bytes(self, media_type: str, data: bytes) -> Descriptor:
        """Send a blob that is at hand."""
        blob = describe(media_type, data)
        self.send(Upload.of_bytes(blob, data))
        return blob

    def send_manifest(self, data: bytes, tag: str, expected: str | None) -> str:
        """Point ``tag``, which named ``expected`` (a digest) when it was looked at, at the manifest; its digest."""
        if not self._dry_run:
            self.remote.replace_manifest(data, tag, expected)
        self._sent.append(len(data))
        return digest_of(data)

    def send_plan(
        self, plan: Plan, known: Iterable[Descriptor], config: Upload, packer: _Packer, pool: ThreadPoolExecutor
    ) -> list[Pack]:
        """Send the tree layers and new packs of a plan, and the config blob, but for those that are ``known`` to be
        there; the packs. Where anything fails, all is ended."""
        self._known = frozenset(blob.digest for blob in known)
        self._is_small_change = bool(plan.borrowed) and not self.remote.local
        self.trusts = bool(plan.borrowed or self._known)
        self._reused += (blob.digest for pack in plan.kept for blob in pack.blobs)
        self._job.start(plan.size)
        makes = [partial(packer.make, number, members) for number, members in enumerate(plan.packs)]
        small = ThreadPoolExecutor(_SMALL)  # none of its jobs waits for another
        try:
            if self._in_order:
                for tree in plan.trees:
                    self.send(tree)
                packs = [self._send_pack(packed) for packed in _made_ahead(makes, pool)]
                self.send(config)
                return packs
            sent = [pool.submit(self._make_and_send, make, small) for make in makes]
            jobs = [small.submit(self.send, blob) for blob in (*plan.trees, config)]
            for job in jobs:
                job.result()
            return [job.result() for job in sent]
        except BaseException:
            self._job.stop()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            small.shutdown(cancel_futures=True)

    def _make_and_send(self, make: Callable[[], _Packed], small: Executor) -> Pack:
        return self._send_pack(make(), small)

    def _send_pack(self, packed: _Packed, small: Executor | None = None) -> Pack:
        """Send a pack; what goes with it is sent by ``small`` meanwhile. What is new there is new there as a whole, and
        not asked for."""
        blobs = [(INDEX_MEDIA_TYPE, write_index(packed.index))]
        blobs += [(VERITY_MEDIA_TYPE, packed.verity)] if packed.verity is not None else []
        others = [Upload.of_bytes(describe(media_type, data), data) for media_type, data in blobs]
        try:
            is_new = self._lacks(packed.upload.descriptor)
            send = self._put if is_new else self.send
            jobs = [small.submit(send, other) for other in others] if small is not None else []
            if is_new:
                self._put(packed.upload)
            for other in others if small is None else ():
                send(other)
            for job in jobs:
                job.result()
        finally:
            packed.path.unlink(missing_ok=True)
        layers = (other.descriptor for other in others)
        return Pack(PackLayers(next(layers), packed.upload.descriptor, next(layers, None)), packed.index)


def _made_ahead(makes: Iterable[Callable[[], _T]], pool: Executor) -> Iterator[_T]:
    """What ``makes`` make, in their order; some are made while one is used."""
    ahead: deque[Future[_T]] = deque()
    for make in makes:
        ahead.append(pool.submit(make))
        if len(ahead) == WORKERS:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


@frozen
class _Packed:
    """A pack that can be sent, what is where in it, and the hashes of the chunks of a large object. ``path`` is its
    file, where it has one."""

    upload: Upload
    index: PackIndex
    verity: bytes | None
    path: Path


class _Packer:
    """Makes packs of objects of the store, in files in ``directory``; ``dry_run`` without the files. ``need`` has
    objects stay, ``bring`` has those here that are not."""

    def __init__(
        self,
        store: Store,
        directory: Path,
        job: Running,
        need: Need,
        *,
        dry_run: bool = False,
        bring: Callable[[dict[bytes, int]], None] = lambda objects: None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._job = job
        self._need = need
        self._dry_run = dry_run
        self._bring = bring

    def lacking(self, packs: Iterable[Sequence[Member]]) -> dict[bytes, int]:
        """The objects in ``packs`` that the store has not."""
        members, residence = [member for pack in packs for member in pack], self._store.residence
        return {} if residence.has_all(members) else dict(residence.lacking(members))

    def check(self, packs: Sequence[Sequence[Member]]) -> None:
        """Have the objects that are to be sent here, or raise ``NotFoundError``: now, and not after half of the
        rest."""
        self._need(member.digest for pack in packs for member in pack)
        lacking = self.lacking(packs)
        if lacking:
            self._bring(lacking)
            for digest in self.lacking(packs):
                os.close(self._store.objects.open(digest))

    def make(self, number: int, members: Sequence[Member]) -> _Packed:
        """The pack of ``members``.

        That of a large object is made for its digest, and again when it is sent: the disk may have no room for a copy.
        """
        path = self._directory / f"pack-{number}"
        if sum(map(archived_size, members)) > PACK_MAX:
            pack, index, verity = self._write(members, None)
            return _Packed(Upload(pack, lambda start: self._again(members, start)), index, verity, path)
        with path.open("xb", buffering=0) as file:
            pack, index, verity = self._write(members, None if self._dry_run else file.fileno())
        return _Packed(Upload(pack, lambda start: file_pieces(path, start)), index, verity, path)

    def _write(self, members: Sequence[Member], fd: int | None) -> tuple[Descriptor, PackIndex, bytes | None]:
        made = self._job.workers.make_pack(self._store.root, members, fd, lambda size, _: self._job.advance(size))
        pack = Descriptor(PACK_MEDIA_TYPE, f"sha256:{made.sha256}", made.size)
        return pack, PackIndex(made.frames, tuple(members)), made.verity

    def _again(self, members: Sequence[Member], start: int) -> Iterator[bytes]:
        """The pack's bytes from ``start`` on."""
        for piece in PackWriter(members, store_opener(self._store.objects)).pieces():
            if start < len(piece):
                yield piece[start:]
            start = max(0, start - len(piece))


def file_pieces(path: Path, start: int) -> Iterator[bytes]:
    """The file's content from byte ``start`` on."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(_READ):
            yield piece
