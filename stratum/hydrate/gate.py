"""The gate: a FUSE filesystem by which overlayfs asks for the objects of a mount that are not here.

An overlay looks for an object in its data layers one after the other: ``objects``, ``ahead``, ``ask``, ``landing``,
``err``. ``ask`` and ``err`` are the two directories of the gate, the others are directories of the store. A lookup in
``ask`` waits until the object is fetched, and then finds nothing there: the overlay goes on to ``landing`` and has an
ordinary file, with no server behind it, from then on. Where that failed, what a lookup in ``err`` answers is what the
reader gets: the errno of the fetch, or ESTALE, at which the kernel opens the file once more, where the object is here
after all or nothing is known of a failure, as after a change of workers. What was fetched with it and nobody had asked
for is in ``ahead``: nobody asks for it either.

In two cases ``ask`` has a file (``hydrate.large``): of a large object, of which only what is read is fetched, and where
the caller wants to change metadata only, for which overlayfs opens nothing: that fetches nothing at all.

Directories are fixed and last; a miss is never remembered. Nothing that the kernel needs is in the memory of the server
only, so that another can go on with the descriptor: it has what waits sent to it once more.

A FUSE file stays one as long as the kernel knows it. So when its object is here, the mount is refreshed first
(``sys.mountapi.refresh_mount``), which lets go of it, then ``prune`` has the kernel forget it: what opens it next asks.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

from stratum.errors import StratumError, one_line
from stratum.hydrate.large import FIRST_NODE, UNREAL, Fetching, ObjectFiles
from stratum.hydrate.reader import is_dying, needs_content
from stratum.store.catalog import Catalog
from stratum.store.objects import Objects
from stratum.sys import fuse, fuseproto
from stratum.sys.actors import Actor, Actors
from stratum.sys.fuseproto import ROOT_NODE, Attributes, Opcode, OpenFlag, Request

ASK = "ask"
ERR = "err"

_ASK_NODE = 2
_ERR_NODE = 3
_ASK_SHARDS = 256
_ERR_SHARDS = 512
_SHARD_COUNT = 256
_SHARD = re.compile(rb"[0-9a-f]{2}")
_REST = re.compile(rb"[0-9a-f]{62}")

_DIRECTORY_VALID = 3600
_FILE_VALID = 10 * 365 * 86400
"""Seconds that the kernel may believe what it was told. If it might not, it would ask of a file again each time that
anybody looks at its name in the mount: that would need a server, and any other answer would be ESTALE to who looks."""

_LOOK_AGAIN = 0.2
"""Seconds between looks at readers that got a signal which did not end them."""

_FAILURES_MAX = 4096
_ERRNO_MAX = 512
_MISLEADING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ENOSYS})
"""What a reader is not told: it would take it for something else than a failed fetch."""

_NOTHING_TO_DO = frozenset(
    {Opcode.READDIR, Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.ACCESS, Opcode.DESTROY}
)
_COUNTED = (
    "lookups",
    "hits",
    "asked",
    "asked_bytes",
    "metadata_only",
    "large",
    "reads",
    "bytes",
    "failures",
    "interrupted",
    "problems",
)


class _Waiting:
    """A request that is not answered yet. ``unique`` changes when it is sent again."""

    __slots__ = ("base", "digest", "opcode", "reader", "signalled", "since", "tid", "unique")

    def __init__(self, request: Request) -> None:
        self.base = request.base
        self.unique = request.unique
        self.opcode = request.opcode
        self.tid = request.tid
        self.since = time.monotonic()
        self.digest: bytes | None = None
        self.reader: Actor | None = None
        self.signalled = False


class Connection:
    """The server of one gate.

    ``device`` is the descriptor of its FUSE filesystem, which this closes; ``fetcher`` gets the objects of the commit
    that is mounted, which the ``catalogs`` list; ``objects`` and ``landing`` are where they then are. What may wait for
    a disk is done in ``pool``. ``became_native`` is as ``hydrate.large.ObjectFiles`` has it. The loop that this belongs
    to calls ``handle`` when the device can be read, until it has ``ended``.
    """

    def __init__(
        self,
        device: int,
        fetcher: Fetching,
        catalogs: Sequence[Catalog],
        objects: Objects,
        landing: Path,
        pool: Executor,
        *,
        became_native: Callable[[], None] | None = None,
    ) -> None:
        self.device = device
        self.ended = False
        self.greeted = False
        self._fetcher = fetcher
        self._files = ObjectFiles(fetcher, catalogs, objects, landing, became_native)
        self._pool = pool
        self._readers = Actors()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._failures: dict[bytes, int] = {}
        self._known: Counter[int] = Counter()  # FUSE files -> how often the kernel was given them
        self._counts: Counter[str] = Counter()
        self._last_problem = ""
        self._using = 0
        self._watch: threading.Thread | None = None
        self._closed = threading.Event()

    def fileno(self) -> int:
        """The device, for the loop that waits for it."""
        return self.device

    def take_over(self) -> None:
        """Have what another server of this gate has read, and not answered, sent to this one. ``OSError``."""
        with suppress(fuse.Ended):
            fuse.send_again(self.device)

    def close(self) -> None:
        """Serve no more. What waits, waits for the next server, or fails where that was the last descriptor."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            self.ended = True
            last = self._using == 0
        if last:
            os.close(self.device)

    def prune(self) -> None:
        """Have the kernel forget FUSE files that nobody uses, where it can (Linux 6.18). To be called after the mount
        was refreshed: until then, it uses them."""
        with self._lock:
            known = list(self._known)
        if not known or not self._use():
            return
        try:
            fuse.prune(self.device, known)
        except fuse.Ended:
            self.ended = True
        except OSError as exc:
            self._note(exc)
        finally:
            self._unuse()

    def handle(self) -> None:
        """Read one request, if there is one, and answer it or have it answered: this never waits.

        Every request gets an answer, whatever happens: a reader without one could not even be killed.
        """
        if not self._use():
            return
        try:
            data = fuse.receive(self.device)
            if data is None or self._passed_on(data):
                return
        except fuse.Ended:
            self.ended = True
            return
        finally:
            self._unuse()
        try:
            request = fuseproto.parse_request(data)
            if request.opcode == Opcode.INTERRUPT:
                self._interrupted(fuseproto.parse_interrupt(request.body))
            elif request.opcode in fuseproto.UNANSWERED:
                self._forget(fuseproto.parse_forget(request))
        except StratumError as exc:
            self._note(exc)
            return
        if request.opcode in fuseproto.UNANSWERED:
            return
        waiting = self._taken(request)
        if waiting is None:
            return
        if request.node >= FIRST_NODE:
            self._later(waiting, lambda: self._of_file(waiting, request))
        else:
            self._guarded(waiting, lambda: self._of_directory(waiting, request))

    def status(self) -> dict[str, Any]:
        """What was asked so far, and who waits now. Counts since this server began; ``bytes`` and ``asked_bytes`` are
        those read of FUSE files and those of objects that were waited for; ``hits`` are lookups of what had landed. All
        texts are one line."""
        now = time.monotonic()
        with self._lock:
            counts, problem = dict(self._counts), self._last_problem
            waiting = [waits for waits in self._waiting.values() if waits.digest is not None]
        shown = []
        for waits in sorted(waiting, key=lambda waits: waits.since):
            reader = waits.reader
            shown.append(
                {
                    "pid": reader.pid if reader else 0,
                    "name": reader.name if reader else "?",
                    "container": reader.container if reader else None,
                    "object": waits.digest.hex() if waits.digest else "",
                    "seconds": round(now - waits.since, 3),
                }
            )
        return {**dict.fromkeys(_COUNTED, 0), **counts, "last_problem": problem, "waiting": shown}

    # Requests and answers

    def _passed_on(self, data: bytes) -> bool:
        """Whether it is a request that overlayfs was told to go on with: a lookup in ``ask`` of what has landed.

        That is most of what comes where frames are fetched ahead, so it does nothing that can be left out; a request
        that is anything else, or that was sent before, is not looked at here.
        """
        opcode, unique, node, name = fuseproto.glance(data)
        if opcode != Opcode.LOOKUP or not _ASK_SHARDS <= node < _ERR_SHARDS or unique in self._waiting or self._known:
            return False
        if not _REST.fullmatch(name):
            return False
        digest = bytes((node - _ASK_SHARDS,)) + bytes.fromhex(name.decode())
        try:
            if digest in self._failures or not self._fetcher.pass_on(digest):
                return False
        except Exception:  # whoever waits gets an answer all the same, by the way on which failures are noted
            return False
        with self._lock:
            self._counts["lookups"] += 1
            self._counts["hits"] += 1
        try:
            fuse.send(self.device, fuseproto.refusal(unique, errno.ENOENT))
        except OSError as exc:
            self._note(exc)
        return True

    def _taken(self, request: Request) -> _Waiting | None:
        """The request, as one to be answered; None for one that already is, and was sent again."""
        with self._lock:
            known = self._waiting.get(request.base)
            if known is not None:
                known.unique = request.unique
                return None
            waiting = self._waiting[request.base] = _Waiting(request)
            return waiting

    def _answer(self, waiting: _Waiting, body: bytes = b"", *, code: int = 0) -> bool:
        """Answer a request, unless that was done; whether somebody waited for it."""
        with self._lock:
            if self._waiting.pop(waiting.base, None) is None:
                return False
        if code and not 0 < code < _ERRNO_MAX:  # the kernel would not take it, and the reader wait on
            code = errno.EIO
        message = fuseproto.refusal(waiting.unique, code) if code else fuseproto.reply(waiting.unique, body)
        if not self._use():
            return False
        try:
            return fuse.send(self.device, message)
        except fuse.Ended:
            self.ended = True
        except OSError as exc:
            self._note(exc)
        finally:
            self._unuse()
        return False

    def _use(self) -> bool:
        """Keep the device from being closed, and its number from becoming another file's; False where it is closed."""
        with self._lock:
            if self._closed.is_set():
                return False
            self._using += 1
            return True

    def _unuse(self) -> None:
        with self._lock:
            self._using -= 1
            last = self._closed.is_set() and self._using == 0
        if last:
            os.close(self.device)

    def _guarded(self, waiting: _Waiting, answer: Callable[[], None]) -> None:
        """Answer a request, or tell its reader that it failed."""
        try:
            answer()
        except OSError as exc:
            self._answer(waiting, code=exc.errno or errno.EIO)
        except Exception as exc:  # a request without an answer is a reader that hangs
            self._note(exc)
            self._answer(waiting, code=errno.EIO)

    def _later(self, waiting: _Waiting, answer: Callable[[], None]) -> None:
        """Answer a request in the pool, if its reader still waits then."""

        def run() -> None:
            if self._waiting.get(waiting.base) is waiting:
                self._guarded(waiting, answer)

        try:
            self._pool.submit(run)
        except RuntimeError as exc:  # it was shut down
            self._note(exc)
            self._answer(waiting, code=errno.EIO)

    def _note(self, exc: Exception) -> None:
        """Count what nobody can be told, for status."""
        with self._lock:
            self._counts["problems"] += 1
            self._last_problem = one_line(f"{type(exc).__name__}: {exc}")

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    # What is asked

    def _of_directory(self, waiting: _Waiting, request: Request) -> None:
        """Answer what is asked of a directory, at once: to look for an object is no look at a disk, as overlayfs has
        just looked there."""
        opcode, node = request.opcode, request.node
        if opcode == Opcode.LOOKUP:
            self._look_up(waiting, node, fuseproto.parse_name(request.body))
        elif opcode == Opcode.INIT:
            self._greet(waiting, request)
        elif opcode == Opcode.GETATTR:
            self._answer(waiting, fuseproto.attributes_reply(_directory(node), valid=_DIRECTORY_VALID))
        elif opcode == Opcode.OPENDIR:
            self._answer(waiting, fuseproto.opened(0, OpenFlag.CACHE_DIR))
        elif opcode == Opcode.STATFS:
            self._answer(waiting, fuseproto.statfs())
        elif opcode in _NOTHING_TO_DO:
            self._answer(waiting)
        else:
            self._answer(waiting, code=errno.ENOSYS)

    def _greet(self, waiting: _Waiting, request: Request) -> None:
        try:
            theirs = fuseproto.parse_hello(request.body)
        except fuseproto.ProtocolError as exc:
            self._note(exc)
            self._answer(waiting, code=errno.EPROTO)
            return
        self._answer(waiting, fuseproto.hello(theirs))
        self.greeted = True

    def _look_up(self, waiting: _Waiting, node: int, name: bytes) -> None:
        if _ASK_SHARDS <= node < _ERR_SHARDS:
            self._ask(waiting, _digest(node - _ASK_SHARDS, name))
        elif _ERR_SHARDS <= node < _ERR_SHARDS + _SHARD_COUNT:
            self._err(waiting, _digest(node - _ERR_SHARDS, name))
        else:
            directory = _directory(_fixed_child(node, name))
            body = fuseproto.entry(directory, entry_valid=_DIRECTORY_VALID, attr_valid=_DIRECTORY_VALID)
            self._answer(waiting, body)

    def _ask(self, waiting: _Waiting, digest: bytes) -> None:
        """Answer that nothing is there when the object is where overlayfs looks next; or with a FUSE file."""
        self._count("lookups")
        size = self._fetcher.size(digest)
        if size is None:
            self._answer(waiting, code=errno.ENOENT)
            return
        is_here = self._fetcher.condition(digest) != UNREAL
        node = self._file_for(digest, is_here, waiting.tid)
        if node is not None:
            self._give(waiting, node, size)
            return

        def fetched(code: int) -> None:
            self._fetched(digest, code, 0 if is_here else size)
            self._answer(waiting, code=errno.ENOENT)

        if is_here:
            self._fetcher.want(digest, None, fetched)
        else:
            self._later(waiting, lambda: self._fetcher.want(digest, self._who(waiting, digest), fetched))

    def _file_for(self, digest: bytes, is_here: bool, tid: int) -> int | None:
        """The node ID of the FUSE file that a lookup gets; None where it gets none. What the kernel knows stays."""
        if is_here:
            return node if self._known and (node := self._files.node_of(digest)) in self._known else None
        if self._fetcher.is_large(digest):
            self._count("large")
        elif not needs_content(tid):
            self._count("metadata_only")
        elif not self._known or self._files.node_of(digest) not in self._known:
            return None
        return self._files.node_of(digest)

    def _give(self, waiting: _Waiting, node: int, size: int) -> None:
        """Answer with a FUSE file."""
        body = fuseproto.entry(fuseproto.regular(node, size), entry_valid=_FILE_VALID, attr_valid=_FILE_VALID)
        with self._lock:
            self._known[node] += 1
        if not self._answer(waiting, body):
            self._forget([(node, 1)])

    def _forget(self, nodes: Iterable[tuple[int, int]]) -> None:
        with self._lock:
            for node, times in nodes:
                if node in self._known:
                    self._known[node] -= times
                    if self._known[node] <= 0:
                        del self._known[node]

    def _err(self, waiting: _Waiting, digest: bytes) -> None:
        """Answer why the object is not there; never that there is none, which would be a wrong answer."""
        if self._fetcher.size(digest) is None:
            code = errno.EIO
        elif self._fetcher.condition(digest) != UNREAL:
            code = errno.ESTALE
        else:
            with self._lock:
                code = self._failures.get(digest, errno.ESTALE)
        self._answer(waiting, code=code)

    def _of_file(self, waiting: _Waiting, request: Request) -> None:
        """Answer what is asked of an object that is a FUSE file."""
        digest = self._files.digest_of(request.node)
        if digest is None:
            self._answer(waiting, code=errno.EIO)
            return
        with self._lock:
            self._known.setdefault(request.node, 1)  # another server gave it
        if request.opcode == Opcode.GETATTR:
            attributes = fuseproto.regular(request.node, self._files.size(digest))
            self._answer(waiting, fuseproto.attributes_reply(attributes, valid=_FILE_VALID))
        elif request.opcode == Opcode.OPEN:
            self._open(waiting, digest)
        elif request.opcode == Opcode.READ:
            self._read(waiting, digest, *fuseproto.parse_read(request.body))
        elif request.opcode in _NOTHING_TO_DO:
            self._answer(waiting)
        else:
            self._answer(waiting, code=errno.ENOSYS)

    def _open(self, waiting: _Waiting, digest: bytes) -> None:
        size = self._files.size(digest)

        def ready(code: int) -> None:
            body = fuseproto.opened(0, OpenFlag.KEEP_CACHE | OpenFlag.NOFLUSH)
            self._answer(waiting, body, code=_told(code))

        def fetched(code: int) -> None:
            self._fetched(digest, code, size)
            ready(code)

        if self._files.is_ready(digest):
            ready(0)
        else:
            self._fetcher.want(digest, self._who(waiting, digest), fetched)

    def _read(self, waiting: _Waiting, digest: bytes, start: int, size: int) -> None:
        def read(code: int, data: bytes) -> None:
            self._count("failures" if code else "reads")
            self._count("bytes", len(data))
            self._answer(waiting, data, code=_told(code))

        self._files.read(digest, start, size, self._who(waiting, digest), read)

    def _who(self, waiting: _Waiting, digest: bytes) -> Actor | None:
        reader = self._readers.of(waiting.tid)
        with self._lock:
            waiting.digest, waiting.reader = digest, reader
        return reader

    def _fetched(self, digest: bytes, code: int, size: int) -> None:
        """Count a fetch of ``size`` bytes (0: it was here), and remember what ``err`` will be asked for."""
        with self._lock:
            self._failures.pop(digest, None)
            if not code:
                self._counts["asked" if size else "hits"] += 1
                self._counts["asked_bytes"] += size
                return
            self._counts["failures"] += 1
            if len(self._failures) >= _FAILURES_MAX:
                del self._failures[next(iter(self._failures))]
            self._failures[digest] = _told(code)

    # Signals

    def _interrupted(self, unique: int) -> None:
        """A reader got a signal, which the kernel tells once a request, whichever it is: is it one that ends it?"""
        with self._lock:
            waiting = self._waiting.get(unique & ~fuseproto.UNIQUE_RESEND)
            if waiting is None:
                return
            waiting.signalled = True
        if self._ended_by_signal(waiting):
            return
        with self._lock:
            if self._watch is None:
                self._watch = threading.Thread(target=self._look_again, name="gate-signals", daemon=True)
                self._watch.start()

    def _ended_by_signal(self, waiting: _Waiting) -> bool:
        if not is_dying(waiting.tid):
            return False
        self._count("interrupted")
        self._answer(waiting, code=errno.EINTR)
        return True

    def _look_again(self) -> None:
        """Look now and then at readers that had a signal, as they get no second one; to the end of the last one."""
        while not self._closed.wait(_LOOK_AGAIN):
            with self._lock:
                signalled = [waiting for waiting in self._waiting.values() if waiting.signalled]
                if not signalled or self.ended:
                    self._watch = None
                    return
            for waiting in signalled:
                self._ended_by_signal(waiting)


def _fixed_child(node: int, name: bytes) -> int:
    """The node ID of a directory in a directory. ``OSError`` ENOENT, ENOTDIR."""
    if node == ROOT_NODE and name in (ASK.encode(), ERR.encode()):
        return _ASK_NODE if name == ASK.encode() else _ERR_NODE
    if node in (_ASK_NODE, _ERR_NODE) and _SHARD.fullmatch(name):
        return (_ASK_SHARDS if node == _ASK_NODE else _ERR_SHARDS) + int(name, 16)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _directory(node: int) -> Attributes:
    """What the directory is. ``OSError`` ESTALE where that is no node of the gate."""
    if node in (ROOT_NODE, _ASK_NODE, _ERR_NODE) or _ASK_SHARDS <= node < _ERR_SHARDS + _SHARD_COUNT:
        return fuseproto.directory(node)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _digest(shard: int, name: bytes) -> bytes:
    """The object of that name. ``OSError`` ENOENT where it is none."""
    if not _REST.fullmatch(name):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return bytes((shard,)) + bytes.fromhex(name.decode())


def _told(code: int) -> int:
    """The errno of a failed fetch, as a reader gets it."""
    return errno.EIO if code in _MISLEADING else code
