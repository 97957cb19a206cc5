"""Imports: what is elsewhere becomes commits; a new stratum begins with one."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.api.session import Session
from stratum.api.tagmoves import TagMove, relative, tag_move
from stratum.errors import ConflictError, ExistsError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.frozen import field, frozen, replace
from stratum.progress import Progress
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, check_name, parse_ref, parse_tag

if TYPE_CHECKING:
    from datetime import datetime

    from stratum.api.moving import Move
    from stratum.api.originals import Originals
    from stratum.api.sources import CommitSource, Reading, TreeSource
    from stratum.ingest.selection import Excludes, LeftOut
    from stratum.mount.state import Record
    from stratum.store import Store
    from stratum.store.metadata import CommitMeta
    from stratum.store.transaction import Transaction
    from stratum.transfer.pull import PullResult
    from stratum.tree.rootchange import RootChange


@frozen
class Imported:
    """What an import made: the tag, its commit, the commit that the tag named before, and warnings.

    Of a directory also what was left out; of ``init`` the mount, whether it comes back at every start, and where the
    originals were moved to.
    """

    ref: str
    commit: CommitMeta
    previous: str | None
    warnings: list[str] = field(default_factory=list)
    mount: Record | None = None
    persistent: bool = False
    originals: Path | None = None
    left_out: LeftOut | None = None

    @property
    def changed(self) -> bool:
        """Whether the tag names another commit than before."""
        return self.previous != self.commit.metadata_hash


@frozen
class Options:
    """How to import: ``tag`` chooses in a layout that holds several, ``bare`` takes a directory as a directory,
    ``force`` moves a tag that names another commit, ``excludes`` leaves something out of a directory, ``move`` has a
    directory's files become the store's own (``api.moving``)."""

    tag: str | None = None
    bare: bool = False
    message: str | None = None
    devices: bool = False
    progress: Progress | None = None
    force: bool = False
    excludes: Excludes | None = None
    move: bool = False


DEFAULTS = Options()


def import_(session: Session, path: str, name: str, options: Options = DEFAULTS) -> Imported:
    """Make a commit of what is at ``path`` (``api.sources``) and point ``name`` (NAME or NAME:TAG) at it.

    A new commit gets the one that the tag names as its parent. A commit in an archive or layout is taken as it is, with
    the parents that are in the same archive. The tag ``latest`` moves to a commit that was made on top of it; any other
    tag that names another commit is ``ExistsError``, and nothing is kept, unless ``options.force``. The reflog keeps
    where a tag was. Raises ``UsageError``, ``NotFoundError``, ``DamagedError`` and ``StratumError`` naming the path
    that cannot be read.
    """
    from stratum.api.moving import refuse_unfinished
    from stratum.api.sources import CommitSource, DirectorySource, ImageSource, fetched, open_source

    stratum, tag = parse_tag(name)
    if options.move:
        return _import_moved(session, path, stratum, tag, options)
    with open_source(session, path, tag=options.tag, bare=options.bare, progress=options.progress) as source:
        _check_excludes(source, path, options)
        store = session.create_store()
        if isinstance(source, DirectorySource):
            refuse_unfinished(store, path)
        if isinstance(source, CommitSource):
            return _import_commit(session, source, path, stratum, tag, options)
        with fetched(store, source), store.begin(f"importing {path}", resumable=True) as tx:
            move = tag_move(store, stratum, tag, force=options.force)
            origin = {"kind": "import", **source.origin}
            meta, warnings = _commit_tree(
                source, _reading(session, tx, options), move, options.message, origin, session.now()
            )
            move.set(store, meta.metadata_hash, f"import {path}")
    if isinstance(source, ImageSource) and source.image.commit not in (None, meta.metadata_hash):
        warnings.append(f"{path} says that it was made from commit {source.image.commit}, which is another tree")
    return Imported(str(move), meta, move.previous, warnings, left_out=_left_out(source))


def _import_moved(session: Session, path: str, stratum: str, tag: str, options: Options) -> Imported:
    from stratum.api.moving import moved, settle_move

    if options.excludes is not None and options.excludes.asked:
        raise UsageError("--move takes all that is in the directory", hint="leave out either --move or what excludes")
    store = session.create_store()
    finished = settle_move(store, Path(path))
    if finished is not None and finished.commit is not None and finished.name == f"{stratum}:{tag}":
        return Imported(finished.name, store.commits.meta(finished.commit), finished.commit, finished.told)
    with moved(session, store, Path(path), f"{stratum}:{tag}") as move:
        done = _commit_moved(session, move, stratum, tag, options)
        return replace(done, warnings=done.warnings + move.finish())


def _commit_moved(session: Session, move: Move, stratum: str, tag: str, options: Options) -> Imported:
    """The commit of the directory that is moved, and the tag on it."""
    store, path = move.store, move.moving.path
    with store.begin(f"moving {path}") as tx:
        to = tag_move(store, stratum, tag, force=options.force)
        root, warnings = move.read(tx, session.config.jobs, options.devices, options.progress)
        meta = store.commits.write(
            tx,
            root,
            parent=to.previous,
            message=options.message,
            origin={"kind": "import"},
            timestamp=session.now(),
            accept=lambda commit: to.check(commit, follows=tag == DEFAULT_TAG),
        )
        move.made(meta.metadata_hash)
        to.set(store, meta.metadata_hash, f"import {path}")
    return Imported(str(to), meta, to.previous, warnings)


def _check_excludes(source: TreeSource | CommitSource, path: str, options: Options) -> None:
    """Refuse to leave something out of what is taken whole."""
    from stratum.api.sources import DirectorySource

    asked = options.excludes is not None and options.excludes.asked
    if asked and not isinstance(source, DirectorySource):
        layout = os.path.isdir(path)
        raise UsageError(
            f"something can be left out of a directory only, and {path} is {'an image layout' if layout else 'none'}",
            hint="--bare takes it as a directory" if layout else "unpack it, and import that",
        )


def _left_out(source: TreeSource | CommitSource) -> LeftOut | None:
    from stratum.api.sources import DirectorySource

    return source.left_out if isinstance(source, DirectorySource) else None


def _commit_tree(
    source: TreeSource,
    reading: Reading,
    move: TagMove,
    message: str | None,
    origin: dict[str, Any],
    timestamp: datetime,
) -> tuple[CommitMeta, list[str]]:
    """The commit of the tree that ``source`` has, on top of what the tag names, and warnings."""
    from stratum.api.sources import DirectorySource

    def accept(commit: str) -> None:
        move.check(commit, follows=move.tag == DEFAULT_TAG)

    store, directory = reading.store, source if isinstance(source, DirectorySource) else None
    if directory is not None and (commit := directory.unchanged(reading)) is not None:
        accept(commit)
        return store.commits.found(commit), []
    root, warnings = source.read(reading, None)
    meta = store.commits.write(
        reading.tx,
        root,
        parent=move.previous,
        message=message,
        origin=origin,
        timestamp=timestamp,
        accept=accept,
        near=relative(store, move),
    )
    if directory is not None:
        directory.remember(reading, meta.metadata_hash)
    return meta, warnings


def import_directory(
    session: Session, path: str, name: str, *, message: str | None = None, progress: Progress | None = None
) -> Imported:
    """``import_`` of the directory ``path`` as it is, whatever is in it."""
    return import_(session, path, name, Options(bare=True, message=message, progress=progress))


def _import_commit(
    session: Session, source: CommitSource, path: str, stratum: str, tag: str, options: Options
) -> Imported:
    from stratum.api.sources import told_history
    from stratum.store.descent import descends
    from stratum.transfer.pull import pulled

    if options.message is not None:
        raise UsageError(
            f"{path} holds a commit, which keeps its own message", hint="leave --message out, or commit a change to it"
        )
    store, jobs = session.store, session.config.jobs
    move, history = tag_move(store, stratum, tag, force=options.force), told_history(source)
    old, new = move.previous, history.commit
    follows = tag == DEFAULT_TAG and old is not None and descends(store, new, old, history.told)
    move.check(new, follows=follows)
    with ExitStack() as locks:
        if history.older:  # no garbage collection may find a parent before its child has a name
            locks.enter_context(store.locks.store())
        for digest in history.older:
            with pulled(store, source.remote, digest, kind="import", jobs=jobs, progress=options.progress):
                pass
        done = locks.enter_context(
            pulled(store, source.remote, source.reference, kind="import", jobs=jobs, progress=options.progress)
        )
        move.set(store, done.commit, f"import {path}")
    return Imported(str(move), store.commits.meta(done.commit), move.previous)


def import_patch(
    session: Session,
    path: str,
    name: str,
    base: str,
    options: Options = DEFAULTS,
) -> Imported:
    """Lay the patch at ``path`` (``api.sources``) over the commit ``base`` and point ``name`` at the result.

    The patch may delete with whiteouts (``tree.patch``); what it does not mention stays. ``latest`` moves where
    ``base`` is what it names or was made on top of that, any other tag as for ``import_``. Raises as ``import_`` does,
    and ``UsageError`` for markers that mean nothing.
    """
    from stratum.api.sources import CommitSource, fetched, laid_over, open_source
    from stratum.store.descent import descends

    store = session.store
    stratum, tag = parse_tag(name)
    commit = store.resolve_commit(parse_ref(base))
    origin: dict[str, Any] = {"kind": "import", "patch_of": commit}
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(session, path, tag=options.tag, bare=options.bare, progress=options.progress)
        )
        _check_excludes(source, path, options)
        move = tag_move(store, stratum, tag, force=options.force)
        follows = tag == DEFAULT_TAG and move.previous is not None and descends(store, commit, move.previous)
        if isinstance(source, CommitSource):  # it needs no name, as long as the store is locked
            patch = stack.enter_context(_patch_commit(store, source, options, move, follows)).commit
        else:
            stack.enter_context(fetched(store, source))
        tx = stack.enter_context(store.begin(f"importing the patch {path}", resumable=True))
        below = store.commits.tree(commit)
        warnings: list[str] = []
        if isinstance(source, CommitSource):
            origin["patch"] = patch
            tree = laid_over(below, store.commits.tree(patch))
        else:
            tree, warnings = source.read(_reading(session, tx, options), below)
            origin |= source.origin
        meta = store.commits.write(
            tx,
            tree,
            parent=commit,
            message=options.message,
            origin=origin,
            timestamp=session.now(),
            known=below,
            accept=lambda made: move.check(made, follows=follows),
        )
        move.set(store, meta.metadata_hash, f"import of the patch {path}")
    return Imported(str(move), meta, move.previous, warnings, left_out=_left_out(source))


def _patch_commit(
    store: Store, source: CommitSource, options: Options, move: TagMove, follows: bool
) -> AbstractContextManager[PullResult]:
    """Bring the commit that is a patch into the store, which is locked while it has no name there.

    Where it is new there, so is what is made with it: that the tag does not move to that is told before it is fetched.
    """
    from stratum.api.sources import told_history
    from stratum.transfer.pull import pulled

    if not store.commits.exists(told_history(source).commit):
        move.check(None, follows=follows)
    return pulled(store, source.remote, source.reference, kind="import", progress=options.progress)


def _reading(session: Session, tx: Transaction, options: Options) -> Reading:
    from stratum.api.sources import Reading

    return Reading(session.store, tx, session.config.jobs, options.devices, options.progress, options.excludes)


def init(
    session: Session,
    name: str,
    mountpoint: str,
    *,
    migrate: bool = False,
    message: str | None = None,
    progress: Progress | None = None,
    persist: bool = False,
    originals: str | None = None,
    root: RootChange | None = None,
    move: bool = False,
) -> Imported:
    """Make the stratum ``name`` with a first commit, and mount its worktree ``main`` at ``mountpoint``.

    The commit is empty (its root directory changed by ``root``), or with ``migrate`` what the directory holds; the
    mount then covers it, and it is untouched below, or moved to the directory ``originals`` once all else is done; with
    ``move`` its files become the store's own (``api.moving``), and nothing is below.
    ``persist``: it is mounted there at every start. Without ``migrate`` a directory that holds anything is
    ``ConflictError``. Where anything fails there is no stratum, and the directory is as it was; only contents that were
    read of it wait in the store for the next try, or a garbage collection.
    """
    from stratum.api.bootmounts import mount_kept
    from stratum.api.mounting import mount
    from stratum.mount.host import canonical_mountpoint, check_hides_nothing, made_mountpoint

    check_name(name)
    place = Path(mountpoint)
    if migrate and (finished := _finished_move(session, place, name, move)) is not None:
        return _after_move(session, place, finished, persist)
    _check_mountpoint(place, migrate)
    check_hides_nothing(canonical_mountpoint(place), session.config.store, session.config.runtime_dir)
    _ = session.mount_method  # before anything is made that cannot be mounted
    with made_mountpoint(place), ExitStack() as opened:
        store = session.create_store()
        if store.namespaces.exists(name):
            raise ExistsError(f"the stratum {name} exists already", hint=f"mount it: stratum mount {name} {mountpoint}")
        aside = opened.enter_context(_aside(place, originals, store)) if originals is not None else None
        ours, before = False, frozenset(store.commits.list())
        moving = opened.enter_context(_moved(session, place, name)) if move else None
        try:
            options = Options(message=message, progress=progress)
            done = _first_commit(session, place, name, options, moving, migrate, root)
            store.worktrees.create(name, DEFAULT_WORKTREE, done.commit.metadata_hash, why="init")
            ours = True
            mounting = mount_kept if persist else mount
            record = mounting(session, f"{name}+{DEFAULT_WORKTREE}", mountpoint)
        except BaseException as exc:
            # A conflict before the worktree is made means that somebody else was faster, and the stratum is theirs.
            theirs = not ours and isinstance(exc, ConflictError)
            if not theirs and (ours or not (store.namespaces.exists(name) and store.worktrees.names(name))):
                with suppress(StratumError):  # the first error is the one to tell, and what is left is garbage
                    _undo_init(session, name, before)
            raise
        # Only now that the mount comes back by itself: the directory below it is empty from here on.
        stay = aside.move() if aside is not None else moving.finish() if moving is not None else []
    moved = aside.aside if aside is not None else None
    return Imported(done.ref, done.commit, None, done.warnings + stay, record, persist, moved)


def _aside(place: Path, originals: str, store: Store) -> Originals:
    from stratum.api.originals import Originals

    return Originals(place, Path(originals), store=store.root)


def _first_commit(
    session: Session,
    place: Path,
    name: str,
    options: Options,
    moving: Move | None,
    migrate: bool,
    root: RootChange | None,
) -> Imported:
    if moving is not None:
        return _commit_moved(session, moving, name, DEFAULT_TAG, options)
    if migrate:
        return import_directory(session, os.fspath(place), name, message=options.message, progress=options.progress)
    return _import_empty(session, place, name, options.message, root)


def _moved(session: Session, place: Path, name: str) -> AbstractContextManager[Move]:
    from stratum.api.moving import moved

    return moved(session, session.store, place, f"{name}:{DEFAULT_TAG}", keeps=True)


def _finished_move(session: Session, place: Path, name: str, move: bool) -> Imported | None:
    """Finish, or put back, what a killed migration left of ``place``; its commit where that is in the store."""
    from stratum.api.moving import refuse_unfinished, settle_move

    try:
        store = session.store
    except NotFoundError:  # and none is made before it is known that there will be a mount
        return None
    if not move:
        refuse_unfinished(store, os.fspath(place))
        return None
    finished = settle_move(store, place)
    if finished is None or finished.name != f"{name}:{DEFAULT_TAG}":
        return None
    if finished.commit is not None:
        return Imported(finished.name, store.commits.meta(finished.commit), None, finished.told)
    if store.namespaces.exists(name) and not (store.tags.names(name) or store.worktrees.names(name)):
        _undo_init(session, name, store.commits.list())  # it is of the killed one
    return None


def _after_move(session: Session, place: Path, done: Imported, persist: bool) -> Imported:
    """What ``init`` does once the files are the store's, as far as a killed one had not; nothing of it is undone."""
    from stratum.api.bootmounts import mount_kept
    from stratum.api.mounting import mount

    store, name = session.store, done.ref.partition(":")[0]
    if DEFAULT_WORKTREE not in store.worktrees.names(name):
        store.worktrees.create(name, DEFAULT_WORKTREE, done.commit.metadata_hash, why="init")
    record = session.state.find_worktree(store.root, name, DEFAULT_WORKTREE)
    if record is None:
        mounting = mount_kept if persist else mount
        record = mounting(session, f"{name}+{DEFAULT_WORKTREE}", os.fspath(place))
    return replace(done, mount=record, persistent=persist)


