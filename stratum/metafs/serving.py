"""Filesystems of images, each with a process that serves it and ends with it.

The server is forked from who makes the mount, so no interpreter has to start. It has nothing of that process but the
image, the device and the data layers: whoever waits for the end of an output of the mounting process does not wait for
the server. Killed, it takes nothing with it: what was not read yet cannot be read (ENOTCONN) until the next mount.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from stratum.composefs.erofs.reader import Image
from stratum.errors import DamagedError, StratumError
from stratum.metafs.answers import Answers, Shows, Wanted
from stratum.metafs.ids import IdTable
from stratum.sys import fuse, fuseproto
from stratum.sys.forked import call_itself, keep_only
from stratum.sys.fuseproto import UNANSWERED, Opcode
from stratum.sys.namespaces import leave_mounts

_NAME: Final = "stratum-metafs"
"""What lists of processes show a server as."""
_GREETING_MS: Final = 10_000
_IDLE_MS: Final = 20
_FIRST: Final = 1000
_OPEN_OBJECTS: Final = 64
_READ_AHEAD: Final = 1 << 17
"""Bytes that the kernel reads at once, where nobody told it otherwise."""


def serve_image(image: int, *, objects: Sequence[int] = (), data: bool, ids: IdTable | None, source: str) -> int:
    """The files of the image that is open as ``image``, as a layer for overlays with ``userxattr``; a mount fd.

    With ``data`` the contents are served, too, from ``objects``, open directories of objects; the first that has an
    object is taken. Without, files have attributes that say which object an overlay finds their content in. ``source``
    is what the filesystem is called. All descriptors that are given stay the caller's.

    Raises ``DamagedError`` where it is no image, ``OSError`` where the kernel lets nobody make such a filesystem here.
    """
    with _mapped(image) as buffer:
        answers = Answers(Image(buffer), Shows.FILES if data else Shows.NAMES, ids)
        device, mount = fuse.mount_detached(source, unchanging=True)
        try:
            try:
                _begin(device, answers, objects, source)
            finally:
                os.close(device)  # or whoever asks would wait for ever where the server has ended already: here, too
            os.fstat(mount)  # until it is asked for, the root has mode 0, which an overlay would keep
        except BaseException:
            os.close(mount)
            raise
    return mount


def _mapped(image: int) -> mmap.mmap:
    try:
        return mmap.mmap(image, 0, access=mmap.ACCESS_READ)
    except ValueError:  # it is empty
        raise DamagedError("an image of 0 bytes") from None


def _begin(device: int, answers: Answers, objects: Sequence[int], source: str) -> None:
    """Answer INIT, and have a process of its own answer all else. ``OSError`` where there can be no more processes."""
    greet(device, answers)
    child = os.fork()
    if child == 0:
        _leave(device, answers, objects, source)
    code = 0
    with suppress(ChildProcessError):  # somebody has the kernel reap all children
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        number = code if code > 0 else errno.EIO
        raise OSError(number, os.strerror(number))


def greet(device: int, answers: Answers) -> None:
    """Answer the request by which the kernel begins, before any other. Raises ``StratumError``, ``fuse.Ended``,
    ``OSError``."""
    while (data := fuse.receive(device)) is None:
        poll = select.poll()
        poll.register(device, select.POLLIN)
        if not poll.poll(_GREETING_MS):
            raise StratumError("the kernel does not begin to speak FUSE")
    request = fuseproto.parse_request(data)
    if request.opcode != Opcode.INIT:
        raise StratumError(f"the kernel begins to speak FUSE with request {request.opcode}")
    body = answers.hello(fuseproto.parse_hello(request.body))
    fuse.send(device, fuseproto.reply(request.unique, body))


def _leave(device: int, answers: Answers, objects: Sequence[int], source: str) -> NoReturn:
    """In a forked process: become the server, as a child of nobody's that is here; never comes back."""
    status = errno.EIO
    try:
        gc.disable()  # a collection would write to all objects, and so have their memory copied
        os.setsid()
        if os.fork() == 0:
            _detach({device, *objects}, source)
            serve(device, answers, objects, after_first=_leave_mounts)  # some milliseconds, for which nobody waits
        status = 0
    except OSError as exc:
        status = exc.errno or errno.EIO
    except BaseException:
        status = errno.EIO
    finally:
        os._exit(status)


