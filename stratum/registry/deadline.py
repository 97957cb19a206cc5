"""HTTP connections on which the whole head of an answer must arrive within the read timeout.

The timeout of a socket is for one read: a server that sends a byte of a header now and then keeps its client forever.
Bodies are timed by whoever reads them (``transport``).
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _Watch:
    """Breaks off the reading of ``sock`` after ``seconds``; leaving the block in time prevents that."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._socket = sock
        self._timer = threading.Timer(seconds, self._break_off)
        self._timer.daemon = True
        self._broken = False

    def _break_off(self) -> None:
        self._broken = True
        # The plain socket's method: that of a TLS socket must not be called while another thread reads.
        socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()
        if self._broken:  # what was read until then may look like a whole head
            raise TimeoutError("timed out")


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        with _watch(self):
            return super().getresponse()


class _TLSConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        with _watch(self):
            return super().getresponse()


def _watch(connection: HTTPConnection) -> _Watch:
    assert isinstance(connection.timeout, (int, float)), "requests are made with a read timeout"
    return _Watch(connection.sock, connection.timeout)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


_POOLS = {"http": _Pool, "https": _TLSPool}


class Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter with such connections, through proxies too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
