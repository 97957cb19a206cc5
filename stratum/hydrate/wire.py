"""Between the keeper and its worker: packets as at the keeper's socket (``mount.gatewire``), never waited for.

- The keeper says ``serve`` with a filesystem's descriptor (``id``, ``source``, ``gate``, and ``again`` where another
  worker may have read requests of it), ``request`` with the socket of who asked, ``ping``, and ``retire``.
- The worker says ``ready``, ``served`` or ``failed`` of an ID, ``ended`` of one whose filesystem is gone, and ``pong``.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator

from stratum.sys.packets import GarbageError, Message, close_all, receive, send

_AT_ONCE = 64


class Channel:
    """One end. ``fileno`` is to be watched, for writing too while ``has_unsent``."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._unsent: deque[tuple[Message, list[int]]] = deque()
        self.ended = False

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether ``flush`` is to be called once the socket takes more."""
        return bool(self._unsent)

    def post(self, message: Message, fds: Iterable[int] = ()) -> None:
        """Send a message, now or as the socket takes it; the descriptors stay the caller's. An end that is gone is no
        error: ``messages`` tells."""
        self._unsent.append((message, [os.dup(fd) for fd in fds]))
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes now."""
        while self._unsent:
            message, fds = self._unsent[0]
            try:
                send(self._socket, message, fds)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno == errno.ETOOMANYREFS:  # descriptors in flight are at their limit
                    return
                self.ended = True
                self._forget()
                return
            self._unsent.popleft()
            close_all(fds)

    def messages(self) -> Iterator[tuple[Message, list[int]]]:
        """What has arrived, at most ``_AT_ONCE`` messages; the descriptors are the caller's. Sets ``ended`` at the
        end, and where the other end talks nonsense."""
        for _ in range(_AT_ONCE):
            try:
                received = receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, GarbageError):
                received = None
            if received is None:
                self.ended = True
                return
            yield received

    def close(self) -> None:
        """Close it, and forget what was not sent."""
        self._forget()
        self._socket.close()

    def _forget(self) -> None:
        for _, fds in self._unsent:
            close_all(fds)
        self._unsent.clear()
