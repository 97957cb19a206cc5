"""The keeper of a store's watcher under a service manager, which keeps what it has for the next one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stratum.history.keeper import KEPT
from stratum.history.wire import socket_name
from tests.integration.test_lazy_service import LAUNCH
from tests.support import hydrating, keepers
from tests.support.command import SCRIPT
from tests.support.watched import Watched, replace, until

pytestmark = pytest.mark.root


@dataclass
class Manager:
    """Does for the service what systemd does: passes descriptors, takes notes, keeps what it is told to."""

    watched: Watched
    notes: socket.socket
    kept: list[tuple[str, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fds = [fd for _, fd in self.kept]
        environment = {
            **self.watched.cli.environment,
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in self.kept),
            "NOTIFY_SOCKET": str(self.notes.getsockname()),
            "WATCHDOG_USEC": "400000",
        }
        command = [*keepers.COMMAND, "watch"]
        if fds:
            command = [sys.executable, "-c", LAUNCH, ",".join(map(str, fds)), *command]
        self.process = subprocess.Popen(command, env=environment, pass_fds=fds)
        self.told.clear()
        until(lambda: "READY=1" in self.heard())

    def heard(self) -> list[str]:
        """All that it said since it was started."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.notes, 4096, 8)
            except BlockingIOError:
                return self.told
            text = data.decode()
            fields = dict(line.split("=", 1) for line in text.splitlines())
            if "FDSTORE" in fields:
                for fd in fds:
                    self._keep(fields["FDNAME"], fd)
            if "FDSTOREREMOVE" in fields:
                for item in [item for item in self.kept if item[0] == fields["FDNAME"]]:
                    self.kept.remove(item)
                    os.close(item[1])
            self.told.append(text)

    def _keep(self, name: str, fd: int) -> None:
        """As systemd does: what is kept already is not kept twice."""
        if any(other == name and is_same(fd, kept) for other, kept in self.kept):
            os.close(fd)
        else:
            self.kept.append((name, fd))

    def kill(self) -> None:
        """Kill all processes of the service."""
        assert self.process is not None
        self.heard()
        hydrating.kill(*self.watched.running())
        self.process.wait(60)

    def names(self) -> list[str]:
        self.heard()
        return sorted(name for name, _ in self.kept)

    def noted(self) -> list[str]:
        """The worktrees of which the next one is to know that nothing was missed."""
        self.heard()
        notes = [json.loads(os.pread(fd, 1 << 16, 0)) for name, fd in self.kept if name == "note"]
        return [name for note in notes for name in note["watched"]]


def is_same(first: int, second: int) -> bool:
    """Whether two descriptors are of one open file (kcmp(2))."""
    import ctypes

    return ctypes.CDLL(None).syscall(312, os.getpid(), os.getpid(), 0, first, second) == 0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    watched = Watched(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(tmp_path / "notify"))
        notes.setblocking(False)
        manager = Manager(watched, notes)
        manager.start()
        try:
            watched.on()
            until(lambda: manager.noted() == ["app+dev"])
            yield manager
        finally:
            watched.close()
            for _, fd in manager.kept:
                os.close(fd)
            assert manager.process is not None
            manager.process.wait(60)


def test_nothing_is_missed_while_all_processes_of_the_service_are_dead(manager: Manager) -> None:
    watched = manager.watched
    replace(watched.mnt / "file", "before")
    watched.flush()
    assert manager.names() == sorted([*KEPT, "note"])
    manager.kill()
    for number in range(20):
        replace(watched.mnt / "file", f"meanwhile {number}")
    (watched.mnt / "dir" / "file").unlink()
    manager.start()
    watched.is_exact()
    assert not watched.gaps()
    assert watched.contents("/file") == {b"before", *(b"meanwhile %d" % number for number in range(20))}
    assert manager.names() == sorted([*KEPT, "note"])


def test_who_waits_meanwhile_is_answered_by_the_next_one(manager: Manager) -> None:
    watched = manager.watched
    manager.kill()
    (watched.mnt / "new").write_text("x")
    with subprocess.Popen([SCRIPT, "commit", "app+dev"], env=watched.cli.environment) as committing:
        with pytest.raises(subprocess.TimeoutExpired):
            committing.wait(1.5)
        manager.start()
        assert committing.wait(60) == 0
    assert watched.of("/new") == ["create"]


def test_it_is_ended_in_order_and_started_again(manager: Manager) -> None:
    watched = manager.watched
    (watched.mnt / "a").write_text("1")
    assert manager.process is not None
    manager.process.send_signal(signal.SIGTERM)
    assert manager.process.wait(60) == 0
    assert "STOPPING=1" in manager.heard()
    assert watched.of("/a") == ["create"]
    (watched.mnt / "b").write_text("1")
    manager.start()
    watched.is_exact()
    assert watched.of("/b") == ["create"]
    assert not watched.gaps()


def test_what_was_kept_of_another_store_is_not_used(manager: Manager, tmp_path: Path) -> None:
    manager.kill()
    other = Watched(tmp_path / "other", mounted=False)
    manager.watched.cli.environment |= other.cli.environment
    try:
        manager.start()
        until(lambda: other.ask("status"))
        other.on()
        other.is_exact()
        assert other.gaps() == []
    finally:
        other.close()


def test_nonsense_that_was_kept_is_not_used(manager: Manager) -> None:
    manager.kill()
    for _, fd in manager.kept:
        os.close(fd)
    manager.kept = [(name, os.memfd_create(name)) for name in (*KEPT, "note", "x")]
    manager.start()
    manager.watched.is_exact()


def test_the_watchdog_is_fed(manager: Manager) -> None:
    until(lambda: manager.heard().count("WATCHDOG=1") >= 3)


def test_a_killed_keeper_is_replaced_by_the_service_manager_alone(manager: Manager) -> None:
    """Its worker starts none, which would be in the way of the next one."""
    assert manager.process is not None
    hydrating.kill(manager.process.pid)
    manager.process.wait(60)
    until(lambda: not manager.watched.running())
    (manager.watched.mnt / "a").write_text("1")
    manager.start()
    manager.watched.is_exact()
    assert manager.watched.of("/a") == ["create"]
    assert not manager.watched.gaps()


def test_it_stays_without_histories(manager: Manager) -> None:
    manager.watched.cli.ok("history", "off", "app+dev")
    assert manager.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        manager.process.wait(3)
    assert (manager.watched.run / socket_name(os.stat(manager.watched.cli.store))).exists()


def test_a_socket_that_was_removed_is_made_anew(manager: Manager) -> None:
    manager.kill()
    (manager.watched.run / socket_name(os.stat(manager.watched.cli.store))).unlink()
    manager.start()
    manager.watched.is_exact()
