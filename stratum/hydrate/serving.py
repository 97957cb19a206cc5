"""What serves one mount: a fetcher for its commit over the landing of its store, and how its sources are reached."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.hydrate.fetch import Fetcher
from stratum.hydrate.gate import Connection
from stratum.hydrate.kept import rules_for
from stratum.hydrate.landing import Landing
from stratum.hydrate.large import Done, DoneReading
from stratum.hydrate.room import Room
from stratum.hydrate.unpacker import Unpacker
from stratum.mount.plan import Gate
from stratum.store import Store
from stratum.store.objects import Objects
from stratum.sys import mountapi, mountinfo
from stratum.sys.actors import Actor
from stratum.sys.syscalls import open_in_root

if TYPE_CHECKING:
    from stratum.config import Config
    from stratum.oci.access import Access
    from stratum.store.sources import CommitSource

_REFRESH = 10.0
"""Seconds between two times that one mount is made to look for its objects anew."""


class Serving:
    """The fetcher of one mount. ``source`` is that of the mount."""

    def __init__(self, gate: Gate, source: str, landing: Landing, config: Config, unpacker: Unpacker) -> None:
        self.landing = landing
        self._source = source
        self._refreshed = 0.0
        self._refreshing = threading.Lock()
        self._connection: Connection | None = None
        self._prefetch = gate.options.get("prefetch") or config.prefetch
        self.fetcher = Fetcher(
            landing,
            gate.commit,
            lambda where: _reached(config, gate, where),
            wait=gate.options.get("wait") == "forever",
            realized=lambda _digest: self.refresh(),
            unpacker=unpacker,
        )
        self._catalogs = []
        for where in landing.store.sources.of(gate.commit):
            with contextlib.suppress(StratumError):  # the fetcher's status says so
                self._catalogs.append(landing.store.sources.catalog(where.manifest))

    def connection(self, device: int, pool: Executor) -> Connection:
        """What answers the requests of the filesystem."""
        objects, landing = self.landing.store.objects, self.landing.path
        self._connection = Connection(
            device, self.fetcher, self._catalogs, objects, landing, pool, became_native=self.refresh
        )
        return self._connection

    def begin(self) -> None:
        """Fetch ahead what is to be fetched ahead."""
        if self._prefetch != "none":
            self.fetcher.prefetch(self._prefetch)
        with contextlib.suppress(StratumError):  # a check of the store tells
            if rules_for(self.landing.store, self.fetcher.commit):
                self.fetcher.prefetch("kept")

    def refresh(self) -> None:
        """Have the mount look for its objects anew, now and then at most: large ones that are whole are native files
        then. From any thread; it is done in one of its own, and what cannot be refreshed is slower, no more."""
        if not self._refreshing.acquire(blocking=False):
            return
        wait = max(0.0, self._refreshed + _REFRESH - time.monotonic())
        timer = threading.Timer(wait, self._refresh)
        timer.daemon = True
        timer.start()

    def _refresh(self) -> None:
        self._refreshed = time.monotonic()
        self._refreshing.release()
        refresh_mounts(self._source)
        if self._connection is not None:
            self._connection.prune()

    def close(self) -> None:
        """End; who waits is told EIO."""
        self.fetcher.close()


class Servings:
    """Makes them. Each store has one landing, for as long as this is there."""

    def __init__(self, log: Callable[[str], None], about: str = "") -> None:
        self._log = log
        self._lock = threading.Lock()
        self._landings: dict[Path, Landing] = {}
        self._users: dict[Path, int] = {}
        self._unpacker = Unpacker(about)

    def make(self, gate: Gate, source: str) -> Serving:
        """For a gate. Raises ``StratumError``."""
        from stratum.config import load_config

        config = load_config(gate.settings, store=str(gate.store), runtime_dir=str(gate.runtime_dir))
        landing = self._taken(gate.store, config)
        try:
            with landing.store.locks.store():
                return Serving(gate, source, landing, config, self._unpacker)
        except BaseException:
            self._given_back(landing)
            raise

    def end(self, serving: Serving) -> None:
        """End what was made. With the last one of a store its landing is closed, and the store left alone."""
        try:
            serving.close()
        finally:
            self._given_back(serving.landing)

    def _taken(self, root: Path, config: Config) -> Landing:
        with self._lock:
            landing = self._landings.get(root)
            if landing is None:
                store = Store.open(root)
                room = Room(store.layout, config, self._log)
                landing = self._landings[root] = Landing(store, log=self._log, before=room)
            self._users[root] = self._users.get(root, 0) + 1
            return landing

    def _given_back(self, landing: Landing) -> None:
        with self._lock:
            root = next((root for root, known in self._landings.items() if known is landing), None)
            if root is None:
                return
            self._users[root] -= 1
            if self._users[root]:
                return
            del self._landings[root]
        with contextlib.suppress(StratumError, OSError):  # who mounts now waits for the landing a little
            landing.close()

    def close(self) -> None:
        """Give what has landed its place."""
        self._unpacker.close()
        with self._lock:
            for landing in self._landings.values():
                with contextlib.suppress(StratumError, OSError):
                    landing.close()
            self._landings.clear()


def _reached(config: Config, gate: Gate, source: CommitSource) -> Access:
    """How a source is reached: by the settings and options of the mount, in the way in which it was before."""
    from dataclasses import replace

    from stratum.hydrate.reaching import access_for
    from stratum.transfer.catalogs import target_of

    ca_file = Path(source.ca_file) if source.ca_file is not None else None
    access = access_for(config, gate.options, target_of(source))
    return replace(access, plain_http=source.plain_http, ca_file=ca_file, own_blobs=gate.store / "blobs")


def refresh_mounts(source: str) -> None:
    """Have the mounts with that source, also where only copies in other mount namespaces are left, look for their
    objects anew."""
    done = set()
    for pid, entry in mountinfo.everywhere(source.partition(":")[0]):
        if entry.source != source or entry.fstype != "overlay" or entry.root != "/" or entry.device in done:
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            outside = os.open(f"/proc/{pid}/root", flags)
            opened.callback(os.close, outside)
            root = open_in_root(outside, os.fsencode(entry.mountpoint), flags)
            opened.callback(os.close, root)
            device = os.fstat(root).st_dev
            if f"{os.major(device)}:{os.minor(device)}" == entry.device:  # nothing else was put in its way
                mountapi.refresh_mount(root)
                done.add(entry.device)


class _Refusing:
    """A fetcher of nothing: whoever asks is told EIO."""

    def size(self, digest: bytes) -> int | None:
        return None

    def is_large(self, digest: bytes) -> bool:
        return False

    def condition(self, digest: bytes) -> str:
        return "unreal"

    def pass_on(self, digest: bytes) -> bool:
        return False

    def want(self, digest: bytes, reader: Actor | None, done: Done) -> None:
        import errno

        done(errno.EIO)

    def read_range(self, digest: bytes, start: int, size: int, reader: Actor | None, done: DoneReading) -> None:
        import errno

        done(errno.EIO, b"")


def refusing(device: int, pool: Executor) -> Connection:
    """What answers for a filesystem whose objects cannot be fetched now."""
    return Connection(device, _Refusing(), (), Objects.below("/nonexistent"), Path("/nonexistent"), pool)
