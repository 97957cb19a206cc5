"""The process behind a mount that all programs of a user see (``mount.visible``).

It has the filesystem's descriptor, a child that serves it, and a socket in the runtime directory. It is outside of the
session namespace, where fusermount3 can act: so whoever is inside has it unmount. A server that is killed it replaces,
and the kernel sends again what that had read. It ends with the mount; told to end, it takes the mount away.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any, NoReturn

from stratum.composefs.erofs.reader import Image
from stratum.errors import BusyError, ConflictError, StratumError, UsageError, os_error_text
from stratum.metafs.answers import Answers, Shows
from stratum.metafs.ids import IdTable
from stratum.metafs.serving import greet, serve
from stratum.mount.build import busy
from stratum.mount.record import FUSE_KIND
from stratum.mount.visible import socket_name
from stratum.sys import daemon, fuse, fusermount, mountinfo
from stratum.sys.forked import call_itself, keep_only
from stratum.sys.packets import GarbageError, Message, error_to_json, receive, send
from stratum.sys.userns import OVERFLOW_ID

LOCK = "visible.lock"
_NAME = "stratum-visible"
_CLIENTS = 16
_ASKING = 10.0
"""Seconds that who connects has to say what they want, and in which it has to be asked to mount."""
_RESTARTS = 10


class Attendant:
    """See the module. ``image`` and ``objects`` are open files; ``ids`` are those that files are shown with."""

    def __init__(
        self, listener: socket.socket, mountpoint: str, source: str, image: int, objects: list[int], ids: IdTable
    ) -> None:
        self._listener = listener
        self._mountpoint = mountpoint
        self._source = source
        self._objects = objects
        self._answers = Answers(Image(mmap.mmap(image, 0, access=mmap.ACCESS_READ)), Shows.TREE, ids)
        self._device = -1
        self._server = 0
        self._handle = -1
        self._starts = 0
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def run(self) -> None:
        """Answer until the mount is gone, or nobody asks for it."""
        signal.signal(signal.SIGTERM, lambda *_: self._give_up())
        while ready := self._poll.poll(None if self._server else _ASKING * 1000):
            for fd, _ in ready:
                if fd == self._listener.fileno():
                    self._accept()
                elif not self._still_served():
                    return
            if not self._starts:  # it could not be mounted
                return

    # The mount

    def _mount(self) -> None:
        self._device = fusermount.mount(self._mountpoint, self._source, FUSE_KIND)
        try:
            greet(self._device, self._answers)
            self._start()
        except (StratumError, OSError, fuse.Ended):
            self._take_away()
            raise

    def _start(self) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_server()
        self._starts += 1
        self._server, self._handle = pid, os.pidfd_open(pid)
        self._poll.register(self._handle, select.POLLIN)

    def _be_server(self) -> NoReturn:
        """In a process of its own: answer the kernel, and have nothing else of this one."""
        failed = True
        try:
            gc.disable()  # a collection would write to all objects, and so have their memory copied
            for told in (signal.SIGTERM, signal.SIGINT):
                signal.signal(told, signal.SIG_IGN)  # the parent is told, and unmounts
            keep_only({self._device, *self._objects})
            serve(self._device, self._answers, self._objects)
            failed = False
        finally:
            os._exit(int(failed))

    def _still_served(self) -> bool:
        """The server has ended: whether another one serves now, as the mount is still there."""
        self._poll.unregister(self._handle)
        os.close(self._handle)
        _, status = os.waitpid(self._server, 0)
        self._server = 0
        with contextlib.suppress(fuse.Ended, OSError):
            if status and self._starts < _RESTARTS and fuse.send_again(self._device):
                self._start()
                return True
        if status:
            self._take_away()
        return False

    def _take_away(self) -> None:
        """Unmount, also from under those who use it."""
        with contextlib.suppress(StratumError):
            fusermount.unmount(self._mountpoint, lazy=True)
        os.close(self._device)

    def _give_up(self) -> NoReturn:
        if self._server:
            self._take_away()
        raise SystemExit

    def _unmount(self, *, lazy: bool) -> None:
        """Raises ``BusyError`` naming who uses it, ``ConflictError``."""
        entry = mountinfo.topmost(Path(self._mountpoint))
        if entry is not None and entry.source == self._source:
            try:
                fusermount.unmount(self._mountpoint, lazy=lazy)
            except BusyError:
                raise busy(Path(self._mountpoint)) from None
        elif entry is not None and any(entry.source == self._source for entry in mountinfo.read()):
            raise ConflictError(
                f"{entry.source} ({entry.fstype}) was mounted over {self._mountpoint}",
                hint=f"unmount that first: umount {self._mountpoint}",
            )

    # Who asks

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(_ASKING)
        with client:
            try:
                received = receive(client)
                answer = self._answered(received[0]) if received is not None else None
            except StratumError as exc:
                answer = error_to_json(exc)
            except fuse.Ended:
                answer = error_to_json(StratumError(f"{self._mountpoint} was unmounted while it was mounted"))
            except (OSError, GarbageError) as exc:
                text = os_error_text(exc) if isinstance(exc, OSError) else str(exc)
                answer = error_to_json(StratumError(f"cannot serve {self._mountpoint}: {text}"))
            if answer is not None:
                with contextlib.suppress(OSError, GarbageError):
                    send(client, answer)

    def _answered(self, message: Message) -> Message:
        if message.get("op") == "mount" and not self._server:
            self._mount()
        elif message.get("op") == "unmount" and self._server:
            self._unmount(lazy=bool(message.get("lazy")))
        else:
            raise UsageError("nothing of that kind can be asked here")
        return {"pid": os.getpid()}


def main(settings: dict[str, Any]) -> None:
    """Be the attendant, in the background once it listens. Descriptors from 3 on are the image and ``layers`` data
    layers. ``settings``: ``runtime_dir``, the ``id`` of the record, ``mountpoint``, ``source``, ``uids`` and ``gids``
    as for ``IdTable``."""
    os.umask(0o077)
    os.chdir("/")
    runtime_dir, name = settings["runtime_dir"], socket_name(settings["id"])
    listener = daemon.listen(runtime_dir, name, LOCK, _CLIENTS)
    if listener is None or os.fork():
        return
    os.setsid()
    call_itself(_NAME)
    daemon.settle_in()
    place = os.stat(os.path.join(runtime_dir, name))
    objects = list(range(4, 4 + settings["layers"]))
    try:
        ids = IdTable(settings["uids"], settings["gids"], OVERFLOW_ID)
        Attendant(listener, settings["mountpoint"], settings["source"], 3, objects, ids).run()
    finally:
        daemon.leave(runtime_dir, name, LOCK, listener, place)
