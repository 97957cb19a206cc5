"""Blobs: given out whole or by ranges, and deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stratum.serve.asked import Asked, missing
from stratum.serve.ranges import UnsatisfiableError, parse_range
from stratum.serve.refusals import Refusal

if TYPE_CHECKING:
    from stratum.api.registry import Registry, ServedBlob

_PIECE = 256 << 10
"""Bytes that are read and sent at once: what one client may have in memory, twice."""

_TYPE = "application/octet-stream"


class Blobs:
    """The blobs of ``registry``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get(self, request: Request) -> Response:
        """A blob, or the range that is asked for."""
        asked = Asked(request, self._registry)
        digest = asked.digest()
        with missing("BLOB_UNKNOWN", "there is no such blob"):
            blob = await run_in_threadpool(asked.readable().blob, digest)
        tag = f'"{digest}"'
        headers = {"Docker-Content-Digest": digest, "ETag": tag, "Accept-Ranges": "bytes", "Content-Type": _TYPE}
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("Range") if request.headers.get("If-Range", tag) == tag else None
        try:
            part = parse_range(wanted, blob.size)
        except UnsatisfiableError as exc:
            whole = {"Content-Range": f"bytes */{blob.size}"}
            raise Refusal(416, str(exc), code="SIZE_INVALID", headers=whole) from None
        start, stop = part or (0, blob.size)
        headers["Content-Length"] = str(stop - start)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        if request.method == "HEAD":
            return Response(status_code=200, headers=headers)
        return StreamingResponse(_pieces(blob, start, stop), 206 if part else 200, headers)

    async def delete(self, request: Request) -> Response:
        """Take a blob out of a repository."""
        asked = Asked(request, self._registry)
        digest = asked.digest()
        repository = asked.deletable()
        with missing("BLOB_UNKNOWN", "there is no such blob"):
            await run_in_threadpool(repository.delete_blob, digest)
        return Response(status_code=202)


def _pieces(blob: ServedBlob, start: int, stop: int) -> Iterator[bytes | memoryview]:
    """The bytes from ``start`` to ``stop``, in pieces that do not fill the memory."""
    if blob.file is not None:
        yield from _of_file(blob.file, start, stop)
        return
    for piece in blob.read(start, stop):
        for at in range(0, len(piece), _PIECE):
            yield memoryview(piece)[at : at + _PIECE]


def _of_file(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with closing(os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0)) as file:
        while start < stop:
            data = os.pread(file.fileno(), min(_PIECE, stop - start), start)
            if not data:
                raise OSError(f"{path} is shorter than it was")
            start += len(data)
            yield data