def _detach(kept: set[int], source: str) -> None:
    """Keep nothing of who made this process but the descriptors ``kept``; ``source`` is what it is to be known by."""
    os.chdir("/")
    signal.set_wakeup_fd(-1)
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        if number not in kept:
            os.dup2(null, number)
    keep_only(kept)
    call_itself(_NAME, f"{_NAME} {source}")


def _leave_mounts() -> None:
    """Have none of the mounts of who made this process. A mount namespace lives as long as a process is in it, what is
    mounted there as long as that, and this process as long as what it serves: by itself it would keep all three."""
    with suppress(OSError):
        leave_mounts()


def serve(
    device: int, answers: Answers, objects: Sequence[int], *, after_first: Callable[[], None] | None = None
) -> None:
    """Answer requests until the filesystem is gone; ``after_first`` is called once those are answered that the making
    of a mount waits for."""
    os.set_blocking(device, True)
    contents = Contents(objects)
    with suppress(fuse.Ended):
        if after_first is not None:
            poll = select.poll()
            poll.register(device, select.POLLIN)
            for _ in range(_FIRST):
                if not poll.poll(_IDLE_MS):
                    break
                _serve_one(device, answers, contents)
            after_first()
        while True:
            _serve_one(device, answers, contents)


def _serve_one(device: int, answers: Answers, contents: Contents) -> None:
    data = fuse.receive(device)
    if data is None:
        return
    request = fuseproto.parse_request(data)
    if request.opcode not in UNANSWERED:
        _answer(device, request, answers, contents)


def _answer(device: int, request: fuseproto.Request, answers: Answers, contents: Contents) -> None:
    found: bytes | memoryview | int
    try:
        answer = answers.answer(request)
        found = contents.read(answer) if isinstance(answer, Wanted) else answer
    except OSError as exc:
        found = exc.errno or errno.EIO
    except Exception:  # one request that cannot be answered is not to end all others
        found = errno.EIO
    if isinstance(found, int):
        parts: tuple[bytes | memoryview, ...] = (fuseproto.refusal(request.unique, found),)
    else:
        parts = fuseproto.reply_head(request.unique, len(found)), found
    try:
        fuse.send(device, *parts)
    except OSError:  # the kernel takes no such answer, or has no memory for it: nor is that to end all others
        with suppress(OSError):
            fuse.send(device, fuseproto.refusal(request.unique, errno.EIO))


class Contents:
    """Objects, found in the first of the data layers that has them; a few are kept open."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = layers
        self._open: dict[bytes, int] = {}
        self._buffer = memoryview(bytearray())

    def read(self, wanted: Wanted) -> memoryview:
        """What is wanted, until the next call. ``OSError``."""
        if len(self._buffer) < wanted.size:  # not before: where the overlay reads contents, none is needed
            self._buffer = memoryview(bytearray(max(wanted.size, _READ_AHEAD)))
        buffer = self._buffer[: wanted.size]
        if not wanted.all:
            return self._filled(self._kept(wanted.path), wanted.offset, buffer)
        file = self._opened(wanted.path)
        try:
            return self._filled(file, wanted.offset, buffer)
        finally:
            os.close(file)

    def _filled(self, file: int, offset: int, buffer: memoryview) -> memoryview:
        if os.preadv(file, [buffer], offset) < len(buffer):
            raise OSError(errno.EIO, "the object is shorter than its file")
        return buffer

    def _kept(self, path: bytes) -> int:
        file = self._open.get(path)
        if file is None:
            if len(self._open) >= _OPEN_OBJECTS:
                os.close(self._open.pop(next(iter(self._open))))
            file = self._open[path] = self._opened(path)
        return file

    def _opened(self, path: bytes) -> int:
        """The object, open; EIO where none has it, as its file is there, and only its content is not."""
        for layer in self._layers:
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)
        raise OSError(errno.EIO, "no layer has the object")
