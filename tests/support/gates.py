"""A commit whose objects are elsewhere, mounted with a gate: for tests of the gate by itself.

The gate is served by another process (``tests.support.gateserver``), as in a process that waits for itself nothing
could be served. Whatever a test leaves waiting ends when ``close`` closes the last descriptor of the gate, which a
timer does, too: a reader that nobody answers could not be ended otherwise.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stratum.composefs.verity import verity_digest
from stratum.mount import build
from stratum.mount.plan import Layers, MountPlan
from stratum.store import Store
from stratum.store.catalog import Blob, NewPack, write_catalog
from stratum.sys import fuse, fuseproto
from stratum.sys.mountapi import refresh_mount
from stratum.tree.model import object_path
from tests.support.leftovers import unmount_below
from tests.support.stores import commit

PATIENCE = 20.0
LONGEST = 120.0
"""Seconds after which everything that waits is let go."""


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what or "it did not happen"
        time.sleep(0.01)


class Gated:
    """A mounted commit of ``files``. ``view`` is where; ``writable`` gives it an upperdir."""

    def __init__(self, place: Path, files: Mapping[str, bytes], *, writable: bool = True) -> None:
        self.place = place
        self.files = dict(files)
        self.view = place / "view"
        self.remote = place / "remote"
        self.landing = place / "landing"
        for name in ("view", "remote", "landing", "upper", "work"):
            (place / name).mkdir()
        self.store = Store.create(place / "store")
        self.commit = commit(self.store, {name.encode(): data for name, data in files.items()})
        self.image = self.store.images.ensure(self.commit)
        self._send_away()
        self.writable = writable
        self.device = self.mount = -1
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._readers: list[subprocess.Popen[bytes]] = []
        self._timer = threading.Timer(LONGEST, self._let_go)
        self._timer.daemon = True
        self._timer.start()
        self.open()

    def _send_away(self) -> None:
        """Move the objects to the remote."""
        members, at = [], 0
        for digest, size in list(self.store.objects.list()):
            path = self.remote / os.fsdecode(object_path(digest))
            path.parent.mkdir(exist_ok=True)
            self.store.objects.path(digest).rename(path)
            members.append((digest, at, size))
            at += size
        pack = NewPack(Blob(bytes(32), max(at, 1)), [(max(at, 1), max(at, 1))], members)
        (self.place / "catalog").write_bytes(write_catalog([pack]))

    # The gate and its server

    def open(self) -> None:
        """Make the gate, serve it, and mount the commit with it."""
        self.device, mount = self.make()
        self.start()
        try:
            built = self.build(mount)
        finally:
            os.close(mount)
        with build.closing(built):
            build.attach(built, self.view)

    def make(self) -> tuple[int, int]:
        """The gate: its device and its mount."""
        return fuse.mount_detached()

    def build(self, mount: int) -> int:
        """The overlay with the gate that ``mount`` is of; detached."""
        with ExitStack() as opened:
            method = build.kernel_method()
            image = opened.enter_context(build.opened_layer(self.image, os.O_RDONLY))
            image_mount = opened.enter_context(build.closing(build.mount_image(image, method)))
            ask, err = (
                opened.enter_context(build.closing(self.gate_directory(mount, name))) for name in ("ask", "err")
            )
            objects = opened.enter_context(build.opened_layer(self.store.layout.objects))
            landing = opened.enter_context(build.opened_layer(self.landing))
            directories = (self.place / "upper", self.place / "work") if self.writable else ()
            upper_work = [opened.enter_context(build.opened_layer(path)) for path in directories]
            plan = MountPlan(self.image, (self.store.layout.objects, self.landing), *directories)
            return build.create_overlay(plan, Layers(image_mount, (objects, ask, landing, err), *upper_work), method)

    @staticmethod
    def gate_directory(mount: int, name: str) -> int:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)

    def start(self, *, again: bool = False) -> None:
        """Start a server; with ``again`` one that takes over from another."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [str(self.device), str(theirs.fileno()), str(self.place), *(["again"] if again else [])]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.gateserver", *arguments],
            pass_fds=(self.device, theirs.fileno()),
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        ours.settimeout(PATIENCE)
        self._control = ours
        self.status()

    def kill(self) -> None:
        """Kill the server; the gate stays."""
        if self._server is not None and self._control is not None:
            self._server.kill()
            self._server.wait()
            self._control.close()
            self._server = self._control = None

    def status(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self._tell(b"status")

    def refresh(self) -> None:
        """Refresh the mount and the gate, as is done when objects of FUSE files are here."""
        refresh_mount(self.view)
        self._tell(b"prune")

    def _tell(self, what: bytes) -> dict[str, Any]:
        assert self._control is not None
        self._control.send(what)
        found: dict[str, Any] = json.loads(self._control.recv(1 << 20))
        return found

    @property
    def fetched(self) -> list[str]:
        """The objects that were fetched, in order."""
        return list(self.status()["fetched"])

    def waiting(self, count: int = 1) -> None:
        """Wait until so many requests, or more, wait for a fetch."""
        eventually(lambda: len(self.status()["waiting"]) >= count, f"not {count} waited")

    # The remote

    def remote_has(self, **files: object) -> None:
        """Make the files of the remote that say how fetching goes; None removes one."""
        for name, value in files.items():
            path = self.remote / name
            if value is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(str(value))

    def digest(self, name: str) -> bytes:
        return verity_digest(self.files[name])

    def in_landing(self, name: str) -> Path:
        return self.landing / os.fsdecode(object_path(self.digest(name)))

    # Readers

    def reader(self, script: str, *names: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process that runs a line of Python, with the paths of files in ``argv[1:]``."""
        paths = [str(self.view / name) for name in names]
        head = "import os, sys, mmap, signal, time\n"
        command = [sys.executable, "-I", "-S", "-c", head + script, *paths]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self._readers.append(started)
        return started

    def _let_go(self) -> None:
        self.remote_has(hold=None)
        self.kill()
        if self.device >= 0:
            os.close(self.device)
            self.device = -1

    def close(self) -> None:
        """Unmount, and end what serves and what waits."""
        self._timer.cancel()
        self._let_go()
        for reader in self._readers:
            reader.kill()
            reader.communicate()
        unmount_below(self.place)


def request_of(device: int) -> fuseproto.Request:
    """The next request of a device that nobody else serves."""
    import select

    while (data := fuse.receive(device)) is None:
        assert select.select([device], [], [], PATIENCE)[0], "no request came"
    return fuseproto.parse_request(data)
