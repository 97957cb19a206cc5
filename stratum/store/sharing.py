"""Which objects several commits and histories share, and what each of these has for itself.

Somebody who needs objects is a **user**: a commit, or the history of a worktree. Each gets a bit, each object the set
of the bits of its users, and objects with one set are counted together: whatever is asked of who shares what is then
answered by the sets, of which there are few.

What commits need of one another's trees is known by their records (``store.coverage``), with the bits of the commits as
weights. So each line is read once, however many commits have it, and this takes time for what differs rather than for
each line of each dump, and about 200 bytes of memory for an object. The trees are files, too, and shared by the commits
that are stored on them. What is damaged is told, and does not count.

Whoever calls this holds the store's lock, shared, so that nothing is collected meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.store.coverage import Coverage, Part, lines_in
from stratum.tree.contents import named_digests, named_objects

if TYPE_CHECKING:
    from stratum.store.footprint import Footprint
    from stratum.store.store import Store
    from stratum.store.treerecord import TreeRecord

_DIGITS = 24
"""Hex digits of a digest that tell objects apart here."""
_NOT_HERE = -1
_SIZE_MAX = (1 << 63) - 1
_FIGURE = 96
"""Bits for a sum of sizes."""
_BITS = [[1 << n for n in range(8) if byte >> n & 1] for byte in range(256)]
"""The bits of each byte."""


class Amount(NamedTuple):
    """Some objects, or files: how many are here, their bytes on disk and their size; those that are not here count as
    ``remote`` with their size."""

    objects: int = 0
    disk: int = 0
    size: int = 0
    remote_objects: int = 0
    remote: int = 0

    def plus(self, *others: Amount) -> Amount:
        """All of them together."""
        return Amount(*map(sum, zip(self, *others, strict=True)))

    def minus(self, other: Amount) -> Amount:
        """What is left without the ``other``."""
        return Amount(*(mine - its for mine, its in zip(self, other, strict=True)))


class _Sums:
    """Amounts of sets, summed up for each of their members: eight members at once, all figures of an amount as one."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], int] = {}

    def add(self, members: int, amount: Amount) -> None:
        """Add the amount to each of the set ``members``."""
        packed = sum(figure << _FIGURE * number for number, figure in enumerate(amount))
        sums = self._sums
        for place, some in enumerate(members.to_bytes((members.bit_length() + 7) // 8, "little")):
            if some:
                sums[place, some] = sums.get((place, some), 0) + packed

    def of_bits(self) -> dict[int, Amount]:
        """What each member has, by its bit."""
        found: dict[int, int] = {}
        for (place, some), packed in self._sums.items():
            for bit in _BITS[some]:
                number = bit << 8 * place
                found[number] = found.get(number, 0) + packed
        figures = range(0, _FIGURE * len(Amount()), _FIGURE)
        return {bit: Amount(*(packed >> at & (1 << _FIGURE) - 1 for at in figures)) for bit, packed in found.items()}


class Shares:
    """Who shares what: ``amounts`` has what each set of users has, ``bits`` which users there are."""

    def __init__(self, bits: Mapping[object, int], amounts: Mapping[int, Amount]) -> None:
        self._bits = bits
        self._amounts = amounts

    def mask(self, users: Iterable[object]) -> int:
        """The set of those of the ``users`` that were measured."""
        found = 0
        for user in users:
            found |= self._bits.get(user, 0)
        return found

    def total(self, users: int) -> Amount:
        """What any of the set ``users`` needs."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if mask & users))

    def own(self, users: int, others: int) -> Amount:
        """What any of the set ``users`` needs, and none of the set ``others``."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if mask & users and not mask & others))

    def each(self, users: Iterable[object], staying: int) -> dict[object, tuple[Amount, Amount]]:
        """For each of the ``users`` what it needs, and what of it nobody else of the set ``staying`` needs."""
        wanted = self.mask(users := list(users))
        totals, owned = _Sums(), _Sums()
        for mask, amount in self._amounts.items():
            needed, needing = mask & wanted, mask & staying
            totals.add(needed, amount)
            if not needing & (needing - 1):  # by one of those that stay, or by none
                owned.add(needed & needing if needing else needed, amount)
        total, own = totals.of_bits(), owned.of_bits()
        bits = {user: self._bits.get(user, 0) for user in users}
        return {user: (total.get(bit, Amount()), own.get(bit, Amount())) for user, bit in bits.items()}

    def unneeded(self, users: int) -> Amount:
        """What none of the set ``users`` needs."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if not mask & users))


class Sharing(Shares):
    """Who shares which objects, as ``measure`` found it. ``damaged`` are users of which not all is known, with what is
    wrong; ``users_of`` gives the set of users of the object with a digest; ``records`` and ``frames`` have the sets of
    those whose trees are made of these."""

    def __init__(self, bits: Mapping[object, int], measured: _Measuring) -> None:
        super().__init__(bits, measured.amounts())
        self.damaged: Mapping[object, str] = measured.damaged
        self.users_of: Callable[[bytes], int] = measured.users_of
        self.records, self.frames = measured.trees(bits)

    def trees(self, found: Footprint) -> Shares:
        """Who shares the files that trees are made of; they count as no objects."""
        amounts: dict[int, Amount] = {}
        files = [(self.records.get(commit, 0), usage) for commit, usage in found.records.items()]
        files += [(self.frames.get(sha256, 0), usage) for sha256, usage in found.frames.items()]
        for users, usage in files:
            amounts[users] = amounts.get(users, Amount()).plus(Amount(0, usage.disk, usage.size))
        return Shares(self._bits, amounts)


def measure(store: Store, commits: Iterable[str], others: Mapping[object, Iterable[bytes]]) -> Sharing:
    """What ``commits`` and ``others`` (user -> digests that it needs) share of the objects in the store, and what they
    need of others. Raises ``StratumError`` where the store cannot be read."""
    measured, bits = _Measuring(store), dict[object, int]()
    for commit in commits:
        bits[commit] = 1 << len(bits)
        measured.add_commit(commit, bits[commit])
    for user, digests in others.items():
        bits[user] = 1 << len(bits)
        measured.add_digests(digests, bits[user])
    measured.add_parts(list(bits))
    return Sharing(bits, measured)


class _Measuring:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: dict[str, int] = {}
        self._disk, self._size = array("q"), array("q")
        for digest, disk, size in store.objects.weights():
            self._index[_key(digest)] = len(self._disk)
            self._disk.append(disk)
            self._size.append(size)
        self._set_of = array("I", bytes(array("I").itemsize * len(self._disk)))
        self._masks = [0]
        self._numbers = {0: 0}
        self._coverage = Coverage(self._record)
        self._stored: dict[str, tuple[str | None, tuple[bytes, ...]]] = {}
        self._names: dict[bytes, bytes] = {}
        self.damaged: dict[object, str] = {}

    def _record(self, commit: str) -> TreeRecord:
        record = self._store.trees.record(commit)
        frames = tuple(self._names.setdefault(ref.sha256, ref.sha256) for ref in record.frames)
        self._stored[commit] = record.ground, frames
        return record

    def add_commit(self, commit: str, mask: int) -> None:
        """Have the commit, whose bit is in ``mask``, need its objects; of what others share, once parts are added."""
        try:
            self._take(self._coverage.add(commit, mask))
        except (DamagedError, NotFoundError) as exc:
            self.damaged[commit] = exc.message

    def add_parts(self, users: list[object]) -> None:
        """Add what is in the grounds and frames of all commits; ``users`` are in the order of their bits."""

        def tell(mask: int, error: StratumError) -> None:
            while mask:
                self.damaged.setdefault(users[(mask & -mask).bit_length() - 1], error.message)
                mask &= mask - 1

        for part in self._coverage.parts(tell):
            self._take_or_tell(part, tell)

    def _take_or_tell(self, part: Part, tell: Callable[[int, StratumError], None]) -> None:
        try:
            self._take(part)
        except DamagedError as exc:
            for _, _, mask in part.stretches:
                tell(mask, exc)

    def _take(self, part: Part) -> None:
        data = part.data if part.frame is None else self._store.trees.checked_frame(part.frame)
        for lines, mask in lines_in(part, data):
            self._add(self._objects_in(lines), mask)

    def trees(self, bits: Mapping[object, int]) -> tuple[dict[str, int], dict[bytes, int]]:
        """The sets of users of records, and of frames."""
        records, frames = dict[str, int](), dict[bytes, int]()
        for user, bit in bits.items():
            at = user if isinstance(user, str) else None
            while at in self._stored and not records.get(at, 0) & bit:
                records[at] = records.get(at, 0) | bit
                at = self._stored[at][0]
        for commit, users in records.items():
            for sha256 in self._stored[commit][1]:
                frames[sha256] = frames.get(sha256, 0) | users
        return records, frames

    def _objects_in(self, lines: bytes) -> array[int]:
        """The numbers of the objects of some lines; those that are not here get one too."""
        text, numbers = lines.decode("latin-1"), array("I")
        for digest in named_digests(text):
            number = self._index.get(digest[:_DIGITS])
            if number is None:
                self._add_missing(text)
                number = self._index.get(digest[:_DIGITS])
            if number is not None:  # else it was no line of a dump
                numbers.append(number)
        return numbers

    def _add_missing(self, lines: str) -> None:
        """Give the objects of some lines that are not here their numbers."""
        for size, digest in named_objects(lines):
            key = digest[:_DIGITS]
            if key not in self._index:
                self._index[key] = len(self._disk)
                self._disk.append(_NOT_HERE)
                self._size.append(min(int(size), _SIZE_MAX))
                self._set_of.append(0)

    def add_digests(self, digests: Iterable[bytes], mask: int) -> None:
        """Add the users in ``mask`` to these objects. What is not here, of what only a history names, is forgotten."""
        numbers = (self._index.get(_key(digest)) for digest in digests)
        self._add((number for number in numbers if number is not None), mask)

    def _add(self, numbers: Iterable[int], mask: int) -> None:
        sets, moved = self._set_of, dict[int, int]()
        for number in numbers:
            old = sets[number]
            new = moved.get(old)
            if new is None:
                new = moved[old] = self._set(self._masks[old] | mask)
            sets[number] = new

    def _set(self, mask: int) -> int:
        number = self._numbers.get(mask)
        if number is None:
            number = self._numbers[mask] = len(self._masks)
            self._masks.append(mask)
        return number

    def users_of(self, digest: bytes) -> int:
        """The set of users of an object."""
        number = self._index.get(_key(digest))
        return 0 if number is None else self._masks[self._set_of[number]]

    def amounts(self) -> dict[int, Amount]:
        """What objects each set of users has."""
        here = [[0, 0, 0, 0, 0] for _ in self._masks]
        for number, disk, size in zip(self._set_of, self._disk, self._size, strict=True):
            sums = here[number]
            if disk == _NOT_HERE:
                sums[3] += 1
                sums[4] += size
            else:
                sums[0] += 1
                sums[1] += disk
                sums[2] += size
        return {mask: Amount(*sums) for mask, sums in zip(self._masks, here, strict=True) if any(sums)}


def _key(digest: bytes) -> str:
    return digest[: _DIGITS // 2].hex()
