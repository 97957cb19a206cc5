"""Packs that a server makes for its clients, kept for a while: who asks for what others ask for too gets it of a file.

The first who asks for a pack has it made alone, and nothing is written. From the second on, where that is within
``KEPT``, it is kept, piece by piece: each is made by who comes to it first, while others who want it wait for that.

The files have no names. They go with the process, however that ends, and nobody else finds them: neither a garbage
collection nor a power cut has anything to clear away. What they take is bounded by a limit of all together, by what
has to stay free (``store.budget``), and by time: one that nobody asked for in ``KEPT`` goes. Nothing is kept where the
file system has no files without names. Threads may share all of it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.store.budget import Budget
    from stratum.store.layout import Layout

KEPT = 600.0
"""Seconds."""

PIECE = 1 << 20
"""Bytes that are made at a time."""

FILES_MAX = 512
"""Files that are open at most for packs that are kept."""

_LOOK_EACH = 10.0
"""Seconds after which it is looked for what is to go."""
_RESERVE = 10
"""Where nobody chose what is to stay free, so many times what all files may take is enough of it."""
_ASKED_MAX = 10_000
"""Packs of which it is known that somebody asked for them."""

_MISSING, _MAKING, _MADE = 0, 1, 2

Read = Callable[[int, int], Iterator[bytes | memoryview]]
"""Makes the bytes [start, end) of a pack. Raises ``StratumError``."""


class MadePack:
    """A pack of ``size`` bytes, called by the hex digits of its SHA-256, in a file, as far as it is made. Whoever has
    it gives it back (``MadePacks.give_back``), and may use the file until then."""

    def __init__(self, name: str, file: int, size: int) -> None:
        self._name = name
        self._file = file
        self.size = size
        self.users = 0
        self.asked = time.monotonic()
        self.is_dropped = False
        self._pieces = bytearray(-(-size // PIECE))
        self._changed = threading.Condition()

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._file

    @property
    def unmade(self) -> int:
        """Bytes that are not there, or so many more as a piece has."""
        return (len(self._pieces) - self._pieces.count(_MADE)) * PIECE

    def made_until(self, start: int) -> int:
        """How far what is there goes on from ``start``, to the end of its piece: ``start`` where that is not there."""
        number = start // PIECE
        return min((number + 1) * PIECE, self.size) if self._pieces[number] == _MADE else start

    def make(self, start: int, read: Read) -> bool:
        """As ``MadePacks.make``."""
        number = start // PIECE
        with self._changed:
            while self._pieces[number] == _MAKING:
                self._changed.wait()
            if self._pieces[number] == _MADE:
                return True
            self._pieces[number] = _MAKING
        state = _MISSING
        try:
            at = number * PIECE
            for data in read(at, min(at + PIECE, self.size)):
                at += _write(self._file, data, at)
            state = _MADE
        except OSError:  # of writing: ``read`` raises none
            return False
        finally:
            with self._changed:
                self._pieces[number] = state
                done = self._pieces.count(_MADE) == len(self._pieces)
                self._changed.notify_all()
        return not done or self._is_right()

    def _is_right(self) -> bool:
        digest = hashlib.sha256()
        try:
            for at in range(0, self.size, PIECE):
                digest.update(os.pread(self._file, PIECE, at))
        except OSError:
            return False
        return digest.hexdigest() == self._name


class MadePacks:
    """The packs that are kept. ``most`` are the bytes that they take together, 0 for none; ``budget`` says what has to
    stay free of the file system of the store."""

    def __init__(self, layout: Layout, budget: Budget, most: int) -> None:
        self._layout = layout
        self._budget = budget
        self._most = most
        self._lock = threading.Lock()
        self._packs: OrderedDict[str, MadePack] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._taken = 0
        self._is_looking = False

    def ask(self, name: str, size: int) -> None:
        """Note that somebody is going to read the pack, or much of it; it is kept from now on where that is wanted."""
        now = time.monotonic()
        with self._lock:
            pack = self._packs.get(name)
            if pack is not None:
                pack.asked = now
                self._packs.move_to_end(name)
                return
            before = self._asked.pop(name, None)
            self._asked[name] = now
            if len(self._asked) > _ASKED_MAX:
                self._asked.popitem(last=False)
            if before is None or now - before > KEPT or not self._make_room(size):
                return
            try:
                flags = os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC  # O_EXCL: it never gets a name
                file = os.open(self._layout.root, flags, 0o600)
            except OSError:
                return
            self._packs[name] = MadePack(name, file, size)
            self._taken += size
            if not self._is_looking:
                self._is_looking = True
                threading.Thread(target=self._look, daemon=True, name="made packs").start()

    def take(self, name: str) -> MadePack | None:
        """The pack, where it is kept, to be given back."""
        with self._lock:
            pack = self._packs.get(name)
            if pack is not None:
                pack.users += 1
            return pack

    def give_back(self, pack: MadePack) -> None:
        """What ``take`` gave is not used any more."""
        with self._lock:
            pack.users -= 1
            self._close(pack)

    def make(self, name: str, start: int, read: Read) -> bool:
        """Have the piece of a pack there that ``start`` is in, made by ``read`` or by somebody else meanwhile. False
        where the pack is not kept any more: it cannot be written, or is not what it is called. Raises what ``read``
        does. Whoever has this done by a thread need not wait for its end: the file stays open until then."""
        pack = self.take(name)
        if pack is None:
            return False
        try:
            made = pack.make(start, read)
        finally:
            self.give_back(pack)
        if not made:
            with self._lock:
                if self._packs.get(name) is pack:
                    self._drop(name)
        return made

    def _drop(self, name: str) -> None:
        pack = self._packs.pop(name)
        pack.is_dropped = True
        self._close(pack)

    def _close(self, pack: MadePack) -> None:
        """Let a file go that nobody needs any more."""
        if pack.is_dropped and not pack.users:
            os.close(pack.fileno())
            self._taken -= pack.size

    def _make_room(self, size: int) -> bool:
        """Whether a pack of ``size`` bytes can be kept: those that were asked for the longest ago go for it."""
        if size > self._most or self._is_tight(size):
            return False
        for name, pack in list(self._packs.items()):
            if self._taken + size <= self._most and len(self._packs) < FILES_MAX:
                break
            if not pack.users:
                self._drop(name)
        return self._taken + size <= self._most and len(self._packs) < FILES_MAX

    def _is_tight(self, coming: int) -> bool:
        """Whether the file system has too little room for what is not made yet, and ``coming`` bytes more."""
        try:
            disk = os.statvfs(self._layout.root)
        except OSError:
            return True
        free, wanted = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize * self._budget.min_free // 100
        if not self._budget.is_set:
            wanted = min(wanted, _RESERVE * self._most)
        return free - coming - sum(pack.unmade for pack in self._packs.values()) < wanted

    def _look(self) -> None:
        """Drop what nobody asks for, and all that nobody reads where the disk gets full, until nothing is kept."""
        while True:
            time.sleep(_LOOK_EACH)
            with self._lock:
                tight, old = self._is_tight(0), time.monotonic() - KEPT
                for name, pack in list(self._packs.items()):
                    if not pack.users and (tight or pack.asked < old):
                        self._drop(name)
                if not self._packs:
                    self._is_looking = False
                    return


def _write(file: int, data: bytes | memoryview, at: int) -> int:
    """Write all of ``data`` there; its size. ``OSError``."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, at)
        rest, at = rest[written:], at + written
    return len(data)
