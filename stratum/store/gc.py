"""Garbage collection: what nothing refers to goes, in an order that may be cut short anywhere.

Kept are the commits that

- a tag names, a worktree is based on or has as its head (also the old half of an interrupted switch),
- are mounted, as the caller says, or are to be mounted at every start (``store.bootmounts``),
- the reflogs mention, as ``store.retention`` decides; what a damaged line of a reflog mentions, be it half of the hash,
  is kept as well,
- were made from a worktree less than the retention's age ago and are mentioned nowhere, as when a whole stratum was
  removed: what they hold may be nowhere else,

and every object of a commit that is kept, or that a living transaction says it needs. Everything else goes: first the
dead transactions in ``tmp/``, which makes room, then commits, each by one durable rename, then objects, then caches of
commits that went and of imports that were not repeated within ``CACHE_AGE``, abandoned temporary files, and lock files
of refs that are gone.
A commit therefore never outlives its objects, and the next run finds what an interrupted one left.

All of it happens under the exclusive store lock, but for reading the trees of what is to be kept: that takes longest,
and is done before, under the shared one (``read_ahead``), as commits never change. Whoever relies on something that no
ref names yet, holds the shared one from the moment of looking until a ref or a mount record names it, or until their
transaction has a list of it, so nothing that is needed is ever looked at as garbage. No space is needed for it. Where
it cannot be known what is needed, as a tag, worktree or kept commit is damaged, nothing is removed: ``DamagedError``.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError
from stratum.store.clock import utc_now
from stratum.store.layout import storage_error
from stratum.store.retention import Retention, retained
from stratum.store.trash import remove_tree
from stratum.sys.atomic import TEMPORARY_PREFIX
from stratum.sys.usage import disk_usage
from stratum.tree.contents import object_lines

if TYPE_CHECKING:
    from datetime import datetime

    from stratum.store.store import Store

CACHE_AGE = 30 * 24 * 3600.0
"""Seconds."""


@dataclass(slots=True)
class Collected:
    """What a collection removed, or would remove.

    ``kept`` is commit -> why; ``commits`` what went, commit -> why. ``bytes_freed`` counts disk space of everything
    removed. ``others`` are paths, relative to the store, of leftovers, old caches and lock files.
    """

    dry_run: bool
    kept: dict[str, str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    objects: int = 0
    objects_kept: int = 0
    others: list[str] = field(default_factory=list)
    bytes_freed: int = 0


@dataclass(slots=True)
class Needed:
    """The objects (digests of 32 bytes) that ``commits`` need."""

    commits: set[str] = field(default_factory=set)
    objects: set[bytes] = field(default_factory=set)


def read_ahead(store: Store, rules: Retention, mounted: Mapping[str, str]) -> Needed:
    """What ``collect`` would keep now, so that it has less to read while everybody waits. Raises as it does.

    The caller holds the store's lock shared. Of a commit that goes meanwhile, the next collection takes the objects.
    """
    needed = Needed()
    _read_needed(store, find_roots(store, rules, mounted), needed)
    return needed


def collect(
    store: Store,
    rules: Retention,
    mounted: Mapping[str, str],
    *,
    dry_run: bool = False,
    needed: Needed | None = None,
) -> Collected:
    """Remove what nothing refers to, or with ``dry_run`` only find it.

    ``mounted`` is commit -> where it is mounted, ``needed`` what was read ahead. The caller holds the store's lock,
    exclusively unless it is a ``dry_run``, since before it looked for mounts. Raises ``DamagedError`` where it cannot
    be known what is needed.
    """
    done = Collected(dry_run)
    done.kept = find_roots(store, rules, mounted)
    needed = needed or Needed()
    _read_needed(store, done.kept, needed)
    needed.objects.update(store.transactions.needed())
    _drop_dead_transactions(store, done)
    for commit in store.commits.list():
        if commit in done.kept:
            continue
        done.commits[commit] = "no ref, mount or recent history names it"
        done.bytes_freed += disk_usage(store.layout.commit(commit))
        if not dry_run:
            store.transactions.discard(store.layout.commit(commit))
    _sweep_objects(store, needed.objects, done)
    for path in (*_old_caches(store, done.kept), *_abandoned_files(store), *_dead_locks(store)):
        done.others.append(str(path.relative_to(store.root)))
        done.bytes_freed += disk_usage(path)
        if not dry_run:
            store.transactions.discard(path)
    return done


def find_roots(store: Store, rules: Retention, mounted: Mapping[str, str]) -> dict[str, str]:
    """Commit -> why it is kept. Of several reasons the strongest is given: tag, worktree, mount, history, age."""
    roots = dict(_named(store))
    for commit, where in mounted.items():
        roots.setdefault(commit, where)
    for commit, why in roots.items():
        if not store.commits.exists(commit):
            raise DamagedError(
                f"commit {commit} is missing ({why}), so it is not known which objects it needs",
                hint="nothing was removed; 'stratum fsck' tells more, and 'stratum fsck --repair --from' restores it",
            )
    mentioned: set[str] = set()
    now = utc_now()
    for name in store.names():
        entries, damaged = store.reflog.scan(name)
        kept = retained(entries, rules.of(name), now)
        if damaged:
            lines = store.reflog.lines(name)
            text = b"\n".join(lines[number - 1] for number in damaged)
            found = [commit for commit in store.commits.list() if _is_mentioned(commit.encode(), text)]
            kept.update(dict.fromkeys(found, "damaged reflog"))
        for commit, rule in kept.items():
            if store.commits.exists(commit):
                roots.setdefault(commit, f"{rule} of {name}")
        mentioned.update(commit for entry in entries for commit in (entry.old, entry.new) if commit is not None)
    for commit in store.commits.list():
        if commit not in roots and commit not in mentioned and _is_recent_work(store, commit, rules, now):
            roots[commit] = "recent work"
    return roots


def _is_mentioned(commit: bytes, damaged: bytes) -> bool:
    """Whether at least half of a commit's hash is in damaged text."""
    half = len(commit) // 2
    return commit[:half] in damaged or commit[half:] in damaged


