"""Fetching a commit: nothing that arrives is believed.

The tag is resolved once, to a manifest whose digest is kept. The dump must be canonical and hash to the commit ID, its
Merkle root and the metadata must agree; an object is kept only when its bytes have the fs-verity digest that the tree
names. The commit appears when everything is there. Objects that were verified
before something failed stay in the store, and what has arrived of a pack stays until then (``store.packcache``), also
when this process is killed: another try fetches the rest only.

What is in the store already is not fetched, but the artifact has to list it: a tree alone gives nobody what it names.
Where the store has what others may not see (``isolated``), all is fetched, unless a pull of that kind has fetched this
very commit from this very repository before.

Where the packs are, and what is in them, is recorded with the commit (``store.sources``). A **lazy** pull ends there:
it fetches no pack, and what the store has not already stays unreal. Such a pull proves of no object that the artifact
has it, so an isolated one cannot be lazy: who knows a digest could read what others have brought here.

The registry takes its time, so the store is not locked while it does. The transaction tells garbage collections what
it needs (``Transaction.need``), be it there already or still to come, and they keep that. At the end, with the store
locked until the caller has given the commit a name, it is looked at once more; what is gone is fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from stratum.errors import BusyError, DamagedError, NotFoundError, UnsupportedError, UsageError
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target, parse_target
from stratum.progress import Progress
from stratum.store.ancestry import Ancestry
from stratum.store.facts import Reading
from stratum.store.lineage import Recorded
from stratum.transfer.artifact import Manifest, Pack, read_manifest, read_metadata
from stratum.transfer.catalogs import can_be_noted, source_of
from stratum.transfer.objects import STORE_WAIT, WORKERS, ObjectFetch, Part, fetch_objects, find_parts, read_packs
from stratum.transfer.packcatalogs import catalog_of
from stratum.transfer.profiles import bring_profile
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import Running, running
from stratum.transfer.treeblobs import Joined, join_tree
from stratum.tree import blocks
from stratum.tree.contents import counted_objects
from stratum.tree.merkle import Dumped, MerkleNodes
from stratum.tree.splice import SplicedDump

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.store import Store
    from stratum.store.commits import WithCatalog
    from stratum.store.facts import Counted
    from stratum.store.imageroom import Room
    from stratum.store.metadata import CommitMeta
    from stratum.store.transaction import Transaction
    from stratum.store.treewriter import Stored

_WHOLE = "whole"
"""Key of a commit's origin: true where everything of it came from there."""

_ROUNDS = 5
"""How often what disappeared from the store meanwhile is fetched again."""


Proving = Callable[[Mapping[bytes, int]], Mapping[bytes, int]]
"""Picks those of a commit's objects (digest -> size) that the artifact of a stranger has to be seen to have: what of
it the store has, it might have from others. Its tree is read there, too."""


@dataclass(frozen=True, slots=True)
class PullResult:
    """``manifest_digest`` is what the tag named; ``bytes_received`` counts blobs and the manifest.

    ``objects`` are those that the commit needs, ``unreal`` those of them that are not here: (number, bytes).
    """

    commit: str
    manifest_digest: str
    bytes_received: int
    objects: tuple[int, int]
    unreal: tuple[int, int]


