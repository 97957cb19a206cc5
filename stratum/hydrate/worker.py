"""The worker: answers what is asked of the gates' filesystems, and fetches for it.

One loop reads the requests of all filesystems and what the keeper says. It never waits: what may take time, such as to
open a store, is done in threads. So what is wrong with one mount, its store or its sources keeps no other waiting.

A worker that takes over has the kernel send again what the one before had read. Where the kernel cannot do that (before
Linux 6.9), each worker reads from a descriptor of its own, so that what it had read fails with it and is not waited for
for ever.

Where the keeper is gone, the worker starts another and hands over what it has. Where a fetcher cannot be made, what is
read fails at once, and making it is tried again.

Besides what any keeper and its worker say (``sys.keeper``), the keeper says ``serve`` with a filesystem's descriptor
(``id``, ``source``, ``gate``, and ``again`` where another worker may have read requests of it); the worker says
``served`` or ``failed`` of an ID, and ``ended`` of one whose filesystem is gone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UsageError, foreseen
from stratum.hydrate.gate import Connection
from stratum.mount.gate import ask_keeper, gate_from_json
from stratum.mount.plan import Gate, kernel_version
from stratum.sys import daemon, fuse
from stratum.sys.forked import call_itself
from stratum.sys.handover import Handover
from stratum.sys.packets import Channel, GarbageError, Message, close_all, error_to_json, send
from stratum.sys.threads import use_little_address_space

if TYPE_CHECKING:
    from stratum.hydrate.serving import Serving

_THREADS = 32
"""Requests that look at a disk at the same time."""
_OPENERS = 4
RETRY = 5.0
"""Seconds after which it is tried again to make a fetcher."""
_TIDY = (0.0, 2.0, 12.0, 60.0)
_SWITCH = 0.02
"""Seconds after which a thread that is running has to let others run. All of them make a system call, and with that
let others run, far more often; to have each that waits look again every 5 ms costs more than they gain."""
_CLOSING = 5.0
"""Seconds in which fetchers end, and write what they noted."""


class Gated:
    """A filesystem that is served: what was asked with it, and, once they are made, what answers for it."""

    def __init__(self, device: int, request: Message, gate: Gate) -> None:
        self.id = str(request["id"])
        self.device = device
        self.request = request
        self.gate = gate
        self.again = bool(request.get("again"))
        self.connection: Connection | None = None
        self.serving: Serving | None = None
        self.problem: StratumError | None = None

    def described(self) -> Message:
        """As ``status`` shows it."""
        about: Message = {key: self.request[key] for key in ("id", "source", "since")}
        about |= {"store": str(self.gate.store), "commit": self.gate.commit}
        if self.problem is not None:
            about["problem"] = self.problem.told
        if self.connection is not None:
            about["gate"] = self.connection.status()
        if self.serving is not None:
            about["fetcher"] = self.serving.fetcher.status()
        return about


class Worker:
    """See the module; ``run`` serves until the keeper says ``retire`` or is gone."""

    def __init__(self, channel: Channel, runtime_dir: str) -> None:
        from stratum.hydrate.serving import Servings

        self._channel = channel
        self._gated: dict[str, Gated] = {}
        self._by_fd: dict[int, Gated] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="gate")
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="open")
        self._servings = Servings(daemon.log, runtime_dir)
        self._later = Handover()
        self._epoll = select.epoll()
        self._epoll.register(self._later.fd, select.EPOLLIN)
        self._epoll.register(channel.fileno(), select.EPOLLIN)
        self._retry_at: dict[str, float] = {}
        self._retired = False
        self._tidy_at: list[float] = []

    def run(self) -> None:
        """Serve until it is over."""
        self._channel.post({"ready": True, "pid": os.getpid()})
        unsent = False
        while not self._channel.ended and not self._retired:
            if unsent != self._channel.has_unsent:
                unsent = not unsent
                self._epoll.modify(self._channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if unsent else 0))
            for fd, _ in self._epoll.poll(self._wait()):
                if fd == self._channel.fileno():
                    self._told()
                elif fd == self._later.fd:
                    self._later.do()
                elif fd in self._by_fd:
                    self._asked(self._by_fd[fd])
            self._retry()
        self._end()

    def _wait(self) -> float | None:
        due = [*self._retry_at.values(), *self._tidy_at]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # What filesystems ask

    def _asked(self, gated: Gated) -> None:
        connection = gated.connection
        assert connection is not None
        try:
            connection.handle()
        except Exception as exc:  # a defect: the others go on
            daemon.log(f"internal error: {type(exc).__name__}: {exc}")
            connection.close()
        if connection.ended:
            self._drop(gated)
            self._channel.post({"ended": gated.id})

    def _drop(self, gated: Gated) -> None:
        """Let go of a filesystem that has ended."""
        self._disconnect(gated)
        self._gated.pop(gated.id, None)
        self._retry_at.pop(gated.id, None)
        os.close(gated.device)
        if gated.serving is not None:
            self._openers.submit(self._forget, gated.serving)

    def _forget(self, serving: Serving) -> None:
        """In a thread, as it may write to a disk: end what fetched for a filesystem."""
        try:
            self._servings.end(serving)
        finally:
            self._later.put(self._tidy)

    def _tidy(self) -> None:
        """Have catalogs closed that what has ended had open: its parts refer to one another, and some threads take a
        while to end."""
        now = time.monotonic()
        self._tidy_at = [now + seconds for seconds in _TIDY]

    def _disconnect(self, gated: Gated) -> None:
        if gated.connection is not None:
            fd = gated.connection.fileno()
            del self._by_fd[fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
            gated.connection.close()
            gated.connection = None

    # What the keeper says

    def _told(self) -> None:
        self._channel.flush()
        for message, fds in self._channel.messages():
            try:
                self._do(message, fds)
            finally:
                close_all(fds)

    def _do(self, message: Message, fds: list[int]) -> None:
        op = message.get("op")
        if op == "ping":
            self._channel.post({"pong": True})
        elif op == "retire":
            self._retired = True
        elif op == "serve":
            self._serve(message, fds[0])
        elif op == "request" and fds:
            self._request(message["request"], socket.socket(fileno=os.dup(fds[0])))

    def _serve(self, message: Message, device: int) -> None:
        try:
            gate = gate_from_json(message["gate"])
        except GarbageError as exc:
            self._channel.post({"failed": message["id"], **error_to_json(StratumError(str(exc)))})
            return
        gated = Gated(os.dup(device), message, gate)
        self._gated[gated.id] = gated
        self._openers.submit(self._open, gated)

    def _open(self, gated: Gated) -> None:
        """In a thread: make what fetches for the filesystem."""
        try:
            serving = self._servings.make(gated.gate, gated.request["source"])
        except Exception as exc:  # whatever it is: somebody waits
            problem = foreseen(exc)
            self._later.put(lambda: self._not_opened(gated, problem))
        else:
            self._later.put(lambda: self._opened(gated, serving))

    def _opened(self, gated: Gated, serving: Serving) -> None:
        if self._gated.get(gated.id) is not gated:  # it ended meanwhile
            self._openers.submit(self._forget, serving)
            return
        gated.serving, gated.problem = serving, None
        self._connect(gated, serving.connection)
        self._openers.submit(serving.begin)
        self._channel.post({"served": gated.id})

    def _not_opened(self, gated: Gated, problem: StratumError) -> None:
        if self._gated.get(gated.id) is not gated:
            return
        daemon.log(f"cannot fetch for {gated.request['source']}: {problem.told}")
        if not gated.again:  # who mounts is told, and that is that
            self._drop(gated)
            self._channel.post({"failed": gated.id, **error_to_json(problem)})
            return
        gated.problem = problem
        self._retry_at[gated.id] = time.monotonic() + RETRY
        if gated.connection is None:
            from stratum.hydrate.serving import refusing

            self._connect(gated, refusing)

    def _connect(self, gated: Gated, make: Callable[[int, ThreadPoolExecutor], Connection]) -> None:
        """Read the filesystem's requests, with what ``make`` makes, from now on."""
        again = gated.again or gated.connection is not None
        self._disconnect(gated)
        device = os.dup(gated.device)
        if not _RESENDS:
            with contextlib.suppress(OSError):
                cloned = fuse.clone(gated.device)
                os.close(device)
                device = cloned
        gated.connection = connection = make(device, self._pool)
        self._by_fd[connection.fileno()] = gated
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        if again:
            with contextlib.suppress(OSError):
                connection.take_over()

    def _retry(self) -> None:
        now = time.monotonic()
        for name in [name for name, when in self._retry_at.items() if when <= now]:
            del self._retry_at[name]
            self._openers.submit(self._open, self._gated[name])
        if any(when <= now for when in self._tidy_at):
            self._tidy_at = [when for when in self._tidy_at if when > now]
            self._openers.submit(gc.collect)

    # What others ask

    def _request(self, request: Message, client: socket.socket) -> None:
        """In a thread, as it may take time. The list is of this moment."""
        served = list(self._gated.values())

        def answer() -> None:
            with client:
                client.settimeout(10.0)
                try:
                    _answer(request, served, client)
                except Exception as exc:  # whatever it is: somebody waits
                    with contextlib.suppress(OSError, GarbageError):
                        send(client, error_to_json(foreseen(exc)))

        self._openers.submit(answer)

    # The end

    def _end(self) -> None:
        """Stop to read requests, have what was fetched get its place, and, where no keeper is left, find another."""
        for gated in self._gated.values():
            self._disconnect(gated)
        for pool in (self._openers, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)
        closing = [threading.Thread(target=gated.serving.close) for gated in self._gated.values() if gated.serving]
        for thread in closing:
            thread.start()
        deadline = time.monotonic() + _CLOSING
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._servings.close()
        if not self._retired:
            self._hand_over()
        for gated in self._gated.values():
            os.close(gated.device)

    def _hand_over(self) -> None:
        daemon.log("the keeper is gone; another is started")
        for gated in self._gated.values():
            request = {key: gated.request[key] for key in ("id", "source", "since", "gate")}
            request |= {"op": "serve", "again": True}
            try:
                ask_keeper(gated.gate.runtime_dir, request, [gated.device], start=True)
            except StratumError as exc:
                daemon.log(f"cannot hand over {gated.request['source']}: {exc.told}")


def _answer(request: Message, served: list[Gated], client: socket.socket) -> None:
    """Answer what somebody asked of the worker."""
    op = request.get("op")
    if op != "status":
        raise UsageError(f"there is no request {str(op)[:40]!a}")
    for gated in served:
        send(client, {"connections": [gated.described()], "more": True})
    send(client, {"connections": [], "worker": os.getpid()})


_RESENDS = kernel_version(os.uname().release) >= (6, 9)


def main(runtime_dir: str) -> None:
    """Be a worker, with the keeper at standard input. ``runtime_dir`` is for who looks at a list of processes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the keeper says when
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    call_itself("stratum-fetch")
    use_little_address_space()
    sys.setswitchinterval(_SWITCH)
    Worker(Channel(socket.socket(fileno=0)), runtime_dir).run()
    signal.raise_signal(signal.SIGKILL)  # a thread that hangs at a disk would keep it from ending
