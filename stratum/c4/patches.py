"""What differs between two manifests, as entries that make one of the other; and applying such. Pure.

An entry of a patch whose name is not there is added; one that says the same as what is there removes it, with all that
is in it; any other takes its place, and where both are directories, what is in the patch's is applied to what is in
the other.
"""

from __future__ import annotations

from typing import NamedTuple

from stratum.c4.model import Manifest, Node, ordered
from stratum.c4.writer import Filled, fill
from stratum.errors import UsageError, quoted

Children = dict[bytes, Node]


def diff(old: Manifest, new: Manifest) -> Manifest:
    """The patch that makes ``new`` of ``old``; without entries where both list the same. Neither is changed.

    A directory whose line is the same in both, but not what is in it, says its size and ID in the patch where it said
    none. Raises UsageError where its line cannot differ, since it says an ID that is wrong.
    """
    changed = _changed(old.children, new.children)
    filled: dict[int, Filled] | None = None
    patch = Manifest()
    work: list[tuple[Children, Children, Children]] = [(old.children, new.children, patch.children)]
    while work:
        before, after, changes = work.pop()
        for key in before.keys() | after.keys():
            was, now = before.get(key), after.get(key)
            if now is None:
                assert was is not None
                changes[key] = was.copy()
            elif was is None:
                changes[key] = now
            elif was.children is None or now.children is None:
                if was.said() != now.said():
                    changes[key] = now
            elif was.said() != now.said() or id(now) in changed:
                directory = changes[key] = now.copy()
                if was.said() == now.said():
                    filled = fill(new.children, with_ids=True) if filled is None else filled
                    directory.size, directory.time, directory.c4id = filled.get(id(now), (now.size, now.time, now.c4id))
                if was.said() == directory.said():
                    raise UsageError(
                        f"{quoted(now.name)} has the same line and ID in both, but not the same entries in it",
                        hint="the IDs of its manifests are wrong; make them anew",
                    )
                assert directory.children is not None
                work.append((was.children, now.children, directory.children))
    patch.lists = {c4id: ids for c4id, ids in new.lists.items() if c4id not in old.lists}
    return patch


def _changed(old: Children, new: Children) -> set[int]:
    """``id`` of the directories of ``new`` that ``old`` has, too, but with something else in them or below."""
    pairs: list[tuple[Children, Children, int, int]] = [(old, new, 0, -1)]
    changed: set[int] = set()
    for place, (before, after, _, _) in enumerate(pairs):  # which grows on the way
        for key, node in after.items():
            was = before.get(key)
            if was is not None and was.children is not None and node.children is not None:
                pairs.append((was.children, node.children, id(node), place))
    for place in range(len(pairs) - 1, 0, -1):
        before, after, node_id, around = pairs[place]
        if (
            node_id in changed
            or before.keys() != after.keys()
            or any(before[key].said() != node.said() for key, node in after.items())
        ):
            changed.add(node_id)
            changed.add(pairs[around][2])
    return changed


def apply(base: Manifest, patch: Manifest, what: str, *, unknown_base: bool = False) -> Manifest:
    """``base`` with ``patch`` applied: a new manifest, which shares what did not change. Neither is changed.

    With ``unknown_base``, ``base`` is itself a patch of what nobody has: then a later entry takes the place of an
    earlier one. Raises UsageError where the result has a file and a directory of one name.
    """
    result = Manifest(base.base)
    result.lists = base.lists | patch.lists
    result.children = dict(base.children)
    work = [(result.children, patch.children)]
    while work:
        state, changes = work.pop()
        for node in ordered(changes):
            key = node.key
            there = state.get(key)
            if there is None or (unknown_base and node.children is None):
                state[key] = node
            elif there.said() == node.said() and not unknown_base:
                del state[key]
            else:
                changed = state[key] = node.copy()
                if changed.children is not None:
                    changed.children.update(there.children or {})
                    work.append((changed.children, node.children or {}))
        for key in changes:
            if key.endswith(b"/") and key in state and key[:-1] in state:
                raise UsageError(f"{what}, line {state[key].line}: {quoted(key[:-1])} is a file and a directory")
    return result


class Counts(NamedTuple):
    """How many entries a patch adds, removes and changes; of a directory that is removed, itself alone."""

    added: int
    removed: int
    changed: int


def count(old: Manifest, patch: Manifest) -> Counts:
    """What the entries of ``patch`` do to ``old``."""
    added = removed = changed = 0
    work: list[tuple[Children, Children]] = [(old.children, patch.children)]
    while work:
        state, changes = work.pop()
        for key, node in changes.items():
            there = state.get(key)
            if there is None:
                added += 1
            elif there.said() == node.said():
                removed += 1
                continue
            else:
                changed += 1
            if node.children:
                work.append(((there.children if there is not None else None) or {}, node.children))
    return Counts(added, removed, changed)
