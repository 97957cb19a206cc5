"""Parts of files, with other bytes around them, sent at a connection of an event loop (asyncio).

Without TLS the kernel sends them (sendfile), and nothing of them comes here. What is not in memory is read by a thread
first, so that nobody else waits for the disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

Part = bytes | tuple[int, int]
"""Bytes, or where those of the file are: from the first to that after the last."""

_UNSENT = 256 << 10
"""Bytes that wait in the kernel, where there are few clients. A client on this machine sends what waits to itself, in
its own time, whenever it takes some; where there are many, to be woken less often is worth more."""
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
        self._turn = 0
        self._is_limited = False
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        if not self._is_encrypted:
            transport.set_write_buffer_limits(0)  # what is sent past it goes after all that was written

    async def send(self, file: int, parts: Sequence[Part], piece: int = _STRETCH, *, few: bool = False) -> None:
        """Send ``parts`` of ``file``, one after another; with TLS, ``piece`` bytes of them are in memory at a time.
        ``few`` is whether there are few clients. ``ConnectionError`` where this one is gone; ``OSError``, also where
        the file is shorter."""
        if few is not self._is_limited:
            self._is_limited = few
            with suppress(OSError):  # no TCP
                connection = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT if few else 0)
        for part in parts:
            if isinstance(part, bytes):
                await self._ready()
                self._transport.write(part)
            else:
                await self._send_range(file, *part, piece)

    async def _ready(self) -> None:
        """Wait until all was sent that is to go before. ``ConnectionError``."""
        await self._drained()
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    async def _send_range(self, file: int, start: int, end: int, piece: int) -> None:
        while start < end:
            await self._ready()
            if self._is_encrypted:
                sent = await self._write(file, start, min(end - start, piece))
            else:
                sent = await self._send(file, start, min(end - start, _STRETCH))
            start += sent
            self._turn += sent
            if self._turn >= _STRETCH:
                self._turn = 0
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
        fd = self._transport.get_extra_info("socket").fileno()
        if fd == -1:  # closed while we read
            return 0
        with suppress(BlockingIOError):
            return _check(os.sendfile(fd, file, offset, count), offset)
        await self._room(fd)
        return 0

    async def _room(self, fd: int) -> None:
        """Wait until the client takes more, or is gone."""
        waiting = self._waiting = self._loop.create_future()
        descriptor = os.dup(fd)  # the loop lets nobody wait at one that it has a transport for
        self._stalls(True)
        try:
            self._loop.add_writer(descriptor, _end, waiting)
            await waiting
        finally:
            self._waiting = None
            self._stalls(False)
            self._loop.remove_writer(descriptor)
            os.close(descriptor)

    def end(self) -> None:
        """The connection is gone."""
        if self._waiting is not None:
            _end(self._waiting)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _check(size: int, offset: int) -> int:
    """``size``, of what was read from ``offset`` on."""
    if not size:
        raise OSError(errno.EIO, f"a file is shorter than it was, {offset} bytes")
    return size