def _undo_init(session: Session, name: str, before: Collection[str]) -> None:
    """Remove the stratum ``name``, its lock, and the commits that are there since ``before`` and nothing else keeps."""
    from stratum.api.maintenance import mounted_commits
    from stratum.store.gc import what_stays
    from stratum.store.retention import Retention

    store = session.store
    with store.locks.store(exclusive=True):
        if store.namespaces.exists(name):
            store.namespaces.remove(name)
        store.layout.ref_lock(name).unlink(missing_ok=True)  # who waits for it holds the store's lock, so nobody does
        new = set(store.commits.list()) - set(before)
        if new:
            watched = store.histories.roots()[1]
            store.commits.remove(new - what_stays(store, Retention(), mounted_commits(session), watched).kept.keys())


def _check_mountpoint(path: Path, migrate: bool) -> None:
    """Refuse a directory that holds something unless it migrates, and a missing one that should."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        if migrate:
            raise NotFoundError(f"{path} does not exist, so there is nothing to migrate") from None
        return
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    if names and not migrate:
        raise ConflictError(
            f"{path} is not empty", hint="--migrate takes what is in it as the first commit and mounts over it"
        )


def _import_empty(
    session: Session, directory: Path, name: str, message: str | None, change: RootChange | None
) -> Imported:
    """A commit of an empty tree whose root has the owner, mode and time of ``directory``, changed by ``change``."""
    from stratum.ingest.owners import owners
    from stratum.tree.model import Directory

    info, told = os.stat(directory), owners()
    owner = (info.st_uid, info.st_gid) if told is None else told.of(info, os.fspath(directory))
    root = Directory(info.st_mode, *owner, info.st_mtime_ns)
    if change is not None:
        root = change.applied(root)
    store = session.store
    with store.begin(f"initialising {name}") as tx:
        meta = store.commits.write(tx, root, message=message, origin={"kind": "import"}, timestamp=session.now())
        store.tags.set(name, DEFAULT_TAG, meta.metadata_hash, expected=None, why="init")
    return Imported(f"{name}:{DEFAULT_TAG}", meta, None)
