"""What other programs use of Stratum: ``import stratum`` has these names, and docs/python.md promises them."""

from stratum.public.records import Access, Change, Entry, Pushed, Worktree
from stratum.public.store import Commit, Store, Tree, open_store

__all__ = ["Access", "Change", "Commit", "Entry", "Pushed", "Store", "Tree", "Worktree", "open_store"]
