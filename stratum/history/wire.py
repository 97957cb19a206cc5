"""What is said at the socket of who watches a store, ``<runtime directory>/watch-DEVICE-INODE.sock``: one JSON object a
packet (``sys.packets``). DEVICE and INODE are those of the store's directory, in hexadecimal.

A request has a field ``op``:

- ``flush``, with ``name`` and ``worktree``: everything that was closed in it by now is in its log. ``change``: the last
  CHANGE of it (0: there is none).
- ``look``: what is to be watched has changed. Answered when all that is to be is watched; ``watched``: how many.
- ``status``: ``pid``, ``worker``, ``store``, ``since``, ``kept`` (whether a service manager keeps the descriptors) and
  ``watcher``, what the watcher says of itself; None where there is none at this moment.
- ``restart-worker``: have a process of the code on disk take over. ``worker``: its ID.
- ``move``: where this is a child of the monitor of the ``container``, leave its place to another keeper. ``moves``:
  whether it does.
- ``stop``: end, with all that was closed by now in the logs.

The hook loads this module, so it loads little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import StratumError
from stratum.sys.asking import Daemon, SilentError
from stratum.sys.packets import Message

KEEPER = "stratum.history.keeper"
LOG = "watch.log"
LOCK = "watch-sockets.lock"
_PATIENCE = 60.0
_TRIES = 1000


def socket_name(store: os.stat_result) -> str:
    """Who watches the store, whose directory this is, listens at this name in the runtime directory."""
    return f"watch-{store.st_dev:x}-{store.st_ino:x}.sock"


def watcher_of(runtime_dir: Path, store_root: Path) -> Daemon:
    """Who watches a store. ``OSError`` where there is no store."""
    hint = f"its log says more: {runtime_dir / LOG}, or 'journalctl -u stratum-watch'"
    return Daemon(runtime_dir, socket_name(os.stat(store_root)), f"what watches the store {store_root}", hint)


def ask(
    runtime_dir: Path,
    store_root: Path,
    request: Mapping[str, Any],
    *,
    start: Callable[[], int] | None = None,
    timeout: float = _PATIENCE,
) -> Message | None:
    """The answer of who watches the store; None where nobody does. It may be asked more than once, where its worker
    ends meanwhile.

    Raises the ``StratumError`` that it answers with, ``SilentError`` where it does not answer within ``timeout``
    seconds, ``OSError`` where there is no store.
    """
    daemon = watcher_of(runtime_dir, store_root)
    answers = daemon.ask(request, start=start, patience=timeout, tries=_TRIES)
    return answers[-1] if answers else None


def flush(runtime_dir: Path, store_root: Path, name: str, worktree: str, *, timeout: float = _PATIENCE) -> int | None:
    """Wait until everything that was closed in a worktree by now is in its log; its last CHANGE (0: there is none yet).
    None where nobody watches the store.

    ``StratumError``: it did not get there within ``timeout`` seconds, or why it cannot.
    """
    request = {"op": "flush", "name": name, "worktree": worktree}
    try:
        answer = ask(runtime_dir, store_root, request, timeout=timeout)
    except SilentError as exc:
        raise SilentError(
            f"{exc.message} within {timeout:.0f} s: the history of {name}+{worktree} may lack its last changes",
            hint=exc.hint,
        ) from None
    except OSError:  # there is no store
        return None
    if answer is None:
        return None
    change = answer.get("change")
    if type(change) is not int:
        raise StratumError(f"what watches the store {store_root} answers nonsense")
    return change
