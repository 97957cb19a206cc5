"""Blobs that are pushed: whole, in chunks, or by taking them over from another repository.

An upload is the store's: it outlives a server, and what arrived of it can be gone on from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from stratum.errors import ConflictError
from stratum.serve.asked import Asked, missing, pieces_of
from stratum.serve.ranges import parse_chunk
from stratum.serve.refusals import Refusal

if TYPE_CHECKING:
    from stratum.api.registry import Registry
    from stratum.store.uploads import Upload

_ALGORITHMS = ("sha256", "sha512")


class Uploads:
    """Uploads to ``registry``, of blobs of at most ``most`` bytes."""

    def __init__(self, registry: Registry, most: int) -> None:
        self._registry = registry
        self._most = most

    async def begin(self, request: Request) -> Response:
        """Begin an upload; or take over a blob that the asker may read elsewhere, or the body as a whole blob."""
        asked, query = Asked(request, self._registry), request.query_params
        repository = asked.writable()
        if query.get("digest-algorithm", "sha256") not in _ALGORITHMS:
            raise Refusal(400, "digests are of SHA-256 or SHA-512", code="DIGEST_INVALID")
        source = query.get("from")
        if "mount" in query and source and asked.sees(source):
            digest = asked.digest(query["mount"])
            if await run_in_threadpool(repository.mount, digest, source):
                return _created(asked, digest)
        upload = await run_in_threadpool(repository.begin_upload)
        if "digest" in query:
            return await self._finish(request, asked, upload, asked.digest(query["digest"]))
        return _accepted(asked, upload, 202)

    async def one(self, request: Request) -> Response:
        """How far an upload is, a chunk more of it, its end, or its being called off."""
        asked = Asked(request, self._registry)
        repository = asked.writable()
        with missing("BLOB_UPLOAD_UNKNOWN", "there is no such upload"):
            upload = await run_in_threadpool(repository.upload, str(request.path_params["upload"]))
            if request.method == "DELETE":
                await run_in_threadpool(upload.cancel)
                return Response(status_code=204)
            if request.method == "PATCH":
                await self._append(request, asked, upload)
                return _accepted(asked, upload, 202)
            if request.method == "PUT":
                return await self._finish(request, asked, upload, asked.digest(request.query_params.get("digest", "")))
        return _accepted(asked, upload, 204)

    async def _finish(self, request: Request, asked: Asked, upload: Upload, digest: str) -> Response:
        await self._append(request, asked, upload)
        await run_in_threadpool(upload.finish, digest)
        return _created(asked, digest)

    async def _append(self, request: Request, asked: Asked, upload: Upload) -> None:
        """Add the body to what arrived. What comes of a body that breaks off, stays."""
        start, stop = upload.offset, self._most
        if "Content-Range" in request.headers:
            chunk = parse_chunk(request.headers["Content-Range"])
            if chunk is None:
                raise Refusal(400, "'Content-Range' is not FIRST-LAST", code="BLOB_UPLOAD_INVALID")
            if chunk[0] != start:
                raise Refusal(416, f"the next chunk begins at byte {start}", headers=_progress(asked, upload))
            stop = min(stop, chunk[1])
        try:
            async for piece in pieces_of(request, stop - start):
                await run_in_threadpool(upload.append, iter([piece]), upload.offset)
        except ConflictError:  # by another request meanwhile
            raise Refusal(416, "others add to this upload", headers=_progress(asked, upload)) from None
        except ClientDisconnect:
            raise Refusal(400, "the body broke off", code="BLOB_UPLOAD_INVALID") from None


def _progress(asked: Asked, upload: Upload) -> dict[str, str]:
    return {
        "Location": asked.path("blobs", "uploads", upload.id),
        "Range": f"0-{max(upload.offset - 1, 0)}",
        "Docker-Upload-UUID": upload.id,
    }


def _accepted(asked: Asked, upload: Upload, status: int) -> Response:
    return Response(status_code=status, headers=_progress(asked, upload))


def _created(asked: Asked, digest: str) -> Response:
    headers = {"Location": asked.path("blobs", digest), "Docker-Content-Digest": digest}
    return Response(status_code=201, headers=headers)
