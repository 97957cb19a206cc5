"""The keeper: a small process that has the descriptors of all gates' filesystems, and a worker that serves them.

It never reads a request of a filesystem, talks to no network and touches no store, so there is little that could end
it. A worker that dies is replaced, and the new one has the kernel send again what the dead one had read: its readers
notice nothing. A keeper that dies leaves its worker with descriptors of its own; the worker starts another keeper and
hands them over (``hydrate.worker``). Only where both are killed do the filesystems end: what is not here yet fails with
ENOTCONN from then on, until ``stratum reconcile`` puts new mounts in their places.

It listens in a runtime directory (``mount.gatewire``). Under systemd the socket is passed to it,
and the service manager keeps the descriptors, and what was asked with them, for the next keeper. Else whoever mounts
starts it, and it ends when nothing has been mounted for a while.

One that the hook started is a child of the container's monitor, as conmon takes in all orphans below it, and waits for
all its children before it ends: with it a service whose main process it is, and whoever waits for that. So when that
container has stopped, the hook says ``move``, and the keeper leaves its place to another, which its worker starts:
conmon takes in nobody by then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from stratum.errors import BusyError, NotFoundError, StratumError, UsageError
from stratum.hydrate.served import Process, Served, checked, is_fuse_device, now, passed, reply, sent
from stratum.mount.gatewire import SOCKET, socket_path
from stratum.sys import daemon
from stratum.sys.packets import (
    GarbageError,
    Message,
    close_all,
    error_to_json,
    peer,
    receive,
)

_NAME = "stratum-hydrate"
_LOCK = "hydrate.lock"
IDLE = 10.0
"""Seconds without any filesystem after which a keeper without a service manager ends."""
PING = 10.0
PATIENCE = 30.0
"""Seconds in which a worker answers, or is killed."""
STARTING = 60.0
RETIRING = 10.0
_ASKING = 10.0
"""Seconds that who connects has to say what they want."""
_CLIENTS = 128
_LIST = 100
_BACK_OFF = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY = 30.0
_SWEEP = 10.0
_NOTES = 0.1


class Keeper:
    """See the module. ``lasting``: it does not end for want of filesystems."""

    def __init__(
        self,
        runtime_dir: str,
        listener: socket.socket,
        notifier: daemon.Notifier,
        *,
        lasting: bool,
        watchdog: float,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._listener = listener
        self._notifier = notifier
        self._lasting = lasting
        self._watchdog = watchdog
        self._served: dict[str, Served] = {}
        self._worker: Process | None = None
        self._successor: Process | None = None
        self._asked_for: list[socket.socket] = []
        self._clients: dict[int, tuple[socket.socket, float]] = {}
        self._failures = 0
        self._due: dict[str, float] = {}
        self._stopping = False
        self._moving = False
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

    def _signalled(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True

    def adopt(self, device: int, text: bytes) -> None:
        """Take a filesystem that an earlier keeper had, with what was asked for it."""
        try:
            served = Served(device, checked(json.loads(text)))
        except (ValueError, RecursionError) as exc:
            daemon.log(f"what was kept of a filesystem is damaged: {exc}")
            os.close(device)
            return
        served.shown = True
        self._served[served.id] = served

    def run(self) -> None:
        """Keep, until there is nothing to keep or a signal says to end."""
        self._notifier.tell("READY=1")
        self._after("sweep", _SWEEP)
        self._after("idle", IDLE)
        if self._watchdog:
            self._after("watchdog", self._watchdog / 2)
        if self._served:
            self._start()
        while not self._stopping:
            now = time.monotonic()
            for name in [name for name, due in self._due.items() if due <= now]:
                del self._due[name]
                getattr(self, f"_on_{name}")()
            if self._stopping:
                break
            self._watch_channels()
            if self._notifier.has_unsent:
                self._due.setdefault("notes", time.monotonic() + _NOTES)
            wait = max(0.0, min(self._due.values()) - time.monotonic())
            for fd, _ in self._epoll.poll(wait):
                self._handle(fd)
            self._reap()
        if not self._moving:
            self._end()

    # Time

    def _after(self, name: str, seconds: float) -> None:
        self._due[name] = time.monotonic() + seconds

    def _on_sweep(self) -> None:
        """Drop what ended without a worker that could tell, and clients that say nothing."""
        self._after("sweep", _SWEEP)
        poll = select.poll()
        for served in self._served.values():
            poll.register(served.device, 0)
        ended = {fd for fd, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL)}
        for served in [served for served in self._served.values() if served.device in ended]:
            self._drop(served)
        late = time.monotonic() - _ASKING
        for fd, (_, since) in list(self._clients.items()):
            if since < late:
                self._forget_client(fd).close()

    def _on_idle(self) -> None:
        """End, where nothing was there to be kept for long enough."""
        if self._lasting or self._served or self._clients:
            return
        self._stopping = True

    def _on_watchdog(self) -> None:
        self._after("watchdog", self._watchdog / 2)
        if not self._notifier.has_unsent:
            self._notifier.tell("WATCHDOG=1")

    def _on_notes(self) -> None:
        self._notifier.flush()

    def _on_ping(self) -> None:
        """Look after the workers: one that does not answer, start or end in time is killed."""
        now = time.monotonic()
        for process in (self._worker, self._successor):
            if process is None:
                continue
            if process.retiring is not None:
                late = now - process.retiring > RETIRING
            elif process.ready:
                late = now - process.heard > PATIENCE
                process.channel.post({"op": "ping"})
            else:
                late = now - process.started > STARTING
            if late:
                daemon.log(f"the worker {process.pid} does not answer, and is killed")
                process.kill()
        if self._worker is not None or self._successor is not None:
            retiring = self._worker is not None and self._worker.retiring is not None
            self._after("ping", RETIRING / 2 if retiring else PING)

    def _on_start(self) -> None:
        self._start()

    # The worker

    def _start(self) -> None:
        """Start a worker, or try again later."""
        if self._worker is not None:
            return
        try:
            self._worker = Process(self._runtime_dir)
        except OSError as exc:
            daemon.log(f"cannot start a worker: {exc}")
            self._start_later()
            return
        self._watch(self._worker)

    def _start_later(self) -> None:
        """After a failure: soon, and less soon with each one in a row."""
        wait = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
        self._failures += 1
        self._after("start", wait)

    def _watch(self, process: Process) -> None:
        self._epoll.register(process.channel.fileno(), select.EPOLLIN)
        self._due.setdefault("ping", time.monotonic() + PING)

    def _watch_channels(self) -> None:
        """Wait for room in a channel only while there is something to send."""
        for process in (self._worker, self._successor):
            if process is not None:
                events = select.EPOLLIN | (select.EPOLLOUT if process.channel.has_unsent else 0)
                self._epoll.modify(process.channel.fileno(), events)

    def _said(self, process: Process) -> None:
        """What a worker says, and that it is gone."""
        process.channel.flush()
        for message, fds in process.channel.messages():
            close_all(fds)
            process.heard = time.monotonic()
            if message.get("ready"):
                process.ready = True
                if process is self._successor:
                    self._succeed()
                else:
                    self._show_all(process)
            elif "ended" in message:
                self._end_of(message["ended"])
            elif "served" in message:
                self._answered(message["served"], {"ok": True})
            elif "failed" in message:
                self._answered(message["failed"], {"error": message.get("error")})
        if process.channel.ended:
            self._gone(process)

    def _gone(self, process: Process) -> None:
        """A worker's end: another takes its place."""
        self._epoll.unregister(process.channel.fileno())
        process.close()
        if process is self._successor:
            self._successor = None
            self._tell_successor(error_to_json(StratumError("the new worker ended before it was ready", hint=_LOGGED)))
            return
        if process.retiring is None:
            daemon.log(f"the worker {process.pid} has ended")
        self._worker = None
        if self._successor is not None:
            self._succeed()
            return
        if time.monotonic() - process.started > _HEALTHY:
            self._failures = 0
        if self._served:
            self._start_later()

    def _succeed(self) -> None:
        """Have the new worker take over: at once where there is no other, else once the other has gone."""
        if self._worker is None:
            self._worker, self._successor = self._successor, None
            assert self._worker is not None
            if self._worker.ready:
                self._show_all(self._worker)
            self._tell_successor({"ok": True, "worker": self._worker.pid})
        elif self._worker.retiring is None:
            self._worker.retiring = time.monotonic()
            self._worker.channel.post({"op": "retire"})
            self._after("ping", RETIRING / 2)

    def _tell_successor(self, answer: Message) -> None:
        for client in self._asked_for:
            reply(client, answer)
        self._asked_for.clear()

    def _show_all(self, process: Process) -> None:
        for served in self._served.values():
            self._show(process, served)

    def _show(self, process: Process, served: Served) -> None:
        """Have a worker serve the filesystem."""
        message = {"op": "serve", "again": served.shown, **served.request}
        served.shown = True
        process.channel.post(message, [served.device])

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # Filesystems

    def _end_of(self, name: object) -> None:
        served = self._served.get(str(name))
        if served is not None:
            self._drop(served)

    def _answered(self, name: object, answer: Message) -> None:
        served = self._served.get(str(name))
        if served is None:
            return
        if "error" in answer and served.waiting is not None:  # nothing is mounted with it yet
            served.answer(answer)
            self._drop(served)
            return
        served.answer(answer)

    def _drop(self, served: Served) -> None:
        """Let go of a filesystem that ended."""
        served.answer(error_to_json(NotFoundError("the filesystem has ended")))
        os.close(served.device)
        del self._served[served.id]
        self._notifier.drop(served.id)
        if not self._served:
            self._after("idle", IDLE)

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
            for process in (self._worker, self._successor):
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
        if uid not in (0, os.geteuid()) or len(self._clients) >= _CLIENTS:
            client.close()
            return
        self._clients[client.fileno()] = (client, time.monotonic())
        self._epoll.register(client.fileno(), select.EPOLLIN)

    def _forget_client(self, fd: int) -> socket.socket:
        client, _ = self._clients.pop(fd)
        self._epoll.unregister(fd)
        if not self._served:
            self._after("idle", IDLE)
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
        answers: dict[str, Callable[[Message, list[int], socket.socket], None]] = {
            "serve": self._do_serve,
            "list": self._do_list,
            "move": self._do_move,
            "restart-worker": self._do_restart,
            "stop": self._do_stop,
        }
        answers.get(str(message.get("op")), self._do_pass_on)(message, fds, client)

    def _do_serve(self, message: Message, fds: list[int], client: socket.socket) -> None:
        if len(fds) != 1 or not is_fuse_device(os.fstat(fds[0])):
            raise UsageError("one descriptor of /dev/fuse is needed")
        known = self._served.get(str(message.get("id")))
        if known is not None:  # handed over by a worker, and by the service manager too
            reply(client, {"ok": True})
            return
        try:
            request = checked({**message, "since": message.get("since") or now()})
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        if not request["gate"].get("options"):  # a live switch: as the mount was made
            for other in self._served.values():
                if other.request["source"] == request["source"]:
                    request["gate"]["options"] = other.request["gate"].get("options", {})
        served = Served(os.dup(fds[0]), request)
        served.waiting, served.shown = client, bool(message.get("again"))
        self._served[served.id] = served
        if self._notifier.is_heard:
            note = daemon.memory_file(json.dumps(request).encode())
            self._notifier.keep(served.id, (served.device, note))
            os.close(note)
        if served.shown:  # who hands it over is about to end, and does not wait for a worker
            served.answer({"ok": True})
        if self._worker is None:
            if "start" not in self._due:
                self._start()
        elif self._worker.ready and self._worker.retiring is None:
            self._show(self._worker, served)

    def _do_list(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        all_of_them = [served.described() for served in self._served.values()]
        for start in range(0, len(all_of_them), _LIST):
            if not sent(client, {"connections": all_of_them[start : start + _LIST], "more": True}):
                break
        reply(client, {"connections": [], "pid": os.getpid(), "worker": self._worker.pid if self._worker else None})

    def _do_restart(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        if self._worker is None and not self._served:
            reply(client, {"ok": True, "worker": None})  # the next one is of the code on disk anyway
            return
        if self._successor is None:
            try:
                self._successor = Process(self._runtime_dir)
            except OSError as exc:
                raise StratumError(f"cannot start a worker: {exc}") from None
            self._watch(self._successor)
        self._asked_for.append(client)

    def _do_move(self, message: Message, _fds: list[int], client: socket.socket) -> None:
        self._moving = daemon.is_monitor_of(os.getppid(), str(message.get("container")))
        reply(client, {"ok": True, "moves": self._moving})
        self._stopping |= self._moving

    def _do_stop(self, message: Message, _fds: list[int], client: socket.socket) -> None:
        if self._served and not message.get("force"):
            raise BusyError(
                f"{len(self._served)} mounts fetch what is read of them",
                hint="unmount them first; 'stratum hydrate --restart-worker' is what an upgrade needs",
            )
        reply(client, {"ok": True})
        self._stopping = True

    def _do_pass_on(self, message: Message, _fds: list[int], client: socket.socket) -> None:
        if self._worker is None or not self._worker.ready:
            if message.get("op") == "status":
                reply(client, {"connections": [served.described() for served in self._served.values()][:_LIST]})
                return
            raise BusyError("no worker is running now", hint="try again in a moment")
        self._worker.channel.post({"op": "request", "request": message}, [client.fileno()])
        client.close()

    def _end(self) -> None:
        """Have the worker finish, and go."""
        self._notifier.tell("STOPPING=1")
        for process in (self._worker, self._successor):
            if process is None:
                continue
            process.channel.post({"op": "retire"})
            poll = select.poll()
            poll.register(process.channel.fileno(), select.POLLIN)
            deadline = time.monotonic() + RETIRING
            while not process.channel.ended and (left := deadline - time.monotonic()) > 0:
                poll.poll(left * 1000)
                for _, fds in process.channel.messages():
                    close_all(fds)
            process.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)


_LOGGED = "its log says more: hydrate.log in the runtime directory, or the journal of stratum-hydrate.service"


def main(settings: dict[str, Any]) -> None:
    """Be the keeper. ``settings``: ``runtime_dir``; ``start`` to go to the background once it listens; under a service
    manager ``notify``, its socket, ``watchdog``, in seconds, and ``names``, those of the descriptors it passed."""
    runtime_dir = settings["runtime_dir"]
    os.umask(0o077)
    os.chdir("/")
    if settings.get("start"):
        os.closerange(3, 1 << 20)  # what an engine left open for its hook, whose end somebody may wait for
    listener, kept = passed(settings.get("names", []))
    place = None
    if listener is None:
        listener = daemon.listen(runtime_dir, SOCKET, _LOCK, _CLIENTS)
        if listener is None:
            return
        place = os.stat(socket_path(runtime_dir))
    if settings.get("start"):
        if os.fork():
            return
        os.setsid()
        daemon.log_to(os.path.join(runtime_dir, "hydrate.log"))
    listener.listen(_CLIENTS)  # whoever connects is told the process that called this last
    daemon.call_itself(_NAME)
    daemon.settle_in()
    notifier = daemon.Notifier(settings.get("notify", ""))
    lasting = not settings.get("start")
    keeper = Keeper(runtime_dir, listener, notifier, lasting=lasting, watchdog=settings.get("watchdog", 0.0))
    for fd, text in kept.values():
        keeper.adopt(fd, text)
    keeper.run()
    if place is not None:
        daemon.leave(runtime_dir, SOCKET, _LOCK, listener, place)
