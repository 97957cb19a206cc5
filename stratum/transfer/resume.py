"""Packs that are fetched whole: files that outlive the process, and may hold the beginning of a pack already."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from stratum.errors import DamagedError
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source
from stratum.store import packcache
from stratum.store.layout import Layout, NoSpaceError, storing
from stratum.sys.atomic import write_all

PIECE = 8 << 20
"""Bytes of one request for what is missing: it is held in memory."""

_CHUNK = 1 << 20


class PackFiles:
    """The files of packs from ``source``: kept in the store (``store.packcache``) where they come over a network and
    no other pull has them, and nameless files in ``directory`` otherwise."""

    def __init__(self, layout: Layout, directory: Path, source: Source) -> None:
        self._layout = layout
        self._directory = directory
        self._kept = not source.local
        self._where = source.target.place
        self._done: deque[Descriptor] = deque()

    @contextmanager
    def whole(self, remote: Source, pack: Descriptor, count: Callable[[int], None]) -> Iterator[BinaryIO]:
        """The pack as a file, compared with its digest. ``count`` is called with the bytes that arrive; what it raises
        ends the work. Raises as ``Source.read_blob`` does, and ``StratumError`` where the file cannot be written."""
        from tempfile import TemporaryFile

        with storing("write a pack to the store"):
            kept = packcache.open_pack(self._layout, self._where, pack.digest) if self._kept else None
            file = kept or cast("BinaryIO", TemporaryFile(dir=self._directory, buffering=0))  # noqa: SIM115
        with file:
            try:
                _complete(remote, pack, file, count)
                yield file
            except (DamagedError, NoSpaceError):
                if kept is not None:  # it is no use, or in the way
                    self.remove([pack])
                raise

    def taken_apart(self, pack: Descriptor) -> None:
        """Note that every object that was wanted of the pack is there, and only waits for its place in the store."""
        self._done.append(pack)

    @contextmanager
    def done_with(self) -> Iterator[None]:
        """Remove the files of the packs that were taken apart so far, once the block has given the objects their
        places."""
        done = [self._done.popleft() for _ in range(len(self._done))]
        yield
        self.remove(done)

    def remove(self, packs: Iterable[Descriptor]) -> None:
        """Remove the files of packs, also what a pull that was killed left of them."""
        for pack in packs:
            packcache.remove(self._layout, self._where, pack.digest)


def _complete(remote: Source, pack: Descriptor, file: BinaryIO, count: Callable[[int], None]) -> None:
    """Have the whole of ``pack`` in ``file`` (unbuffered), compared with its digest.

    What is in the file is kept as far as it goes; where that, with the rest, is not the pack, all of it is fetched.
    """
    if _go_on(remote, pack, file, count):
        return
    with storing("write a pack to the store"):
        file.seek(0)
        file.truncate()
    for piece in remote.read_blob(pack):
        with storing("write a pack to the store"):
            write_all(file.fileno(), piece)
        count(len(piece))


def _go_on(remote: Source, pack: Descriptor, file: BinaryIO, count: Callable[[int], None]) -> bool:
    """Add to the file what is missing, by requests for ranges; whether it is the pack then."""
    sha, position = hashlib.sha256(), 0
    with storing("read a pack in the store"):
        if not 0 < os.fstat(file.fileno()).st_size <= pack.size:
            return False
        file.seek(0)
        while data := file.read(_CHUNK):
            sha.update(data)
            position += len(data)
    while position < pack.size:
        wanted = min(PIECE, pack.size - position)
        part = remote.read_range(pack, position, wanted)
        if part is None or len(part) != wanted:
            return False
        with storing("write a pack to the store"):
            write_all(file.fileno(), part)
        sha.update(part)
        position += wanted
        count(wanted)
    return sha.hexdigest() == pack.hex
