"""A repository in a registry: the OCI distribution API 1.1 on top of oras, with everything checked that oras does not.

oras knows the addresses of the API and speaks for tokens (``auth``). What it would do with requests is replaced: every
one, also of oras's own methods, goes through ``do_request`` here and so through ``Transport``, which is bounded and
careful with credentials, and bytes are verified as they arrive (``remote.verified``). Blobs are sent by ``uploading``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import oras.container
import oras.provider
import requests

from stratum.errors import DamagedError, DeniedError, StratumError
from stratum.oci.access import Access
from stratum.oci.auth import Auth
from stratum.oci.deadline import Pace
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.mediatypes import (
    DOCKER_LIST_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target, is_loopback
from stratum.oci.transport import (
    ConnectionCutError,
    Transport,
    failure,
    is_busy,
    origin,
    pause,
    resolve,
    retry_after,
    shown,
)
from stratum.oci.uploading import OCTETS, BusyServerError, send_blob

_ACCEPT = (
    f"{MANIFEST_MEDIA_TYPE}, {INDEX_OF_MANIFESTS_MEDIA_TYPE};q=0.5, "
    f"{DOCKER_MANIFEST_MEDIA_TYPE};q=0.2, {DOCKER_LIST_MEDIA_TYPE};q=0.1"
)
_TRIES = 5
_PROGRESS = 64 << 10
"""A connection that brings fewer bytes than this before it is cut has brought nothing."""
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_TAG_PAGES_MAX = 200
_ACTIONS = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}


def scheme_for(target: Target, access: Access) -> str:
    """``http`` or ``https``: plain HTTP only where it was asked for, or on loopback (unless a CA was given)."""
    assert target.host is not None
    if target.scheme is not None:
        return target.scheme
    if access.plain_http or target.host in access.insecure_registries:
        return "http"
    return "http" if is_loopback(target.host) and access.ca_file is None else "https"


class RegistryClient(Sink, oras.provider.Registry):  # type: ignore[misc]  # oras has no types
    """The repository of ``target``."""

    def __init__(self, target: Target, access: Access) -> None:
        assert target.host is not None
        host = _API_HOSTS.get(target.host, target.host)
        scheme = scheme_for(target, access)
        super().__init__(hostname=host, insecure=scheme == "http")
        self.target = target
        self.host = target.host
        self._transport = Transport(access)
        self._origin = origin(f"{scheme}://{host}/")

        def lookup() -> str | None:
            return access.credentials(host, target.repository)

        self.auth = Auth(self._transport, f"{scheme}://{host}/", self.host, lookup, access.token_realms.get(self.host))
        self._container = oras.container.Container(f"{host}/{target.repository}")
        self._container.registry = host
        self._root = f"{scheme}://{host}/v2/"

    def close(self) -> None:
        self._transport.close()

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
        *,
        other: str | None = None,
        again: bool = False,
        pace: Pace | None = None,
    ) -> requests.Response:
        """oras's way to send anything: with credentials for this registry only, and once more after a 401.

        ``other`` is a repository that is read from besides. ``again`` and ``pace`` are ``Transport.send``'s.
        """
        assert json is None, "manifests are sent as the bytes that were hashed"
        home = origin(url) == self._origin
        scopes = self._scopes(url, method, other)
        secret = self.auth.header(scopes) if home else None
        options: dict[str, Any] = {"data": data, "again": again, "pace": pace}
        response = self._transport.send(method, url, headers or {}, secret=secret, **options)
        if response.status_code != 401 or not home:
            return response
        try:
            better = self.auth.answer(response, secret, scopes)
        except StratumError:
            response.close()
            raise
        if not better:
            return response
        self._transport.done(response)
        return self._transport.send(method, url, headers or {}, secret=self.auth.header(scopes), **options)

    def _scopes(self, url: str, method: str, other: str | None) -> tuple[str, ...]:
        """What a token for this request has to allow."""
        if url == self._root:
            return ()
        scopes = (f"repository:{self.target.repository}:{_ACTIONS.get(method, 'pull,push')}",)
        return scopes if other is None else (*scopes, f"repository:{other}:pull")

    def expect(self, response: requests.Response, statuses: tuple[int, ...], doing: str) -> requests.Response:
        """``response`` where it has one of the ``statuses``, else what went wrong with ``doing`` this."""
        if response.status_code not in statuses:
            raise failure(self._transport.words(response), response.status_code, doing, self.host, self.auth.hint)
        return response

    def expect_in_upload(self, response: requests.Response, statuses: tuple[int, ...], doing: str) -> requests.Response:
        """As ``expect``; ``BusyServerError`` for what may work in a moment."""
        if is_busy(response):
            wait = retry_after(response, 0.0)
            words = self._transport.words(response)
            raise BusyServerError(f"cannot {doing}: the registry answered {words}", wait)
        return self.expect(response, statuses, doing)

    def done(self, response: requests.Response) -> None:
        """Be done with a response whose body does not matter."""
        self._transport.done(response)

    def words(self, response: requests.Response) -> str:
        """What a failing server says."""
        return self._transport.words(response)

    def check_access(self) -> None:
        """Ask for the registry's base address, which it grants to those that it lets in; ``StratumError`` otherwise."""
        response = self.do_request(self._root)
        if response.status_code in (401, 403):
            words = self._transport.words(response)
            raise DeniedError(f"{self.host} does not let this user in: {words}", hint=self._hint_at_login())
        self.expect(response, (200,), f"use {self.host} as a registry")
        self._transport.done(response)
        if self.auth.stranger is not None:
            raise DeniedError(
                f"{self.host} was not told the password: its tokens come from {self.auth.stranger}",
                hint=self.auth.hint,
            )

    def _hint_at_login(self) -> str:
        return self.auth.hint if self.auth.stranger is not None else ""

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        url, pace = self._url(self._container.manifest_url(reference)), self._transport.pace()
        for last in (False, False, True):
            response = self.do_request(url, headers={"Accept": _ACCEPT}, pace=pace)
            self.expect(response, (200,), f"get the manifest of {self.target}")
            try:
                data = b"".join(self._transport.body(response, MANIFEST_MAX, "a manifest"))
                break
            except ConnectionCutError:
                if last:
                    raise
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
        self.expect(response, (200,), f"ask for blob {blob.digest} of {self.target}")
        size = response.headers.get("Content-Length", str(blob.size))
        return size == str(blob.size)

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._blob_pieces(blob), blob, self.host)

    def _blob_pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """The body of the blob; where the connection is cut, from there on by a range request."""
        pace, position, tries = self._transport.pace(), 0, 0
        while True:
            begun = position
            try:
                for piece in self._blob_from(blob, position, pace):
                    position += len(piece)
                    yield piece
                return
            except ConnectionCutError:
                tries = 1 if position - begun >= _PROGRESS else tries + 1
                wait = pause(tries - 1) if tries > 1 else 0.0
                if tries == _TRIES or position >= blob.size or pace.left <= wait:
                    raise
                time.sleep(wait)

    def _blob_from(self, blob: Descriptor, start: int, pace: Pace) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{blob.size - 1}"} if start else {}
        response = self.do_request(self._url(self._container.get_blob_url(blob.digest)), headers=headers, pace=pace)
        self.expect(response, (200, 206) if start else (200,), f"get blob {blob.digest} of {self.target}")
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

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        wanted, pace = f"bytes {start}-{start + size - 1}/", self._transport.pace()
        for last in (False, False, True):
            response = self.do_request(
                self._url(self._container.get_blob_url(blob.digest)),
                headers={"Range": f"bytes={start}-{start + size - 1}"},
                pace=pace,
            )
            self.expect(response, (200, 206), f"get a part of blob {blob.digest} of {self.target}")
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
            self.expect(response, (200,), f"list the tags of {self.host}/{self.target.repository}")
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
        send_blob(self, self._url(self._container.upload_blob_url()), upload)

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        place = (
            f"{self._url(self._container.upload_blob_url())}?{urlencode({'mount': blob.digest, 'from': repository})}"
        )
        try:
            response = self.do_request(place, "POST", data=b"", headers=dict(OCTETS), other=repository)
        except (ConnectionCutError, DeniedError):
            return False
        self._transport.done(response)
        if response.status_code == 202:  # an upload was begun instead: it is not wanted
            with suppress(StratumError):
                session = self.location(response, f"mount blob {blob.digest}")
                self._transport.done(self.do_request(session, "DELETE"))
        return response.status_code == 201

    def location(self, response: requests.Response, doing: str) -> str:
        """The URL at which an upload goes on."""
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
        headers = {"Content-Type": MANIFEST_MEDIA_TYPE}
        response = self.do_request(url, "PUT", data=data, headers=headers, again=True)
        self.expect(response, (200, 201, 202), doing)
        self._transport.done(response)
        if response.headers.get("Docker-Content-Digest", digest_of(data)) != digest_of(data):
            raise DamagedError(f"cannot {doing}: the registry stored something else")
