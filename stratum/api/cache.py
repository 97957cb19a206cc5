"""Content that can be fetched again: how much of it is here, what limits it has, and having it go."""

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


@frozen
class CacheStatus:
    """What is here of what can be fetched again, the limits, and the file system (bytes). ``rules`` are (stratum, path,
    rule); ``gates`` what the keeper of mounts with a gate says of each, and ``problem`` why it says nothing."""

    held: Held
    budget: Budget
    disk_size: int
    disk_free: int
    rules: list[tuple[str, bytes, Rule]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None


def cache_status(session: Session) -> CacheStatus:
    """The state of the cache. ``DamagedError`` where it cannot be known what commits need."""
    store = session.store
    held = Evictor(store, session.state, session.config).held()
    disk = os.statvfs(store.root)
    found, problem = gates(session)
    return CacheStatus(
        held,
        read_budget(store.layout, session.config),
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
    older_than: float = MIN_AGE,
    dry_run: bool = False,
) -> Evicted:
    """Evict until content that can be fetched again takes ``to`` bytes at most, by default until it is within its
    limits. Raises as ``hydrate.evict.Evictor.evict``."""
    store = session.store
    budget = read_budget(store.layout, session.config)

    def wanted(held: int) -> int:
        return budget.excess(store.layout, held) if to is None else held - to

    evictor = Evictor(store, session.state, session.config, access)
    return evictor.evict(wanted, older_than=older_than, dry_run=dry_run)


def cache_limit(session: Session, *, limit: int | None = None, min_free: int | None = None) -> Budget:
    """Set limits (bytes, percent) of the store, as far as they are given; the ones in force then."""
    store = session.create_store()
    if limit is not None or min_free is not None:
        set_budget(store.layout, store.transactions, limit=limit, min_free=min_free)
    return read_budget(store.layout, session.config)
