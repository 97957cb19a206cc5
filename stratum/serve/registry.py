"""The distribution API but for blobs: support, catalog, tags, manifests, referrers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stratum.errors import NotFoundError
from stratum.oci.descriptor import MANIFEST_MAX
from stratum.serve.asked import PAGE_MAX, Asked, body_of, missing
from stratum.serve.blobs import Blobs
from stratum.serve.ranges import parse_count
from stratum.serve.refusals import Refusal, unauthorized
from stratum.serve.uploads import Uploads
from stratum.serve.visibility import asker_of

if TYPE_CHECKING:
    from stratum.api.registry import Registry, Repository, Served
    from stratum.api.taking import Put

_no_manifest = partial(missing, "MANIFEST_UNKNOWN", "there is no such manifest")

INDEX = "application/vnd.oci.image.index.v1+json"
_REFERRERS_BYTES = 2 << 20
_TAGS_AT_ONCE = 10


def registry_routes(registry: Registry, blob_max: int) -> Sequence[BaseRoute]:
    """All routes of the distribution API over ``registry``. No blob above ``blob_max`` bytes is taken."""
    names = Names(registry)
    manifests = Manifests(registry)
    uploads, blobs = Uploads(registry, blob_max), Blobs(registry)
    return (
        Route("/v2/", _support),
        Route("/v2/_catalog", names.catalog),
        Route("/v2/{name:path}/tags/list", names.tags),
        Route("/v2/{name:path}/referrers/{digest}", manifests.referrers),
        Route("/v2/{name:path}/manifests/{reference}", manifests.get),
        Route("/v2/{name:path}/manifests/{reference}", manifests.put, methods=["PUT"]),
        Route("/v2/{name:path}/manifests/{reference}", manifests.delete, methods=["DELETE"]),
        Route("/v2/{name:path}/blobs/uploads/", uploads.begin, methods=["POST"]),
        Route("/v2/{name:path}/blobs/uploads/{upload}", uploads.one, methods=["GET", "PATCH", "PUT", "DELETE"]),
        Route("/v2/{name:path}/blobs/{digest}", blobs.get),
        Route("/v2/{name:path}/blobs/{digest}", blobs.delete, methods=["DELETE"]),
    )


async def _support(request: Request) -> Response:
    asker = asker_of(request)
    if asker.may_sign_in and asker.name is None:
        # Also where some may be read without: many clients send a password only if they are asked for one here.
        raise unauthorized()
    return Response("{}", media_type="application/json", headers={"Docker-Distribution-API-Version": "registry/2.0"})


class Names:
    """Lists of names, page by page."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def catalog(self, request: Request) -> Response:
        """The repositories that the asker sees."""
        asker, (last, count) = asker_of(request), _page(request)
        if asker.may_sign_in and not asker.sees.reads(""):
            raise unauthorized()
        found = await run_in_threadpool(self._visible, asker.sees.reads, last, count)
        return _names(request, "repositories", found, count, {})

    def _visible(self, reads: Callable[[str], bool], last: str | None, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            names = self._registry.repositories(last, PAGE_MAX)
            found += filter(reads, names)
            if len(names) < PAGE_MAX:
                break
            last = names[-1]
        return found[:count]

    async def tags(self, request: Request) -> Response:
        """The tags of a repository."""
        asked = Asked(request, self._registry)
        last, count = _page(request)
        with missing("NAME_UNKNOWN", "there is no such repository"):
            found = await run_in_threadpool(asked.readable().tags, last, count)
        return _names(request, "tags", found, count, {"name": asked.name})


def _page(request: Request) -> tuple[str | None, int]:
    count = parse_count(request.query_params.get("n"), PAGE_MAX)
    if count is None:
        raise Refusal(400, "'n' is not a number of names")
    return request.query_params.get("last") or None, count


def _names(request: Request, key: str, found: list[str], count: int, more: dict[str, Any]) -> Response:
    headers = {}
    if found and len(found) == count:
        following = urlencode({"n": count, "last": found[-1]})
        headers["Link"] = f'<{request.url.path}?{following}>; rel="next"'
    return _json({**more, key: found}, headers)


def _json(value: Any, headers: dict[str, str] | None = None, media_type: str = "application/json") -> Response:
    return Response(json.dumps(value), media_type=media_type, headers=headers)


class Once:
    """Has what many ask for at once done once, by one thread: the others do not wait in threads of their own."""

    def __init__(self) -> None:
        self._running: dict[object, asyncio.Future[Served]] = {}

    async def __call__(self, key: object, call: Callable[[], Served]) -> Served:
        """What ``call`` gives for ``key``, or raises."""
        if key not in self._running:
            self._running[key] = asyncio.ensure_future(run_in_threadpool(call))
            self._running[key].add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(self._running[key])


class Manifests:
    """Manifests by tag and by digest, and what refers to them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._making = Once()

    async def get(self, request: Request) -> Response:
        """A manifest, byte for byte as it was pushed, or as it follows from a commit."""
        asked = Asked(request, self._registry)
        with _no_manifest():
            repository, reference = asked.readable(), asked.reference()
            # A tag may have moved since somebody asked for it who has no answer yet.
            key = asked.name, reference, await run_in_threadpool(repository.stand, reference)
            served = await self._making(key, partial(repository.manifest, reference))
        tag = f'"{served.digest}"'
        headers = {"Docker-Content-Digest": served.digest, "ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers=headers)
        # Not as media_type: for a text type a charset would be added, and the digest says nothing of that.
        return Response(served.data, headers={**headers, "Content-Type": served.media_type})

    async def put(self, request: Request) -> Response:
        """Take a manifest, under a tag, or under its digest and any tags that are asked for."""
        asked = Asked(request, self._registry)
        repository, reference = asked.writable(), asked.reference()
        tags = request.query_params.getlist("tag")
        if len(tags) > _TAGS_AT_ONCE:
            raise Refusal(400, f"more than {_TAGS_AT_ONCE} tags are not set at once", code="MANIFEST_INVALID")
        if tags and reference.startswith("sha512:"):
            raise Refusal(400, "tags are set by digests of SHA-256", code="UNSUPPORTED")
        media_type = request.headers.get("Content-Type", "")
        data = await body_of(request, MANIFEST_MAX)
        with _no_manifest():
            put = await run_in_threadpool(_put, repository, data, media_type, [reference, *tags], asked.by)
        headers = [("Location", asked.path("manifests", put.digest)), ("Docker-Content-Digest", put.digest)]
        headers += [("OCI-Subject", put.subject)] if put.subject else []
        headers += [("OCI-Tag", tag) for tag in tags]
        answer = Response(status_code=201)
        for key, value in headers:
            answer.headers.append(key, value)
        return answer

    async def delete(self, request: Request) -> Response:
        """Delete a tag or, with all tags that it has, a manifest."""
        asked = Asked(request, self._registry)
        with _no_manifest():
            await run_in_threadpool(asked.deletable().delete_manifest, asked.reference())
        return Response(status_code=202)

    async def referrers(self, request: Request) -> Response:
        """The index of what has a manifest for its subject: an empty one where nothing has."""
        asked = Asked(request, self._registry)
        repository, digest = asked.readable_if_there(), asked.digest()
        kind = request.query_params.get("artifactType")
        found: list[dict[str, Any]] = []
        if repository is not None:
            found = await run_in_threadpool(_referrers, repository, digest, kind)
        last = request.query_params.get("last", "")
        page, more = _some(sorted((each for each in found if each["digest"] > last), key=lambda each: each["digest"]))
        headers = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        if more:
            query = urlencode({**({"artifactType": kind} if kind else {}), "last": page[-1]["digest"]})
            headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
        return _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": page}, headers, INDEX)


def _put(repository: Repository, data: bytes, media_type: str, references: Sequence[str], by: str | None) -> Put:
    *first, last = (repository.put_manifest(data, media_type, reference, by=by) for reference in references)
    return first[0] if first else last


def _referrers(repository: Repository, digest: str, kind: str | None) -> list[dict[str, Any]]:
    try:
        return repository.referrers(digest, kind)
    except NotFoundError:
        return []


def _some(found: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """As many of the descriptors as an answer has, and whether there are more."""
    size, page = 0, list[dict[str, Any]]()
    for each in found:
        size += len(json.dumps(each))
        if page and size > _REFERRERS_BYTES:
            return page, True
        page.append(each)
    return page, False
