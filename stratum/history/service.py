"""The worker of a store's keeper (``history.keeper``): it watches, and answers what is asked of the history.

One thread talks with the keeper; another one has the watcher, and does what is asked of it one after the other. When
the keeper says ``retire``, or is gone, all that was closed by then is brought into the logs first. Where the keeper is
gone without a word, and no service manager starts another, this process does, with the descriptors that it has copies
of.

Besides what any keeper and its worker say (``sys.keeper``), the keeper says ``watch``, with those worktrees of which
the events are ``kept``; the worker says ``watching``, with all of which it has them, when that changes, and ``failed``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import StratumError, UsageError, foreseen
from stratum.history.keeper import CLOSES, KEPT, NAMES
from stratum.history.wire import KEEPER
from stratum.sys import daemon
from stratum.sys.forked import call_itself
from stratum.sys.handover import Handover
from stratum.sys.malloc import give_back_at_once
from stratum.sys.packets import Channel, GarbageError, Message, close_all, error_to_json, send
from stratum.sys.spawn import spawn
from stratum.sys.threads import use_little_address_space

if TYPE_CHECKING:
    from stratum.history.watcher import Watcher

_CLOSING = 25.0
"""Seconds in which what is known is to be in the logs at the end."""
_IDLE = 60.0
_ANSWERING = 10.0
_TURN = 0.0005
"""Seconds for which a thread may go on while another one wants to."""

Asked = tuple[Message, socket.socket]


class Service:
    """See the module; ``fds`` are what the keeper passed, by name. ``run`` works until it is over."""

    def __init__(self, channel: Channel, settings: dict[str, Any], fds: dict[str, int]) -> None:
        self._channel = channel
        self._settings = settings
        self._fds = fds
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._later = Handover()
        self._thread: threading.Thread | None = None
        self._watcher: Watcher | None = None
        self._watching: list[str] | None = None
        self._ending = False
        self._retired = False
        self._broken = False

    # With the keeper

    def run(self) -> None:
        """Work until the keeper says to end, or is gone."""
        self._channel.post({"ready": True, "pid": os.getpid()})
        poll = select.poll()
        poll.register(self._later.fd, select.POLLIN)
        while not (self._channel.ended or self._retired or self._broken):
            poll.register(self._channel.fileno(), select.POLLIN | (select.POLLOUT if self._channel.has_unsent else 0))
            poll.poll()
            self._later.do()
            self._channel.flush()
            for message, fds in self._channel.messages():
                try:
                    self._do(message, fds)
                finally:
                    close_all(fds)
        self._end()

    def _do(self, message: Message, fds: list[int]) -> None:
        op = message.get("op")
        if op == "ping":
            self._channel.post({"pong": True})
        elif op == "retire":
            self._retired = True
        elif op == "watch" and self._thread is None:
            kept = [str(name) for name in message.get("kept", [])]
            self._thread = threading.Thread(target=self._watch, args=(kept,), name="watching", daemon=True)
            self._thread.start()
        elif op == "request" and fds:
            self._asked.put((message["request"], socket.socket(fileno=os.dup(fds[0]))))
            self._rouse()

    def _rouse(self) -> None:
        """Have the other thread look what is to be done."""
        if self._watcher is not None:
            self._watcher.wake()

    def _end(self) -> None:
        """Have all that is known brought into the logs, and, where no keeper is left, start another."""
        self._ending = True
        self._rouse()
        if self._thread is not None:
            self._thread.join(_CLOSING)
            if self._thread.is_alive():
                daemon.log("what was done last did not get into the logs in time")
        self._later.do()
        if self._broken:
            self._channel.flush()
        elif not self._retired and not self._settings.get("notify"):
            self._hand_over()

    def _hand_over(self) -> None:
        daemon.log("the keeper is gone; another is started")
        settings = {key: self._settings[key] for key in ("store", "runtime_dir", "config")}
        names = [name for name in KEPT if name in self._fds]
        settings |= {"start": True, "names": names, "watched": self._watching or []}
        try:
            spawn(KEEPER, settings, stderr=2, passing=[self._fds[name] for name in names])
        except OSError as exc:
            daemon.log(f"cannot start a keeper: {exc}")

    # The watcher's thread

    def _watch(self, kept: list[str]) -> None:
        try:
            self._watcher = watcher = self._make(kept)
            self._look()
            while not self._ending:
                self._answer()
                watcher.run_once(_IDLE)
                self._begin()
            watcher.close()
        except Exception as exc:  # whatever it is, the next one may get further
            problem = foreseen(exc)
            daemon.log(f"cannot watch {self._settings['store']}: {problem.told}")
            self._later.put(lambda: self._break(problem))

    def _break(self, problem: StratumError) -> None:
        self._channel.post({"failed": error_to_json(problem)["error"]})
        self._broken = True

    def _make(self, kept: list[str]) -> Watcher:
        from stratum.history.events import Groups
        from stratum.history.watcher import Watcher
        from stratum.store import Store

        groups = None
        if NAMES in self._fds:
            closes = os.dup(self._fds[CLOSES]) if CLOSES in self._fds else -1
            groups = Groups.adopt(closes, os.dup(self._fds[NAMES]))
        store = Store.open(Path(self._settings["store"]))
        return Watcher(store, groups, kept=kept, tell=daemon.log)

    def _look(self) -> None:
        """Look what is to be watched."""
        assert self._watcher is not None
        self._watcher.look()
        self._begin()

    def _begin(self) -> None:
        """Have those marked, and in the log, that are watched from now on, and tell the keeper: what is missed of them
        from here on is none of its workers' fault."""
        watcher, before = self._watcher, self._watching or []
        assert watcher is not None
        for ref in watcher.watching():
            if ref not in before:
                with contextlib.suppress(StratumError):  # the watcher tells
                    watcher.flush(*ref.split("+", 1))
        watching = watcher.watching()
        if watching != self._watching:
            self._watching = watching
            self._later.put(lambda: self._channel.post({"watching": watching}))

    def _answer(self) -> None:
        """Do what was asked by now."""
        with contextlib.suppress(queue.Empty):
            while True:
                request, client = self._asked.get_nowait()
                try:
                    answer = self._answer_to(request)
                except StratumError as exc:
                    answer = error_to_json(exc)
                except OSError as exc:
                    answer = error_to_json(foreseen(exc))
                # After the keeper was told what is watched: who is told so may count on it, whoever is killed then.
                self._later.put(partial(_reply, client, answer))

    def _answer_to(self, request: Message) -> Message:
        watcher, op = self._watcher, request.get("op")
        assert watcher is not None
        if op == "flush":
            name, worktree = str(request.get("name")), str(request.get("worktree"))
            if f"{name}+{worktree}" not in watcher.watching():
                self._look()
            return {"ok": True, "change": watcher.flush(name, worktree)}
        if op == "look":
            self._look()
            return {"ok": True, "watched": len(watcher.watching())}
        if op == "status":
            return {**request.get("keeper", {}), "watcher": watcher.status()}
        raise UsageError(f"there is no request {str(op)[:40]!a}")


def _reply(client: socket.socket, answer: Message) -> None:
    with client, contextlib.suppress(OSError, GarbageError):
        client.settimeout(_ANSWERING)
        send(client, answer)


def main(settings: dict[str, Any]) -> None:
    """Be a worker, with the keeper at standard input, and from descriptor 3 on what ``names`` says."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the keeper says when
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    fds = dict(zip(settings["names"], range(daemon.FIRST_LISTEN_FD, 64), strict=False))
    for fd in fds.values():
        os.set_inheritable(fd, False)
    call_itself("stratum-record")
    use_little_address_space()
    give_back_at_once()
    sys.setswitchinterval(_TURN)  # what was closed is not to wait for the thread that publishes
    Service(Channel(socket.socket(fileno=0)), settings, fds).run()
    signal.raise_signal(signal.SIGKILL)  # a thread that hangs at a disk would keep it from ending
