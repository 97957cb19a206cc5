"""Clients that are not trusted: too many, too slow, or with certificates."""

from __future__ import annotations

import errno
import http.client
import os
import random
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stratum import serving as serving_module
from stratum.errors import BusyError, UsageError
from stratum.serve import asked
from stratum.serve.app import make_app
from stratum.serve.door import Door
from stratum.serve.visibility import Everywhere
from stratum.serving import PARTS, Certificate, Limits, listen, serving
from stratum.store.layout import storing
from tests.e2e.hostile_registry import make_certificate
from tests.support.served import Asking

DOOR = Door(None, users=Everywhere(), anybody=Everywhere(), each_second=1000)


async def _length(request: Request) -> Response:
    return Response(str(len(await asked.body_of(request, 1000))))


async def _fails(_request: Request) -> Response:
    raise ValueError("a defect")


async def _has_no_room(_request: Request) -> Response:
    with storing("keep what arrives"):
        raise OSError(errno.ENOSPC, "No space left on device")


async def _is_busy(_request: Request) -> Response:
    raise BusyError("the store is locked by process 1234 (secret)")


async def _fails_late(_request: Request) -> Response:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise ValueError("a late defect")

    return StreamingResponse(pieces(), headers={"Content-Length": "10"})


async def _certificate(request: Request) -> Response:
    return Response(request.scope["state"].get("peer_certificate", b""))


FILE = random.Random(1).randbytes(12 << 20)
CUT: list[BaseException] = []
"""Why answers with files ended before their end."""


class _Files(Response):
    """The file in the path, in two parts around a few bytes; more of it than there is for ``?more``."""

    def __init__(self, path: str, more: int) -> None:
        super().__init__(None, headers={"Content-Length": str(len(FILE) + 5 + more)})
        self._path, self._more = path, more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(send)
        except BaseException as exc:
            CUT.append(exc)
            raise

    async def _answer(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with open(self._path, "rb") as file:
            size = len(FILE) + self._more
            parts = [(0, 1_000_000), b"-and-", (1_000_000, 3_000_000)]
            await send({"type": PARTS, "file": file, "parts": parts, "count": 3_000_005})
            await send({"type": PARTS, "file": file, "parts": [(3_000_000, size)], "count": size - 3_000_000})
        await send({"type": "http.response.body"})


async def _file(request: Request) -> Response:
    return _Files(request.path_params["path"], int(request.query_params.get("more", "0")))


ROUTES = [
    Route("/file{path:path}", _file),
    Route("/length", _length, methods=["POST"]),
    Route("/fails", _fails),
    Route("/late", _fails_late),
    Route("/full", _has_no_room),
    Route("/busy", _is_busy),
    Route("/certificate", _certificate),
]


@contextmanager
def running(limits: Limits, said: list[str], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, int]]:
    app = make_app(None, DOOR.who, log=said.append, web=ROUTES)  # type: ignore[arg-type]  # no route here asks it
    with listen(("127.0.0.1", 0), "server") as listener, serving(app, listener, limits, tls=tls):
        yield listener.getsockname()


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed a connection; waits until it has, or answers."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_only_so_many_connections_of_one_address_and_of_all() -> None:
    with running(Limits(3, 2), []) as address, ExitStack() as stack:

        def connect(source: str) -> socket.socket:
            return stack.enter_context(socket.create_connection(address, 30, source_address=(source, 0)))

        def answers(connection: socket.socket) -> bool:
            try:
                connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except ConnectionError:
                return False
            return not ended(connection)

        first, second = connect("127.0.0.1"), connect("127.0.0.1")
        assert answers(first)
        assert answers(second)
        assert ended(connect("127.0.0.1"))
        assert answers(connect("127.0.0.2"))
        assert ended(connect("127.0.0.3"))
        first.close()
        while not answers(connect("127.0.0.1")):
            pass  # until the server has seen the end of the first


@pytest.mark.parametrize("beginning", [b"", b"GET /nothing HTTP/1.1\r\nHost: loc"])
def test_who_sends_no_whole_request_is_let_go(beginning: bytes) -> None:
    with running(Limits(9, 9, idle=0.3), []) as address, socket.create_connection(address, 30) as slow:
        slow.sendall(beginning)
        assert ended(slow)
        with closing(http.client.HTTPConnection(*address, timeout=30)) as kept:
            for _ in range(2):
                kept.request("GET", "/nothing")
                assert kept.getresponse().read()
            kept.sock.sendall(beginning)
            assert ended(kept.sock)


