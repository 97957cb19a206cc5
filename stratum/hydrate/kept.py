"""What rules of residence keep of a commit: to be fetched, and never to be evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.errors import NotFoundError
from stratum.store.keeping import Rule, Rules
from stratum.store.pins import read_pins

if TYPE_CHECKING:
    from stratum.store.store import Store
    from stratum.tree.blocks import Dump


def commits_named(store: Store, name: str) -> set[str]:
    """The commits that a stratum names: by tags, worktrees and pins. ``DamagedError`` where that cannot be known."""
    try:
        found = set(store.tags.list(name).values()) | set(read_pins(store.layout, name).commits)
        for worktree in store.worktrees.list(name):
            found |= {worktree.base_commit, worktree.commit}
    except NotFoundError:  # removed just now
        return set()
    return found


def rules_for(store: Store, commit: str) -> list[Rules]:
    """The rules of the strata that name the commit, as far as they keep anything. ``DamagedError``."""
    ruled = store.keeping.with_rules(store.names())
    return [rules for name, rules in ruled.items() if rules.has(Rule.REAL) and commit in commits_named(store, name)]


def kept_objects(store: Store, commit: str) -> dict[bytes, int]:
    """The objects of the commit, digest -> size, that rules keep, in the order of the tree. ``DamagedError``."""
    found: dict[bytes, int] = {}
    for rules in rules_for(store, commit):
        found.update(objects_kept(store.commits.dump(commit), rules))
    return found


def objects_kept(dump: Dump, rules: Rules) -> dict[bytes, int]:
    """The objects of a dump that the rules keep."""
    from stratum.tree.contents import graded_objects

    graded = graded_objects(dump, rules.of_lines())
    return {digest: size for digest, (size, grade) in graded.items() if grade == Rule.REAL}