@contextmanager
def pulled(
    store: Store,
    remote: Source,
    reference: str,
    *,
    kind: str = "pull",
    access: Access | None = None,
    jobs: int = 1,
    isolated: bool = False,
    lazy: bool = False,
    progress: Progress | None = None,
    accept: Callable[[Manifest], None] | None = None,
    room: Callable[[int], object] | None = None,
    image: Callable[[], Room] | None = None,
    proving: Proving | None = None,
) -> Iterator[PullResult]:
    """Bring the commit that ``reference`` (a tag or digest) is in ``remote`` into the store; no tag of it is moved.

    The store is locked until the block ends, so that no garbage collection finds the commit without the name that the
    block gives it. Until the commit is there, the store is not locked. ``accept`` is given the manifest before anything
    else is fetched, and may raise. ``kind`` is the origin that a new commit gets. ``access`` is what ``remote`` was
    opened with. ``jobs`` processes unpack and verify. ``isolated``: the artifact is the only place where anything is
    taken from. ``lazy``: no object is fetched, and of a commit that is here nothing changes. ``room`` is told how many
    bytes are about to come, packs that go again included, while the store is not locked. ``image``: the commit, which
    is mounted at once, has its image made beside all else. ``proving``: a lazy pull of what a stranger brought.

    Raises ``NotFoundError`` where there is none, ``DamagedError`` for anything that does not match, ``StratumError`` in
    the words of the other side, ``UnsupportedError`` for a lazy pull that is isolated.
    """
    _check_lazy(isolated, lazy)
    where, (data, digest) = str(remote.target), remote.get_manifest(reference)
    manifest = read_manifest(data, where)
    if accept is not None:
        accept(manifest)
    what = f"{kind} of {where}"
    with store.begin(what, apart=True) as tx, running(f"the {what}", jobs, progress) as job:
        job.move(len(data))
        of = digest if lazy else None
        found = _read(tx, store, remote, manifest, isolated or bool(proving), job, of, draw=image is not None)
        write = _Writer(store, tx, manifest, found, _sources(remote, digest, kind, access, found), image)
        wanted, origin = found.tree.objects, {"kind": kind, "reference": where, "manifest": digest}
        objects = ObjectFetch(remote, tx.object_staging, PackFiles(store.layout, tx.directory, remote), job)
        if lazy:
            _prove(store, tx, objects, found, proving)
            with store.locks.store(timeout=STORE_WAIT):
                write(origin)
                yield _result(manifest, digest, job, wanted, _lacking(store, wanted))
            return
        parts = _needed(store, tx, wanted, found, room)
        for _ in range(_ROUNDS):
            fetch_objects(store, tx, objects, parts)
            with store.locks.store(timeout=STORE_WAIT):
                missing = _lacking(store, wanted)
                if not missing:
                    write(origin | ({_WHOLE: True} if isolated else {}), real=True)
                    objects.files.remove(layers.pack for layers in manifest.packs)
                    yield _result(manifest, digest, job, wanted, {})
                    return
            parts = find_parts(found.packs, missing)
    raise _disappearing(where)


def _prove(store: Store, tx: Transaction, objects: ObjectFetch, found: _Found, proving: Proving | None) -> None:
    """Fetch what has to be shown to be in the artifact, and let go of its packs: of a million objects they take as much
    memory as all else."""
    if proving is not None:
        found.tree.reading.wait()
        fetch_objects(store, tx, objects, find_parts(found.packs, proving(found.tree.objects)))
    found.packs.clear()


def _needed(
    store: Store, tx: Transaction, wanted: Mapping[bytes, int], found: _Found, room: Callable[[int], object] | None
) -> list[Part]:
    """What is to be fetched of ``wanted``, all of which stays from now on."""
    found.tree.reading.wait()  # nothing is fetched for a tree that cannot be
    with store.locks.store():
        tx.need(wanted)
        missing = wanted if found.fresh else _lacking(store, wanted)
    parts = find_parts(found.packs, missing)
    if room is not None and parts:
        beside = sorted(part.pack.layers.pack.size for part in parts)[-WORKERS:]  # the objects that are taken from them
        room(sum(missing.values()) + sum(beside))
    return parts


def _disappearing(where: str) -> BusyError:
    return BusyError(
        f"objects of {where} disappear from the store as fast as they are fetched",
        hint="wait until whatever removes them is done, and pull again",
    )


def _check_lazy(isolated: bool, lazy: bool) -> None:
    if not (isolated and lazy):
        return
    raise UnsupportedError(
        "a pull that may use nothing of others cannot be lazy: nothing would show that the artifact has the files",
        hint="pull it whole, or have an administrator of this machine pull it",
    )


