"""A registry's side of uploads, which stumbles now and then."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from stratum.oci.descriptor import digest_of
from tests.e2e.hostile_registry import Handler


class Uploads:
    """A behaviour for ``HostileRegistry`` that takes what is pushed.

    Requests of the kind ``method`` (MANIFEST is the PUT of one) are answered with ``status``, ``body`` and ``headers``
    the first ``times`` times, ``before`` or ``after`` what they ask for was done. An upload answered with 404 is lost.
    A GET asks how far an upload is, which needs a PATCH that went wrong. ``pace``: no more bytes a second are taken.
    """

    def __init__(
        self,
        method: str,
        status: int,
        when: str,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        times: int = 2,
        pace: int | None = None,
    ) -> None:
        self._method, self._status, self._when, self._body = method, status, when, body
        self._headers = headers or {}
        self._times = times
        self._pace = pace
        self._uploads: dict[str, bytes] = {}
        self.stumbled: Counter[str] = Counter()

    def __call__(self, request: Handler) -> bool:
        path = urlsplit(request.path).path
        kind = "MANIFEST" if request.command == "PUT" and "/manifests/" in path else request.command
        if kind == "HEAD" or (kind == "GET" and "/uploads/" not in path):
            return False
        data = self._take(request)
        if self._stumbles(kind):
            if self._when == "after":
                self._act(request, kind, path, data)
            if self._status == 404:
                self._uploads.pop(path, None)
            self.stumbled[kind] += 1
            request.send(self._status, self._body, {"Retry-After": "0", **self._headers})
            return True
        status, headers = self._act(request, kind, path, data)
        request.send(status, b"", headers)
        return True

    def _stumbles(self, kind: str) -> bool:
        if self._method == "GET" and kind == "PATCH" and not self.stumbled["first PATCH"]:
            self.stumbled["first PATCH"] += 1
            return True
        return kind == self._method and self.stumbled[kind] < self._times

    def _take(self, request: Handler) -> bytes:
        left, data = int(request.headers.get("Content-Length", 0)), bytearray()
        while left:
            piece = request.rfile.read(min(left, 50_000))
            left -= len(piece)
            data += piece
            if self._pace is not None:
                time.sleep(len(piece) / self._pace)
        return bytes(data)

    def _act(self, request: Handler, kind: str, path: str, data: bytes) -> tuple[int, dict[str, str]]:
        if kind == "MANIFEST":
            request.server.registry.manifest = data
            return 201, {"Docker-Content-Digest": digest_of(data)}
        if kind == "POST":
            place = f"{path}{len(self._uploads)}-{time.monotonic_ns()}"
            self._uploads[place] = b""
            return 202, {"Location": place}
        if path not in self._uploads:
            return 404, {}
        if kind == "GET":
            return 204, {"Location": path, "Range": f"0-{len(self._uploads[path]) - 1}"}
        if kind == "PATCH":
            if int(request.headers["Content-Range"].split("-")[0]) != len(self._uploads[path]):
                return 416, {}
            self._uploads[path] += data
            return 202, {"Location": path}
        whole = self._uploads.pop(path) + data
        digest = "sha256:" + hashlib.sha256(whole).hexdigest()
        if parse_qs(urlsplit(request.path).query)["digest"] != [digest]:
            return 400, {}
        request.server.registry.blobs[digest] = whole
        return 201, {"Docker-Content-Digest": digest}
