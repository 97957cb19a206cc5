"""Fetching a pack into a file that may hold the beginning of it already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source
from stratum.store.layout import storing
from stratum.sys.atomic import write_all

PIECE = 8 << 20
"""Bytes of one request for what is missing: it is held in memory."""

_CHUNK = 1 << 20


def complete(remote: Source, pack: Descriptor, file: BinaryIO, count: Callable[[int], None]) -> None:
    """Have the whole of ``pack`` in ``file`` (unbuffered), compared with its digest.

    What is in the file is kept as far as it goes; where that, with the rest, is not the pack, all of it is fetched.
    ``count`` is called with the bytes that arrived; what it raises ends the work. Raises as ``Source.read_blob`` does,
    and ``StratumError`` where the file cannot be written.
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