def _result(
    manifest: Manifest, digest: str, job: Running, wanted: Mapping[bytes, int], lacking: Mapping[bytes, int]
) -> PullResult:
    def measure(objects: Mapping[bytes, int]) -> tuple[int, int]:
        return len(objects), sum(objects.values())

    return PullResult(manifest.commit, digest, job.moved, measure(wanted), measure(lacking))


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree that is read beside all else, which says in the end whether its dump is canonical; the dump with its
    Merkle tree; the frames that it came in; and how many lines name each object that more than one does."""

    reading: Reading
    image: Path | None
    read_from: Dumped
    frames: Sequence[Stored]
    repeated: Mapping[bytes, int]

    @property
    def objects(self) -> Mapping[bytes, int]:
        """The objects in it: digest -> size in bytes."""
        return self.reading.objects


@dataclass(frozen=True, slots=True)
class _Found:
    """What an artifact says of its commit, checked. ``fresh``: no object may come from anywhere else."""

    meta: CommitMeta
    timestamp: datetime
    tree: _Tree
    packs: list[Pack]
    fresh: bool


def _read(
    tx: Transaction,
    store: Store,
    remote: Source,
    manifest: Manifest,
    isolated: bool,
    job: Running,
    profile_of: str | None = None,
    *,
    draw: bool = False,
) -> _Found:
    """Fetch and check all but the packs; beside that, the profile that refers to the manifest ``profile_of``, and with
    ``draw`` the image, where there is none."""
    where = str(remote.target)

    def get(blob: Descriptor) -> bytes:
        data = fetch(remote, blob)
        job.move(len(data))
        return data

    meta = read_metadata(get(manifest.config), manifest, where)
    timestamp = _timestamp(meta, where)
    fresh = isolated and not _came_from(store, meta.metadata_hash, remote.target)
    with ThreadPoolExecutor(WORKERS) as pool:
        if profile_of is not None:
            pool.submit(bring_profile, store, manifest.commit, remote, profile_of)
        joined = None if fresh else _known_tree(store, meta.metadata_hash)
        if joined is None:
            size = sum(tree.size for tree in manifest.trees)
            if size > blocks.DUMP_MAX:
                raise DamagedError(f"{where}: the tree is larger than {blocks.DUMP_MAX} bytes")
            job.workers.expect_tree(size)
            layer = get if fresh else partial(_known_layer, store, get)
            joined = join_tree(pool.map(layer, manifest.trees), where)
        if joined.commit != meta.metadata_hash:
            raise DamagedError(
                f"{where}: the tree is commit {joined.commit}, not {meta.metadata_hash} as it is said to be"
            )
        image = tx.new_path("image") if draw and store.images.size(meta.metadata_hash) is None else None
        tree = _check_tree(joined, meta, where, job.workers.read_tree(joined.dump, image), image)
        packs = read_packs(manifest.packs, get, where, pool)
    _check_listed(tree.objects, packs, where)
    return _Found(meta, timestamp, tree, packs, fresh)


def _lacking(store: Store, objects: Mapping[bytes, int]) -> dict[bytes, int]:
    """Those of the objects that the store has not."""
    return store.residence.missing(objects)


def _sources(remote: Source, digest: str, kind: str, access: Access | None, found: _Found) -> list[WithCatalog]:
    """The place that the commit comes from, with what is there; nothing where nobody finds it there again."""
    if not remote.lasting or not can_be_noted(remote.noted):
        return []
    source = source_of(remote.noted, digest, "import" if kind == "import" else "pull", access)
    return [(source, catalog_of(found.packs, found.tree.objects, found.tree.repeated))]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes the commit, of which the store has every object or is told the source of, and keeps what the artifact tells
    of its history and where its objects are, also of one that was here before. Called with the origin, and whether no
    object is missing."""

    store: Store
    tx: Transaction
    manifest: Manifest
    found: _Found
    sources: Sequence[WithCatalog]
    room: Callable[[], Room] | None

    def __call__(self, origin: dict[str, Any], *, real: bool = False) -> None:
        meta, tree = self.found.meta, self.found.tree
        self.store.commits.write(
            self.tx,
            tree.reading,
            read_from=tree.read_from,
            parent=meta.parent_commit,
            message=meta.message,
            origin=origin,
            timestamp=self.found.timestamp,
            sources=self.sources,
            near=self._near(),
            frames=tree.frames,
            whole=origin["kind"] == "repair",
            real=real,
        )
        if tree.image is not None and self.room is not None:
            tree.reading.wait()
            self.store.images.take_in(tree.image, meta.metadata_hash, self.room)
        lineage = Recorded(self.manifest.ancestors, self.manifest.whole)
        Ancestry(self.store).record(self.tx, meta.metadata_hash, lineage)

    def _near(self) -> str | None:
        """The nearest relative that is here."""
        parent, commits = self.found.meta.parent_commit, self.store.commits
        relatives = (parent, *self.manifest.ancestors)
        return next((commit for commit in relatives if commit is not None and commits.exists(commit)), None)


