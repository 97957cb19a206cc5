"""What a push of a small change to a commit that is there sends: found from what differs, without a look at the rest.

The catalog of the commit to build on (``store.sources``) tells what is in the packs that are there, which objects of
that commit are in them, and how many lines of its dump name each. With the lines that differ, that is enough to know
what is new, and what nobody needs any more. Whatever is out of the ordinary is left to ``planning``, which looks at
everything and comes to the same. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stratum.frozen import frozen
from stratum.store.catalog import Catalog
from stratum.transfer.artifact import PackLayers
from stratum.transfer.packs import END_SIZE, LARGE_OBJECT, Member, archived_size
from stratum.transfer.planning import SMALL_PACKS_MAX
from stratum.tree.contents import object_lines

_FREE, _PART = 4096, 4
"""A catalog that changed by more objects than this, and by more than this part of the whole, is written anew."""


@frozen
class Change:
    """What differs from the commit that ``catalog`` is of. ``counts``: of its objects, by number, that other numbers of
    lines name now. ``new`` are the objects that are in no pack, in tree order, ``uses`` how many lines name them."""

    catalog: Catalog
    counts: Mapping[int, int]
    new: Sequence[Member]
    uses: Mapping[bytes, int]


def change_on(
    catalog: Catalog, packs: Sequence[PackLayers], removed: Iterable[bytes], added: Iterable[bytes]
) -> Change | None:
    """The change that takes the lines ``removed`` from the dump of the commit whose artifact has these ``packs``, all
    of which ``catalog`` lists, and has those ``added`` instead, in their order.

    None where that is no small change on these packs: not all of them stay, or an object is needed again that was not.
    ``DamagedError`` for lines that are none.
    """
    listed = [(pack.pack.sha256.hex(), pack.pack.size) for pack in catalog.packs]
    if listed != [(layers.pack.hex, layers.pack.size) for layers in packs]:
        return None
    found = _differences(removed, added)
    if found is None:
        return None
    unneeded = [catalog.unneeded(pack) for pack in catalog.packs]
    spares = {digest for listed in unneeded for digest, _, _ in listed}
    dead = [sum(archived_size(Member(digest, size)) for digest, _, size in listed) for listed in unneeded]
    counts, new = dict[int, int](), dict[Member, int]()
    for member, difference in found.items():
        number = catalog.find(member.digest)
        if number is None:
            if difference < 0 or member.digest in spares:
                return None
            new[member] = difference
            continue
        known, before = catalog.member(number), catalog.uses(number)
        if known.size != member.size or not before or before + difference < 0:
            return None
        counts[number] = before + difference
        if not counts[number]:
            dead[known.pack] += archived_size(member)
    if not _all_stay(catalog, dead) or _is_large(catalog, len(new) + len(counts)):
        return None
    return Change(catalog, counts, tuple(new), {member.digest: count for member, count in new.items()})


def _differences(removed: Iterable[bytes], added: Iterable[bytes]) -> dict[Member, int] | None:
    """How many lines more name each object; None where one has two sizes."""
    found, sizes = dict[Member, int](), dict[bytes, int]()
    for sign, lines in ((-1, removed), (1, added)):
        for digest, size, _ in object_lines(lines):
            if sizes.setdefault(digest, size) != size:
                return None
            member = Member(digest, size)
            found[member] = found.get(member, 0) + sign
    return {member: difference for member, difference in found.items() if difference}


def _all_stay(catalog: Catalog, dead: Sequence[int]) -> bool:
    """Whether ``planning`` would keep all packs, of which so many bytes are not needed."""
    small = 0
    for pack, waste in zip(catalog.packs, dead, strict=True):
        last = catalog.frame(pack.frames[1] - 1)
        size = last.archive_start + last.archive_size
        if 2 * (size - END_SIZE - waste) < size:
            return False
        small += size < LARGE_OBJECT
    return small <= SMALL_PACKS_MAX


def _is_large(catalog: Catalog, changes: int) -> bool:
    whole = len(catalog.parts[0])
    changes += len(catalog) - whole + sum(len(catalog.unneeded(pack)) for pack in catalog.packs)
    return changes > max(_FREE, whole // _PART)
