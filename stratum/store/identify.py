"""The SHA-512 of objects, which C4 IDs are made of: here, or in worker processes.

An object is compared with its own digest in the same pass, so that no ID stands for content that is damaged. The first
message to a worker (``sys.workers``) is the path of the store; each further one a list of (digest, size), answered by
``(OK, [SHA-512, ...])`` or ``(FAILED, class, message, hint)``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from stratum.composefs.verity import VerityHasher, verity_digest
from stratum.errors import DamagedError, StratumError
from stratum.store.layout import storage_error
from stratum.store.objects import Objects
from stratum.sys.workers import Connection, serve

OK, FAILED = range(2)
_PIECE = 1 << 20


def sha512_of(objects: Objects, digest: bytes, size: int) -> bytes:
    """The SHA-512 of the object ``digest`` of ``size`` bytes. ``DamagedError`` where it is missing or another."""
    fd = objects.open(digest)
    try:
        data = os.read(fd, min(size + 1, _PIECE))
        if len(data) == size < _PIECE:
            found, sha = verity_digest(data), hashlib.sha512(data, usedforsecurity=False)
        else:
            verity, sha, length = VerityHasher(), hashlib.sha512(usedforsecurity=False), 0
            while data and length <= size:
                length += len(data)
                verity.update(data)
                sha.update(data)
                data = os.read(fd, _PIECE)
            found = verity.digest()
    except OSError as exc:
        raise storage_error(exc, f"read object {digest.hex()}") from None
    finally:
        os.close(fd)
    if found != digest:
        raise DamagedError(f"object {digest.hex()} does not match its digest", hint="run 'stratum fsck'")
    return sha.digest()


def identify(objects: Objects, wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """The SHA-512 of each (digest, size)."""
    return [sha512_of(objects, digest, size) for digest, size in wanted]


def main() -> None:
    """Identify objects for the process that started this one."""
    objects: Objects | None = None

    def answer(connection: Connection, message: Any, _directories: list[int]) -> None:
        nonlocal objects
        if objects is None:
            objects = Objects.below(os.fsdecode(message))
            return
        try:
            connection.send((OK, identify(objects, message)))
        except StratumError as exc:
            connection.send((FAILED, type(exc).__name__, exc.message, exc.hint))

    serve(answer)
