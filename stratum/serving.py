"""Servers: the Unix sockets and TCP addresses that they listen at, their certificates, and HTTP on them (uvicorn).

Where ``limits`` are given, an application may send parts of files (``PARTS``).

A socket's file stays behind where its server was killed; the next one replaces it. Only one server listens at a path:
looking, replacing and listening are one step under a lock, and at its end a server removes no socket but its own.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import BusyError, StratumError, UsageError, os_error_text
from stratum.sys.daemon import FIRST_LISTEN_FD, of_service_manager
from stratum.sys.locks import locked

if TYPE_CHECKING:
    import asyncio
    import ssl

    import uvicorn
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from stratum.sys.filesender import FileSender

_LOCK_WAIT = 5.0
_STOP_WAIT = 2.0
_BACKLOG = 1024
"""Connections that wait to be accepted, and that are accepted at once."""
_HANDSHAKE = 10.0
"""Seconds that the beginning of TLS may take."""
_LAST_ANSWERS = 30
"""Seconds that answers may take that have begun when the server is to end."""

PARTS = "stratum.parts"
"""The type of an ASGI message that goes on with the body of an answer: ``parts`` (``sys.filesender.Part``) of ``file``,
which has a descriptor, with the length ``count`` in all."""

_PIECE_MAX, _PIECE_MIN = 1 << 20, 64 << 10
_ROOM = 64 << 20
"""Bytes of files that are in memory at once where they are encrypted, however many connections there are."""
_FEW = 4
"""Connections up to which a client waits for the server rather than the server for its clients."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients get that are not trusted: ``connections`` at the same time, ``each`` of these from one address,
    ``seconds`` for a connection (None: as many as they want), ``idle`` seconds until the headers of a request are
    whole, and ``stalled`` seconds in which they have to take some of the answer. Others are closed at once."""

    connections: int
    each: int
    seconds: float | None = None
    idle: float = 20.0
    stalled: float = 60.0


@contextmanager
def socket_place(path: Path, what: str) -> Iterator[None]:
    """Make way for a Unix socket at ``path``, which the block binds and listens at; ``what`` names the server.

    Its directory is made (mode 0700) where it is missing. Raises ``BusyError`` where a server listens there,
    ``UsageError`` where something else is in the way, ``StratumError`` for what the system refuses.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path):
            _clear(path, what)
            yield
    except OSError as exc:
        raise StratumError(f"cannot listen at {path}: {os_error_text(exc)}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, timeout=_LOCK_WAIT, what=f"the place of the socket {path}"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _clear(path: Path, what: str) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} exists and is no socket", hint="name another place to listen at")
    except FileNotFoundError:
        return
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(str(path))
    if answer in (0, errno.EAGAIN):  # EAGAIN: so many connections wait there that there is no place for one more
        raise BusyError(f"another {what} listens at {path}", hint="stop it, or name another place to listen at")
    if answer not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(answer, os.strerror(answer))
    path.unlink(missing_ok=True)


def listen(address: Path | tuple[str, int], what: str) -> AbstractContextManager[socket.socket]:
    """A listening socket for the block: at a path, for its owner alone, or at a host (all for '') and port.

    Raises as ``socket_place`` does.
    """
    return _listen_unix(address, what) if isinstance(address, Path) else _listen_tcp(*address)


def passed(environment: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that a service manager passed to this process, to be closed; None where it passed none."""
    if not of_service_manager(environment, os.getpid()).get("names"):
        return None
    os.set_inheritable(FIRST_LISTEN_FD, False)
    return socket.socket(fileno=FIRST_LISTEN_FD)


@contextmanager
def _listen_unix(path: Path, what: str) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        with socket_place(path, what):
            os.fchmod(listener.fileno(), 0o600)  # the file's mode, from its first moment
            listener.bind(str(path))
            listener.listen(_BACKLOG)
            made = path.lstat()
        try:
            yield listener
        finally:
            with suppress(OSError, BusyError), _locked(path):
                if os.path.samestat(made, path.lstat()):
                    path.unlink()


@contextmanager
def _listen_tcp(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as exc:
            raise StratumError(f"cannot listen at {host}:{port}: {os_error_text(exc)}") from None
        yield listener


def parse_address(text: str) -> Path | tuple[str, int]:
    """An address for ``listen`` from ``unix:///PATH`` or ``HOST:PORT``. Raises ``UsageError``."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").replace("//", "", 1))
        if path.is_absolute():
            return path
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"address {text!a} is neither HOST:PORT nor unix:///PATH")
    return host.strip("[]"), int(port)


