"""Blobs: given out whole or by ranges, and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from stratum.serve.asked import Asked, missing
from stratum.serve.ranges import UnsatisfiableError, parse_range
from stratum.serve.refusals import Refusal
from stratum.serving import PARTS
from stratum.store.madepacks import PIECE

if TYPE_CHECKING:
    from io import FileIO

    from starlette.types import Receive, Scope, Send

    from stratum.api.registry import Registry, ServedBlob
    from stratum.store.madepacks import MadePack, MadePacks
    from stratum.sys.filesender import Part

_PIECE_MAX, _PIECE_MIN = 1 << 20, 64 << 10
_ROOM = 64 << 20
"""Bytes of blobs that are in memory at once: what one client may have of that is read and sent at once, and the fewer
clients there are, the faster that is."""
_STRETCH = 4 << 20
"""Bytes of a file that are sent before it is asked again whether they may be."""
_MAKING = 8
"""Pieces of packs that are made at once, to be kept."""

UNKNOWN = "there is no such blob"
_TYPE = "application/octet-stream"


class Blobs:
    """The blobs of ``registry``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._clients = 0
        self.making = CapacityLimiter(_MAKING)

    async def get(self, request: Request) -> Response:
        """A blob, or the range that is asked for."""
        asked = Asked(request, self._registry)
        digest = asked.digest()
        with missing("BLOB_UNKNOWN", UNKNOWN):
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
        return _Part(self, blob, start, stop, 206 if part else 200, headers)

    async def delete(self, request: Request) -> Response:
        """Take a blob out of a repository."""
        asked = Asked(request, self._registry)
        digest = asked.digest()
        repository = asked.deletable()
        with missing("BLOB_UNKNOWN", UNKNOWN):
            await run_in_threadpool(repository.delete_blob, digest)
        return Response(status_code=202)

    @property
    def made(self) -> MadePacks | None:
        """The packs that are kept as they are made for others."""
        return self._registry.made

    @contextmanager
    def sending(self) -> Iterator[None]:
        """One client more has a blob on its way."""
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

    @property
    def piece(self) -> int:
        """Bytes of what is made for one client alone that are in memory at once."""
        return min(max(_ROOM // max(self._clients, 1), _PIECE_MIN), _PIECE_MAX)


class _Part(Response):
    """The bytes [start, stop) of a blob as an answer."""

    def __init__(
        self, blobs: Blobs, blob: ServedBlob, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(None, status, headers)
        self._blobs, self._blob = blobs, blob
        self._at, self._stop = start, stop
        self._kept: MadePack | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        blob, made = self._blob, self._blobs.made
        with ExitStack() as stack:
            stack.enter_context(self._blobs.sending())
            file = None
            if blob.open is not None:
                file = stack.enter_context(open(await run_in_threadpool(blob.open), "rb", buffering=0))
            elif blob.pack is not None and made is not None and self._stop - self._at >= min(blob.size, PIECE):
                await run_in_threadpool(made.ask, blob.pack, blob.size)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._at < self._stop:
                if file is not None:
                    end = min(self._at + _STRETCH, self._stop)
                    await self._send_of(file, [*blob.parts(self._at, end)], end, send)
                elif made is not None and blob.pack is not None and (kept := self._taken(made, blob.pack, stack)):
                    await self._send_kept(made, blob.pack, kept, send)
                else:
                    await self._send_made(send)
            await send({"type": "http.response.body"})

    def _taken(self, made: MadePacks, name: str, stack: ExitStack) -> MadePack | None:
        """The pack, where it is kept by now, until the answer ends."""
        if self._kept is None:
            self._kept = made.take(name)
            if self._kept is not None:
                stack.callback(made.give_back, self._kept)
        return self._kept

    async def _send_kept(self, made: MadePacks, name: str, kept: MadePack, send: Send) -> None:
        """Send the next bytes of a pack that is kept, once they are there."""
        end = kept.made_until(self._at)
        if end == self._at:
            await to_thread.run_sync(made.make, name, self._at, self._blob.read, limiter=self._blobs.making)
            end = kept.made_until(self._at)
        if end == self._at:  # it is not kept any more
            self._kept = None
            await self._send_made(send)
            return
        end = min(end, self._stop)
        await self._send_of(kept, [(self._at, end)], end, send)

    async def _send_of(self, file: FileIO | MadePack, parts: Sequence[Part], end: int, send: Send) -> None:
        """Send the bytes as far as ``end``, which are these parts of a file."""
        await send({"type": PARTS, "file": file, "parts": parts, "count": end - self._at})
        self._at = end

    async def _send_made(self, send: Send) -> None:
        """Send the next bytes, made for this client alone."""
        end = min(self._at + self._blobs.piece, self._stop)
        for data in await run_in_threadpool(list, self._blob.read(self._at, end)):
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._at += len(data)
