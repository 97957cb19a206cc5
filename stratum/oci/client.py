"""A repository in a registry: the OCI distribution API 1.1.

Addresses are oras's, requests go through ``carrier``, blobs are sent by ``uploading``, and bytes are verified as they
arrive (``remote.verified``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlencode

import oras.container
import requests

from stratum.errors import DamagedError, DeniedError, NotFoundError, RefusedError, StratumError, quoted
from stratum.oci.access import Access
from stratum.oci.carrier import Carrier
from stratum.oci.deadline import Pace
from stratum.oci.descriptor import MANIFEST_MAX, Descriptor, digest_of, is_digest
from stratum.oci.mediatypes import (
    DOCKER_LIST_MEDIA_TYPE,
    DOCKER_MANIFEST_MEDIA_TYPE,
    INDEX_OF_MANIFESTS_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
)
from stratum.oci.names import list_names
from stratum.oci.referrers import Referrer, is_referrers_tag, read_referrers, subject_of
from stratum.oci.remote import Sink, Upload, verified
from stratum.oci.target import Target, is_tag
from stratum.oci.transport import ConnectionCutError, pause, shown
from stratum.oci.uploading import OCTETS, send_blob

_ACCEPT = (
    f"{MANIFEST_MEDIA_TYPE}, {INDEX_OF_MANIFESTS_MEDIA_TYPE};q=0.5, "
    f"{DOCKER_MANIFEST_MEDIA_TYPE};q=0.2, {DOCKER_LIST_MEDIA_TYPE};q=0.1"
)
_REFUSED = (400, 404, 409, 412, 422)
"""What registries answer to a manifest that they do not take, as for a blob that is not there."""
_TRIES = 5
_PROGRESS = 64 << 10
"""A connection that brings fewer bytes than this before it is cut has brought nothing."""


class RegistryClient(Sink):
    """The repository of ``target``."""

    def __init__(self, target: Target, access: Access, carrier: Carrier | None = None) -> None:
        self.target = target
        self._carrier = carrier or Carrier(target, access)
        self._transport, self._host = self._carrier.transport, self._carrier.host
        # Read from a whole reference, a host without '.' or ':' would be a part of the repository's name.
        self._places = oras.container.Container(f"registry.invalid/{target.repository}")
        self._places.registry = self._carrier.api_host

    def close(self) -> None:
        self._transport.close()

    def _url(self, place: str) -> str:
        """The URL of one of oras's scheme-less places."""
        return f"{self._carrier.scheme}://{place}"

    # Reading

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        if not is_digest(reference) and not is_tag(reference):
            raise NotFoundError(f"there is no tag {quoted(reference)} in {self.target.place}")
        url, pace = self._url(self._places.manifest_url(reference)), self._transport.pace()
        for last in (False, False, True):
            response = self._carrier.send(url, headers={"Accept": _ACCEPT}, pace=pace)
            self._carrier.expect(response, (200,), f"get the manifest of {self.target}")
            try:
                data = b"".join(self._transport.body(response, MANIFEST_MAX, "a manifest"))
                break
            except ConnectionCutError:
                if last:
                    raise
        digest = digest_of(data)
        said = response.headers.get("Docker-Content-Digest", digest)
        if digest != (reference if is_digest(reference) else said):
            raise DamagedError(f"{self._host} sent a manifest of {self.target} that does not match its digest")
        return data, digest

    def has_blob(self, blob: Descriptor) -> bool:
        response = self._carrier.send(self._url(self._places.get_blob_url(blob.digest)), "HEAD")
        self._transport.done(response)
        if response.status_code == 404:
            return False
        self._carrier.expect(response, (200,), f"ask for blob {blob.digest} of {self.target}")
        size = response.headers.get("Content-Length", str(blob.size))
        return size == str(blob.size)

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        return verified(self._blob_pieces(blob), blob, self._host)

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
        response = self._carrier.send(self._url(self._places.get_blob_url(blob.digest)), headers=headers, pace=pace)
        self._carrier.expect(response, (200, 206) if start else (200,), f"get blob {blob.digest} of {self.target}")
        partial = response.status_code == 206
        expected = blob.size - start if partial else blob.size
        if response.headers.get("Content-Length", str(expected)) != str(expected):
            response.close()
            raise DamagedError(
                f"{self._host} sends {shown(response.headers['Content-Length'])} bytes for blob {blob.digest}"
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
            response = self._carrier.send(
                self._url(self._places.get_blob_url(blob.digest)),
                headers={"Range": f"bytes={start}-{start + size - 1}"},
                pace=pace,
            )
            self._carrier.expect(response, (200, 206), f"get a part of blob {blob.digest} of {self.target}")
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
        what = f"the tags of {self.target.place}"
        found = list_names(self._carrier, self._url(self._places.tags_url()), "tags", is_tag, what, absent=(404,))
        # The repository does not exist before the first push.
        return sorted(tag for tag in found or () if not is_referrers_tag(tag))

    def list_referrers(self, subject: str, artifact_type: str) -> list[Referrer]:
        place = self._url(self._places.manifest_url(subject)).replace("/manifests/", "/referrers/")
        response = self._carrier.send(f"{place}?{urlencode({'artifactType': artifact_type})}")
        if response.status_code != 200:  # a registry that does not know the Referrers API
            self._transport.done(response)
            return super().list_referrers(subject, artifact_type)
        data = b"".join(self._transport.body(response, MANIFEST_MAX, "a list of referrers"))
        return read_referrers(data, artifact_type, self.target.place)

    # Writing

    def put_blob(self, upload: Upload) -> None:
        send_blob(
            self._carrier, self._url(self._places.upload_blob_url()), upload, lambda: self.has_blob(upload.descriptor)
        )

    def mount_blob(self, blob: Descriptor, repository: str) -> bool:
        place = f"{self._url(self._places.upload_blob_url())}?{urlencode({'mount': blob.digest, 'from': repository})}"
        try:
            response = self._carrier.send(place, "POST", b"", OCTETS, other=repository)
        except (ConnectionCutError, DeniedError):
            return False
        self._transport.done(response)
        if response.status_code == 202:  # an upload was begun instead: it is not wanted
            with suppress(StratumError):
                session = self._carrier.location(response, f"mount blob {blob.digest}")
                self._transport.done(self._carrier.send(session, "DELETE"))
        return response.status_code == 201

    def put_manifest(self, data: bytes, tag: str) -> None:
        self._put(data, tag)

    def put_referrer(self, data: bytes) -> None:
        response = self._put(data, digest_of(data))
        if response.headers.get("OCI-Subject") != subject_of(data):  # it did not take note of it
            self.list_referrer(data)

    def _put(self, data: bytes, reference: str) -> requests.Response:
        """Store a manifest by a tag or its digest; the registry's answer."""
        doing = f"send the manifest of {self.target}"
        url = self._url(self._places.manifest_url(reference))
        headers = {"Content-Type": json.loads(data).get("mediaType", MANIFEST_MEDIA_TYPE)}
        response = self._carrier.send(url, "PUT", data, headers, again=True)
        if response.status_code in _REFUSED:
            raise RefusedError(f"cannot {doing}: the registry answered {self._transport.words(response)}")
        self._carrier.expect(response, (200, 201, 202), doing)
        self._transport.done(response)
        if response.headers.get("Docker-Content-Digest", digest_of(data)) != digest_of(data):
            raise DamagedError(f"cannot {doing}: the registry stored something else")
        return response
