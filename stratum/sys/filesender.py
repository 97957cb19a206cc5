"""Parts of files, sent at a connection of an event loop (asyncio).

Without TLS the kernel sends them (sendfile), and nothing of them comes here. What is not in memory is read by a thread
first, so that nobody else waits for the disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

_STRETCH = 1 << 20
"""Bytes that are sent before others have their turn, at most."""


class FileSender:
    """Sends at ``transport``, of which ``drained`` waits until it takes more. ``stalls`` is told when it is waited for
    the client (True), and that this is over. For one task at a time."""

    def __init__(
        self, transport: asyncio.Transport, drained: Callable[[], Awaitable[None]], stalls: Callable[[bool], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._drained = drained
        self._stalls = stalls
        self._waiting: asyncio.Future[None] | None = None
        self._socket = -1
        if transport.get_extra_info("sslcontext") is None:
            transport.set_write_buffer_limits(0)  # what is sent past it goes after all that was written
            # A descriptor of our own: the loop lets nobody wait at one that it has a transport for.
            self._socket = os.dup(transport.get_extra_info("socket").fileno())
        self._is_encrypted = self._socket == -1

    async def send(self, file: int, offset: int, count: int, piece: int = _STRETCH) -> None:
        """Send ``count`` bytes of ``file`` from ``offset`` on; with TLS, ``piece`` bytes are in memory at a time.
        ``ConnectionError`` where the client is gone; ``OSError``, also where the file has not so many."""
        end = offset + count
        while offset < end:
            await self._drained()
            if self._transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if self._is_encrypted:
                sent = await self._write(file, offset, min(end - offset, piece))
            else:
                sent = await self._send(file, offset, min(end - offset, _STRETCH))
            offset += sent
            await asyncio.sleep(0)

    async def _write(self, file: int, offset: int, count: int) -> int:
        data = bytearray(count)
        try:
            size = os.preadv(file, (data,), offset, os.RWF_NOWAIT)
        except OSError:  # not in memory, or the file system cannot tell
            size = await self._loop.run_in_executor(None, os.preadv, file, (data,), offset)
        _check(size, offset)
        self._transport.write(memoryview(data)[:size])
        return size

    async def _send(self, file: int, offset: int, count: int) -> int:
        try:
            os.preadv(file, (bytearray(1),), offset + count - 1, os.RWF_NOWAIT)
        except OSError:
            await self._loop.run_in_executor(None, os.pread, file, count, offset)
        if self._socket == -1:  # gone meanwhile
            return 0
        with suppress(BlockingIOError):
            return _check(os.sendfile(self._socket, file, offset, count), offset)
        await self._room()
        return 0

    async def _room(self) -> None:
        """Wait until the client takes more, or is gone."""
        waiting = self._waiting = self._loop.create_future()
        self._loop.add_writer(self._socket, _end, waiting)
        self._stalls(True)
        try:
            await waiting
        finally:
            self._stalls(False)
            self._waiting = None
            if self._socket != -1:
                self._loop.remove_writer(self._socket)

    def end(self) -> None:
        """The connection is gone."""
        if self._waiting is not None:
            self._loop.remove_writer(self._socket)
            _end(self._waiting)
        if self._socket != -1:
            os.close(self._socket)
            self._socket = -1


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _check(size: int, offset: int) -> int:
    """``size``, of what was read from ``offset`` on."""
    if not size:
        raise OSError(errno.EIO, f"a file is shorter than it was, {offset} bytes")
    return size
