"""Asking a daemon of this machine: what who listens at a socket answers, and starting it where nobody does."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import StratumError, os_error_text
from stratum.frozen import frozen
from stratum.sys.packets import GarbageError, Message, raise_error, reachable, receive, send

PATIENCE = 60.0
"""Seconds that an answer is waited for: a worker that is started meanwhile has that long."""
_TRIES = 5
_PAUSE = 0.02


@frozen
class Daemon:
    """Who listens at the socket ``name`` in ``directory`` (``sys.packets``). ``what`` it is and where it tells more
    (``hint``) are for errors."""

    directory: Path
    name: str
    what: str
    hint: str

    def ask(
        self,
        request: Mapping[str, Any],
        fds: Iterable[int] = (),
        *,
        start: Callable[[], int] | None = None,
        patience: float = PATIENCE,
        tries: int = _TRIES,
    ) -> list[Message]:
        """What it answers, all packets of it. Where nobody listens ``start`` is called; without, the list is empty.

        ``start`` gives the process ID of a child that ends, with 0, when somebody listens. Where it hangs up before it
        has answered it is asked again, ``tries`` times in all, within ``patience`` seconds.
        Raises the ``StratumError`` that it answers with, or one where it does not answer.
        """
        numbers, deadline = list(fds), time.monotonic() + patience
        for attempt in range(tries):
            answers = self._asked(request, numbers, start, deadline)
            if answers is not None:
                return answers
            time.sleep(max(0.0, min(_PAUSE * attempt, 1.0, deadline - time.monotonic())))
        raise StratumError(f"{self.what} ends at once", hint=self.hint)

    def _asked(
        self, request: Mapping[str, Any], fds: list[int], start: Callable[[], int] | None, deadline: float
    ) -> list[Message] | None:
        """The answers, or None where it ended at this moment, as one that has nothing to do does."""
        try:
            with self._connected(start, deadline) as connection:
                if connection is None:
                    return []
                send(connection, request, fds)
                return list(_answers(connection, deadline))
        except TimeoutError:
            raise SilentError(f"{self.what} does not answer", hint=self.hint) from None
        except (ConnectionError, EOFError):
            return None
        except (OSError, GarbageError) as exc:
            text = os_error_text(exc) if isinstance(exc, OSError) else str(exc)
            raise StratumError(f"cannot reach {self.what}: {text}") from None

    @contextlib.contextmanager
    def _connected(self, start: Callable[[], int] | None, deadline: float) -> Iterator[socket.socket | None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            if not self._connects(connection, deadline):
                if start is None:
                    yield None
                    return
                self._start(start)
                if not self._connects(connection, deadline):
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            yield connection

    def _connects(self, connection: socket.socket, deadline: float) -> bool:
        """Connect; False where nobody listens."""
        connection.settimeout(_left(deadline))
        try:
            with reachable(self.directory, self.name) as path:
                while (answer := connection.connect_ex(path)) == errno.EAGAIN:  # no place for one more who waits
                    _left(deadline)
                    time.sleep(_PAUSE)
        except FileNotFoundError:
            return False
        if answer not in (0, errno.ENOENT, errno.ECONNREFUSED):
            raise OSError(answer, os.strerror(answer))
        return answer == 0

    def _start(self, start: Callable[[], int]) -> None:
        """Start it, and return when it listens; where two do that, one of them does."""
        try:
            _, status = os.waitpid(start(), 0)
        except OSError as exc:
            raise StratumError(f"cannot start {self.what}: {os_error_text(exc)}") from None
        if status:
            raise StratumError(f"{self.what} did not start: it ended with {status}", hint=self.hint)


class SilentError(StratumError):
    """A daemon does not answer in time."""


def _answers(connection: socket.socket, deadline: float) -> Iterator[Message]:
    while True:
        connection.settimeout(_left(deadline))
        received = receive(connection)
        if received is None:
            raise EOFError
        answer = raise_error(received[0])
        yield answer
        if not answer.get("more"):
            return


def _left(deadline: float) -> float:
    """Seconds until then; ``TimeoutError`` where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
