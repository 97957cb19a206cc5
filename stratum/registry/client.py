"""A repository in a registry: the OCI distribution API 1.1 on top of oras, with everything checked that oras does not.

oras knows the addresses of the API and speaks for tokens (``auth``). What it would do with requests is replaced: every
one, also of oras's own methods, goes through ``do_request`` here and so through ``Transport``, which is bounded and
careful with credentials, and bytes are verified as they arrive (``remote.verified``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import oras.container
import oras.provider
import requests

from stratum.errors import DamagedError, DeniedError, NotFoundError, StratumError
from stratum.registry.artifact import (
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    MANIFEST_MAX,
    MANIFEST_MEDIA_TYPE,
    Descriptor,
    digest_of,
    is_digest,
)
from stratum.registry.auth import Auth
from stratum.registry.credentials import find_credentials
from stratum.registry.image import DOCKER_LIST_MEDIA_TYPE, DOCKER_MANIFEST_MEDIA_TYPE
from stratum.registry.remote import Access, Upload, verified
from stratum.registry.target import Target, is_loopback
from stratum.registry.transport import ConnectionCutError, PlainSession, Transport, failure, origin, resolve, shown

CHUNK = 16 << 20
"""Bytes sent in one request; a smaller blob is sent in one piece."""

_ACCEPT = (
    f"{MANIFEST_MEDIA_TYPE}, {INDEX_OF_MANIFESTS_MEDIA_TYPE};q=0.5, "
    f"{DOCKER_MANIFEST_MEDIA_TYPE};q=0.2, {DOCKER_LIST_MEDIA_TYPE};q=0.1"
)
_TRIES = 5
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_TAG_PAGES_MAX = 200
_OCTETS = {"Content-Type": "application/octet-stream"}


def scheme_for(target: Target, access: Access) -> str:
    """``http`` or ``https``: plain HTTP only where it was asked for, or on loopback (unless a CA was given)."""
    assert target.host is not None
    if target.scheme is not None:
        return target.scheme
    if access.plain_http or target.host in access.insecure_registries:
        return "http"
    return "http" if is_loopback(target.host) and access.ca_file is None else "https"


class RegistryClient(oras.provider.Registry):  # type: ignore[misc]  # oras has no types
    """The repository of ``target``; a ``Remote``.

    ``password`` (base64 ``user:password``) is used in place of what the user's files say.
    """

    def __init__(self, target: Target, access: Access, *, password: str | None = None) -> None:
        assert target.host is not None
        host = _API_HOSTS.get(target.host, target.host)
        scheme = scheme_for(target, access)
        super().__init__(hostname=host, insecure=scheme == "http")
        self.target = target
        self.host = target.host
        self.session = PlainSession()
        self._transport = Transport(access, self.session)
        self._origin = origin(f"{scheme}://{host}/")

        def lookup(name: str) -> str | None:
            if password is not None:
                return password if name == host else None
            return find_credentials(name, target.repository if name == host else "", access.environment)

        self.auth = Auth(self._transport, f"{scheme}://{host}/", lookup)
        self._container = oras.container.Container(f"{host}/{target.repository}")
        self._container.registry = host
        self._root = f"{scheme}://{host}/v2/"

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.session.close()

    # Requests

    def _url(self, place: str) -> str:
        """The URL of one of oras's scheme-less places."""
        return f"{self.prefix}://{place}"

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        json: dict[str, Any] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """oras's way to send anything: with credentials for this registry only, and once more after a 401."""
        assert json is None, "manifests are sent as the bytes that were hashed"
        home = origin(url) == self._origin
        secret = self.auth.header if home else None
        response = self._transport.send(method, url, headers or {}, secret=secret, data=data)
        if response.status_code != 401 or not home:
            return response
        try:
            better = self.auth.answer(response, secret)
        except StratumError:
            response.close()
            raise
        if not better:
            return response
        self._transport.done(response)
        return self._transport.send(method, url, headers or {}, secret=self.auth.header, data=data)

    def _expect(self, response: requests.Response, statuses: tuple[int, ...], doing: str) -> requests.Response:
        if response.status_code not in statuses:
            raise failure(self._transport.words(response), response.status_code, doing, self.host)
        return response

    def check_access(self) -> None:
        """Ask for the registry's base address, which it grants to those that it lets in; ``StratumError`` otherwise."""
        response = self.do_request(self._root)
        if response.status_code in (401, 403):
            raise DeniedError(f"{self.host} does not let this user in: {self._transport.words(response)}")
        self._expect(response, (200,), f"use {self.host} as a registry")
        self._transport.done(response)

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        doing = f"get the manifest of {self.target}"
        response = self.do_request(self._url(self._container.manifest_url(reference)), headers={"Accept": _ACCEPT})
        self._expect(response, (200,), doing)
        data = b"".join(self._transport.body(response, MANIFEST_MAX, "a manifest"))
        digest = digest_of(data)
        said = response.headers.get("Docker-Content-Digest", digest)
        if digest != (reference if is_digest(reference) else said):
            raise DamagedError(f"{self.host} sent a manifest of {self.target} that does not match its digest")
        return data, digest

    def has_blob(self, blob: Descriptor) -> bool:
        response = self.do_request(self._url(self._container.get_blob_url(blob.digest)), "HEAD")
        self._transport.done(response)
        if response.status_code == 404:
            return False
        self._expect(response, (200,), f"ask for blob {blob.digest} of {self.target}")
        size = response.headers.get("Content-Length", str(blob.size))
        return size == str(blob.size)

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._blob_pieces(blob), blob, self.host)

    def _blob_pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """The body of the blob; where the connection is cut, from there on by a range request."""
        position, tries = 0, 0
        while True:
            try:
                for piece in self._blob_from(blob, position):
                    position += len(piece)
                    tries = 0
                    yield piece
                return
            except ConnectionCutError:  # noqa: PERF203  (a retry)
                tries += 1
                if tries == _TRIES or position >= blob.size:
                    raise

    def _blob_from(self, blob: Descriptor, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{blob.size - 1}"} if start else {}
        response = self.do_request(self._url(self._container.get_blob_url(blob.digest)), headers=headers)
        self._expect(response, (200, 206) if start else (200,), f"get blob {blob.digest} of {self.target}")
        partial = response.status_code == 206
        expected = blob.size - start if partial else blob.size
        if response.headers.get("Content-Length", str(expected)) != str(expected):
            response.close()
            raise DamagedError(
                f"{self.host} sends {shown(response.headers['Content-Length'])} bytes for blob {blob.digest}"
                f" instead of {expected}"
            )
        skip = 0 if partial else start
        for piece in self._transport.body(response, expected, f"blob {blob.digest}"):
            kept = piece[skip:]
            skip -= len(piece) - len(kept)
            if kept:
                yield kept

    def blob_file(self, blob: Descriptor) -> None:
        return None

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        wanted = f"bytes {start}-{start + size - 1}/"
        for last in (False, False, True):
            response = self.do_request(
                self._url(self._container.get_blob_url(blob.digest)),
                headers={"Range": f"bytes={start}-{start + size - 1}"},
            )
            self._expect(response, (200, 206), f"get a part of blob {blob.digest} of {self.target}")
            if response.status_code == 200 or not response.headers.get("Content-Range", "").startswith(wanted):
                response.close()
                return None
            try:
                return b"".join(self._transport.body(response, size, f"a part of blob {blob.digest}"))
            except ConnectionCutError:
                if last:
                    raise
        return None

    def list_tags(self) -> list[str]:
        tags: set[str] = set()
        url = self._url(self._container.tags_url())
        for _ in range(_TAG_PAGES_MAX):
            response = self.do_request(url)
            if response.status_code == 404:
                self._transport.done(response)
                return []  # the repository does not exist before the first push
            self._expect(response, (200,), f"list the tags of {self.host}/{self.target.repository}")
            tags.update(self._tags(b"".join(self._transport.body(response, MANIFEST_MAX, "a list of tags"))))
            following = response.links.get("next", {}).get("url")
            if not following:
                return sorted(tags)
            url = resolve(response.url, following)
            if origin(url) != self._origin:
                break
        raise StratumError(f"{self.host} gave a list of the tags of {self.target.repository} that leads nowhere")

    def _tags(self, body: bytes) -> list[str]:
        try:
            tags = json.loads(body)["tags"] or []
            if isinstance(tags, list) and all(map(_TAG.fullmatch, tags)):
                return tags
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise DamagedError(f"{self.host} gave something that is not a list of the tags of {self.target.repository}")

    # Writing

    def put_blob(self, upload: Upload) -> None:
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                self._put_blob(upload)
                return
            except ConnectionCutError:
                if last:
                    raise
            if self.has_blob(upload.descriptor):
                return  # only the answer was lost

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        place = (
            f"{self._url(self._container.upload_blob_url())}?{urlencode({'mount': blob.digest, 'from': repository})}"
        )
        try:
            response = self.do_request(place, "POST", data=b"", headers=dict(_OCTETS))
            self._transport.done(response)
            if response.status_code == 202:  # an upload was begun instead: it is not wanted
                session = self._location(response, f"mount blob {blob.digest}")
                self._transport.done(self.do_request(session, "DELETE"))
        except ConnectionCutError:
            return False
        return response.status_code == 201

    def _put_blob(self, upload: Upload) -> None:
        doing = f"send blob {upload.descriptor.digest} to {self.target}"
        response = self.do_request(
            self._url(self._container.upload_blob_url()), "POST", data=b"", headers=dict(_OCTETS)
        )
        self._expect(response, (202,), doing)
        self._transport.done(response)
        session = _Session(self, self._location(response, doing), doing)
        if upload.descriptor.size > CHUNK:
            session.send_chunks(upload)
            session.finish(upload.descriptor, b"")
        else:
            session.finish(upload.descriptor, b"".join(upload.read(0)))

    def _location(self, response: requests.Response, doing: str) -> str:
        place = response.headers.get("Location")
        if not place:
            raise StratumError(f"cannot {doing}: the registry named no place to send it to")
        url = resolve(response.url, place)
        if self._origin[0] == "https" and origin(url)[0] != "https":
            raise StratumError(f"cannot {doing}: the registry wants it without TLS at {shown(url)}")
        return url

    def put_manifest(self, data: bytes, tag: str) -> None:
        doing = f"send the manifest of {self.target}"
        url = self._url(self._container.manifest_url(tag))
        for last in (False, False, True):
            try:
                response = self.do_request(url, "PUT", data=data, headers={"Content-Type": MANIFEST_MEDIA_TYPE})
                break
            except ConnectionCutError:
                if last:
                    raise
        self._expect(response, (200, 201, 202), doing)
        self._transport.done(response)
        if response.headers.get("Docker-Content-Digest", digest_of(data)) != digest_of(data):
            raise DamagedError(f"cannot {doing}: the registry stored something else")


class _Session:
    """One blob's upload in pieces, taken up again where a cut connection left it."""

    def __init__(self, client: RegistryClient, url: str, doing: str) -> None:
        self._client = client
        self._url = url
        self._doing = doing

    def send_chunks(self, upload: Upload) -> None:
        position, tries = 0, 0
        while position < upload.descriptor.size:
            try:
                for chunk in _chunks(upload.read(position)):
                    self._patch(chunk, position)
                    position += len(chunk)
                    tries = 0
            except ConnectionCutError:  # noqa: PERF203  (a retry)
                tries += 1
                if tries == _TRIES:
                    raise
                position = self._received()

    def _patch(self, chunk: bytes, position: int) -> None:
        headers = {**_OCTETS, "Content-Range": f"{position}-{position + len(chunk) - 1}"}
        response = self._client.do_request(self._url, "PATCH", data=chunk, headers=headers)
        if response.status_code == 416:
            self._client._transport.done(response)
            raise ConnectionCutError(f"cannot {self._doing}: the registry lost count of what it has")
        self._client._expect(response, (202,), self._doing)
        self._client._transport.done(response)
        self._url = self._client._location(response, self._doing)

    def _received(self) -> int:
        """How many bytes the registry has; ``ConnectionCutError`` where it has forgotten the upload."""
        response = self._client.do_request(self._url, "GET")
        self._client._transport.done(response)
        if response.status_code == 404:
            raise ConnectionCutError(f"cannot {self._doing}: the registry has forgotten the upload")
        self._client._expect(response, (202, 204), self._doing)
        if response.headers.get("Location"):
            self._url = self._client._location(response, self._doing)
        match = _RANGE.fullmatch(response.headers.get("Range", ""))
        last = int(match[1]) if match else 0
        return last + 1 if last else 0

    def finish(self, blob: Descriptor, data: bytes) -> None:
        separator = "&" if urlsplit(self._url).query else "?"
        url = f"{self._url}{separator}{urlencode({'digest': blob.digest})}"
        response = self._client.do_request(url, "PUT", data=data, headers=dict(_OCTETS))
        if response.status_code == 404:
            raise NotFoundError(
                f"cannot {self._doing}: the registry answered {self._client._transport.words(response)}"
            )
        self._client._expect(response, (201, 202, 204), self._doing)
        self._client._transport.done(response)


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """``pieces`` in chunks of ``CHUNK`` bytes, the last one shorter."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)
