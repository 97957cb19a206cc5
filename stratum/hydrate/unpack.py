"""Unpacking a frame of a pack: the objects in it that are wanted become files, each verified.

This is most of the work of fetching, and is done in the worker or in a process beside it (``hydrate.unpacker``).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from stratum.composefs.verity import Buffer, verity_digest
from stratum.errors import DamagedError, StratumError
from stratum.store.layout import storage_error
from stratum.store.objects import OBJECT_MODE, Staging
from stratum.sys.atomic import write_all
from stratum.tree.zstdframe import decompress

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Whole(NamedTuple):
    """An object that bytes [start, stop) of a frame's content are; ``ahead``: nobody asked for it."""

    digest: bytes
    start: int
    stop: int
    ahead: bool


class Frame(NamedTuple):
    """A frame: ``data`` are its compressed bytes, ``size`` those of its content. ``wholes`` are objects in it that are
    wanted, ``pieces`` parts of it, [start, stop), that are. ``what`` names it in errors."""

    data: Buffer
    size: int
    wholes: Sequence[Whole]
    pieces: Sequence[tuple[int, int]]
    what: str


class Unpacked(NamedTuple):
    """What came of a frame: why objects of it (by their place among ``wholes``) did not, and the content of the
    pieces."""

    problems: dict[int, StratumError]
    pieces: list[bytes]


class Putter:
    """Writes objects into the directories ``landing`` and ``ahead``, by way of ``new`` in the first. ``mark`` is what
    its names there begin with, which are nobody else's."""

    def __init__(self, landing: str, ahead: str, new: str, mark: str = "") -> None:
        self.landing, self.ahead = Staging(landing), Staging(ahead)
        self.new = new
        self._new = f"{landing}/{new}/{mark}"
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """The path of a file that is not there."""
        return f"{self._new}{next(self._numbers)}"

    def put(self, digest: bytes, data: Buffer, *, ahead: bool = False) -> None:
        """Write an object. ``DamagedError`` where ``data`` is not what the digest says, ``StratumError`` where it
        cannot be written."""
        if verity_digest(data) != digest:
            raise differs(digest)
        path = self.fresh()
        try:
            try:
                fd = os.open(path, NEW_FILE, OBJECT_MODE)
                try:
                    write_all(fd, memoryview(data))
                finally:
                    os.close(fd)
                os.rename(path, (self.ahead if ahead else self.landing).place(digest))
            except BaseException:
                with suppress(OSError):
                    os.unlink(path)
                raise
        except OSError as exc:
            raise storage_error(exc, f"write object {digest.hex()}") from None


def content_of(data: Buffer, size: int, what: str) -> memoryview:
    """The content of a frame. ``DamagedError`` naming ``what``."""
    content = decompress(memoryview(data), size, what)
    if len(content) != size:
        raise DamagedError(f"{what}: a frame has {len(content)} bytes, not {size}")
    return memoryview(content)


def unpack(frame: Frame, putter: Putter) -> Unpacked:
    """Have the objects of a frame put. ``DamagedError`` where the frame itself is damaged."""
    content = content_of(frame.data, frame.size, frame.what)
    told = [_problem(putter, whole, content[whole.start : whole.stop]) for whole in frame.wholes]
    problems = {number: error for number, error in enumerate(told) if error is not None}
    return Unpacked(problems, [bytes(content[start:stop]) for start, stop in frame.pieces])


def _problem(putter: Putter, whole: Whole, data: memoryview) -> StratumError | None:
    """Why an object could not be put, if it could not."""
    try:
        putter.put(whole.digest, data, ahead=whole.ahead)
    except StratumError as exc:
        return exc
    return None


def differs(digest: bytes) -> DamagedError:
    """An object's bytes are not what its digest says."""
    return DamagedError(f"the bytes of object {digest.hex()} do not match its digest")
