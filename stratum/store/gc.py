"""Garbage collection: what nothing refers to goes, in an order that may be cut short anywhere.

Kept are the commits that

- a tag names, a worktree is based on or has as its head (also the old half of an interrupted switch), or that are
  pinned,
- are mounted, as the caller says, or are to be mounted at every start (``store.bootmounts``),
- are ancestors of what a tag, a worktree or a pin names, as far as ``store.retention`` has history kept,
- the reflogs mention, as ``store.retention`` decides; what a damaged line of a reflog mentions, be it half of the hash,
  is kept as well,
- the histories of worktrees begin with (``store.histories``),
- were pushed lately, be there a tag or not (``store.blobgc``),
- were made from a worktree less than the retention's age ago and are mentioned nowhere, as when a whole stratum was
  removed: what they hold may be nowhere else,

with what their trees are made of (``store.treegc``), and every object of a commit that is kept, that a history names,
that a living transaction says it needs, or a computed pack is made of that a pushed manifest names. Everything else
goes: first the dead transactions in ``tmp/``, which makes room, then the tags that the retention lets go, then commits,
none before what is stored on it (``Commits.remove``), grounds and frames, then objects, then what others pushed and
nothing names (``store.blobgc``), catalogs that no commit names (``store.sources``), what a dead process left in
``landing/``, caches of commits that went and of imports that were not repeated within ``CACHE_AGE``, packs that no pull
is fetching, abandoned temporary files, lock files of refs that are gone, and limits of worktrees that are gone
(``store.quotas``). A commit therefore never outlives its
objects, nor a tag its commit, and the next run finds what an interrupted one left. Where the sources of a commit cannot
be read, all catalogs stay. Before commits go, those that stay and descend from them are told of them
(``store.ancestry``), so that a history goes on behind the gap; where the disk is too full for that, it ends there.

All of it happens under the exclusive store lock, but for reading the trees of what is to be kept: that takes longest,
and is done before, under the shared one (``read_ahead``), as what is in them never changes; how they are stored may,
and is looked at again (``store.needed``). Whoever relies on something that no ref names yet, holds the shared one from
the moment of looking until a ref or a mount record names it, or until their transaction has a list of it, so nothing
that is needed is ever looked at as garbage. Only what is fetched for a mount gets its name in ``objects/`` without any
lock: the commit of a mount is kept with all its objects, whether these are here when it is looked at, come meanwhile or
are never fetched. No space is needed for it, but for the names of grounds: where there is none, a commit that others
are stored on stays. Where it cannot be known what is needed, as a tag, worktree, pin or kept commit is damaged, nothing
is removed: ``DamagedError``.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError
from stratum.store import packcache
from stratum.store.blobgc import going_blobs, pushed_lately, remove_blobs
from stratum.store.c4cache import C4Cache
from stratum.store.layout import LANDING_OWNER, LANDING_PARTS, storage_error
from stratum.store.needed import Needed
from stratum.store.retention import Retention
from stratum.store.roots import Roots, find_roots, span_gaps
from stratum.store.trash import remove_tree
from stratum.store.treegc import (
    GoingFiles,
    Weighed,
    find_going,
    remove_unnamed,
    weigh,
    whose,
    whose_frames,
)
from stratum.store.upperdirs import removal_error
from stratum.sys.atomic import TEMPORARY_PREFIX
from stratum.sys.locks import is_locked, locked
from stratum.sys.usage import disk_usage

if TYPE_CHECKING:
    from stratum.store.forgetting import Forgetting
    from stratum.store.store import Store

PARTS_KEPT = 24 * 3600.0
"""Seconds that parts of an object wait, since something was last written to them."""
CACHE_AGE = 30 * 24 * 3600.0
"""Seconds."""


@dataclass(slots=True)
class Going:
    """What of a stratum would be removed: commits, objects that only these need, and the bytes that all this has on
    disk."""

    commits: int = 0
    objects: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Collected:
    """What a collection removed, or would remove.

    ``kept`` is commit -> why; ``tags`` what went of them, (stratum, tag) -> commit; ``commits`` what went, commit ->
    why, and ``strata`` whose they were, by what the reflogs tell. ``bytes_freed`` counts disk space of everything
    removed. ``others`` are paths, relative to the store, of leftovers, old caches and lock files. What became of
    worktrees that keep their last commit twice is filled in by whoever folds them (``api.folding``): ref -> bytes on
    disk of what was ``folded``, of what is ``kept_twice`` still, and of what is while it is ``in_use``; ref -> why it
    was ``not_folded``. So is how many ``images`` were more than the limit (``store.images``), and what histories forgot
    (``store.forgetting``): how many ``versions``, and the refs of those that went whole. ``blobs`` are files of what
    was pushed, and of artifacts that were computed.

    ``by_stratum`` is only found by a dry run, as whose the objects are has to be read: stratum -> what would go of it.
    What was of several strata, or of none that is known, is under the empty name.
    """

    dry_run: bool
    kept: dict[str, str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    strata: dict[str, list[str]] = field(default_factory=dict)
    objects: int = 0
    objects_kept: int = 0
    others: list[str] = field(default_factory=list)
    bytes_freed: int = 0
    folded: dict[str, int] = field(default_factory=dict)
    kept_twice: dict[str, int] = field(default_factory=dict)
    in_use: dict[str, int] = field(default_factory=dict)
    not_folded: dict[str, str] = field(default_factory=dict)
    versions: int = 0
    histories: list[str] = field(default_factory=list)
    images: int = 0
    blobs: int = 0
    by_stratum: dict[str, Going] = field(default_factory=dict)

    def owner(self, commit: str) -> str:
        """The stratum that a commit which goes was of; empty where that is not just one."""
        return self.strata[commit][0] if len(self.strata[commit]) == 1 else ""


def read_ahead(store: Store, rules: Retention, mounted: Mapping[str, str]) -> Needed:
    """What ``collect`` would keep now, so that it has less to read while everybody waits. Raises as it does.

    The caller holds the store's lock shared. Of a commit that goes meanwhile, the next collection takes the objects.
    """
    needed = Needed(store.layout, store.trees)
    watched = store.histories.roots(needed.logs)[1]
    _read_needed(store, what_stays(store, rules, mounted, watched).kept, needed)
    return needed


def what_stays(store: Store, rules: Retention, mounted: Mapping[str, str], watched: Mapping[str, str]) -> Roots:
    """What a collection keeps, also for histories: ``watched`` is commit -> the history of which worktree needs it; and
    for who works with a commit just now."""
    roots = find_roots(store, rules, mounted)
    sent = ((commit, "being sent") for commit in store.transactions.held())
    for commit, why in (*watched.items(), *sent, *pushed_lately(store)):
        if store.commits.exists(commit):  # else the history was already without it
            roots.kept.setdefault(commit, why)
    return roots


def collect(
    store: Store,
    rules: Retention,
    mounted: Mapping[str, str],
    *,
    dry_run: bool = False,
    needed: Needed | None = None,
    forgotten: Forgetting | None = None,
) -> Collected:
    """Remove what nothing refers to, or with ``dry_run`` only find it.

    ``mounted`` is commit -> where it is mounted, ``needed`` what was read ahead, ``forgotten`` what histories would not
    name any more by then (``store.forgetting``). The caller holds the store's lock,
    exclusively unless it is a ``dry_run``, since before it looked for mounts. Raises ``DamagedError`` where it cannot
    be known what is needed.
    """
    done = Collected(dry_run)
    needed = needed or Needed(store.layout, store.trees)
    versions, watched = store.histories.roots(needed.logs, without=forgotten.expired if forgotten is not None else ())
    if forgotten is not None:
        versions -= forgotten.going
    roots = what_stays(store, rules, mounted, watched)
    done.kept, done.tags = roots.kept, roots.going_tags
    going = _read_needed(store, done.kept, needed)
    needed.objects.update(versions)
    needed.objects.update(store.transactions.needed())
    needed.objects.update(store.repositories.objects())
    _drop_dead_transactions(store, done)
    images: dict[str, int] = {}
    for commit in going.commits:
        done.commits[commit] = "no ref, mount or recent history names it"
        done.strata[commit] = sorted(roots.mentioned.get(commit, ()))
        images[commit] = store.images.remove_all(commit, dry_run=dry_run)
    weighed, owners = weigh(store, going, images), dict[bytes, str]()
    done.bytes_freed += weighed.total
    if dry_run:
        owners = _note_owners(store, weighed, needed, done)
    else:
        for (name, tag), commit in done.tags.items():
            store.tags.remove(name, tag, expected=commit, why="gc: thinned out")
        span_gaps(store, done.kept, done.commits.keys())
        for commit in store.commits.remove(going.commits, going.beneath, going.grounds):
            needed.add([commit])
            done.kept[commit] = "others are stored on its tree, and there is no room to move that"
            del done.commits[commit], done.strata[commit]
        remove_unnamed(store, going)
    _sweep_objects(store, needed.objects, owners, done)
    blobs = going_blobs(store, done.kept)
    if not dry_run:
        C4Cache(store.layout).drop(needed.objects.__contains__)
        remove_blobs(store, blobs, lambda files: _drop_blobs(store, files, done))
    else:
        _drop_blobs(store, blobs.files, done)
    with _leftovers(store, done.kept, needed.objects.__contains__, dry_run) as others:
        _drop(store, others, done)
    if not dry_run:
        store.worktrees.quotas.forget_unused()
    return done


def leftovers(store: Store, kept: Collection[str], is_needed: Callable[[bytes], bool]) -> list[Path]:
    """What else a collection would remove now that keeps the commits ``kept``; ``is_needed`` says it of objects."""
    with _leftovers(store, kept, is_needed, True) as others:
        return [*_dead_transactions(store), *others, *going_blobs(store, kept).files]


@contextmanager
def _leftovers(
    store: Store, kept: Collection[str], is_needed: Callable[[bytes], bool], dry_run: bool
) -> Iterator[Iterable[Path]]:
    """Leftovers of the dead, but for their transactions, and old caches, in a block in which they may be removed."""
    with _nobody_lands(store, is_needed, dry_run) as abandoned:
        caches = (*_old_caches(store, kept), *packcache.unused(store.layout))
        yield (*_unnamed_catalogs(store, kept), *abandoned, *caches, *_abandoned_files(store), *_dead_locks(store))


def _drop_blobs(store: Store, paths: Iterable[Path], done: Collected) -> None:
    shards: dict[Path, list[str]] = {}
    for path in paths:
        done.blobs += 1
        done.bytes_freed += disk_usage(path)
        shards.setdefault(path.parent, []).append(path.name)
    for directory, names in shards.items() if not done.dry_run else ():
        store.transactions.discard_all(directory, names)


def _drop(store: Store, paths: Iterable[Path], done: Collected) -> None:
    for path in paths:
        done.others.append(str(path.relative_to(store.root)))
        done.bytes_freed += disk_usage(path)
        if not done.dry_run:
            store.transactions.discard(path)


def _read_needed(store: Store, commits: Mapping[str, str], needed: Needed) -> GoingFiles:
    """Add what ``commits`` (commit -> why it is kept) need; what else there is of trees."""
    try:
        needed.add(commits)
        return find_going(store, commits, needed)
    except (DamagedError, NotFoundError) as exc:
        error, why = _unreadable(store, commits) or (exc, "what is kept")
        raise DamagedError(
            f"{error.message}, so it is not known which objects {why} needs",
            hint="nothing was removed; 'stratum fsck' tells more, and 'stratum fsck --repair --from' restores it",
        ) from None


def _unreadable(store: Store, commits: Mapping[str, str]) -> tuple[StratumError, str] | None:
    """What is wrong with the first of ``commits`` (commit -> why it is kept) whose tree cannot be read, and why it is
    kept."""
    read = set[bytes]()

    def problem(commit: str) -> StratumError | None:
        try:
            for ref in (ref for _, record in store.trees.chain(commit) for ref in record.frames):
                if ref.sha256 not in read:
                    store.trees.checked_frame(ref)
                    read.add(ref.sha256)
        except (DamagedError, NotFoundError) as exc:
            return exc
        return None

    problems = ((problem(commit), why) for commit, why in commits.items())
    return next(((error, why) for error, why in problems if error is not None), None)


def _drop_dead_transactions(store: Store, done: Collected) -> None:
    """Delete what is in ``tmp/`` but for what a living transaction has there."""
    for path in _dead_transactions(store):
        usage = disk_usage(path)
        if not done.dry_run:
            try:
                if stat.S_ISDIR(path.lstat().st_mode):
                    remove_tree(path)
                else:
                    path.unlink()
            except FileNotFoundError:
                continue  # one that ended at this moment
            except OSError as exc:
                raise removal_error(exc, path, store.root, storage_error(exc, f"remove {path}")) from None
        done.others.append(str(path.relative_to(store.root)))
        done.bytes_freed += usage


def _dead_transactions(store: Store) -> Iterator[Path]:
    for name in store.layout.names_in(store.layout.tmp):
        if name != "lock" and not store.transactions.is_alive(name):
            yield store.layout.tmp / name


def _note_owners(store: Store, weighed: Weighed, needed: Needed, done: Collected) -> dict[bytes, str]:
    """Note whose files go; object -> whose it is, of those that nothing but commits needs that go."""
    commits = {commit: done.owner(commit) for commit in done.commits}
    for commit, owner in commits.items():
        _add_going(done, owner, weighed.commits.pop(commit, 0), commits=1)
    frames = whose_frames(store, commits) if weighed.frames else {}
    for sha256, usage in weighed.frames.items():
        _add_going(done, frames.get(sha256, ""), usage)
    if rest := weighed.grounds + sum(weighed.commits.values()):
        _add_going(done, "", rest)
    return whose(store, commits, needed.objects)


def _add_going(done: Collected, owner: str, usage: int, *, commits: int = 0, objects: int = 0) -> None:
    going = done.by_stratum.setdefault(owner, Going())
    going.commits, going.objects, going.bytes = going.commits + commits, going.objects + objects, going.bytes + usage


def _sweep_objects(store: Store, needed: Collection[bytes], owners: Mapping[bytes, str], done: Collected) -> None:
    for digest in store.objects.names():
        if digest in needed:
            done.objects_kept += 1
            continue
        if store.objects.size(digest) is None:  # somebody put something else there
            continue
        usage = store.objects.remove(digest, dry_run=done.dry_run)
        done.bytes_freed += usage
        done.objects += 1
        if done.dry_run:
            _add_going(done, owners.get(digest, ""), usage, objects=1)


def _unnamed_catalogs(store: Store, commits: Iterable[str]) -> list[Path]:
    """Catalogs that none of ``commits`` names; none where one of these has sources that cannot be read."""
    try:
        named = {source.manifest for commit in commits for source in store.sources.of(commit)}
    except DamagedError:
        return []
    return [store.sources.catalog_path(found).parent for found in store.sources.manifests() if found not in named]


@contextmanager
def _nobody_lands(store: Store, is_needed: Callable[[bytes], bool], dry_run: bool) -> Iterator[list[Path]]:
    """What may go of ``landing/`` and ``ahead/``, in a block in which nobody puts anything there; nothing where a
    process lives that does. Parts of large objects that are needed wait for ``PARTS_KEPT`` for whoever reads on."""
    landing = store.layout.landing
    names = [name for name in store.layout.names_in(landing) if name not in (LANDING_OWNER, LANDING_PARTS)]
    parts = [landing / LANDING_PARTS / name for name in store.layout.names_in(landing / LANDING_PARTS)]
    going = [landing / name for name in names] + [path for path in parts if not _is_waiting(path, is_needed)]
    going += [store.layout.ahead / name for name in store.layout.names_in(store.layout.ahead)]
    if not going:
        yield []
        return
    with ExitStack() as lock:
        try:
            if not dry_run:
                lock.enter_context(locked(landing / LANDING_OWNER, timeout=0))
            elif is_locked(landing / LANDING_OWNER):
                going = []
        except BusyError:
            going = []
        except OSError as exc:
            raise storage_error(exc, f"look at {landing}") from None
        yield going


def _is_waiting(path: Path, is_needed: Callable[[bytes], bool]) -> bool:
    """Whether a file with parts of an object is to be kept."""
    try:
        digest = bytes.fromhex(path.name.partition(".")[0])
        return is_needed(digest) and time.time() - path.lstat().st_mtime < PARTS_KEPT
    except (ValueError, FileNotFoundError):
        return False


def _old_caches(store: Store, commits: Collection[str]) -> Iterator[Path]:
    """Caches of imports that were not repeated for ``CACHE_AGE``, and of anything but ``commits``; so with profiles."""
    directory = store.layout.ingest_cache
    oldest = time.time() - CACHE_AGE
    for name in store.layout.names_in(directory):
        with suppress(FileNotFoundError):
            if not name.startswith(TEMPORARY_PREFIX) and (directory / name).lstat().st_mtime < oldest:
                yield directory / name
    directory, grounds = store.layout.merkle_cache, set(store.trees.grounds())
    for name in store.layout.names_in(directory):
        if not name.startswith(TEMPORARY_PREFIX) and name not in commits and name not in grounds:
            yield directory / name
    yield from store.images.others()
    for name in store.profiles.commits():
        if name not in commits:
            yield store.profiles.path(name)


def _abandoned_files(store: Store) -> Iterator[Path]:
    """Temporary files whose writer is dead, as every writer holds the store's lock."""
    layout = store.layout
    caches = layout.ingest_cache, layout.merkle_cache, layout.c4_cache, layout.runs
    for directory in (store.root, *caches, layout.profiles):
        for name in store.layout.names_in(directory):
            if name.startswith(TEMPORARY_PREFIX):
                yield directory / name


def _dead_locks(store: Store) -> Iterator[Path]:
    """Lock files of strata and worktrees that are gone. Who waits for one holds the store's lock, so nobody does."""
    suffix = ".lock"
    for name in store.layout.names_in(store.layout.refs):
        if name.endswith(suffix) and not store.namespaces.exists_name(name.removesuffix(suffix)):
            yield store.layout.refs / name
    for name in store.names():
        worktrees = store.worktrees.names(name)
        for file in store.layout.names_in(store.layout.worktrees(name)):
            if file.endswith(suffix) and file.removesuffix(suffix) not in worktrees:
                yield store.layout.worktrees(name) / file