class Certificate:
    """A certificate and its key in files, for TLS 1.2 and later. ``reload`` reads both again.

    With ``clients``, a file of authorities, only those get in who have a certificate of one of them.
    """

    def __init__(self, certificate: Path, key: Path, clients: Path | None = None) -> None:
        """Raises ``UsageError`` where they cannot be read, or do not belong together."""
        self._files = certificate, key
        self._clients = clients
        self.context = self._made()

    def reload(self) -> None:
        """Show what the files have now, to who connects from now on. ``UsageError``: the old one stays."""
        self._made()
        self._load(self.context)

    def follow(self, warn: Callable[[str], None]) -> None:
        """Look at the files whenever somebody connects, and go by what they have then. ``warn`` is told, once for each
        change, of files that cannot be used; what they had before stays."""
        seen, shown = self._stamps(), self.context

        def look(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal seen, shown
            now = self._stamps()
            if now != seen:
                seen = now
                try:
                    shown = self._made()
                except UsageError as exc:
                    warn(f"{exc.message}; the one from before is still shown")
            connection.context = shown

        self.context.sni_callback = look

    def _made(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        if self._clients is not None:
            try:
                context.load_verify_locations(self._clients)
            except OSError as exc:  # also what ssl raises
                text = f"cannot use the authorities of clients in {self._clients}: {os_error_text(exc)}"
                raise UsageError(text) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, StratumError) as exc:  # ssl's own are of OSError
            reason = exc.message if isinstance(exc, StratumError) else os_error_text(exc)
            raise UsageError(f"cannot use the certificate {certificate} with the key {key}: {reason}") from None

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What differs when one of the files is another, or not there."""
        return tuple(map(_stamp, (*self._files, *([self._clients] if self._clients is not None else []))))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _no_password() -> str:
    """Asked where a key is encrypted: nobody is there to type."""
    raise UsageError("the key has a password")


def serve(
    app: ASGIApp, listener: socket.socket, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> None:
    """Answer with ``app`` until SIGTERM or SIGINT, and then what is asked already. For the main thread.

    ``limits`` are for clients that are not trusted. With ``tls`` connections are TLS, and the certificate (DER) of a
    client that has one is ``scope["state"]["peer_certificate"]``.
    """
    server, listener = _server(app, listener, limits, tls)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Also before and after uvicorn has its own, which send the signal once more at their end.
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])


@contextmanager
def serving(
    app: ASGIApp, listener: socket.socket, limits: Limits, *, tls: ssl.SSLContext | None = None
) -> Iterator[None]:
    """Answer with ``app`` during the block, from a thread; ``limits`` and ``tls`` as of ``serve``."""
    server, listener = _server(app, listener, limits, tls)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="http")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_STOP_WAIT)


def _server(
    app: ASGIApp, listener: socket.socket, limits: Limits | None, tls: ssl.SSLContext | None
) -> tuple[uvicorn.Server, socket.socket]:
    """The server, and what it is to listen at."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    shaking = _Shaking(listener, limits) if limits is not None and tls is not None else None
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=H11Protocol if limits is None else _limited(limits, shaking),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=5 if limits is None else max(1, int(limits.idle)),
        # Counts what is at work too, also for clients that are gone.
        limit_concurrency=None if limits is None else limits.connections + 1,
        timeout_graceful_shutdown=None if limits is None else _LAST_ANSWERS,
    )
    config.load()
    config.ssl = tls
    return uvicorn.Server(config), shaking or listener


