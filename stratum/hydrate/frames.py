"""Cutting frames of a pack into the objects that a commit needs.

A catalog says where in the archive of a pack each object begins; what is at that place is believed only if its
fs-verity digest is the object's. Everything else that frames hold (headers, objects of other commits) is passed over.
So nothing that a place sends can become anything but what was asked for.

An object that lies on the seam of two runs of frames is put together from both (``Seams``), whichever comes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.hydrate.unpack import Frame, Putter, Unpacked, Whole, content_of
from stratum.hydrate.unpacker import UNPACKING

if TYPE_CHECKING:
    from stratum.hydrate.landing import Arriving, Landing
    from stratum.hydrate.remote import Remote
    from stratum.store.catalog import Catalog, CatalogFrame, CatalogMember

SEAM_MAX = 1 << 20
"""Only objects of up to so many bytes are put together from two runs of frames."""
SEAMS_BYTES = 8 << 20
NOTICED = 16

Landed = Callable[["CatalogMember", "StratumError | None"], None]
"""Told of each object that landed, or did not and why."""
Unpack = Callable[[Frame, Putter], Unpacked]


class Seams:
    """Pieces of objects that lie on seams, at most ``SEAMS_BYTES`` of them; the oldest go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._whole: set[int] = set()
        self._bytes = 0

    def has(self, number: int) -> bool:
        """Whether a piece of the object with this number is kept, or all of it until it has landed."""
        return number in self._whole or number in self._pieces

    def landed(self, number: int) -> None:
        """What ``meet`` gave has landed, or cannot."""
        self._whole.discard(number)

    def meet(self, number: int, size: int, start: int, piece: bytes) -> bytes | None:
        """The whole object (of the ``number`` and ``size``), where ``piece``, which begins at its byte ``start``, was
        what lacked. Then ``landed`` is to be called."""
        with self._lock:
            other = self._pieces.get(number)
            if other is not None:
                (begun, first), (then, second) = sorted([other, (start, piece)])
                if begun + len(first) == then:
                    start, piece = begun, first + second
                if len(piece) == size:
                    self._whole.add(number)
                self._bytes -= len(self._pieces.pop(number)[1])
                if len(piece) == size:
                    return piece
            self._pieces[number] = (start, piece)
            self._bytes += len(piece)
            while self._bytes > SEAMS_BYTES:
                self._bytes -= len(self._pieces.popitem(last=False)[1][1])
            return None


def compressed(
    catalog: Catalog, remote: Remote, first: int, last: int, most: int
) -> Iterator[tuple[CatalogFrame, memoryview]]:
    """The frames [first, last) of a pack with their bytes, which are asked for up to ``most`` at a time. Raises
    ``StratumError``."""
    while first < last:
        together = [catalog.frame(first)]
        size = together[0].size
        first += 1
        while first < last and size + (frame := catalog.frame(first)).size <= most:
            together.append(frame)
            size += frame.size
            first += 1
        start = together[0].start
        data = memoryview(remote.read(catalog.packs[together[0].pack].pack, start, size))
        for frame in together:
            yield frame, data[frame.start - start : frame.start - start + frame.size]


def archive_of(
    frames: Iterator[tuple[CatalogFrame, memoryview]], what: str
) -> Generator[tuple[int, memoryview], None, None]:
    """(where it begins in the archive, content) of each compressed frame. ``DamagedError`` naming ``what``.

    While the caller has the content of one, nobody else gets any: to be closed by who does not read on.
    """
    for frame, data in frames:
        with UNPACKING:
            content = content_of(data, frame.archive_size, what)
            del data
            yield frame.archive_start, content
            del content


