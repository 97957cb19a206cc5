"""Blobs: given out whole or by ranges, and deleted."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stratum.serve.asked import Asked, missing
from stratum.serve.ranges import UnsatisfiableError, parse_range
from stratum.serve.refusals import Refusal

if TYPE_CHECKING:
    from stratum.api.registry import Registry, ServedBlob

_PIECE_MAX, _PIECE_MIN = 1 << 20, 64 << 10
_ROOM = 64 << 20
"""Bytes of blobs that are in memory at once: what one client may have of that is read and sent at once, and the fewer
clients there are, the faster that is."""

_TYPE = "application/octet-stream"


class Blobs:
    """The blobs of ``registry``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._clients = 0

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
        return StreamingResponse(self._pieces(blob, start, stop), 206 if part else 200, headers)

    def _pieces(self, blob: ServedBlob, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from ``start`` to ``stop``, in pieces that together with those of others do not fill the memory."""
        with ExitStack() as stack:
            read = blob.read if blob.file is None else partial(_read, stack.enter_context(_opened(blob.file)))
            stack.enter_context(self._counted())
            while start < stop:
                size = min(max(_ROOM // self._clients, _PIECE_MIN), _PIECE_MAX)
                for piece in read(start, min(start + size, stop)):
                    start += len(piece)
                    yield memoryview(piece)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._clients += 1
        try:
            yield
        finally:
            with self._lock:
                self._clients -= 1

    async def delete(self, request: Request) -> Response:
        """Take a blob out of a repository."""
        asked = Asked(request, self._registry)
        digest = asked.digest()
        repository = asked.deletable()
        with missing("BLOB_UNKNOWN", "there is no such blob"):
            await run_in_threadpool(repository.delete_blob, digest)
        return Response(status_code=202)


def _opened(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0)


def _read(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    data = os.pread(file.fileno(), stop - start, start)
    if not data:
        raise OSError(errno.EIO, f"a blob is shorter than it was, {start} bytes")
    yield data