def _is_recent_work(store: Store, commit: str, rules: Retention, now: datetime) -> bool:
    """Whether the commit was made from a worktree less than the age of its stratum's rules ago."""
    try:
        made = store.layout.commit(commit).lstat().st_mtime
        origin = store.commits.meta(commit).origin
    except (DamagedError, FileNotFoundError):
        return False
    if origin is None or origin.get("kind") != "worktree":
        return False
    name = str(origin.get("worktree", "")).partition("+")[0]
    return made > now.timestamp() - rules.of(name).age.total_seconds()


def _named(store: Store) -> Iterator[tuple[str, str]]:
    """(commit, ref) for what tags and worktrees name; tags last, as theirs is the strongest reason."""
    for name in store.names():
        for worktree in store.worktrees.list(name):
            for commit in {worktree.base_commit, worktree.commit, worktree.forked_from}:
                yield commit, str(worktree)
            interrupted = store.worktrees.interrupted_switch(name, worktree.worktree)
            if interrupted is not None and interrupted.old is not None:
                yield interrupted.old.base_commit, f"{worktree} (interrupted switch)"
    for record in store.boot_mounts.list():
        if record.commit is not None:
            yield record.commit, f"mounted at every start at {record.mountpoint}"
    for name in store.names():
        for tag, commit in store.tags.list(name).items():
            yield commit, f"{name}:{tag}"


def _read_needed(store: Store, commits: Mapping[str, str], needed: Needed) -> None:
    """Add what ``commits`` (commit -> why it is kept) need."""
    for commit, why in commits.items():
        if commit in needed.commits:
            continue
        try:
            dump = store.commits.dump(commit)
        except DamagedError as exc:
            raise DamagedError(
                f"{exc.message}, so it is not known which objects {why} needs",
                hint="nothing was removed; 'stratum fsck' tells more, and 'stratum fsck --repair --from' restores it",
            ) from None
        needed.objects.update(digest for digest, _, _ in object_lines(dump))
        needed.commits.add(commit)


def _drop_dead_transactions(store: Store, done: Collected) -> None:
    """Delete what is in ``tmp/`` but for what a living transaction has there."""
    for name in store.layout.names_in(store.layout.tmp):
        path = store.layout.tmp / name
        if path == store.layout.tmp / "lock" or store.transactions.is_alive(name):
            continue
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
                raise storage_error(exc, f"remove {path}") from None
        done.others.append(str(path.relative_to(store.root)))
        done.bytes_freed += usage


def _sweep_objects(store: Store, needed: set[bytes], done: Collected) -> None:
    for digest, _ in store.objects.list():
        if digest in needed:
            done.objects_kept += 1
            continue
        path = store.objects.path(digest)
        try:
            done.bytes_freed += path.lstat().st_blocks * 512
            if not done.dry_run:
                path.unlink()
        except OSError as exc:
            raise storage_error(exc, f"remove {path}") from None
        done.objects += 1


def _old_caches(store: Store, commits: Mapping[str, str]) -> Iterator[Path]:
    """Caches of imports that were not repeated for ``CACHE_AGE``, and of anything but ``commits``."""
    directory = store.layout.ingest_cache
    oldest = time.time() - CACHE_AGE
    for name in store.layout.names_in(directory):
        with suppress(FileNotFoundError):
            if not name.startswith(TEMPORARY_PREFIX) and (directory / name).lstat().st_mtime < oldest:
                yield directory / name
    directory = store.layout.merkle_cache
    for name in store.layout.names_in(directory):
        if not name.startswith(TEMPORARY_PREFIX) and name not in commits:
            yield directory / name


def _abandoned_files(store: Store) -> Iterator[Path]:
    """Temporary files whose writer is dead, as every writer holds the store's lock."""
    for directory in (store.root, store.layout.ingest_cache, store.layout.merkle_cache):
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
