"""From where each commit can be reached that a garbage collection keeps: ``store.roots`` says one reason, this all.

A **root** is a part of a stratum that can go by itself: a worktree, a tag that is asked about, and all else that is
named in the stratum together; its reflog, and the history of each worktree. Reached from it are the commits that it
names and their ancestors, as far as the rules have these kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stratum.store.ancestry import Ancestry
from stratum.store.clock import utc_now
from stratum.store.retention import retained
from stratum.store.roots import Named, kept_ancestors, named_commits

if TYPE_CHECKING:
    from stratum.store.retention import Retention
    from stratum.store.store import Store

WORKTREE, TAG, NAMES, REFLOG, HISTORY, ELSE = "worktree", "tag", "names", "reflog", "history", "else"


class Root(NamedTuple):
    """A part of ``stratum`` by its ``kind``; ``which`` worktree or tag it is, or whose history."""

    kind: str
    stratum: str = ""
    which: str = ""


def reachable(
    store: Store,
    rules: Retention,
    kept: Iterable[str],
    histories: Mapping[tuple[str, str], Collection[str]],
    apart: Collection[tuple[str, str]] = (),
) -> dict[Root, set[str]]:
    """What of the commits ``kept`` is reached from each root; ``histories`` are the commits that the history of a
    worktree names, (stratum, tag) in ``apart`` the tags that are roots of their own. What is reached from none, as what
    is mounted by its hash, is under the root ``ELSE``.

    Raises ``DamagedError`` as ``find_roots`` does.
    """
    found: dict[Root, set[str]] = {}
    seen: dict[Root, set[str]] = {}
    now, ancestry, all_kept = utc_now(), Ancestry(store), set(kept)
    logs = {name: store.reflog.scan(name)[0] for name in store.names()}
    for item in named_commits(store, rules, logs, {}):
        root, age = _root_of(item, apart), rules.of(item.stratum).history
        ancestors = kept_ancestors(store, ancestry, item, age, now, seen.setdefault(root, set()))
        found.setdefault(root, set()).update(all_kept & {item.commit, *ancestors})
    for name, entries in logs.items():
        found[Root(REFLOG, name)] = all_kept & retained(entries, rules.of(name), now).keys()
    for (name, worktree), named in histories.items():
        found[Root(HISTORY, name, worktree)] = all_kept.intersection(named)
    found[Root(ELSE)] = all_kept.difference(*found.values())
    return found


def _root_of(item: Named, apart: Collection[tuple[str, str]]) -> Root:
    if item.worktree is not None:
        return Root(WORKTREE, item.stratum, item.worktree)
    if item.tag is not None and (item.stratum, item.tag) in apart:
        return Root(TAG, item.stratum, item.tag)
    return Root(NAMES, item.stratum)
