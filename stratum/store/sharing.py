"""Which objects several commits and histories share, and what each of these has for itself.

Somebody who needs objects is a **user**: a commit, or the history of a worktree. Each gets a bit, each object the set
of the bits of its users, and objects with one set are counted together: whatever is asked of who shares what is then
answered by the sets, of which there are few.

Dumps of large trees are zstd frames that other dumps have too (``store.frames``). Each frame is unpacked once, however
many commits have it, and taken apart into **stretches** of lines, about a directory each, of which dumps that differ in
little have most in common. Each stretch is read once, so this takes time for what differs rather than for each line of
each dump, and about 200 bytes of memory for an object. Dumps are not compared with their commit's name
here: what is damaged counts wrongly, and ``fsck`` tells of it.

Whoever calls this holds the store's lock, shared, so that nothing is collected meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError
from stratum.hashes import blake2b
from stratum.tree.contents import named_digests, named_objects

if TYPE_CHECKING:
    from stratum.store.store import Store

_DIGITS = 24
"""Hex digits of a digest that tell objects apart here."""
_CUT = b" 0 4"
"""What a directory's line has behind its path (its size, its mode). A stretch begins with a line that has it."""
_NOT_HERE = -1
_SIZE_MAX = (1 << 63) - 1


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


class Sharing:
    """Who shares what, as ``measure`` found it. ``damaged`` are users of which not all is known, with what is wrong."""

    def __init__(
        self,
        bits: Mapping[object, int],
        amounts: Mapping[int, Amount],
        damaged: Mapping[object, str],
        users_of: Callable[[bytes], int],
    ) -> None:
        self._bits = bits
        self._amounts = amounts
        self.damaged = damaged
        self.users_of = users_of
        """The set of users of the object with this digest."""

    def mask(self, users: Iterable[object]) -> int:
        """The set of those of the ``users`` that were measured."""
        found = 0
        for user in users:
            found |= self._bits.get(user, 0)
        return found

    def total(self, users: int) -> Amount:
        """The objects that any of the set ``users`` needs."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if mask & users))

    def own(self, users: int, others: int) -> Amount:
        """The objects that any of the set ``users`` needs, and none of the set ``others``."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if mask & users and not mask & others))

    def each(self, users: Iterable[object], staying: int) -> dict[object, tuple[Amount, Amount]]:
        """For each of the ``users`` the objects that it needs, and those of them that nobody else of the set
        ``staying`` needs."""
        found = {user: (Amount(), Amount()) for user in users}
        bits = {self._bits[user]: user for user in found if user in self._bits}
        wanted = self.mask(found)
        for mask, amount in self._amounts.items():
            rest, needing = mask & wanted, mask & staying
            while rest:
                bit = rest & -rest
                rest ^= bit
                total, own = found[bits[bit]]
                found[bits[bit]] = total.plus(amount), own.plus(amount) if not needing & ~bit else own
        return found

    def unneeded(self, users: int) -> Amount:
        """The objects that none of the set ``users`` needs."""
        return Amount().plus(*(amount for mask, amount in self._amounts.items() if not mask & users))

    def sets(self) -> Iterator[tuple[int, Amount]]:
        """Each set of users that shares any objects, and these."""
        return iter(self._amounts.items())


def measure(store: Store, commits: Iterable[str], others: Mapping[object, Iterable[bytes]]) -> Sharing:
    """What ``commits`` and ``others`` (user -> digests that it needs) share of the objects in the store, and what they
    need of others. Raises ``StratumError`` where the store cannot be read."""
    measured = _Measuring(store)
    bits: dict[object, int] = {}
    for commit in commits:
        bits[commit] = 1 << len(bits)
        measured.find_frames(commit, bits[commit])
    for user, digests in others.items():
        bits[user] = 1 << len(bits)
        measured.add_digests(digests, bits[user])
    measured.read_frames()
    return Sharing(bits, measured.amounts(), measured.damaged, measured.users_of)


class _Stretch:
    """The ``numbers`` of the objects in some lines, and the set of who has these lines."""

    __slots__ = ("mask", "numbers")

    def __init__(self, numbers: array[int]) -> None:
        self.mask = 0
        self.numbers = numbers


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
        self._stretches: dict[bytes, _Stretch] = {}
        self.damaged: dict[object, str] = {}

    @contextmanager
    def _told(self, commit: str) -> Iterator[None]:
        """Note what is wrong with a commit in the block, and go on."""
        try:
            yield
        except (DamagedError, NotFoundError) as exc:
            self.damaged.setdefault(commit, exc.message)

    def find_frames(self, commit: str, mask: int) -> None:
        """Add the users in ``mask`` to what the commit's dump names, once all are read."""
        with self._told(commit):
            for block in self._store.trees.pieces(commit):
                self._add_stretches(block, mask)

    def read_frames(self) -> None:
        """Add what was read."""
        for stretch in self._stretches.values():
            self._add(stretch.numbers, stretch.mask)

    def _add_stretches(self, lines: bytes, mask: int) -> None:
        """Have the users in ``mask`` need the objects of some lines, once all frames are read."""
        start = at = 0
        while start < len(lines):
            at = lines.find(_CUT, max(at, start) + len(_CUT))
            cut = lines.rfind(b"\n", start, at) + 1 if at >= 0 else len(lines)
            if cut <= start:  # the line that it begins with, or one with this twice
                continue
            stretch = lines[start:cut]
            key = blake2b(stretch, digest_size=16).digest()
            found = self._stretches.get(key)
            if found is None:
                found = self._stretches[key] = _Stretch(self._objects_in(stretch))
            found.mask |= mask
            start = cut

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