class _Admitted:
    """The connections that there are of each address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._there: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count one more, if it may come in; one without an address may always, unless there are too many of all."""
        most = address and self._there[address] >= self._limits.each
        if most or self._there.total() >= self._limits.connections:
            return False
        self._there[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._there[address] -= 1
        if not self._there[address]:
            del self._there[address]


class _Clocks:
    """What of a connection has to come in time, or it is cut off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._running: dict[str, asyncio.TimerHandle] | None = {}

    def start(self, what: str, seconds: float) -> None:
        """Begin to wait for ``what``, where that is not waited for already."""
        if self._running is not None and what not in self._running:
            self._running[what] = self._loop.call_later(seconds, self._transport.abort)

    def stop(self, what: str) -> None:
        """It came."""
        clock = self._running.pop(what, None) if self._running is not None else None
        if clock is not None:
            clock.cancel()

    def end(self) -> None:
        """The connection is gone."""
        for clock in (self._running or {}).values():
            clock.cancel()
        self._running = None


class _Guest:
    """A client that is not trusted, from the beginning of its connection to ``leave``; ``is_in`` says whether it may
    come in."""

    def __init__(self, admitted: _Admitted, limits: Limits, clocks: _Clocks, address: str) -> None:
        self._admitted = admitted
        self._limits = limits
        self._clocks = clocks
        self._address = address
        self.is_in = admitted.enter(address)
        if self.is_in and limits.seconds is not None:
            clocks.start("all", limits.seconds)

    def waits(self, for_us: bool) -> None:
        """Give the client some time for a request; none is running out while it waits for the answer to one."""
        if for_us:
            self._clocks.stop("request")
        else:
            self._clocks.start("request", self._limits.idle)

    def stalls(self, begins: bool) -> None:
        """It is waited for the client to take more of an answer, or that is over."""
        if begins:
            self._clocks.start("answer", self._limits.stalled)
        else:
            self._clocks.stop("answer")

    def leave(self) -> None:
        """The connection is gone."""
        if self.is_in:
            self._admitted.leave(self._address)
            self.is_in = False
        self._clocks.end()


class _Shaking(socket.socket):
    """A listening socket whose connections are counted until the beginning of TLS is over, and let go where that takes
    long. The event loop tells nobody of them before."""

    def __init__(self, listener: socket.socket, limits: Limits) -> None:
        super().__init__(fileno=os.dup(listener.fileno()))
        self._limits = limits
        self._pending: dict[object, weakref.ref[socket.socket]] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that may come in. ``BlockingIOError`` where none waits."""
        from asyncio import get_running_loop

        while True:
            connection, address = super().accept()
            if self._has_room(address):
                self._pending[address] = weakref.ref(connection)
                get_running_loop().call_later(_HANDSHAKE, self._late, address)
                return connection, address
            connection.close()

    def shaken(self, address: object) -> None:
        """The beginning of TLS is over."""
        self._pending.pop(address, None)

    def _has_room(self, address: Any) -> bool:
        if len(self._pending) >= min(self._limits.connections, self._limits.each):
            there = {key: ref for key, ref in self._pending.items() if _is_open(ref())}
            self._pending = there
            of_address = sum(key[0] == address[0] for key in there if isinstance(key, tuple))
            return len(there) < self._limits.connections and of_address < self._limits.each
        return True

    def _late(self, address: object) -> None:
        ref = self._pending.pop(address, None)
        connection = ref() if ref is not None else None
        if connection is not None and _is_open(connection):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _is_open(connection: socket.socket | None) -> bool:
    return connection is not None and connection.fileno() != -1


def _limited(limits: Limits, shaking: _Shaking | None) -> type[asyncio.Protocol]:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from stratum.sys.filesender import FileSender

    admitted = _Admitted(limits)

    class Limited(H11Protocol):
        _guest: _Guest
        _sender: FileSender | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base class
            super().connection_made(transport)
            if shaking is not None:
                shaking.shaken(transport.get_extra_info("peername"))
            address = self.client[0] if self.client else ""
            self._guest = _Guest(admitted, limits, _Clocks(self.loop, transport), address)
            if not self._guest.is_in:
                self.connections.discard(self)
                transport.abort()
                return
            self._sender = FileSender(transport, self.flow.drain, self._guest.stalls)
            self.app = _sending_files(self, self._sender)
            self._wait()
            certificate = _certificate(transport)
            if certificate is not None:
                self.app_state = {**self.app_state, "peer_certificate": certificate}

        def _wait(self) -> None:
            self._guest.waits(for_us=self.cycle is not None and not self.cycle.response_complete)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._guest.stalls(True)

        def resume_writing(self) -> None:
            self._guest.stalls(False)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._sender is not None:
                self._sender.end()
            self._guest.leave()
            super().connection_lost(exc)

    return Limited


def _sending_files(connection: H11Protocol, sender: FileSender) -> Any:
    """The application of a connection, which may send parts of files there."""
    import h11

    app = connection.app

    async def send_file(message: Any) -> None:
        clients = max(len(connection.connections), 1)
        # h11 hands on what it gets, as its documentation of sendfile has it, and asks for the length only.
        connection.conn.send_with_data_passthrough(h11.Data(data=range(message["count"])))  # type: ignore[arg-type]
        piece = min(max(_ROOM // clients, _PIECE_MIN), _PIECE_MAX)
        await sender.send(message["file"].fileno(), message["parts"], piece, few=clients <= _FEW)

    async def sending_files(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            is_parts = message["type"] == PARTS
            if (is_parts or message.get("more_body")) and connection.transport.is_closing():  # nobody is there any more
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            await (send_file(message) if is_parts else send(message))

        await app(scope, receive, sending)

    return sending_files


def _certificate(transport: asyncio.Transport) -> bytes | None:
    """The certificate (DER) of who connected; None where none was given."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None
