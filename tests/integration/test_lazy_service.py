"""The keeper under a service manager: its socket is passed to it, and what it has is kept for the next one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stratum.mount.gatewire import socket_path
from stratum.sys.daemon import of_service_manager, ways_out
from tests.support import hydrating, keepers
from tests.support.lazily import Far, Lazily, until

# Descriptors get the numbers from 3 on, as systemd gives them.
LAUNCH = """
import fcntl, os, sys
fds, args = [int(text) for text in sys.argv[1].split(",")], sys.argv[2:]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(args[0], args)
"""


@dataclass
class Manager:
    """Does for the service what systemd does: passes descriptors, takes notes, keeps what it is told to."""

    lazily: Lazily
    notes: socket.socket
    listener: socket.socket
    kept: list[tuple[str, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fds = [self.listener.fileno(), *(fd for _, fd in self.kept)]
        environment = {
            **self.lazily.cli.environment,
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(["listener", *(name for name, _ in self.kept)]),
            "NOTIFY_SOCKET": str(self.notes.getsockname()),
            "WATCHDOG_USEC": "400000",
        }
        command = [sys.executable, "-c", LAUNCH, ",".join(map(str, fds)), *keepers.COMMAND, "hydrate"]
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
                self.kept += [(fields["FDNAME"], fd) for fd in fds]
            if "FDSTOREREMOVE" in fields:
                for item in [item for item in self.kept if item[0] == fields["FDNAME"]]:
                    self.kept.remove(item)
                    os.close(item[1])
            self.told.append(text)

    def kill(self) -> None:
        """Kill all processes of the service."""
        assert self.process is not None
        hydrating.kill(*hydrating.processes(self.lazily.run))
        self.process.wait(60)


@pytest.fixture
def manager(tmp_path: Path, far: Far) -> Iterator[Manager]:
    lazily = Lazily(tmp_path, far)
    lazily.cli.ok("pull", "--lazy", far.reference, "app:v1")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        notes.bind(str(tmp_path / "notify"))
        notes.setblocking(False)
        listener.bind(socket_path(lazily.run))
        listener.listen()
        manager = Manager(lazily, notes, listener)
        manager.start()
        try:
            lazily.mount()
            yield manager
        finally:
            for _, fd in manager.kept:
                os.close(fd)
            lazily.__exit__()
            assert manager.process is not None
            manager.process.kill()
            manager.process.wait(60)


pytestmark = [pytest.mark.root, pytest.mark.registry]


def test_mounts_outlive_all_processes_of_the_service(manager: Manager, far: Far) -> None:
    """What waits waits on; and what was kept for a mount goes with it."""
    until(lambda: manager.heard() and len(manager.kept) == 2)
    far.slow.tell(delay=0.5)
    reading = manager.lazily.start(far.group(0)[:20], threads=4)
    until(lambda: hydrating.memory(manager.lazily.run) and reading.process.poll() is None)
    manager.kill()
    manager.start()
    assert not reading.finish()
    manager.lazily.everything_is_right()
    manager.lazily.cli.ok("unmount", manager.lazily.mnt)
    until(lambda: manager.heard() and not manager.kept)


def test_it_is_ended_in_order_and_started_again(manager: Manager, far: Far) -> None:
    until(lambda: manager.heard() and len(manager.kept) == 2)
    assert manager.process is not None
    manager.process.send_signal(signal.SIGTERM)
    assert manager.process.wait(15) == 0
    assert "STOPPING=1" in manager.heard()
    manager.start()
    assert not manager.lazily.read(far.group(1))


def test_the_watchdog_is_fed(manager: Manager) -> None:
    until(lambda: manager.heard().count("WATCHDOG=1") >= 3)


def test_it_stays_without_mounts(manager: Manager) -> None:
    """The socket is the service manager's, and so is the decision."""
    manager.lazily.cli.ok("unmount", manager.lazily.mnt)
    assert manager.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        manager.process.wait(3)
    assert os.path.lexists(socket_path(manager.lazily.run))


def test_a_second_one_in_the_foreground_is_refused(manager: Manager) -> None:
    result = manager.lazily.cli("hydrate")
    assert result.code == 4
    assert "served already" in result.stderr


def test_the_verb_replaces_the_worker_and_stops(manager: Manager) -> None:
    cli = manager.lazily.cli
    before = hydrating.worker(manager.lazily.run)
    cli.ok("hydrate", "--restart-worker")
    until(lambda: hydrating.worker(manager.lazily.run) != before)
    assert cli("hydrate", "--stop").code == 4
    cli.ok("unmount", manager.lazily.mnt)
    until(lambda: manager.heard() and not manager.kept)
    cli.ok("hydrate", "--stop")
    assert manager.process is not None
    assert manager.process.wait(15) == 0


def test_what_a_service_manager_says() -> None:
    said = {
        "NOTIFY_SOCKET": "@x",
        "LISTEN_PID": "7",
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "a:b",
        "WATCHDOG_USEC": "2000000",
    }
    assert of_service_manager(said, 7) == {"notify": "@x", "names": ["a", "b", ""], "watchdog": 2.0}
    assert of_service_manager(said, 8) == {"notify": "@x", "watchdog": 2.0}
    assert of_service_manager({**said, "WATCHDOG_PID": "9", "LISTEN_FDS": "x"}, 7) == {"notify": "@x"}
    assert of_service_manager({}, 7) == {}


MOUNTS_2 = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNTS_1 = (
    "40 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "42 30 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


@pytest.mark.parametrize(
    ("cgroups", "mounts", "expected"),
    [
        ("0::/\n", MOUNTS_2, []),
        ("0::/system.slice/cron.service\n", MOUNTS_2, [["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]]),
        (
            "0::/machine.slice/libpod-conmon-12ab.scope\n",
            MOUNTS_2,
            [["/sys/fs/cgroup/machine.slice", "/sys/fs/cgroup"]],
        ),
        ("0::/kubepods/besteffort/pod1/2\n", MOUNTS_2, [["/sys/fs/cgroup"]]),
        ("4:memory:/somebody/1\n3:cpu,cpuacct:/libpod_parent/conmon\n", MOUNTS_1, [["/sys/fs/cgroup/cpu,cpuacct"]]),
        ("0::/../../a.scope\n", MOUNTS_2, []),
        ("garbage\n\n:::\n", "garbage\n - \n", []),
    ],
)
def test_the_cgroup_of_somebody_else_is_left(cgroups: str, mounts: str, expected: list[list[str]]) -> None:
    assert list(ways_out(cgroups, mounts)) == expected
