"""A registry that misbehaves on demand: an HTTP server on loopback which serves what it is given, and tells lies."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import pytest

from stratum.errors import StratumError
from stratum.oci.access import Access
from stratum.oci.descriptor import digest_of
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.target import parse_target
from stratum.store import Store
from tests.e2e.registry_artifacts import Artifact, assert_only_verified_objects
from tests.support.pulling import pull

ACCESS = Access(connect_timeout=5, read_timeout=5, patience=2, min_rate=1 << 19)

Behaviour = Callable[["Handler"], bool]
"""Answers a request in its own way and returns True, or returns False for the usual answer."""


class Handler(BaseHTTPRequestHandler):
    """One request. ``send`` answers it; ``cut`` breaks the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HostileServer

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.seen.append((self.command, self.path, dict(self.headers)))
        if not registry.behaviour(self):
            self.answer()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  (named after the methods by http.server)

    def answer(self) -> None:
        """What an honest registry would say (to readers)."""
        registry, kind = self.server.registry, self.path.split("/")[-2]
        name = self.path.split("/")[-1]
        if kind == "manifests" and name in (registry.tag, digest_of(registry.manifest)):
            self.send(200, registry.manifest, {"Content-Type": MANIFEST_MEDIA_TYPE})
        elif kind == "blobs" and name in registry.blobs:
            self.send_blob(registry.blobs[name])
        else:
            self.send(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')

    def registry_blob(self) -> bytes | None:
        """The blob that is asked for, if it is one."""
        return self.server.registry.blobs.get(self.path.split("/")[-1])

    def send_blob(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self.send(200, data)
            return
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        self.send(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def start_chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent: the tests look at ``seen``."""


class HostileServer(ThreadingHTTPServer):
    """Knows its registry; a client that hangs up is no news."""

    daemon_threads = True
    registry: HostileRegistry

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients break off endless bodies; that is what the tests want."""


class HostileRegistry:
    """A registry on a free loopback port. ``behaviour`` decides how it answers; ``seen`` is what it was asked."""

    def __init__(
        self,
        artifact: Artifact | None = None,
        behaviour: Behaviour = lambda _request: False,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.tag = "v1"
        self.manifest = b""
        self.blobs: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        if artifact is not None:
            self.serve(artifact)
        self._server = HostileServer(("127.0.0.1", 0), Handler)
        self._server.registry = self
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.target = f"{self.host}/team/app:v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def serve(self, artifact: Artifact) -> None:
        self.manifest = artifact.manifest
        self.blobs = {"sha256:" + hashlib.sha256(blob).hexdigest(): blob for blob in artifact.blobs}

    def __enter__(self) -> HostileRegistry:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def authorizations(self) -> list[str]:
        """Every Authorization header that arrived."""
        return [headers["Authorization"] for _, _, headers in self.seen if "Authorization" in headers]


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1, signed by itself, and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def refused(store: Store, registry: HostileRegistry, access: Access = ACCESS, *, lazily: bool = False) -> StratumError:
    """Pull from ``registry``, and lazily before where that is to fail as well, which must fail and leave nothing; the
    error."""
    with registry:
        for lazy in (True, False) if lazily else (False,):
            with pytest.raises(StratumError) as caught:
                pull(store, parse_target(registry.target), access, lazy=lazy)
            assert_only_verified_objects(store)
            assert "\n" not in caught.value.message
    return caught.value
