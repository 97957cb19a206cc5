"""The output (and input) of a container over Podman's attach endpoint, which podman-py does not have.

The connection is upgraded from HTTP to a plain stream both ways. What comes out is in frames, as Docker's API has them:
one byte for the stream (1 stdout, 2 stderr), three zero bytes, the payload's length in 4 bytes big-endian, the payload.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from stratum.errors import StratumError, UnsupportedError, os_error_text

STDOUT = 1
STDERR = 2

_API = "v4.0.0"
_CHUNK = 1 << 16
_MAX_HEADER = 1 << 16


class Attached:
    """An open stream to a container. A context manager; ``copy_output`` before the container has been started."""

    def __init__(self, url: str, container: str, *, stdin: bool) -> None:
        """``url`` is the service's, which must be a Unix socket; ``container`` the ID of a created container.

        Raises ``UnsupportedError`` for another kind of URL, ``StratumError`` where Podman refuses.
        """
        scheme, _, path = url.partition("://")
        if scheme not in ("unix", "http+unix"):
            raise UnsupportedError(
                f"a container's output cannot be read over {scheme}", hint="use a unix:// CONTAINER_HOST, or --detach"
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            flags = f"stdin={str(stdin).lower()}&stdout=true&stderr=true&stream=true"
            request = (
                f"POST /{_API}/libpod/containers/{container}/attach?{flags} HTTP/1.1\r\n"
                "Host: podman\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
            )
            self._socket.sendall(request.encode("ascii"))
            self._rest = self._read_header()
        except OSError as exc:
            self._socket.close()
            raise StratumError(f"cannot attach to container {container[:12]}: {os_error_text(exc)}") from None
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def copy_output(self, write: Callable[[int, bytes], None]) -> None:
        """Call ``write(stream, data)`` with what the container says, until it has ended."""
        for stream, data in frames(self._read):
            write(stream, data)

    def copy_input(self, source: int) -> None:
        """Send what can be read from the fd ``source``, to its end, from a thread that ends with the process."""

        def copy() -> None:
            # The container may end, and its stream with it, at any time.
            with contextlib.suppress(OSError):
                while data := os.read(source, _CHUNK):
                    self._socket.sendall(data)
                self._socket.shutdown(socket.SHUT_WR)

        threading.Thread(target=copy, name="stratum-stdin", daemon=True).start()

    def _read_header(self) -> bytes:
        """What came after the response's header. ``StratumError`` for a refusal."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._socket.recv(_CHUNK)
            if not chunk or len(data) > _MAX_HEADER:
                raise StratumError("Podman did not answer the request to attach")
            data += chunk
        header, _, rest = data.partition(b"\r\n\r\n")
        status = header.split(b"\r\n", 1)[0].split(b" ")[1:2]
        if status not in ([b"101"], [b"200"]):
            said = rest.decode("utf-8", "replace").strip() or header.decode("latin-1")
            raise StratumError(f"Podman refused to attach: {said[:500]}")
        return rest

    def _read(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        try:
            return self._socket.recv(_CHUNK)
        except ConnectionResetError:
            return b""


def frames(read: Callable[[], bytes]) -> Iterator[tuple[int, bytes]]:
    """(stream, payload) of every frame in what ``read`` returns, until that is empty; a cut-off frame ends it."""
    data = b""
    while chunk := read():
        data += chunk
        while len(data) >= 8:
            stream, length = struct.unpack_from(">B3xI", data)
            if len(data) < 8 + length:
                break
            yield stream, data[8 : 8 + length]
            data = data[8 + length :]