def _came_from(store: Store, commit: str, target: Target) -> bool:
    """Whether the store has the commit because an isolated pull fetched all of it from the repository of ``target``."""
    try:
        origin = store.commits.meta(commit).origin or {}
    except NotFoundError:
        return False
    try:
        return origin.get(_WHOLE) is True and parse_target(str(origin.get("reference"))).place == target.place
    except UsageError:
        return False


def _known_tree(store: Store, commit: str) -> Joined | None:
    """The dump of a commit that the store has; None where it has not, or not any more, or cannot read it."""
    try:
        return Joined(store.commits.dump(commit), commit, ())
    except (NotFoundError, DamagedError):
        return None


def _known_layer(store: Store, get: Callable[[Descriptor], bytes], blob: Descriptor) -> bytes:
    """A tree layer, fetched only where the store has no such frame."""
    digest = bytes.fromhex(blob.hex)
    with suppress(DamagedError):
        if store.trees.has_frame(digest):
            data = store.trees.frame_file(digest)
            if sha256(data).digest() == digest:
                return data
    return get(blob)


# Checking


def _timestamp(meta: CommitMeta, where: str) -> datetime:
    try:
        timestamp = datetime.fromisoformat(meta.timestamp.replace("Z", "+00:00"))
    except ValueError:
        timestamp = datetime.min
    if timestamp.tzinfo is None:
        raise DamagedError(f"{where}: the metadata have no valid timestamp")
    return timestamp


def _check_tree(
    joined: Joined, meta: CommitMeta, where: str, reading: Callable[[], Counted], image: Path | None
) -> _Tree:
    """The tree of the dump, whose hash is that of the commit, and which is being read, and its image made."""
    dump = joined.dump

    def counted() -> Counted:
        try:
            return reading()
        except DamagedError as exc:
            raise DamagedError(f"{where}: {exc.message}", hint=exc.hint) from None

    try:
        objects, repeated = counted_objects(dump)
    except DamagedError as exc:
        counted()  # which says more of it
        raise DamagedError(f"{where}: {exc.message}", hint=exc.hint) from None
    spliced = SplicedDump(lambda: dump, keep=dump.text is not None)
    nodes = MerkleNodes.of(spliced.blocks())
    if nodes.summary().root != meta.merkle_root:
        raise DamagedError(f"{where}: the Merkle root in the metadata is not that of the tree")
    return _Tree(Reading(objects, counted), image, Dumped(spliced, nodes), joined.frames, repeated)


def _check_listed(objects: Mapping[bytes, int], packs: Iterable[Pack], where: str) -> None:
    """The artifact has every object of the tree."""
    left = dict(objects)
    for pack in packs:
        for digest, size in pack.index.members:
            if left.get(digest) == size:
                del left[digest]
    for digest in left:
        raise DamagedError(f"{where}: object {digest.hex()} of the tree is in none of its packs")
