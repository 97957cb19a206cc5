"""Worker processes for the work on packs and images (``packwork``), shared by the threads of one transfer.

A worker is a new interpreter and not a fork: it inherits no lock, thread or descriptor, also where the caller has
threads. It is in a session of its own, so Ctrl-C reaches only the process that started it, and it is killed when the
thread that started it ends, so none outlives the program that it works for.
"""

from __future__ import annotations

import importlib.util
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from stratum import errors
from stratum.errors import StratumError
from stratum.transfer import packwork
from stratum.transfer.packs import Member
from stratum.transfer.packwork import Made, Report, Span

WORTH_IT = 16 << 20
"""With fewer bytes of objects than this, no worker is started: that takes as long as the work."""

ENTRIES_WORTH_IT = 10_000
"""The same, of a tree whose image is to be described."""

_PROGRAM = "import sys; sys.path += {paths!r}; from stratum.transfer.packwork import main; main()"


class Workers:
    """``jobs`` processes at most. A context manager; leaving it ends them. No thread may use them any more by then."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._describing: _Worker | None = None
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.stop()
        for worker in self._all:
            worker.close()

    @property
    def _all(self) -> list[_Worker]:
        return self._workers + ([self._describing] if self._describing is not None else [])

    @property
    def processes(self) -> list[int]:
        """The IDs of the processes."""
        return [worker.pid for worker in self._all]

    def start(self, size: int) -> None:
        """Start the processes where ``size`` bytes of objects are worth it; until then everything is done here.

        To be called by the thread that leaves the context.
        """
        if self._jobs == 1 or size < WORTH_IT or self._workers:
            return
        for _ in range(self._jobs):
            worker = _Worker()
            self._workers.append(worker)
            self._idle.put(worker)

    def stop(self) -> None:
        """Kill the processes, also in the middle of something; a thread that waits for one of them gets an error."""
        for worker in self._all:
            worker.kill()

    def whole_metadata(self, store: Path, commit: str, entries: int) -> Callable[[], bytes]:
        """Begin with ``packwork.whole_metadata`` of a commit of so many entries, beside what the caller does meanwhile;
        the function returned waits for it. To be called once, by the thread that leaves the context."""
        arguments = (str(store), commit)
        if self._jobs == 1 or entries < ENTRIES_WORTH_IT:
            return lambda: packwork.whole_metadata(*arguments)
        worker = self._describing = _Worker()
        worker.begin((packwork.DESCRIBE, arguments))
        return lambda: bytes(worker.answer(lambda size, member: None))

    def take_apart(self, span: Span, fd: int, report: Report) -> None:
        """As ``packwork.take_apart``."""
        if self._workers:
            self._ask(packwork.UNPACK, packwork.flatten_span(span), fd, report)
        else:
            packwork.take_apart(span, fd, report)

    def make_pack(self, store: Path, members: Sequence[Member], fd: int | None, report: Report) -> Made:
        """As ``packwork.make_pack``."""
        if not self._workers:
            return packwork.make_pack(str(store), members, fd, report)
        return Made(*self._ask(packwork.MAKE, (str(store), packwork.flatten_members(members)), fd, report))

    def _ask(self, kind: int, arguments: tuple[Any, ...], fd: int | None, report: Report) -> Any:
        worker = self._idle.get()
        try:
            return worker.ask((kind, arguments), fd, report)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM.format(paths=_paths())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as exc:
                self._socket.close()
                raise StratumError(f"cannot start {sys.executable}: {exc.strerror}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Any, fd: int | None, report: Report) -> Any:
        """The result of a request; what the worker reports meanwhile is passed on."""
        self.begin(request, fd)
        return self.answer(report)

    def begin(self, request: Any, fd: int | None = None) -> None:
        """Send a request."""
        with suppress(OSError):  # whoever waits for the answer of a dead one is told
            packwork.send(self._socket, request, fd)

    def answer(self, report: Report) -> Any:
        """The result of the request that was sent."""
        try:
            while (message := packwork.receive(self._socket)) is not None:
                kind, *values = message[0]
                if kind == packwork.DONE:
                    return values[0]
                if kind == packwork.FAILED:
                    name, text, hint = values
                    raise getattr(errors, name, StratumError)(text, hint=hint)
                size, staged = values
                report(size, None)
                for digest, length in staged:
                    report(0, Member(digest, length))
        except OSError:
            pass
        raise self._death()

    def _death(self) -> StratumError:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = "the machine may be short of memory (see dmesg)" if code == -signal.SIGKILL else ""
        return StratumError(f"a process that works on packs {how}", hint=hint)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.wait()
        self._socket.close()


def _paths() -> list[str]:
    """Where the worker finds this program and what it needs, searched after the standard library."""
    places = []
    for name in ("stratum", "pyzstd"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        places.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(places))
