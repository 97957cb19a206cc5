"""A worker process that reads batches of files for ``ingest.pool`` and sends back what it found.

The first message (``sys.workers``) has the arguments of ``stager_for``; each further one is a batch, a list with one
(files) per directory, whose descriptors come with it. Each batch is answered by one of

- ``(OK, [[FileRead or None, ...], ...])``, parallel to the batch,
- ``(SOURCE_FAILED, number of the directory, of the file, errno, text)``,
- ``(STORE_FAILED, errno, text)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratum.errors import os_error_text
from stratum.ingest.staging import FileRead, Signature, Stager, StagingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stratum.sys.workers import Connection

OK, SOURCE_FAILED, STORE_FAILED = range(3)

FileRequest = tuple[bytes, Signature, bool, "bytes | None", "bytes | None"]
"""Name, signature when listed, whether to read xattrs, digest that the content probably has, and the one that it had
when a file with this signature was read before."""

Request = list[list[FileRequest]]
Answer = tuple[Any, ...]


def read_batch(stager: Stager, directories: list[int], request: Request) -> Answer:
    """Read a batch, one list of files for each of ``directories`` (descriptors); the answer as described above."""
    results: list[list[FileRead | None]] = []
    try:
        for directory, files in zip(directories, request, strict=True):
            found: list[FileRead | None] = []
            results.append(found)
            for name, listed, xattrs, candidate, before in files:
                found.append(stager.read(directory, name, listed, xattrs=xattrs, candidate=candidate, before=before))
    except StagingError as exc:
        return (STORE_FAILED, exc.error.errno, os_error_text(exc.error))
    except OSError as exc:
        return (SOURCE_FAILED, len(results) - 1, len(found), exc.errno, os_error_text(exc))
    return (OK, results)


def stager_for(store: bytes, staging: bytes, tag: str, salvage: Sequence[bytes], adopts: bool | None) -> Stager:
    """The ``Stager`` with these arguments, or the one for files that are to go (``ingest.adopting``)."""
    if adopts is None:
        return Stager(store, staging, tag, salvage)
    from stratum.ingest.adopting import Adopter

    return Adopter(store, staging, tag, adopts=adopts)


def main() -> None:
    """Read files for the process that started this one."""
    from stratum.sys.workers import serve

    stager: Stager | None = None

    def answer(connection: Connection, message: Any, directories: list[int]) -> None:
        nonlocal stager
        if stager is None:
            stager = stager_for(*message)
        else:
            connection.send(read_batch(stager, directories, message))

    serve(answer)
