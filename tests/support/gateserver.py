"""A program that serves a gate from a directory: ``python -m tests.support.gateserver DEVICE CONTROL PLACE [again]``.

``DEVICE`` and ``CONTROL`` are descriptors that it inherits; ``PLACE`` has the directories ``store``, ``remote`` (the
objects that can be fetched, as in a store), ``landing`` and the file ``catalog``. A packet at the control socket is
answered with the status; ``prune`` is done before. In ``remote``, files say how fetching goes: while ``hold`` is there
it waits, ``delay`` has seconds, ``errno`` what it fails with; with ``direct`` objects go to the store, not to the
landing directory; with ``whole`` the first range that is read of a large one brings all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stratum.hydrate.gate import Connection
from stratum.store.catalog import Catalog
from stratum.store.objects import Objects
from stratum.sys.actors import Actor
from stratum.tree.model import object_path

LARGE = 16 << 20


class DirectoryFetcher:
    """Fetches from ``PLACE/remote``."""

    def __init__(self, place: Path, catalog: Catalog) -> None:
        self.remote = place / "remote"
        self.landing = place / "landing"
        self.objects = Objects.below(place / "store")
        self.catalog = catalog
        self.lock = threading.Lock()
        self.wanted: dict[bytes, list[Callable[[int], None]]] = {}
        self.fetched: list[str] = []
        self.ranges = 0
        self.readers: set[tuple[int, str]] = set()
        self.became_native = 0

    def told(self) -> None:
        self.became_native += 1

    def size(self, digest: bytes) -> int | None:
        number = self.catalog.find(digest)
        return None if number is None else self.catalog.member(number).size

    def is_large(self, digest: bytes) -> bool:
        return (self.size(digest) or 0) >= LARGE

    def condition(self, digest: bytes) -> str:
        if self.objects.has(digest):
            return "here"
        return "landed" if self.in_landing(digest).exists() else "unreal"

    def in_landing(self, digest: bytes) -> Path:
        return self.landing / os.fsdecode(object_path(digest))

    def pass_on(self, digest: bytes) -> bool:
        return self.condition(digest) == "landed"

    def want(self, digest: bytes, reader: Actor | None, done: Callable[[int], None]) -> None:
        if self.condition(digest) != "unreal":
            done(0)
            return
        with self.lock:
            if reader is not None:
                self.readers.add((reader.pid, reader.name))
            first = digest not in self.wanted
            self.wanted.setdefault(digest, []).append(done)
        if first:
            threading.Thread(target=self.fetch, args=(digest,), daemon=True).start()

    def fetch(self, digest: bytes) -> None:
        code = self.attempt() or self.bring(digest)
        with self.lock:
            waiting = self.wanted.pop(digest)
        for done in waiting:
            done(code)

    def attempt(self) -> int:
        """Wait as told; the errno to fail with, or 0."""
        while (self.remote / "hold").exists():
            time.sleep(0.005)
        with contextlib.suppress(FileNotFoundError):
            time.sleep(float((self.remote / "delay").read_text()))
        with contextlib.suppress(FileNotFoundError):
            return int((self.remote / "errno").read_text())
        return 0

    def bring(self, digest: bytes) -> int:
        path = self.in_landing(digest)
        if (self.remote / "direct").exists():
            path = self.objects.path(digest)
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{path.name}.{threading.get_native_id()}")
        shutil.copyfile(self.remote / os.fsdecode(object_path(digest)), part)
        part.rename(path)
        self.fetched.append(digest.hex())
        return 0

    def read_range(
        self, digest: bytes, start: int, size: int, reader: Actor | None, done: Callable[[int, bytes], None]
    ) -> None:
        def read() -> None:
            if code := self.attempt():
                done(code, b"")
                return
            self.ranges += 1
            if (self.remote / "whole").exists():
                self.bring(digest)
            with (self.remote / os.fsdecode(object_path(digest))).open("rb") as file:
                done(0, os.pread(file.fileno(), size, start))

        threading.Thread(target=read, daemon=True).start()


def serve(device: int, control: socket.socket, place: Path, *, again: bool) -> None:
    catalog = Catalog((place / "catalog").read_bytes())
    fetcher = DirectoryFetcher(place, catalog)
    pool = ThreadPoolExecutor(8)
    connection = Connection(
        device,
        fetcher,
        [catalog],
        Objects.below(place / "store"),
        place / "landing",
        pool,
        became_native=fetcher.told,
    )
    if again:
        connection.take_over()
    poller = select.epoll()
    poller.register(control, select.EPOLLIN)
    poller.register(connection, select.EPOLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == device:
                connection.handle()
                if connection.ended:
                    poller.unregister(connection)
            elif not (asked := control.recv(64)):
                return
            else:
                if asked == b"prune":
                    connection.prune()
                status = {
                    **connection.status(),
                    "ended": connection.ended,
                    "greeted": connection.greeted,
                    "fetched": fetcher.fetched,
                    "ranges": fetcher.ranges,
                    "readers": sorted(fetcher.readers),
                    "native": fetcher.became_native,
                }
                control.send(json.dumps(status).encode())


if __name__ == "__main__":
    serve(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[3]), again=len(sys.argv) > 4)
