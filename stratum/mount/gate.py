"""A mount's gate: the FUSE filesystem that two data layers of a mount are in, made here and served elsewhere.

Who mounts opens /dev/fuse, makes the filesystem, attached nowhere, and hands the descriptor to the keeper
(``mount.gatewire``); where none listens, it starts one. The overlay alone holds the filesystem from then on, so the
gate ends by itself with the mount, in whatever namespaces that was copied to.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import UnreachableError, UnsupportedError, os_error_text
from stratum.frozen import frozen
from stratum.mount.gatewire import SOCKET
from stratum.mount.plan import Gate, gate_starts_keeper
from stratum.sys import fuse
from stratum.sys.packets import GarbageError, Message

KEEPER = "stratum.hydrate.keeper"
ASK = "ask"
ERR = "err"


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
    from stratum.sys.asking import Daemon

    hint = f"its log says more: {runtime_dir / 'hydrate.log'}, or 'journalctl -u stratum-hydrate'"
    keeper = Daemon(runtime_dir, SOCKET, "the keeper of what is fetched when it is read", hint)

    def start_it() -> int:
        from stratum.sys.spawn import spawn

        return spawn(KEEPER, {"runtime_dir": str(runtime_dir), "start": True})

    return keeper.ask(request, fds, start=start_it if start else None)


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