def test_bodies_have_an_end_and_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_PATIENCE", 0.3)
    said: list[str] = []
    with running(Limits(9, 9), said) as address:
        ask = Asking("{}:{}".format(*address))
        assert ask("POST", "/length", b"x" * 1000).body == b"1000"
        assert ask("POST", "/length", b"x" * 1001).status == 413
        assert ask("POST", "/length", iter([b"x" * 600] * 2)).status == 413
        with socket.create_connection(address, 30) as slow:
            slow.sendall(b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1")
            assert slow.recv(10_000).startswith(b"HTTP/1.1 408")
            while not ended(slow):
                pass
        assert said == []


def test_a_defect_is_told_and_others_go_on() -> None:
    said: list[str] = []
    with running(Limits(9, 9), said) as address:
        ask = Asking("{}:{}".format(*address))
        failed = ask("GET", "/fails")
        assert (failed.status, failed.code) == (500, "UNKNOWN")
        assert b"defect" not in failed.body
        assert ask("GET", "/full").status == 507
        busy = ask("GET", "/busy")
        assert (busy.status, busy.headers["Retry-After"]) == (503, "5")
        assert b"secret" not in busy.body
        with socket.create_connection(address, 30) as cut:
            cut.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not ended(cut):
                pass
        assert ask("GET", "/length").status == 405
        assert ask("GET", "/nothing").code == "NAME_UNKNOWN"
    assert said[0] == "internal error: ValueError: a defect"
    assert said[-1] == "internal error: ValueError: a late defect"


@pytest.mark.parametrize("encrypted", [False, True])
def test_files_are_sent_whole_to_who_takes_them(tmp_path: Path, encrypted: bool) -> None:
    """In their place among other bytes, to several at a time; not for ever to who takes nothing, or is gone."""
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "file").write_bytes(FILE)
    tls = Certificate(certificate, key).context if encrypted else None
    context = ssl.create_default_context(cafile=certificate) if encrypted else None
    CUT.clear()
    before, said = os.listdir("/proc/self/fd"), list[str]()
    with running(Limits(9, 9, stalled=0.5), said, tls) as address, ExitStack() as stack:
        ask = Asking("{}:{}".format(*address), context)
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: ask("GET", f"/file{tmp_path}/file"), range(4)):
                assert answer.body == FILE[:1_000_000] + b"-and-" + FILE[1_000_000:]
        asked = f"GET /file{tmp_path}/file HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

        def connect() -> socket.socket:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(address)
            made = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
            made.sendall(asked * 2)  # the second waits for the end of the first
            return stack.enter_context(made)

        gone, slow = connect(), connect()
        assert gone.recv(100).startswith(b"HTTP/1.1 200")
        gone.close()
        while len(CUT) < 2:
            pass
        assert all(isinstance(exc, ConnectionError) for exc in CUT)
        with suppress(OSError):
            while slow.recv(1 << 20):
                pass
        assert said == []
        with pytest.raises((http.client.IncompleteRead, OSError)):
            ask("GET", f"/file{tmp_path}/file?more=1")
    assert ["shorter than it was" in line for line in said] == [True]
    assert os.listdir("/proc/self/fd") == before


def test_certificates_of_clients_are_known_and_ours_is_read_anew(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, other_key = make_certificate(tmp_path / "other")
    shown = Certificate(certificate, key)
    shown.context.load_verify_locations(other)
    shown.context.verify_mode = ssl.CERT_OPTIONAL
    with running(Limits(9, 9), [], shown.context) as address:
        client = ssl.create_default_context(cafile=certificate)
        ask = Asking("{}:{}".format(*address), client)
        assert ask("GET", "/certificate").body == b""
        client.load_cert_chain(other, other_key)
        assert ask("GET", "/certificate").body == ssl.PEM_cert_to_DER_cert(other.read_text())
        certificate.write_bytes(other.read_bytes())
        with pytest.raises(UsageError, match="cannot use the certificate"):
            shown.reload()
        assert ask("GET", "/certificate").status == 200
        key.write_bytes(other_key.read_bytes())
        shown.reload()
        with pytest.raises(ssl.SSLCertVerificationError):
            ask("GET", "/certificate")
        client.load_verify_locations(other)
        assert ask("GET", "/certificate").status == 200


def test_who_does_not_begin_tls_is_counted_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "_HANDSHAKE", 1.0)
    certificate, key = make_certificate(tmp_path)
    with running(Limits(9, 3), [], Certificate(certificate, key).context) as address, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(5)]
        assert [ended(each) for each in silent[3:]] == [True, True]
        assert [ended(each) for each in silent[:3]] == [True] * 3
        ask = Asking("{}:{}".format(*address), ssl.create_default_context(cafile=certificate))
        for _ in range(9):
            assert ask("GET", "/nothing").status == 404
