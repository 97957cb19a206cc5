"""The keeper of a store's watcher (``sys.keeper``): it has the kernel's events of the store's worktrees, the lock that
says who writes their histories, and the socket (``history.wire``); its worker watches (``history.service``).

So a worker that is killed leaves no gap: what happens meanwhile waits in the kernel for the next one, with the files
that were replaced. A keeper that is killed leaves its worker with copies of all descriptors; the worker brings what it
knows into the logs, starts another keeper with them, and ends. Under systemd the service manager keeps them too, for
the next keeper: then nothing is missed where both are killed. Else the next watcher finds what is there, and its logs
say that nobody watched meanwhile.

Whoever turns a history on, or mounts a worktree with one, starts it where none runs (``api.watching``). It ends when no
worktree of the store has a history, or the store is gone. ``stratum watch`` takes over what such a keeper has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stratum.errors import BusyError, StratumError, UnsupportedError, os_error_text
from stratum.history.wire import LOCK, LOG, socket_name
from stratum.mount.apart import keep_no_mounts
from stratum.store.layout import open_layout
from stratum.sys import daemon, keeper
from stratum.sys.forked import call_itself
from stratum.sys.keeper import CLIENTS, Answer, Process, reply
from stratum.sys.locks import FileLock
from stratum.sys.packets import GarbageError, Message, close_all, error_to_json, raise_error, reachable, receive, send

WORKER = "stratum.history.service"
LISTENER, WATCH_LOCK, CLOSES, NAMES = KEPT = ("listener", "lock", "closes", "names")
"""What is kept, by these names and handed over in this order. Without events the last two are missing."""
_NOTE = "note"
_NAME = "stratum-watch"
_LOCKING = 0.25
_LOCK_PATIENCE = 5.0
_LOCKED_FOR_LONG = 60.0
_YIELDING = 60.0
_SOCKET_MAX = 8192


class Keeper(keeper.Keeper):
    """See the module. ``store`` is the store's directory; ``kept`` what an earlier keeper had, of which ``listener`` is
    always there; ``watched`` what its worker said that it watches."""

    RETIRING = 30.0
    LOGGED = f"its log says more: {LOG} in the runtime directory, or the journal of stratum-watch.service"

    def __init__(
        self,
        settings: Mapping[str, Any],
        kept: dict[str, int],
        listener: socket.socket,
        notifier: daemon.Notifier,
        watched: list[str],
    ) -> None:
        super().__init__(listener, notifier, lasting=not settings.get("start"), watchdog=settings.get("watchdog", 0.0))
        self.fds = kept
        self.handed_over = False
        self._settings = settings
        self._store: str = settings["store"]
        self._lock_path = open_layout(Path(self._store)).watch_lock
        self._watched: list[str] | None = None
        self._marked = watched if CLOSES in kept or NAMES in kept else []
        """Of which worktrees nothing can have been missed, as their events are kept."""
        self._problem: Message | None = None
        self._waiting: list[tuple[Message, socket.socket]] = []
        self._asked_to_stop: list[socket.socket] = []
        self._successor_of_all: socket.socket | None = None
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._tried_since = time.monotonic()

    # What is kept

    def is_needed(self) -> bool:
        return self.lasting or self._watched is None or bool(self._watched)

    def begin_to_keep(self) -> None:
        """Take the lock and ask for events, where no earlier keeper had them; tried again where the lock is taken."""
        if WATCH_LOCK not in self.fds and not self._take_lock():
            if self.lasting or time.monotonic() - self._tried_since < _LOCKED_FOR_LONG:
                self.after("lock", _LOCKING)
            else:
                self.stopping = True
            return
        if CLOSES not in self.fds and NAMES not in self.fds:
            self._open_groups()
        for name, fd in self.fds.items():
            self.notifier.keep(name, [fd])
        self._keep_note()
        self.start()

    def start(self) -> None:
        if WATCH_LOCK in self.fds:
            super().start()

    def _on_lock(self) -> None:
        self.begin_to_keep()

    def _take_lock(self) -> bool:
        lock = FileLock(self._lock_path, timeout=0.0, what=f"the history of the store {self._store}")
        try:
            lock.acquire()
        except BusyError as exc:
            if self._problem is None:
                daemon.log(exc.message)
            self._problem = error_to_json(exc)
        except OSError as exc:
            if self._problem is None:
                daemon.log(f"cannot lock {self._lock_path}: {os_error_text(exc)}")
            self._problem = error_to_json(StratumError(f"cannot lock {self._lock_path}: {os_error_text(exc)}"))
        else:
            self.fds[WATCH_LOCK] = lock.detach()
            self._problem = None
            return True
        if time.monotonic() - self._tried_since > _LOCK_PATIENCE:
            self._refuse_waiting()
        return False

    def _open_groups(self) -> None:
        """Ask for events; where there are none to be had, or wanted, the worker does without."""
        from stratum.history.events import Groups, probe

        if self._settings.get("config", {}).get("events") == "scan":
            return
        try:
            why = probe(self._store)
            groups = Groups.open() if why is None else None
        except UnsupportedError as exc:
            why, groups = exc.told, None
        if groups is None:
            daemon.log(f"{why}; upperdirs are looked through now and then")
            return
        for name, fd in zip((CLOSES, NAMES), groups.fds, strict=True):
            if fd >= 0:
                self.fds[name] = fd

    def _keep_note(self) -> None:
        """Have the service manager keep what the next keeper has to know."""
        if not self.notifier.is_heard:
            return
        place = os.stat(os.path.join(self._settings["runtime_dir"], socket_name(os.stat(self._store))))
        text = {"store": self._store, "place": [place.st_dev, place.st_ino], "watched": self._marked}
        note = daemon.memory_file(json.dumps(text).encode())
        self.notifier.drop(_NOTE)
        self.notifier.keep(_NOTE, [note])
        os.close(note)

    def sweep(self) -> None:
        """End where the store is gone, or its lock is not the one that is held."""
        held = self.fds.get(WATCH_LOCK)
        try:
            if held is None or os.path.samestat(os.fstat(held), os.stat(self._lock_path, follow_symlinks=False)):
                return
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                return
        daemon.log(f"the store {self._store} is gone, or is another one now")
        self.stopping = True

    # The worker

    def new_worker(self) -> Process:
        present = [name for name in KEPT if name in self.fds]
        argument = {**self._settings, "names": present}
        return Process(WORKER, argument, [self.fds[name] for name in present])

    def begin(self, process: Process) -> None:
        process.channel.post({"op": "watch", "kept": self._marked})
        waiting, self._waiting = self._waiting, []
        for message, client in waiting:
            self.hand(message, client)

    def told(self, process: Process, message: Message, fds: list[int]) -> None:
        if "watching" in message:
            self._problem = None
            self._watched = self._marked = [str(name) for name in message["watching"]]
            self._keep_note()
            if not self.is_needed():
                self.after("idle", self.IDLE)
        elif "failed" in message:
            self._problem = {"error": message["failed"]}
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, client in waiting:
            reply(client, self._problem or {})

    def start_later(self) -> None:
        if self._successor_of_all is not None:
            self._hand_over(self._successor_of_all)
        else:
            super().start_later()

    # Clients

    def answers(self) -> Mapping[str, Answer]:
        return {"status": self._do_status, "stop": self._do_stop, "yield": self._do_yield}

    def pass_on(self, message: Message, client: socket.socket) -> None:
        worker = self.worker
        if worker is not None and worker.ready and worker.retiring is None:
            self.hand(message, client)
        elif self._problem is not None:
            raise_error(self._problem)
        elif len(self._waiting) < CLIENTS:
            self._waiting.append((message, client))
        else:
            raise BusyError("too many wait for the history's next worker", hint="try again in a moment")

    def _do_status(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        about: Message = {"pid": os.getpid(), "store": self._store, "since": self._since}
        about |= {"worker": self.worker.pid if self.worker else None, "kept": self.notifier.is_heard}
        about |= {"lasting": self.lasting}
        if self.worker is not None and self.worker.ready and self.worker.retiring is None:
            self.hand({"op": "status", "keeper": about}, client)
        else:
            reply(client, {**about, "watcher": None, **(self._problem or {})})

    def _do_stop(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        self._asked_to_stop.append(client)
        self.stopping = True

    def _do_yield(self, _message: Message, _fds: list[int], client: socket.socket) -> None:
        """Give all that is kept to another keeper, once the worker has ended."""
        if self.lasting or self._successor_of_all is not None:
            raise BusyError(
                f"the store {self._store} is watched already, by process {os.getpid()}",
                hint="end that first: stratum watch --stop",
            )
        if self.worker is None:
            self._hand_over(client)
            return
        self._successor_of_all = client
        self.worker.retiring = time.monotonic()
        self.worker.channel.post({"op": "retire"})
        self.after("ping", self.RETIRING / 2)

    def _hand_over(self, client: socket.socket) -> None:
        present = [name for name in KEPT if name in self.fds]
        with contextlib.suppress(OSError, GarbageError):
            send(client, {"kept": present, "watched": self._marked}, [self.fds[name] for name in present])
            self.handed_over = True
        client.close()
        self.stopping = True

    def end(self) -> None:
        """Let the lock go, and tell those who waited for it that it has ended: others can write histories now."""
        lock = self.fds.pop(WATCH_LOCK, None)
        if lock is not None:
            os.close(lock)
        for client in self._asked_to_stop:
            reply(client, {"ok": True})


def main(settings: dict[str, Any]) -> None:
    """Be the keeper. ``settings``: ``store`` and ``runtime_dir``; ``config``, the worker's part of the settings;
    ``start`` to go to the background once it listens; ``names`` of descriptors that it is given, from 3 on, and what an
    earlier one ``watched``; under a service manager ``notify``, its socket, and ``watchdog``, in seconds."""
    runtime_dir, store = settings["runtime_dir"], settings["store"]
    os.umask(0o077)
    os.chdir("/")
    keep_no_mounts()
    name = socket_name(os.stat(store))
    kept, watched = given(settings.pop("names", []), store, os.path.join(runtime_dir, name))
    watched = watched or settings.pop("watched", [])
    if not kept and settings.get("start"):
        os.closerange(3, 1 << 20)  # what an engine left open for its hook, whose end somebody may wait for
    if LISTENER not in kept:
        listener = daemon.listen(runtime_dir, name, LOCK, CLIENTS)
        if listener is None:
            if settings.get("start"):
                return
            kept, watched = taken_over(runtime_dir, name)
        else:
            kept[LISTENER] = listener.detach()
    place = os.stat(os.path.join(runtime_dir, name))
    if settings.get("start"):
        if os.fork():
            return
        os.setsid()
        daemon.log_to(os.path.join(runtime_dir, LOG))
    listener = socket.socket(fileno=os.dup(kept[LISTENER]))
    listener.listen(CLIENTS)  # whoever connects is told the process that called this last
    call_itself(_NAME)
    daemon.settle_in(alone=bool(settings.get("start")))
    watching = Keeper(settings, kept, listener, daemon.Notifier(settings.get("notify", "")), watched)
    watching.begin_to_keep()
    watching.run()
    if not (watching.handed_over or watching.moves):
        daemon.leave(runtime_dir, name, LOCK, listener, place)
        os.close(kept[LISTENER])
    watching.end()


def given(names: list[str], store: str, socket_path: str) -> tuple[dict[str, int], list[str]]:
    """What an earlier keeper left to this one, from descriptor 3 on, by its names: (name -> descriptor, what its worker
    watched). Nothing where it was of another store; whatever is none of it is closed. A socket that nobody finds any
    more is left out."""
    kept: dict[str, int] = {}
    note: dict[str, Any] = {}
    for fd, name in enumerate(names, daemon.FIRST_LISTEN_FD):
        try:
            info = os.fstat(fd)
        except OSError:
            continue
        os.set_inheritable(fd, False)
        if name == _NOTE and stat.S_ISREG(info.st_mode):
            note = _read_note(fd)
            os.close(fd)
        elif name in KEPT and name not in kept and _is_kind(name, info):
            kept[name] = fd
        else:
            os.close(fd)
    if not _is_of(kept, store):
        close_all(kept.values())
        return {}, []
    if LISTENER in kept and note.get("place") != _place(socket_path) and note:
        os.close(kept.pop(LISTENER))
    watched = note.get("watched", [])
    return kept, [str(each) for each in watched] if isinstance(watched, list) else []


def _read_note(fd: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_kind(name: str, info: os.stat_result) -> bool:
    if name == LISTENER:
        return stat.S_ISSOCK(info.st_mode)
    if name == WATCH_LOCK:
        return stat.S_ISREG(info.st_mode)
    return stat.S_IFMT(info.st_mode) in (0, stat.S_IFREG)  # an anonymous inode


def _is_of(kept: Mapping[str, int], store: str) -> bool:
    """Whether the lock is that of the store."""
    try:
        path = open_layout(Path(store)).watch_lock
        return WATCH_LOCK in kept and os.path.samestat(os.fstat(kept[WATCH_LOCK]), os.lstat(path))
    except (OSError, StratumError):
        return False


def _place(path: str) -> list[int]:
    try:
        info = os.lstat(path)
    except OSError:
        return []
    return [info.st_dev, info.st_ino]


def taken_over(runtime_dir: str, name: str) -> tuple[dict[str, int], list[str]]:
    """What the keeper has that listens there, which ends: (name -> descriptor, what its worker watched). ``BusyError``
    where it is not one that was started by the way."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection, reachable(runtime_dir, name) as path:
        connection.settimeout(_YIELDING)
        try:
            connection.connect(path)
            send(connection, {"op": "yield"})
            received = receive(connection)
        except (OSError, GarbageError) as exc:
            raise StratumError(f"cannot take over what watches the store: {exc}") from None
    if received is None:
        raise StratumError("cannot take over what watches the store: it ended", hint="try again")
    answer, fds = received
    names = answer.get("kept")
    if "error" in answer or not isinstance(names, list) or len(names) != len(fds) or not set(names) <= set(KEPT):
        close_all(fds)
        raise_error(answer)
        raise StratumError("what watches the store answers nonsense")
    watched = answer.get("watched")
    return dict(zip(names, fds, strict=True)), list(map(str, watched)) if isinstance(watched, list) else []
