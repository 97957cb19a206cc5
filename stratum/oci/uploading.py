"""Sending a blob: in one piece or in chunks, taken up again or begun anew where the registry stumbles.

A connection that is cut goes on where the registry says that it is. An upload that the registry has lost is begun
again. Each is tried a few times, as long as that brings the upload further.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlencode, urlsplit

import requests

from stratum.errors import DamagedError
from stratum.oci.carrier import Carrier
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Upload
from stratum.oci.transport import ConnectionCutError, is_busy, pause, retry_after

CHUNK = 16 << 20
"""Bytes sent in one request; a smaller blob is sent in one piece."""

TRIES = 5
OCTETS = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")


class BusyServerError(ConnectionCutError):
    """The server could not do it now. ``wait`` is how many seconds it wants to be left alone."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class LostUploadError(ConnectionCutError):
    """The registry knows nothing of the upload any more."""


def send_blob(carrier: Carrier, place: str, upload: Upload, arrived: Callable[[], bool]) -> None:
    """Store a blob by an upload begun at the URL ``place``; ``arrived`` asks whether it is there.

    Raises ``StratumError`` in the registry's words.
    """
    doing = f"send blob {upload.descriptor.digest} to {carrier.target}"
    for attempt in range(1, TRIES + 1):
        try:
            _Session(carrier, place, doing).send(upload)
            return
        except ConnectionCutError as exc:
            if attempt == TRIES:
                raise
            _wait(exc, attempt)
        if arrived():
            return  # only the answer was lost


def _wait(error: ConnectionCutError, attempt: int) -> None:
    wanted = error.wait if isinstance(error, BusyServerError) else 0.0
    time.sleep(max(wanted, pause(attempt - 1)))


class _Session:
    """One upload."""

    def __init__(self, carrier: Carrier, place: str, doing: str) -> None:
        self._carrier = carrier
        self._doing = doing
        response = carrier.send(place, "POST", b"", OCTETS)
        self._expect(response, (202,), lost=())
        self._url = carrier.location(response, doing)

    def send(self, upload: Upload) -> None:
        data = b""
        if upload.descriptor.size > CHUNK:
            self._send_chunks(upload)
        else:
            data = b"".join(upload.read(0))
        for last in (False, False, True):
            try:
                self._finish(upload.descriptor, data)
                return
            except BusyServerError as exc:  # noqa: PERF203  (a retry)
                if last:
                    raise
                _wait(exc, 2)

    def _send_chunks(self, upload: Upload) -> None:
        position, furthest, tries = 0, 0, 0
        while position < upload.descriptor.size:
            try:
                for chunk in _chunks(upload.read(position)):
                    self._patch(chunk, position)
                    position += len(chunk)
                    if position > furthest:
                        furthest, tries = position, 0
                if position < upload.descriptor.size:
                    raise DamagedError(f"cannot {self._doing}: only {position} bytes of it could be read")
            except ConnectionCutError as exc:  # noqa: PERF203  (a retry)
                tries += 1
                if tries == TRIES or isinstance(exc, LostUploadError):
                    raise
                _wait(exc, tries)
                position = self._received()

    def _patch(self, chunk: bytes, position: int) -> None:
        headers = {**OCTETS, "Content-Range": f"{position}-{position + len(chunk) - 1}"}
        response = self._carrier.send(self._url, "PATCH", chunk, headers)
        if response.status_code == 416:
            self._carrier.transport.done(response)
            raise ConnectionCutError(f"cannot {self._doing}: the registry lost count of what it has")
        self._expect(response, (202,))
        self._url = self._carrier.location(response, self._doing)

    def _received(self) -> int:
        """How many bytes the registry has."""
        response = self._carrier.send(self._url)
        self._expect(response, (202, 204))
        if response.headers.get("Location"):
            self._url = self._carrier.location(response, self._doing)
        match = _RANGE.fullmatch(response.headers.get("Range", ""))
        last = int(match[1]) if match else 0
        return last + 1 if last else 0

    def _finish(self, blob: Descriptor, data: bytes) -> None:
        separator = "&" if urlsplit(self._url).query else "?"
        url = f"{self._url}{separator}{urlencode({'digest': blob.digest})}"
        response = self._carrier.send(url, "PUT", data, OCTETS)
        self._expect(response, (201, 202, 204), lost=(404, 416))
        if response.headers.get("Docker-Content-Digest", blob.digest) != blob.digest:
            raise DamagedError(f"cannot {self._doing}: the registry stored something else")

    def _expect(self, response: requests.Response, statuses: tuple[int, ...], lost: tuple[int, ...] = (404,)) -> None:
        if response.status_code in lost:
            words = self._carrier.transport.words(response)
            raise LostUploadError(f"cannot {self._doing}: the registry has forgotten the upload ({words})")
        if is_busy(response):
            wait, words = retry_after(response, 0.0), self._carrier.transport.words(response)
            raise BusyServerError(f"cannot {self._doing}: the registry answered {words}", wait)
        self._carrier.expect(response, statuses, self._doing)
        self._carrier.transport.done(response)


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
