"""The keeper of gates (``sys.keeper``): it has the descriptors of all their filesystems, and a worker that serves them.

It never reads a request of a filesystem, talks to no network and touches no store. A worker that dies is replaced, and
the new one has the kernel send again what the dead one had read: its readers notice nothing. A keeper that dies leaves
its worker with descriptors of its own; the worker starts another keeper and hands them over (``hydrate.worker``). Only
where both are killed do the filesystems end: what is not here yet fails with ENOTCONN from then on, until ``stratum
reconcile`` puts new mounts in their places.

It listens in a runtime directory (``mount.gatewire``). Under systemd the socket is passed to it,
and the service manager keeps the descriptors, and what was asked with them, for the next keeper. Else whoever mounts
starts it, and it ends when nothing has been mounted for a while.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Mapping
from typing import Any

from stratum.errors import BusyError, NotFoundError, UsageError
from stratum.hydrate.served import Served, checked, is_fuse_device, now, passed
from stratum.mount.apart import keep_no_mounts
from stratum.mount.gatewire import SOCKET, socket_path
from stratum.sys import daemon, keeper
from stratum.sys.forked import call_itself
from stratum.sys.keeper import CLIENTS, Answer, Process, reply, sent
from stratum.sys.packets import Message, error_to_json

_NAME = "stratum-hydrate"
_LOCK = "hydrate.lock"
_LIST = 100


class Keeper(keeper.Keeper):
    """See the module."""

    LOGGED = "its log says more: hydrate.log in the runtime directory, or the journal of stratum-hydrate.service"

    def __init__(
        self,
        runtime_dir: str,
        listener: socket.socket,
        notifier: daemon.Notifier,
        *,
        lasting: bool,
        watchdog: float,
    ) -> None:
        super().__init__(listener, notifier, lasting=lasting, watchdog=watchdog)
        self._runtime_dir = runtime_dir
        self._served: dict[str, Served] = {}

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

    def is_needed(self) -> bool:
        return bool(self._served)

    def sweep(self) -> None:
        """Drop what ended without a worker that could tell."""
        poll = select.poll()
        for served in self._served.values():
            poll.register(served.device, 0)
        ended = {fd for fd, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL)}
        for served in [served for served in self._served.values() if served.device in ended]:
            self._drop(served)

    # The worker

    def new_worker(self) -> Process:
        return Process("stratum.hydrate.worker", self._runtime_dir)

    def begin(self, process: Process) -> None:
        for served in self._served.values():
            self._show(process, served)

    def told(self, process: Process, message: Message, fds: list[int]) -> None:
        if "ended" in message:
            self._end_of(message["ended"])
        elif "served" in message:
            self._answered(message["served"], {"ok": True})
        elif "failed" in message:
            self._answered(message["failed"], {"error": message.get("error")})

    def _show(self, process: Process, served: Served) -> None:
        """Have a worker serve the filesystem."""
        message = {"op": "serve", "again": served.shown, **served.request}
        served.shown = True
        process.channel.post(message, [served.device])

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
        self.notifier.drop(served.id)
        if not self._served:
            self.after("idle", self.IDLE)

    # Clients

    def answers(self) -> Mapping[str, Answer]:
        return {"serve": self._do_serve, "list": self._do_list, "stop": self._do_stop}

    def pass_on(self, message: Message, client: socket.socket) -> None:
        if message.get("op") == "status" and (self.worker is None or not self.worker.ready):
            reply(client, {"connections": [served.described() for served in self._served.values()][:_LIST]})
            return
        super().pass_on(message, client)

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
        if self.notifier.is_heard:
            note = daemon.memory_file(json.dumps(request).encode())
            self.notifier.keep(served.id, (served.device, note))
            os.close(note)
        if served.shown:  # who hands it over is about to end, and does not wait for a worker
            served.answer({"ok": True})
        if self.worker is None:
            if not self.starts_later:
                self.start()
        elif self.worker.ready and self.worker.retiring is None:
            self._show(self.worker, served)

    def _do_list(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        all_of_them = [served.described() for served in self._served.values()]
        for start in range(0, len(all_of_them), _LIST):
            if not sent(client, {"connections": all_of_them[start : start + _LIST], "more": True}):
                break
        reply(client, {"connections": [], "pid": os.getpid(), "worker": self.worker.pid if self.worker else None})

    def _do_stop(self, message: Message, _fds: list[int], client: socket.socket) -> None:
        if self._served and not message.get("force"):
            raise BusyError(
                f"{len(self._served)} mounts fetch what is read of them",
                hint="unmount them first; 'stratum hydrate --restart-worker' is what an upgrade needs",
            )
        reply(client, {"ok": True})
        self.stopping = True


def main(settings: dict[str, Any]) -> None:
    """Be the keeper. ``settings``: ``runtime_dir``; ``start`` to go to the background once it listens; under a service
    manager ``notify``, its socket, ``watchdog``, in seconds, and ``names``, those of the descriptors it passed."""
    runtime_dir = settings["runtime_dir"]
    os.umask(0o077)
    os.chdir("/")
    keep_no_mounts()
    if settings.get("start"):
        os.closerange(3, 1 << 20)  # what an engine left open for its hook, whose end somebody may wait for
    listener, kept = passed(settings.get("names", []))
    place = None
    if listener is None:
        listener = daemon.listen(runtime_dir, SOCKET, _LOCK, CLIENTS)
        if listener is None:
            return
        place = os.stat(socket_path(runtime_dir))
    if settings.get("start"):
        if os.fork():
            return
        os.setsid()
        daemon.log_to(os.path.join(runtime_dir, "hydrate.log"))
    listener.listen(CLIENTS)  # whoever connects is told the process that called this last
    call_itself(_NAME)
    daemon.settle_in()
    notifier = daemon.Notifier(settings.get("notify", ""))
    lasting = not settings.get("start")
    keeper = Keeper(runtime_dir, listener, notifier, lasting=lasting, watchdog=settings.get("watchdog", 0.0))
    for fd, text in kept.values():
        keeper.adopt(fd, text)
    keeper.run()
    if place is not None:
        daemon.leave(runtime_dir, SOCKET, _LOCK, listener, place)
