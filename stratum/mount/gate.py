"""A mount's gate: the FUSE filesystem that two data layers of a mount are in, made here and served elsewhere.

Who mounts opens /dev/fuse, makes the filesystem, attached nowhere, and hands the descriptor to the keeper
(``mount.gatewire``); where none listens, it starts one. The overlay alone holds the filesystem from then on, so the
gate ends by itself with the mount, in whatever namespaces that was copied to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import StratumError, UnreachableError, UnsupportedError, os_error_text
from stratum.frozen import frozen
from stratum.mount.gatewire import reachable
from stratum.mount.plan import Gate, gate_starts_keeper
from stratum.sys import fuse
from stratum.sys.packets import GarbageError, Message, raise_error, receive, send

KEEPER = "stratum.hydrate.keeper"
ASK = "ask"
ERR = "err"
PATIENCE = 60.0
"""Seconds that the keeper's answer is waited for: a worker that is started meanwhile has that long."""
_TRIES = 5
_PAUSE = 0.02


@frozen
class GateLayers:
    """A gate's filesystem: a detached mount, and its two directories (O_PATH)."""

    mount: int
    ask: int
    err: int


@contextlib.contextmanager
def gate_layers(gate: Gate, source: str) -> Iterator[GateLayers]:
    """The filesystem of ``gate``, served by the keeper, with its layers open during the block.

    It ends with the block unless a mount has its directories as layers; ``source`` is that mount's. Raises
    ``UnsupportedError`` where the kernel has no FUSE, ``OSError``, and ``StratumError`` where it is not served.
    """
    try:
        for directory in (gate.landing, gate.ahead):
            directory.mkdir(mode=0o755, exist_ok=True)
        device, mount = fuse.mount_detached()
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV):
            raise UnsupportedError(
                f"what is not here yet cannot be fetched when it is read: {os_error_text(exc)}",
                hint="the kernel needs FUSE (modprobe fuse); 'stratum realize' fetches all of it now",
            ) from None
        raise
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, mount)
        try:
            request = {"op": "serve", "id": os.urandom(8).hex(), "source": source, "gate": gate_to_json(gate)}
            answers = ask_keeper(gate.runtime_dir, request, [device], start=gate_starts_keeper(gate.options))
        finally:
            os.close(device)  # the keeper has its own: where it ends, the filesystem does
        if not answers:
            raise UnreachableError(
                "the keeper of what is fetched when it is read does not run",
                hint=f"it is started by others here: 'stratum hydrate', with the runtime directory {gate.runtime_dir}",
            )
        directories = []
        for name in (ASK, ERR):
            directories.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount))
            opened.callback(os.close, directories[-1])
        yield GateLayers(mount, *directories)


def ask_keeper(
    runtime_dir: Path, request: Mapping[str, Any], fds: Iterable[int] = (), *, start: bool = False
) -> list[Message]:
    """What the keeper of a runtime directory answers, all packets of it. With ``start`` one is started where there is
    none; else the list is empty then.

    Raises the ``StratumError`` that it answers with, or one where it does not answer.
    """
    numbers = list(fds)
    for attempt in range(_TRIES):
        answers = _asked(runtime_dir, request, numbers, start)
        if answers is not None:
            return answers
        time.sleep(_PAUSE * attempt)
    raise StratumError("the keeper of what is fetched when it is read ends at once", hint=_hint(runtime_dir))


def _asked(runtime_dir: Path, request: Mapping[str, Any], fds: list[int], start: bool) -> list[Message] | None:
    """The answers, or None where the keeper ended at this moment, as one that has nothing to keep does."""
    try:
        with _connected(runtime_dir, start=start) as connection:
            if connection is None:
                return []
            send(connection, request, fds)
            return list(_answers(connection))
    except TimeoutError:
        raise StratumError(
            "the keeper of what is fetched when it is read does not answer", hint=_hint(runtime_dir)
        ) from None
    except (ConnectionError, EOFError):
        return None
    except (OSError, GarbageError) as exc:
        text = os_error_text(exc) if isinstance(exc, OSError) else str(exc)
        raise StratumError(f"cannot reach the keeper of what is fetched when it is read: {text}") from None


def _answers(connection: socket.socket) -> Iterator[Message]:
    while True:
        received = receive(connection)
        if received is None:
            raise EOFError
        answer = raise_error(received[0])
        yield answer
        if not answer.get("more"):
            return


@contextlib.contextmanager
def _connected(runtime_dir: Path, *, start: bool) -> Iterator[socket.socket | None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE)
        if not _connects(connection, runtime_dir):
            if not start:
                yield None
                return
            _start_keeper(runtime_dir)
            if not _connects(connection, runtime_dir):
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        yield connection


def _connects(connection: socket.socket, runtime_dir: Path) -> bool:
    """Connect to the keeper; False where none listens."""
    deadline = time.monotonic() + PATIENCE
    with reachable(runtime_dir) as path:
        while (answer := connection.connect_ex(path)) == errno.EAGAIN:  # no place for one more who waits
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_PAUSE)
    if answer not in (0, errno.ENOENT, errno.ECONNREFUSED):
        raise OSError(answer, os.strerror(answer))
    return answer == 0


def _start_keeper(runtime_dir: Path) -> None:
    """Start one, and return when it listens; where two do that, one of them does."""
    from stratum.sys.spawn import spawn

    try:
        pid = spawn(KEEPER, {"runtime_dir": str(runtime_dir), "start": True})
        _, status = os.waitpid(pid, 0)
    except OSError as exc:
        raise StratumError(
            f"cannot start the keeper of what is fetched when it is read: {os_error_text(exc)}"
        ) from None
    if status:
        raise StratumError(
            f"the keeper of what is fetched when it is read did not start: it ended with {status}",
            hint=_hint(runtime_dir),
        )


def _hint(runtime_dir: Path) -> str:
    return f"its log says more: {runtime_dir / 'hydrate.log'}, or 'journalctl -u stratum-hydrate'"


def gate_to_json(gate: Gate) -> dict[str, Any]:
    """A gate as it is sent."""
    return {
        "store": str(gate.store),
        "commit": gate.commit,
        "landing": str(gate.landing),
        "ahead": str(gate.ahead),
        "runtime_dir": str(gate.runtime_dir),
        "settings": dict(gate.settings),
        "options": dict(gate.options),
    }


def gate_from_json(table: object) -> Gate:
    """The gate in a message; ``GarbageError``."""
    if not isinstance(table, dict):
        raise GarbageError("a gate is not an object")
    texts = [table.get(key) for key in ("store", "commit", "landing", "ahead", "runtime_dir")]
    maps = [table.get(key) for key in ("settings", "options")]
    if not all(isinstance(text, str) and text and "\0" not in text for text in texts) or not all(map(_is_texts, maps)):
        raise GarbageError("a gate lacks a field, or one is of the wrong kind")
    store, commit, landing, ahead, runtime_dir = map(str, texts)
    places = Path(landing), Path(ahead), Path(runtime_dir)
    return Gate(Path(store), commit, *places, *(dict(table or {}) for table in maps))


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
