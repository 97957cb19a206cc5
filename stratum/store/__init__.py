"""The store: objects, commits, tags, worktrees and history, changed in transactions. ``store.layout`` has the map."""

from stratum.store.holders import Lease
from stratum.store.metadata import CommitMeta
from stratum.store.reflog import ReflogEntry
from stratum.store.resolve import Resolved
from stratum.store.store import Store
from stratum.store.transaction import Transaction
from stratum.store.worktrees import Worktree

__all__ = ["CommitMeta", "Lease", "ReflogEntry", "Resolved", "Store", "Transaction", "Worktree"]
