"""Room for what is fetched while somebody reads: eviction by a process of its own, started where it is needed.

To find what may go takes memory and time by the number of files, which who serves readers must not have to spend. So
the limits are looked at here, every so many bytes, and a process evicts where they are passed. Readers do not wait for
it, unless the disk is about to be full.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stratum.config import NO_LIMIT, Config, load_config
from stratum.errors import StratumError, foreseen, os_error_text
from stratum.store.budget import read_budget
from stratum.store.layout import Layout
from stratum.sys.spawn import spawn

STEP = 64 << 20
"""After so many bytes the limits are looked at again."""
PAUSE = 30.0
"""Seconds between two evictions, where the first did not find enough that may go."""
FLOOR = 128 << 20
"""Where the file system has fewer bytes free than that, who fetches waits for an eviction."""
WAIT = 30.0
"""Seconds to wait at most."""
_ANSWER_MAX = 1 << 20
_MODULE = "stratum.hydrate.room"


class Room:
    """Makes room in the store of ``layout`` by the settings ``config``; to be called, by any thread, with the number of
    bytes that are about to be written. ``log`` is told in a line what went wrong. Raises nothing: where there is no
    room, the disk will say so."""

    def __init__(self, layout: Layout, config: Config, log: Callable[[str], None]) -> None:
        self._layout = layout
        self._config = config
        self._log = log
        self._lock = threading.Lock()
        self._since = STEP
        self._held: int | None = None
        self._not_before = 0.0
        self._evicting: threading.Thread | None = None

    def __call__(self, size: int) -> None:
        with self._lock:
            self._since += size
            if self._since < STEP:
                return
            coming, self._since = self._since, 0
            if self._held is not None:
                self._held += coming
            evicting = self._start() if self._is_needed() else None
        if evicting is not None and self._is_nearly_full():
            evicting.join(WAIT)

    def _is_needed(self) -> bool:
        try:
            budget = read_budget(self._layout, self._config)
            if budget.max < NO_LIMIT and self._held is None:
                return True  # somebody has to find out how much there is
            return budget.excess(self._layout, self._held or 0, STEP) > 0
        except StratumError as exc:
            self._log(exc.told)
            return False

    def _is_nearly_full(self) -> bool:
        with suppress(OSError):
            disk = os.statvfs(self._layout.root)
            return disk.f_bavail * disk.f_frsize < FLOOR
        return False

    def _start(self) -> threading.Thread | None:
        """The thread in which a process evicts, started where there is none; None where it is too early again."""
        if self._evicting is not None and self._evicting.is_alive():
            return self._evicting
        if time.monotonic() < self._not_before:
            return None
        self._evicting = threading.Thread(target=self._evict, name="room", daemon=True)
        self._evicting.start()
        return self._evicting

    def _evict(self) -> None:
        try:
            done = json.loads(self._run())
        except (OSError, ValueError) as exc:
            text = os_error_text(exc) if isinstance(exc, OSError) else "it ended before it was done"
            done = {"problems": [f"cannot evict: {text}"], "short": 1}
        with self._lock:
            self._held = done.get("held", self._held)
            if done.get("short"):
                self._not_before = time.monotonic() + PAUSE
        for problem in done.get("problems", ()):
            self._log(str(problem))

    def _run(self) -> bytes:
        """What the process says. Raises ``OSError``."""
        config = self._config
        argument = {
            "settings": dict(config.environment),
            "store": str(config.store),
            "runtime_dir": str(config.runtime_dir),
            "coming": STEP,
        }
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        with open(ours, "rb") as answer:
            try:
                pid = spawn(_MODULE, argument, stderr=theirs)
            finally:
                os.close(theirs)
            data = answer.read(_ANSWER_MAX)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        return data


def main(argument: dict[str, Any]) -> None:
    """Make room as a process of its own, and write on the standard error, as JSON, what became of it."""
    from stratum.hydrate.evict import Evictor
    from stratum.mount.state import State
    from stratum.oci.access import access_of
    from stratum.store import Store
    from stratum.store.peerbook import finder

    os.nice(5)
    try:
        config = load_config(argument["settings"], store=argument["store"], runtime_dir=argument["runtime_dir"])
        access = access_of(config, peer=finder(config.store))
        evictor = Evictor(Store.open(config.store), State(config.runtime_dir), config, access)
        done = evictor.make_room(argument["coming"])
        answer = {"held": evictor.estimate, "short": done.short, "freed": done.bytes, "problems": done.problems}
    except Exception as exc:  # whatever it is, there is only one who can tell of it
        answer = {"short": 1, "problems": [f"cannot evict: {foreseen(exc).told}"]}
    os.write(2, json.dumps(answer).encode())
