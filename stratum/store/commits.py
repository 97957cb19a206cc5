"""Commits: ``commits/<metadata_hash>``, a file with metadata.toml (``store.metadata``), a NUL byte, and the record of
how the dump is stored (``store.treerecord``).

The file appears whole, by one rename, and is not changed afterwards. What the record leads to is there before:
frames, and the commit whose dump this one's is stored on. What is said of the commit besides is in files beside it
(``store.sources``, ``store.ancestry``); where objects may be unreal, that is there from the moment that it appears.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from stratum.errors import DamagedError, ExistsError, NotFoundError, UnsupportedError, UsageError
from stratum.frozen import replace
from stratum.refs import is_hash, is_hash_prefix
from stratum.store.clock import rfc3339, utc_now
from stratum.store.facts import Reading
from stratum.store.layout import ANCESTORS, Layout, Names, storage_error
from stratum.store.merklecache import MerkleCache
from stratum.store.metadata import METADATA_MAX, CommitMeta, Statistics, parent_of
from stratum.store.residence import Residence
from stratum.store.sources import PARTIAL, SOURCES, CommitSource, Sources, joined, not_listed
from stratum.store.transaction import Transaction, Transactions
from stratum.store.treerecord import HEAD_MAX, join_file, read_head, split_file
from stratum.store.trees import Trees
from stratum.store.treewriter import BLOCK, Base, Stored, TreeWriter
from stratum.sys.atomic import fsync_dir
from stratum.tree.model import Directory, File, Source

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from stratum.store.trees import Chain
    from stratum.tree.blocks import Dump
    from stratum.tree.merkle import Dumped, MerkleNodes
    from stratum.tree.splice import Kept, SplicedDump

WithCatalog = tuple[CommitSource, bytes]
"""A source, and the catalog of what it has."""

_BESIDE_MAX = 64 << 20
"""A dump of more bytes is read twice rather than be in memory beside its tree, which takes twice as much."""
_ROOM_MAX = 1 << 28
"""Bytes of a dump that there is room for before anything of it is read."""
_Whence = tuple[list[CommitSource], bool]
"""The sources of a commit, and whether it is partial."""


def accept_any(commit: str) -> None:
    """Have it written whatever its name is."""


class Commits:
    """The commits of one store. Commits are named by their 64 hex digits."""

    def __init__(
        self, layout: Layout, residence: Residence, sources: Sources, transactions: Transactions, trees: Trees
    ) -> None:
        self._layout = layout
        self._residence = residence
        self._sources = sources
        self._transactions = transactions
        self._merkle_cache = MerkleCache(layout)
        self._trees = trees
        self._writer = TreeWriter(trees)
        self._opened: WeakKeyDictionary[Source, Chain] = WeakKeyDictionary()

    def list(self) -> Names:
        """All commits, sorted by hash."""
        return [name for name in self._layout.names_in(self._layout.commits) if is_hash(name)]

    def exists(self, commit: str) -> bool:
        """Whether the store has this commit."""
        if not is_hash(commit):
            return False
        try:
            return stat.S_ISREG(self._layout.commit(commit).lstat().st_mode)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"look for commit {commit}") from None

    def find(self, prefix: str) -> Names:
        """The commits whose hash begins with ``prefix`` (7 to 64 hex digits; otherwise none)."""
        if not is_hash_prefix(prefix):
            return []
        if is_hash(prefix):
            return [prefix] if self.exists(prefix) else []
        return [commit for commit in self.list() if commit.startswith(prefix)]

    def meta(self, commit: str) -> CommitMeta:
        """The commit's metadata. ``NotFoundError``, or ``DamagedError`` where the file is damaged or of another."""
        where = str(self._layout.commit(commit))
        meta = CommitMeta.from_toml(self._metadata(commit), where)
        if meta.metadata_hash != commit:
            raise DamagedError(f"{where} has the metadata of commit {meta.metadata_hash}", hint="run 'stratum fsck'")
        return meta

    def parent(self, commit: str) -> str | None:
        """The commit's parent, as ``meta`` has it, for those who ask for many; raises as ``meta`` does."""
        said, parent = parent_of(self._metadata(commit))
        return parent if said == commit else self.meta(commit).parent_commit

    def _metadata(self, commit: str) -> bytes:
        """The commit's metadata.toml."""
        path = self._layout.commit(commit)
        try:
            data = self._layout.head_of(path, METADATA_MAX + HEAD_MAX)
        except FileNotFoundError:
            raise NotFoundError(f"there is no commit {commit}") from None
        except OSError as exc:
            raise storage_error(exc, f"read commit {commit}") from None
        return split_file(data, str(path))[0]

    def dump(self, commit: str) -> Dump:
        """The canonical dump, checked against the commit's name: ``DamagedError`` where it does not match."""
        return self._dump(self._chain(commit))

    def _chain(self, commit: str) -> Chain:
        if not self.exists(commit):
            raise NotFoundError(f"there is no commit {commit}")
        return self._trees.chain(commit)

    def _dump(self, chain: Chain, kept_max: int = sys.maxsize) -> Dump:
        """The dump, of which one of more than ``kept_max`` bytes is not short (``tree.blocks``)."""
        from blake3 import blake3

        from stratum.sys.malloc import large_file
        from stratum.tree.blocks import DUMP_MAX, Dump

        commit, hasher = chain[0][0], blake3()
        with _reading(commit):
            room = large_file(min(chain[0][1].size, _ROOM_MAX, kept_max))
            dump = Dump(lambda: self._trees.read(chain), hasher.update, min(kept_max, DUMP_MAX), room)
        _check_hash(commit, hasher.hexdigest())
        return dump

    def verify(self, commit: str) -> None:
        """Compare the dump with the commit's name, as ``dump`` does, without having it in memory."""
        from blake3 import blake3

        hasher = blake3()
        with _reading(commit):
            for block in self._trees.read(self._chain(commit)):
                hasher.update(block)
        _check_hash(commit, hasher.hexdigest())

    def tree(self, commit: str) -> Directory:
        """The commit's tree, read from the verified dump."""
        from stratum.tree.dump import read_dump

        return read_dump(self._dump(self._chain(commit), _BESIDE_MAX))

    def open_tree(self, commit: str) -> Directory:
        """The same tree with its directories read when somebody looks into them (``tree.lazy``), which is what to use
        where little of it is needed. The dump's hash is checked at once. One that is not short (``tree.blocks``) is
        read at once, too."""
        from stratum.tree.dump import read_dump
        from stratum.tree.lazy import LazyDump

        chain = self._chain(commit)
        dump = self._dump(chain)
        if dump.text is None:
            return read_dump(dump)
        source = LazyDump(dump.text)
        self._opened[source] = chain
        return source.root()

    def root(self, commit: str) -> Directory:
        """The root directory's own metadata, without its children."""
        return self.open_tree(commit).with_children({})

    def write(
        self,
        tx: Transaction,
        root: Directory | Reading,
        *,
        parent: str | None = None,
        message: str | None = None,
        origin: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        known: Directory | None = None,
        read_from: Dumped | None = None,
        accept: Callable[[str], None] = accept_any,
        sources: Sequence[WithCatalog] = (),
        near: str | None = None,
        frames: Sequence[Stored] = (),
        whole: bool = False,
        real: bool = False,
    ) -> CommitMeta:
        """Make the commit of the tree ``root``, publishing the objects staged in ``tx`` first, all of them complete.

        Equal trees are one commit: where it exists already, it is left untouched and its metadata returned, unless its
        tree cannot be read; then it is written again, whole, with what was said of it. ``accept`` is given its name
        before anything of it gets a place, and may raise. ``timestamp`` (timezone-aware) defaults to now. Objects below
        directories that ``root`` shares with ``known``, the tree of a commit of this store, are taken to be where they
        were; every other must be there, or ``DamagedError``. Where ``known`` is from ``open_tree``, what is shared is
        not even read. ``read_from``: the canonical dump that ``root`` was read from, which is taken; there must be one
        of a tree that is a ``Reading``.

        Where ``known`` is not from ``open_tree``, ``near`` may be a commit whose tree is probably much like this one,
        the parent by default: what both have is stored once, but for ``whole``. ``frames`` are those that the dump came
        in, to be stored as they are if it is stored whole. ``sources`` are recorded with the commit, also with one that
        exists. An object may be unreal where they, or the sources of any commit of the store, list it: then the commit
        is partial, and has these sources as well. ``real``: the caller, who holds the store's lock, has seen them all.
        """
        from stratum.tree.digest import metadata_hash

        dump, kept, chain = self._new_dump(root, known, read_from.take() if read_from is not None else None)
        base, commit = chain[0][0] if chain is not None else None, metadata_hash(dump.buffers())
        accept(commit)
        damaged = self.exists(commit)
        if damaged and self._can_be_read(commit):
            tx.publish_objects(complete=True)
            return self._known_again(tx, commit, root, sources)
        nodes = read_from.nodes if read_from is not None else self._merkle_nodes(dump, chain)
        summary = nodes.summary()
        hashes, when = (commit, summary.root), rfc3339(timestamp or utc_now())
        counts = (*self._statistics(root, known, kept, base), summary.leaf_count, summary.tree_depth)
        meta = CommitMeta(*hashes, when, *counts, parent, message, origin)
        meta, whole = (self._said_before(meta), True) if damaged else (meta, whole)
        metadata, file = _new_metadata(meta), tx.new_path("commit")
        on = None if whole else self._base(chain, parent, near)
        record = self._writer.record(tx, commit, dump, on, BLOCK - 1 - len(metadata), frames, whole=whole)
        del dump, on  # they are large
        tx.write_file(file, join_file(metadata, record))
        tx.publish_objects(complete=True)
        self._write_sources(tx, commit, None if real else self._whence(tx, root, known, base, sources), sources)
        if not self._place(tx, file, commit, replace=damaged):
            return self._known_again(tx, commit, root, sources)
        self._keep_nodes(commit, nodes, record)
        return meta

    def _keep_nodes(self, commit: str, nodes: MerkleNodes, record: bytes) -> None:
        """Of a whole dump: others will be stored on it."""
        if nodes.starts and read_head(b"\n\0" + record) == (0, None):
            self._merkle_cache.save(commit, nodes)

    def _place(self, tx: Transaction, file: Path, commit: str, *, replace: bool) -> bool:
        """Give a commit's file its name; whether nobody else wrote the same tree meanwhile."""
        if replace:
            tx.replace(file, self._layout.commit(commit))
            return True
        try:
            tx.place(file, self._layout.commit(commit))
        except ExistsError:
            return False
        return True

    def _can_be_read(self, commit: str) -> bool:
        try:
            self.dump(commit)
        except (NotFoundError, DamagedError):
            return False
        return True

    def _said_before(self, meta: CommitMeta) -> CommitMeta:
        """What is said of the commit already in place of ``meta``, where it can be read."""
        try:
            return self.meta(meta.metadata_hash)
        except (NotFoundError, DamagedError):
            return meta

    def remove(
        self, commits: Collection[str], beneath: Collection[str] | None = None, grounds: Iterable[str] = ()
    ) -> Names:
        """Take commits out of the store, and what is beside them, and some ``grounds``. The commits in ``beneath``, on
        whose dumps are stored which stay, become grounds; by default that is looked for. The commits that have to
        stay, as there is no room for the name of a ground.

        None is gone before what is stored on it, wherever this is cut short. The caller holds the store's lock
        exclusively. Raises ``StratumError``.
        """
        going = set(commits)
        if beneath is None:
            staying = (commit for commit in self.list() if commit not in going)
            beneath = self._trees.grounds_of((*staying, *self._trees.grounds()))
        steps: dict[int, tuple[list[str], list[str]]] = {}
        for number, names in enumerate((going.difference(beneath), grounds)):
            for name in sorted(names):
                steps.setdefault(self._trees.level(name) or 0, ([], []))[number].append(name)
        for _, both in sorted(steps.items(), reverse=True):
            for directory, some in zip((self._layout.commits, self._layout.grounds), both, strict=True):
                if some:
                    self._transactions.discard_all(directory, some)
        moved = sorted(going.intersection(beneath))
        left = [] if not moved or self._trees.retire(moved) else moved
        beside = (f"{commit}.{what}" for commit in going.difference(left) for what in (PARTIAL, SOURCES, ANCESTORS))
        self._transactions.discard_all(self._layout.commits, beside)  # last, as these say what the commit lacks
        return left

    def identify(self, root: Directory, known: Directory | None = None) -> str:
        """The commit that the tree ``root`` is or would be; ``known`` as for ``write``. Nothing is written."""
        from stratum.tree.digest import metadata_hash

        return metadata_hash(self._new_dump(root, known)[0].buffers())

    def _new_dump(
        self, root: Directory | Reading, known: Directory | None, dump: SplicedDump | None = None
    ) -> tuple[SplicedDump, Kept, Chain | None]:
        """The dump of ``root``, made where there is none yet; what it keeps of that of ``known``, where this is from
        ``open_tree``, and how that is stored."""
        from stratum.tree.blocks import DUMP_MAX
        from stratum.tree.dump import NOTHING_KEPT
        from stratum.tree.splice import kept_lines, splice_dump

        chain, kept = None, NOTHING_KEPT
        if isinstance(root, Reading):
            assert dump is not None, "what is drawn was read from a dump"
            return dump, kept, chain
        source = known.region.source if known is not None and known.region is not None else None
        if source is not None and source in self._opened:
            chain = self._opened[source]
            kept = kept_lines(root, source)
        dump = dump or splice_dump(root, source, kept)
        if dump.size > DUMP_MAX:
            raise UnsupportedError(
                f"the tree is too large for a commit: its dump has {dump.size} bytes, and {DUMP_MAX} is the limit",
                hint="divide it into several strata; the dump has a line for each file, with its whole path",
            )
        return dump, kept, chain

    def _base(self, chain: Chain | None, parent: str | None, near: str | None) -> Base | None:
        """What a new dump is compared with: that which it has spans of, else that of ``near`` or of the parent, where
        it is here and can be read."""
        if chain is not None:
            return Base(chain, is_source=True, parent=parent)
        commit = near or parent
        try:
            return Base(self._chain(commit), is_source=False) if commit is not None else None
        except (NotFoundError, DamagedError):
            return None

    def _merkle_nodes(self, dump: SplicedDump, chain: Chain | None) -> MerkleNodes:
        """The Merkle tree of ``dump``, from that of the whole dump at the end of the chain, of whose first one's dump
        it has spans."""
        from stratum.store.trees import script_of
        from stratum.tree.merkle import MerkleNodes
        from stratum.tree.script import compose, of_pieces
        from stratum.tree.splice import DumpText

        script = of_pieces(dump, dump.size // 2) if chain is not None else None
        known = self._known_nodes(chain) if chain is not None and script is not None else None
        if chain is None or script is None or known is None:
            return MerkleNodes.of(dump.blocks())
        if len(chain) > 1:
            script = compose(script, script_of(chain))
        there = len(known.groups)
        nodes = known.spliced(script.steps, DumpText(dump).between)
        if len(known.groups) > there:
            self._merkle_cache.save(chain[-1][0], known)
        return nodes

    def _known_nodes(self, chain: Chain) -> MerkleNodes | None:
        """The Merkle tree of the whole dump at the end of a chain, where that is a large one."""
        from stratum.tree.merkle import MerkleNodes

        try:
            path, data = self._trees.file(chain[-1][0])
            meta = CommitMeta.from_toml(split_file(data, str(path))[0], str(path))
            if not self._merkle_cache.is_worth(meta.leaf_count):
                return None
            known = self._merkle_cache.load(meta)
            if known is None:
                known = MerkleNodes.of(self._trees.read(chain[-1:]))
                self._merkle_cache.save(chain[-1][0], known)
        except (NotFoundError, DamagedError):  # somebody collected it since it was read
            return None
        return known

    def found(self, commit: str) -> CommitMeta:
        """The metadata of a commit that was there already, its name made durable in case its writer is not done.

        This is what ``write`` does for an equal tree.
        """
        try:
            fsync_dir(self._layout.commits)
        except OSError as exc:
            raise storage_error(exc, f"write commit {commit}") from None
        return self.meta(commit)

    def _statistics(
        self, root: Directory | Reading, known: Directory | None, kept: Mapping[int, object], base: str | None
    ) -> tuple[int, int]:
        """(regular files, bytes) of ``root``: what ``known``, the tree of ``base``, has, with the difference outside of
        ``kept``."""
        if isinstance(root, Reading):
            return root.wait().file_count, root.wait().total_size
        if known is not None and base is not None and (changed := _changed_files(root, known)) is not None:
            new_files, old_files, count = changed
            before, grown = self.meta(base), sum(file.size for file in new_files.values())
            return before.file_count + count, before.total_size + grown - sum(file.size for file in old_files.values())
        new = Statistics(root, kept)
        if not kept or known is None or base is None:
            return new.count, new.total_size
        before, old = self.meta(base), Statistics(known, kept)
        return before.file_count - old.count + new.count, before.total_size - old.total_size + new.total_size

    def _known_again(
        self, tx: Transaction, commit: str, root: Directory | Reading, sources: Sequence[WithCatalog]
    ) -> CommitMeta:
        """``found``, of a commit with the tree ``root`` that has ``sources`` now, and is marked as it is."""
        for source, catalog in sources:
            self._sources.record(tx, commit, source, catalog)
        partial = self._sources.is_partial(commit)
        if partial or sources:
            lacking = self._residence.missing(_objects_not_below(root, None))
            if lacking and not partial:
                self._sources.set_partial(tx, commit)
            elif partial and not lacking:
                self._sources.clear_partial(commit)
        return self.found(commit)

    def _whence(
        self,
        tx: Transaction,
        root: Directory | Reading,
        known: Directory | None,
        base: str | None,
        given: Sequence[WithCatalog],
    ) -> _Whence:
        """The sources of a new commit, and whether it is partial. ``DamagedError`` where an object is nowhere.

        What it shares with ``known``, the tree of ``base``, is unreal where it is unreal there. Where nobody knows
        which commit's tree ``known`` is, and the store has partial ones, all of the tree is looked at.
        """
        sources, partial = [source for source, _ in given], False
        if base is not None and self._sources.is_partial(base):
            sources, partial = joined(sources, self._residence.inherited(base)), True
        elif base is None and known is not None and self._sources.any_partial():
            known = None
        lacking = self._residence.missing(_objects_not_below(root, known), tx.published)
        if not lacking:
            return sources, partial
        for _, catalog in given:
            lacking = not_listed(lacking, catalog)
        if partial and base is not None:
            lacking = self._residence.lost([base], lacking)
        listing, lost = self._residence.listing(lacking)
        for digest, size in lost.items():
            raise DamagedError(f"object {digest.hex()} of {size} bytes is needed by the commit but not in the store")
        sources = joined(sources, (replace(source, kind="inherited") for source in listing))
        return sources, True

    def _write_sources(
        self,
        tx: Transaction,
        commit: str,
        whence: _Whence | None,
        given: Sequence[WithCatalog],
    ) -> None:
        """Have it written where the objects of a commit to be are (None: here); catalogs first."""
        sources, partial = whence or ([source for source, _ in given], False)
        for source, catalog in given:
            self._sources.put_catalog(tx, source.manifest, catalog)
        self._sources.begin(tx, commit, sources, partial=partial)


@contextmanager
def _reading(commit: str) -> Iterator[None]:
    """Have errors say of which commit the tree is."""
    try:
        yield
    except DamagedError as exc:
        raise DamagedError(f"the tree of commit {commit}: {exc.message}", hint="run 'stratum fsck'") from None


def _check_hash(commit: str, found: str) -> None:
    if found != commit:
        raise DamagedError(
            f"the tree of commit {commit} does not match its hash", hint="pull it again, or restore a backup"
        )


def _objects_not_below(root: Directory | Reading, known: Directory | None) -> Mapping[bytes, int]:
    """The objects of the files that ``_files_not_below`` finds: digest -> size."""
    if isinstance(root, Reading):
        return root.objects
    return {file.digest: file.size for file in _files_not_below(root, known) if file.digest is not None}


def _changed_files(root: Directory, known: Directory) -> tuple[dict[int, File], dict[int, File], int] | None:
    """The regular files that only ``root`` has, those that only ``known`` has, each once, by ``id``, and how many more
    names ``root`` has for files; None where that takes another way (``tree.splice.differing_files``)."""
    from stratum.tree.splice import differing_files

    found = differing_files(root, known)
    if found is None:
        return None
    assert known.region is not None
    new, old = ({id(file): file for file in files} for files in found)
    its_own = known.region.source.read_lines  # one that is elsewhere in ``root`` was moved, or has got a name more
    return (
        {key: file for key, file in new.items() if key not in its_own},
        {key: file for key, file in old.items() if key not in new},
        len(found[0]) - len(found[1]),
    )


def _files_not_below(root: Directory, known: Directory | None) -> Iterable[File]:
    """The regular files below ``root`` but those that ``known`` contains too, as the same object.

    Where ``known`` is read as it is looked into, what nobody has looked into is left alone.
    """
    changed = _changed_files(root, known) if known is not None else None
    return _all_not_below(root, known) if changed is None else changed[0].values()


def _all_not_below(root: Directory, known: Directory | None) -> Iterator[File]:
    source = known.region.source if known is not None and known.region is not None else None
    shared: set[int] = set()
    stack = [known] if known is not None else []
    while stack:
        directory = stack.pop()
        shared.add(id(directory))
        if directory.region is not None and not directory.region.was_read:
            continue
        for child in directory.children.values():
            if isinstance(child, Directory):
                stack.append(child)
            else:
                shared.add(id(child))
    stack = [root]
    while stack:
        directory = stack.pop()
        if id(directory) in shared or (source is not None and directory.region and directory.region.source is source):
            continue
        for child in directory.children.values():
            if isinstance(child, Directory):
                stack.append(child)
            elif isinstance(child, File) and id(child) not in shared:
                yield child


def _new_metadata(meta: CommitMeta) -> bytes:
    """metadata.toml of a new commit; ``UsageError`` where no other store would take it."""
    data = meta.to_toml()
    if (size := len(data)) > METADATA_MAX:
        raise UsageError(f"the commit's message and origin need {size} bytes, and {METADATA_MAX} is the limit")
    return data