class Cutter:
    """Lands the objects of frames [first, last) of a pack that are ``wanted``, and tells ``landed`` of each.

    What is ``ahead`` of its readers lands where they find it without asking, but for one of ``NOTICED`` objects of a
    frame: by those it is known how far readers have come, and what they read, at little cost.
    """

    def __init__(
        self,
        catalog: Catalog,
        span: tuple[int, int],
        landing: Landing,
        seams: Seams,
        wanted: Callable[[CatalogMember], bool],
        ahead: Callable[[CatalogMember], bool],
        landed: Landed,
    ) -> None:
        self._catalog, self._span, self._landing, self._seams = catalog, span, landing, seams
        self._wanted, self._ahead, self._landed = wanted, ahead, landed
        self._arriving: Arriving | None = None

    def cut(self, frames: Iterator[tuple[CatalogFrame, memoryview]], unpack: Unpack, what: str) -> None:
        """Take the objects from the compressed frames, in order, as ``unpack`` has them. Raises what that does, naming
        ``what``, and what ``frames`` does."""
        members = self._members()
        member = next(members, None)
        try:
            for frame, data in frames:
                end = frame.archive_start + frame.archive_size
                found = []
                while member is not None and member.offset < end:
                    found.append(member)
                    if member.offset + member.size > end:
                        break
                    member = next(members, None)
                if found:
                    self._take(frame, data, found, unpack, what)
        finally:
            if self._arriving is not None:
                self._arriving.drop()

    def _members(self) -> Iterator[CatalogMember]:
        """What is wanted and lies in the frames in whole or, at their ends, in part."""
        first, last = self._catalog.members_within(*self._span)
        begin = self._catalog.frame(self._span[0])
        pack = self._catalog.packs[begin.pack]
        low, high = max(first - 1, pack.members[0]), min(last + 1, pack.members[1])
        for member in self._catalog.members(low, high):
            whole = first <= member.number < last
            reaches = member.offset + member.size > begin.archive_start
            if (whole or (reaches and member.size <= SEAM_MAX)) and self._wanted(member):
                yield member

    def _take(
        self, frame: CatalogFrame, data: memoryview, members: Iterable[CatalogMember], unpack: Unpack, what: str
    ) -> None:
        """Take what the frame has of these objects."""
        begin, end = frame.archive_start, frame.archive_start + frame.archive_size
        inside, wholes, across, pieces = [], list[Whole](), [], []
        for member in members:
            start, stop = max(member.offset, begin), min(member.offset + member.size, end)
            if stop - start == member.size:
                ahead = bool(len(wholes) % NOTICED) and self._ahead(member)
                wholes.append(Whole(member.digest, start - begin, stop - begin, ahead))
                inside.append(member)
            elif stop > start:
                across.append((member, start - member.offset))
                pieces.append((start - begin, stop - begin))
        self._landing.make_room(sum(member.size for member in inside))
        done = unpack(Frame(data, frame.archive_size, wholes, pieces, what), self._landing.putter)
        for number, (member, whole) in enumerate(zip(inside, wholes, strict=True)):
            error = done.problems.get(number)
            if error is None:
                self._landing.landed(member.digest, member.size, ahead=whole.ahead)
            self._landed(member, error)
        for (member, begun), piece in zip(across, done.pieces, strict=True):
            try:
                if not self._put(member, begun, memoryview(piece)):
                    continue
            except StratumError as exc:
                self._arriving = None
                self._landed(member, exc)
            else:
                self._landed(member, None)

    def _put(self, member: CatalogMember, start: int, piece: memoryview) -> bool:
        """Whether the object has landed with this piece of it."""
        if member.size <= SEAM_MAX:
            whole = self._seams.meet(member.number, member.size, start, bytes(piece))
            if whole is None:
                return False
            try:
                self._landing.add(member.digest, whole)
            finally:
                self._seams.landed(member.number)
            return True
        if start == 0:
            self._arriving = self._landing.arriving(member.digest, member.size)
        if self._arriving is None:  # what came before failed
            return False
        self._arriving.write(piece)
        if start + len(piece) < member.size:
            return False
        arrived, self._arriving = self._arriving, None
        arrived.done()
        return True
