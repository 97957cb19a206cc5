"""Which packs of an earlier push a new one keeps, so that the cost of a push follows the change. Pure.

A pack is kept while at least half of its archive is still needed. Every push with a base adds a small pack; when more
than ``SMALL_PACKS_MAX`` of them have come together, all small packs are written anew as few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stratum.transfer.artifact import PackLayers
from stratum.transfer.packs import LARGE_OBJECT, Member, PackIndex, archived_size

SMALL_PACKS_MAX = 32


@dataclass(frozen=True, slots=True)
class BasePack:
    """A pack that is in the registry."""

    layers: PackLayers
    index: PackIndex


@dataclass(frozen=True, slots=True)
class Plan:
    """The packs that stay as they are, and the objects (in tree order) that need new ones."""

    kept: tuple[PackLayers, ...]
    members: tuple[Member, ...]


def plan_reuse(base: Sequence[BasePack], objects: Mapping[bytes, int]) -> Plan:
    """Divide ``objects`` (digest -> size, in tree order) between packs of ``base`` and new ones."""
    kept, left = _keep(base, objects)
    small = [pack for pack in kept if pack.index.archive_size < LARGE_OBJECT]
    if len(small) > SMALL_PACKS_MAX:
        kept, _ = _keep([pack for pack in kept if pack not in small], objects)
    if len(kept) < len(base):  # each object counts for a pack that is really kept
        kept, left = _keep(kept, objects)
    members = tuple(Member(digest, size) for digest, size in objects.items() if digest in left)
    return Plan(tuple(pack.layers for pack in kept), members)


def _keep(packs: Sequence[BasePack], objects: Mapping[bytes, int]) -> tuple[list[BasePack], set[bytes]]:
    """The packs worth keeping, and the objects that are in none of them. Each object counts for its first pack."""
    left = set(objects)
    kept = []
    for pack in packs:
        live = [
            member for member in pack.index.members if member.digest in left and objects[member.digest] == member.size
        ]
        if 2 * sum(map(archived_size, live)) >= pack.index.archive_size:
            kept.append(pack)
            left.difference_update(member.digest for member in live)
    return kept, left
