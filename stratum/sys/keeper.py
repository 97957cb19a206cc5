"""A keeper: a small process that keeps descriptors and a socket, and has a worker that does what is to be done.

It does little itself, so there is little that could end it. A worker that dies or hangs is replaced; one of the code on
disk takes over when that is asked for: it loads, the old one finishes, and it begins. What clients ask at the socket
(``sys.packets``) the keeper answers or passes on to its worker, with the client's socket. Where the keeper dies, its
worker is to start another, and to hand over what it has.

One that the hook of a container engine started is a child of the container's monitor, as conmon takes in all orphans
below it, and waits for all its children before it ends: with it a service whose main process it is, and whoever waits
for that. So when that container has stopped, the hook says ``move``, and the keeper ends as if it had been killed:
conmon takes in nobody by then.

Between the two, besides what a kind of keeper has of its own: the keeper says ``request`` with the socket of who asked,
``ping``, and ``retire``; the worker says ``ready`` once it is loaded, and ``pong``.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stratum.errors import BusyError, StratumError, UsageError
from stratum.sys import daemon
from stratum.sys.packets import Channel, GarbageError, Message, close_all, error_to_json, peer, receive, send
from stratum.sys.spawn import spawn

CLIENTS = 128
_ASKING = 10.0
"""Seconds that who connects has to say what they want."""
_BACK_OFF = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY = 30.0
_SWEEP = 10.0
_NOTES = 0.1

Answer = Callable[[Message, list[int], socket.socket], None]


class Process:
    """A worker process, ``main(argument)`` of ``module``: ``pid``, its channel, and when it was started and heard of.

    ``passing`` are descriptors that it has from number 3 on. ``OSError``.
    """

    def __init__(self, module: str, argument: Any, passing: Iterable[int] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = spawn(module, argument, stdin=theirs.fileno(), stderr=2, passing=passing)
            except OSError:
                ours.close()
                raise
        self._handle = os.pidfd_open(self.pid)  # its number may be another's once it was reaped
        self.channel = Channel(ours)
        self.started = self.heard = time.monotonic()
        self.ready = False
        self.retiring: float | None = None

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """End it, and forget it."""
        self.kill()
        os.close(self._handle)
        self.channel.close()


def reply(client: socket.socket, message: Message) -> None:
    """Answer, and hang up."""
    sent(client, message)
    client.close()


def sent(client: socket.socket, message: Message) -> bool:
    """Answer; whether there was anybody to take it."""
    try:
        send(client, message)
    except (OSError, GarbageError):
        return False
    return True


class Keeper(abc.ABC):
    """See the module. ``lasting``: it does not end for want of anything to keep. ``watchdog``: seconds in which the
    service manager wants to hear of it, 0 for never."""

    IDLE = 10.0
    """Seconds without anything to keep after which it ends."""
    PING = 10.0
    PATIENCE = 30.0
    """Seconds in which a worker answers, or is killed."""
    STARTING = 60.0
    RETIRING = 10.0
    LOGGED = ""
    """Where its log is."""

    def __init__(
        self, listener: socket.socket, notifier: daemon.Notifier, *, lasting: bool, watchdog: float = 0.0
    ) -> None:
        self.notifier = notifier
        self.worker: Process | None = None
        self.stopping = False
        self._listener = listener
        self.lasting = lasting
        self._watchdog = watchdog
        self._successor: Process | None = None
        self._asked_for: list[socket.socket] = []
        self._clients: dict[int, tuple[socket.socket, float]] = {}
        self._failures = 0
        self._due: dict[str, float] = {}
        self.moves = False
        """Whether its worker is to start another in its place."""
        self._epoll = select.epoll()
        self._wakeup, theirs = socket.socketpair()
        for end in (self._wakeup, theirs, listener):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._theirs = theirs
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._signalled)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)

    # What kind of keeper it is

    @abc.abstractmethod
    def is_needed(self) -> bool:
        """Whether there is anything to keep."""

    @abc.abstractmethod
    def new_worker(self) -> Process:
        """Start a worker. ``OSError``."""

    @abc.abstractmethod
    def begin(self, process: Process) -> None:
        """Have a worker, which is ready and the only one, do what is to be done."""

    @abc.abstractmethod
    def told(self, process: Process, message: Message, fds: list[int]) -> None:
        """Take in what a worker says. The descriptors are closed then."""

    @abc.abstractmethod
    def answers(self) -> Mapping[str, Answer]:
        """What it answers itself, by ``op``, besides ``restart-worker`` and ``move``."""

    def pass_on(self, message: Message, client: socket.socket) -> None:
        """Have the worker answer; ``BusyError`` where there is none."""
        if self.worker is None or not self.worker.ready:
            raise BusyError("no worker is running now", hint="try again in a moment")
        self.hand(message, client)

    def hand(self, message: Message, client: socket.socket) -> None:
        """Give a request, and who asked, to the worker."""
        assert self.worker is not None
        self.worker.channel.post({"op": "request", "request": message}, [client.fileno()])
        client.close()

    @abc.abstractmethod
    def sweep(self) -> None:
        """Look after what is kept, every 10 s."""

    def _signalled(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self.stopping = True

    def run(self) -> None:
        """Keep, until there is nothing to keep or a signal says to end."""
        self.notifier.tell("READY=1")
        self.after("sweep", _SWEEP)
        self.after("idle", self.IDLE)
        if self._watchdog:
            self.after("watchdog", self._watchdog / 2)
        if self.is_needed():
            self.start()
        while not self.stopping:
            now = time.monotonic()
            for name in [name for name, due in self._due.items() if due <= now]:
                del self._due[name]
                getattr(self, f"_on_{name}")()
            if self.stopping:
                break
            self._watch_channels()
            if self.notifier.has_unsent:
                self._due.setdefault("notes", time.monotonic() + _NOTES)
            wait = max(0.0, min(self._due.values()) - time.monotonic())
            for fd, _ in self._epoll.poll(wait):
                self._handle(fd)
            self._reap()
        if not self.moves:
            self._end()

    # Time

    def after(self, name: str, seconds: float) -> None:
        """Have ``_on_NAME`` called then."""
        self._due[name] = time.monotonic() + seconds

    def _on_sweep(self) -> None:
        self.after("sweep", _SWEEP)
        self.sweep()
        late = time.monotonic() - _ASKING
        for fd, (_, since) in list(self._clients.items()):
            if since < late:
                self._forget_client(fd).close()

    def _on_idle(self) -> None:
        """End, where nothing was there to be kept for long enough."""
        if self.lasting or self.is_needed() or self._clients:
            return
        self.stopping = True

    def _on_watchdog(self) -> None:
        self.after("watchdog", self._watchdog / 2)
        if not self.notifier.has_unsent:
            self.notifier.tell("WATCHDOG=1")

    def _on_notes(self) -> None:
        self.notifier.flush()

    def _on_ping(self) -> None:
        """Look after the workers: one that does not answer, start or end in time is killed."""
        now = time.monotonic()
        for process in (self.worker, self._successor):
            if process is None:
                continue
            if process.retiring is not None:
                late = now - process.retiring > self.RETIRING
            elif process.ready:
                late = now - process.heard > self.PATIENCE
                process.channel.post({"op": "ping"})
            else:
                late = now - process.started > self.STARTING
            if late:
                daemon.log(f"the worker {process.pid} does not answer, and is killed")
                process.kill()
        if self.worker is not None or self._successor is not None:
            retiring = self.worker is not None and self.worker.retiring is not None
            self.after("ping", self.RETIRING / 2 if retiring else self.PING)

    def _on_start(self) -> None:
        self.start()

    # The worker

    def start(self) -> None:
        """Start a worker where there is none, or try again later."""
        if self.worker is not None:
            return
        try:
            self.worker = self.new_worker()
        except OSError as exc:
            daemon.log(f"cannot start a worker: {exc}")
            self.start_later()
            return
        self._watch(self.worker)

    @property
    def starts_later(self) -> bool:
        """Whether a worker is started in a moment."""
        return "start" in self._due

    def start_later(self) -> None:
        """After a failure: soon, and less soon with each one in a row."""
        wait = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
        self._failures += 1
        self.after("start", wait)

    def _watch(self, process: Process) -> None:
        self._epoll.register(process.channel.fileno(), select.EPOLLIN)
        self._due.setdefault("ping", time.monotonic() + self.PING)

    def _watch_channels(self) -> None:
        """Wait for room in a channel only while there is something to send."""
        for process in (self.worker, self._successor):
            if process is not None:
                events = select.EPOLLIN | (select.EPOLLOUT if process.channel.has_unsent else 0)
                self._epoll.modify(process.channel.fileno(), events)

    def _said(self, process: Process) -> None:
        """What a worker says, and that it is gone."""
        process.channel.flush()
        for message, fds in process.channel.messages():
            try:
                process.heard = time.monotonic()
                if message.get("ready"):
                    process.ready = True
                    if process is self._successor:
                        self._succeed()
                    else:
                        self.begin(process)
                else:
                    self.told(process, message, fds)
            finally:
                close_all(fds)
        if process.channel.ended:
            self._gone(process)

    def _gone(self, process: Process) -> None:
        """A worker's end: another takes its place."""
        self._epoll.unregister(process.channel.fileno())
        process.close()
        if process is self._successor:
            self._successor = None
            error = StratumError("the new worker ended before it was ready", hint=self.LOGGED)
            self._tell_successor(error_to_json(error))
            return
        if process.retiring is None:
            daemon.log(f"the worker {process.pid} has ended")
        self.worker = None
        if self.stopping:
            return
        if self._successor is not None:
            self._succeed()
            return
        if time.monotonic() - process.started > _HEALTHY:
            self._failures = 0
        if self.is_needed():
            self.start_later()

    def _succeed(self) -> None:
        """Have the new worker take over: at once where there is no other, else once the other has gone."""
        if self.worker is None:
            self.worker, self._successor = self._successor, None
            assert self.worker is not None
            if self.worker.ready:
                self.begin(self.worker)
            self._tell_successor({"ok": True, "worker": self.worker.pid})
        elif self.worker.retiring is None:
            self.worker.retiring = time.monotonic()
            self.worker.channel.post({"op": "retire"})
            self.after("ping", self.RETIRING / 2)

    def _tell_successor(self, answer: Message) -> None:
        for client in self._asked_for:
            reply(client, answer)
        self._asked_for.clear()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # Clients

    def _handle(self, fd: int) -> None:
        if fd == self._wakeup.fileno():
            with contextlib.suppress(BlockingIOError):
                self._wakeup.recv(4096)
        elif fd == self._listener.fileno():
            self._accept()
        elif fd in self._clients:
            self._asked(fd)
        else:
            for process in (self.worker, self._successor):
                if process is not None and process.channel.fileno() == fd:
                    self._said(process)
                    return

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                daemon.log(f"cannot take a connection: {exc}")
                time.sleep(0.1)  # it stays in the queue
            return
        client.setblocking(False)
        _, uid = peer(client)
        if uid not in (0, os.geteuid()) or len(self._clients) >= CLIENTS:
            client.close()
            return
        self._clients[client.fileno()] = (client, time.monotonic())
        self._epoll.register(client.fileno(), select.EPOLLIN)

    def _forget_client(self, fd: int) -> socket.socket:
        client, _ = self._clients.pop(fd)
        self._epoll.unregister(fd)
        if not self.is_needed():
            self.after("idle", self.IDLE)
        return client

    def _asked(self, fd: int) -> None:
        """A request; one a connection."""
        client = self._forget_client(fd)
        try:
            received = receive(client)
        except (OSError, GarbageError) as exc:
            reply(client, error_to_json(UsageError(f"this is no request: {exc}")))
            return
        if received is None:
            client.close()
            return
        message, fds = received
        try:
            self._do(message, fds, client)
        except StratumError as exc:
            reply(client, error_to_json(exc))
        except Exception as exc:  # a defect must not end it
            daemon.log(f"internal error: {type(exc).__name__}: {exc}")
            reply(client, error_to_json(StratumError(f"internal error: {type(exc).__name__}: {exc}")))
        finally:
            close_all(fds)

    def _do(self, message: Message, fds: list[int], client: socket.socket) -> None:
        """Do what is asked; who asked is answered and let go of, now or later."""
        own: dict[str, Answer] = {"restart-worker": self._do_restart, "move": self._do_move}
        answer = {**own, **self.answers()}.get(str(message.get("op")))
        if answer is None:
            self.pass_on(message, client)
        else:
            answer(message, fds, client)

    def _do_restart(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        if self.worker is None and not self.is_needed():
            reply(client, {"ok": True, "worker": None})  # the next one is of the code on disk anyway
            return
        if self._successor is None:
            try:
                self._successor = self.new_worker()
            except OSError as exc:
                raise StratumError(f"cannot start a worker: {exc}") from None
            self._watch(self._successor)
        self._asked_for.append(client)

    def _do_move(self, message: Message, _fds: list[int], client: socket.socket) -> None:
        self.moves = daemon.is_monitor_of(os.getppid(), str(message.get("container")))
        reply(client, {"ok": True, "moves": self.moves})
        self.stopping |= self.moves

    def _end(self) -> None:
        """Have the worker finish, and go."""
        self.notifier.tell("STOPPING=1")
        for process in (self.worker, self._successor):
            if process is None:
                continue
            process.channel.post({"op": "retire"})
            poll = select.poll()
            poll.register(process.channel.fileno(), select.POLLIN)
            deadline = time.monotonic() + self.RETIRING
            while not process.channel.ended and (left := deadline - time.monotonic()) > 0:
                poll.poll(left * 1000)
                for _, fds in process.channel.messages():
                    close_all(fds)
            process.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
