"""HTTP connections whose answers come in time, and whose heads and trailers have a size.

The timeout of a socket is for one read: a server that sends a byte now and then keeps its client forever. So every
read here waits for as long as the ``Pace`` of its answer allows and no longer, be it for the head, the body, the size
of a chunk or what comes after the last one. Sending has no pace: each piece has to be taken within the timeout.
"""

from __future__ import annotations

import http.client
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

HEAD_MAX = 64 << 10
"""Bytes of a status line with all headers (those of interim answers included), and of the trailers of a body."""

_ANSWER = 10.0
_PIECE = 16 << 10
_current = threading.local()


class TooLongError(http.client.HTTPException):
    """A head or trailers of more than ``HEAD_MAX`` bytes."""


class Account:
    """How long all answers of one registry may keep us waiting together: many that are only just in time are too slow.

    ``slack`` seconds, ``_ANSWER`` seconds more for each, and what their bytes take at ``min_rate`` bytes a second. Only
    waiting counts, each thread's for itself; several may use it.
    """

    def __init__(self, slack: float, min_rate: float) -> None:
        self._lock = threading.Lock()
        self._min_rate = min_rate
        self._allowed = slack
        self.received = 0
        self.waited = 0.0

    def answer(self) -> None:
        """One more answer is to come."""
        with self._lock:
            self._allowed += _ANSWER

    def count(self, size: int) -> None:
        """``size`` more bytes are here, or there."""
        with self._lock:
            self.received += size
            self._allowed += size / self._min_rate

    def wait(self, seconds: float) -> None:
        """Somebody has waited for so long."""
        with self._lock:
            self.waited += seconds

    @property
    def left(self) -> float:
        """The seconds that may still be waited, unless more arrives."""
        return self._allowed - self.waited


class Pace:
    """How long an answer may take, with all the tries that it takes: heads, bodies, trailers and pauses.

    In any ``patience`` seconds ``min_rate`` bytes a second of it have to arrive (or be sent), on average; so at most
    ``patience`` seconds pass after what was enough. For one thread at a time.
    """

    def __init__(self, patience: float, min_rate: float, account: Account) -> None:
        account.answer()
        self.account = account
        self._patience = patience
        self._quota = patience * min_rate
        self._started = self._since = time.monotonic()
        self._arrived = 0
        self.total = 0

    def count(self, size: int) -> None:
        """``size`` more bytes of content are here, or there."""
        self.account.count(size)
        self.total += size
        self._arrived += size
        if self._arrived >= self._quota:
            self._since, self._arrived = time.monotonic(), 0

    @property
    def left(self) -> float:
        """The seconds until it has been too slow, unless more arrives."""
        return min(self._since + self._patience - time.monotonic(), self.account.left)

    @property
    def over(self) -> bool:
        """Whether it is too slow."""
        return self.left < 0.01  # a timeout may end a little early

    def __str__(self) -> str:
        if self.account.left < 0.01:
            return f"{self.account.received} bytes of all answers in {self.account.waited:.0f} s of waiting"
        return f"{self.total} bytes in {time.monotonic() - self._started:.0f} s"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Answers to requests that this thread makes in the block have this pace."""
        _current.pace = self
        try:
            yield
        finally:
            del _current.pace


class _Reader(io.RawIOBase):
    """What arrives on the socket below ``raw``. The head has to be there by ``head_until`` (``time.monotonic``)."""

    def __init__(self, sock: Any, raw: Any, pace: Pace) -> None:
        self._socket = sock
        self._raw = raw
        self._pace = pace
        self._longest = sock.gettimeout()
        self.head_until: float | None = time.monotonic() + self._longest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = min(self._longest, self._pace.left)
        if self.head_until is not None:
            left = min(left, self.head_until - time.monotonic())
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        started = time.monotonic()
        try:
            return cast("int | None", self._raw.readinto(buffer))
        finally:
            self._pace.account.wait(time.monotonic() - started)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Lines:
    """The lines of ``file``, all together at most ``HEAD_MAX`` bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = HEAD_MAX

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise TooLongError(f"more than {HEAD_MAX} bytes of headers")
        return line

    def close(self) -> None:
        self._file.close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _Reader(sock, self.fp.detach(), _current.pace)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        with self._counted():
            super().begin()
        self._reader.head_until = None

    def _read_and_discard_trailer(self) -> None:
        with self._counted():
            super()._read_and_discard_trailer()  # type: ignore[misc]  # private, and in no stub

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Lines that are read in the block have a limit together."""
        file = self.fp
        self.fp = _Lines(file)  # type: ignore[assignment]  # all that is used of it
        try:
            yield
        finally:
            self.fp = file


def _send_in_pieces(connection: Any, send: Any, data: Any) -> None:
    """A socket's timeout is for all that is sent at once, so that a large chunk would have to go fast."""
    if not isinstance(data, bytes):
        send(data)
        return
    view = memoryview(data)
    for start in range(0, len(view) or 1, _PIECE):
        send(view[start : start + _PIECE])
        if connection.sock is not None:
            _current.pace.count(len(view[start : start + _PIECE]))


class _Connection(HTTPConnection):
    response_class = _Response

    def send(self, data: Any) -> None:
        _send_in_pieces(self, super().send, data)


class TLSConnection(HTTPSConnection):
    """One by TLS."""

    response_class = _Response

    def send(self, data: Any) -> None:
        _send_in_pieces(self, super().send, data)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = TLSConnection


_POOLS = {"http": _Pool, "https": _TLSPool}


class Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter with such connections, through proxies too. Each answer keeps its pace (``pace_of``)."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_response(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().build_response(*args, **kwargs)
        response.pace = _current.pace  # type: ignore[attr-defined]  # set here, for pace_of
        return response


def pace_of(response: requests.Response) -> Pace:
    """The pace that an answer has to keep."""
    return cast("Pace", response.pace)  # type: ignore[attr-defined]  # set above
