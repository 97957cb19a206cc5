"""Content that can be fetched again, and images, which can be made again: how much of it is here, what limits it has,
and having it go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from stratum.api.session import Session
from stratum.errors import StratumError
from stratum.frozen import field, frozen
from stratum.hydrate.evict import MIN_AGE, Evicted, Evictor, Held
from stratum.store.budget import Budget, read_budget, set_budget
from stratum.store.keeping import Rule

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.store.imageroom import Trimmed


@frozen
class CacheStatus:
    """What is here of what can be fetched again, the limits, and the file system (bytes). ``rules`` are (stratum, path,
    rule); ``images`` how many there are of images and trees that stand in for them, how many of these are mounted, and
    their bytes; ``gates`` what the keeper of mounts with a gate says of each, and ``problem`` why it says nothing."""

    held: Held
    budget: Budget
    images: tuple[int, int, int]
    images_max: int
    disk_size: int
    disk_free: int
    rules: list[tuple[str, bytes, Rule]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None


def cache_status(session: Session) -> CacheStatus:
    """The state of the cache. ``DamagedError`` where it cannot be known what commits need."""
    store = session.store
    held = Evictor(store, session.state, session.config).held()
    budget = read_budget(store.layout, session.config)
    disk = os.statvfs(store.root)
    found, problem = gates(session)
    return CacheStatus(
        held,
        budget,
        _images(session),
        budget.images_max(store.layout),
        disk.f_blocks * disk.f_frsize,
        disk.f_bavail * disk.f_frsize,
        [
            (name, path, rule)
            for name, rules in store.keeping.with_rules(store.names()).items()
            for path, rule in rules.rules.items()
        ],
        found,
        problem,
    )


def _images(session: Session) -> tuple[int, int, int]:
    from stratum.api.images import shown

    images, commits = session.store.images, shown(session.store, session.state).commits
    found, trees = images.list(), images.outlines.list()
    mounted = sum(commit in commits or images.is_in_use(commit) is True for commit in found)
    return len(found) + len(trees), mounted + len(trees.keys() & set(commits)), images.total()


def gates(session: Session) -> tuple[list[dict[str, Any]], str | None]:
    """What the keeper says of the mounts of this store that have a gate, and why it says nothing; neither where there
    is none."""
    from stratum.mount.gate import ask_keeper

    root = str(session.store.root)
    if not session.config.runtime_dir.is_dir():
        return [], None
    try:
        answers = ask_keeper(session.config.runtime_dir, {"op": "status"})
    except StratumError as exc:
        return [], exc.message
    found = (connection for answer in answers for connection in answer.get("connections", ()))
    return [gate for gate in found if isinstance(gate, dict) and gate.get("store") == root], None


def cache_evict(
    session: Session,
    *,
    access: Access,
    to: int | None = None,
    images: int | None = None,
    older_than: float = MIN_AGE,
    dry_run: bool = False,
) -> tuple[Evicted, Trimmed]:
    """Evict until content that can be fetched again takes ``to`` bytes at most, and images that no mount shows until
    these take ``images``. Where only one of them is given, only that goes; where neither is, both go until they are
    within their limits. Raises as ``hydrate.evict.Evictor.evict``."""
    from stratum.frozen import replace
    from stratum.store.imageroom import Trimmed

    store = session.store
    budget = read_budget(store.layout, session.config)

    def wanted(held: int) -> int:
        return budget.excess(store.layout, held) if to is None else held - to

    done, trimmed = Evicted(dry_run=dry_run), Trimmed()
    if to is not None or images is None:
        evictor = Evictor(store, session.state, session.config, access)
        done = evictor.evict(wanted, older_than=older_than, dry_run=dry_run)
    if images is not None or to is None:
        room = session.image_room()
        with store.locks.store():
            room = room if images is None else replace(room, limit=images)
            trimmed = store.images.trim(room, older_than=older_than, dry_run=dry_run)
    return done, trimmed


def cache_limit(
    session: Session, *, limit: int | None = None, min_free: int | None = None, images: int | None = None
) -> tuple[Budget, int]:
    """Set limits (bytes, percent, bytes) of the store, as far as they are given; the ones in force then, and that of
    images, be it chosen or not."""
    store = session.create_store()
    if any(given is not None for given in (limit, min_free, images)):
        set_budget(store.layout, store.transactions, limit=limit, min_free=min_free, images=images)
    budget = read_budget(store.layout, session.config)
    return budget, budget.images_max(store.layout)
