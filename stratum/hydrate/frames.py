"""Cutting frames of a pack into the objects that a commit needs.

A catalog says where in the archive of a pack each object begins; what is at that place is believed only if its
fs-verity digest is the object's. Everything else that frames hold (headers, objects of other commits) is passed over.
So nothing that a place sends can become anything but what was asked for.

An object that lies on the seam of two runs of frames is put together from both (``Seams``), whichever comes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError
from stratum.transfer.packs import decompress

if TYPE_CHECKING:
    from stratum.hydrate.landing import Arriving, Landing
    from stratum.hydrate.remote import Remote
    from stratum.store.catalog import Catalog, CatalogFrame, CatalogMember

SEAM_MAX = 1 << 20
"""Only objects of up to so many bytes are put together from two runs of frames."""
SEAMS_BYTES = 8 << 20
NOTICED = 16

_UNPACKING = threading.Lock()
"""Threads of one interpreter do not unpack faster side by side: they only keep the one that answers readers waiting.
Fetching goes on meanwhile."""

Landed = Callable[["CatalogMember", "StratumError | None"], None]
"""Told of each object that landed, or did not and why."""


class Seams:
    """Pieces of objects that lie on seams, at most ``SEAMS_BYTES`` of them; the oldest go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    def has(self, number: int) -> bool:
        """Whether a piece of the object with this number is kept."""
        return number in self._pieces

    def meet(self, number: int, size: int, start: int, piece: bytes) -> bytes | None:
        """The whole object (of the ``number`` and ``size``), where ``piece``, which begins at its byte ``start``, was
        what lacked."""
        with self._lock:
            other = self._pieces.pop(number, None)
            if other is not None:
                self._bytes -= len(other[1])
                (begun, first), (then, second) = sorted([other, (start, piece)])
                if begun + len(first) == then:
                    start, piece = begun, first + second
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
        with _UNPACKING:
            content = decompress(data, frame.archive_size, what)
            del data
            if len(content) != frame.archive_size:
                raise DamagedError(f"{what}: a frame has {len(content)} bytes, not {frame.archive_size}")
            yield frame.archive_start, memoryview(content)
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
        self._taken = 0
        self._arriving: Arriving | None = None

    def cut(self, pieces: Iterator[tuple[int, memoryview]]) -> None:
        """Take the objects from the content of the frames, in order. Raises what ``pieces`` does; memory: a frame."""
        members = self._members()
        member = next(members, None)
        try:
            for begin, content in pieces:
                end = begin + len(content)
                self._taken = 0
                while member is not None and member.offset < end:
                    self._take(member, begin, content)
                    if member.offset + member.size > end:
                        break
                    member = next(members, None)
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

    def _take(self, member: CatalogMember, begin: int, content: memoryview) -> None:
        """Take what ``content``, which begins at byte ``begin`` of the archive, has of the object."""
        start = max(member.offset, begin)
        piece = content[start - begin : member.offset + member.size - begin]
        try:
            if len(piece) == member.size:
                ahead = bool(self._taken % NOTICED) and self._ahead(member)
                self._taken += 1
                self._landing.add(member.digest, piece, ahead=ahead)
            elif not piece or not self._put(member, start - member.offset, piece):
                return
        except StratumError as exc:
            self._arriving = None
            self._landed(member, exc)
            return
        self._landed(member, None)

    def _put(self, member: CatalogMember, start: int, piece: memoryview) -> bool:
        """Whether the object has landed with this piece of it."""
        if member.size <= SEAM_MAX:
            whole = self._seams.meet(member.number, member.size, start, bytes(piece))
            if whole is None:
                return False
            self._landing.add(member.digest, whole)
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
