"""File locks between processes and threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stratum.errors import BusyError
from stratum.sys.locks import FileLock, locked

HOLD = """
import sys
from pathlib import Path
from stratum.sys.locks import locked
with locked(Path(sys.argv[1]), exclusive=sys.argv[2] == "exclusive"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds the lock until it is told to stop."""

    def __init__(self, path: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def stop(self) -> None:
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[object]:
    started: list[Holder] = []

    def start(kind: str) -> Holder:
        started.append(Holder(tmp_path / "lock", kind))
        return started[-1]

    yield start
    for holder in started:
        if holder.process.poll() is None:
            holder.process.kill()
        holder.process.communicate()


def test_the_holder_is_named(tmp_path: Path, hold) -> None:
    holder = hold("exclusive")
    with pytest.raises(BusyError, match=rf"the store is locked by process {holder.process.pid} \(") as caught:
        FileLock(tmp_path / "lock", timeout=0, what="the store").acquire()
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_every_shared_holder_is_named(tmp_path: Path, hold) -> None:
    first, second = hold("shared"), hold("shared")
    with pytest.raises(BusyError) as caught, locked(tmp_path / "lock", timeout=0):
        pass
    assert f"process {first.process.pid} " in caught.value.message
    assert f"process {second.process.pid} " in caught.value.message


def test_shared_locks_go_together(tmp_path: Path, hold) -> None:
    hold("shared")
    with locked(tmp_path / "lock", exclusive=False, timeout=0):
        pass


def test_waiting_ends_when_the_holder_lets_go(tmp_path: Path, hold) -> None:
    holder = hold("exclusive")
    taken = threading.Event()

    def take() -> None:
        with locked(tmp_path / "lock", timeout=60):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.is_set()
    holder.stop()
    thread.join()
    assert taken.is_set()


def test_a_killed_holder_holds_nothing(tmp_path: Path, hold) -> None:
    holder = hold("exclusive")
    holder.process.send_signal(signal.SIGKILL)
    holder.process.wait()
    with locked(tmp_path / "lock", timeout=0):
        pass


def test_two_locks_in_one_process_exclude_one_another(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), pytest.raises(BusyError, match=f"process {os.getpid()} "):
        FileLock(tmp_path / "lock", timeout=0).acquire()


def descriptors(pid: int) -> list[str]:
    """What the open files of a process are. The loader of a program that just began closes some meanwhile."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return found


def test_a_started_program_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), subprocess.Popen(["sleep", "100"], close_fds=False) as child:
        lock = FileLock(tmp_path / "lock", timeout=0)
        with pytest.raises(BusyError):
            lock.acquire()
        inherited = descriptors(child.pid)
        child.kill()
    assert str(tmp_path / "lock") not in inherited


def test_a_replaced_lock_file_is_not_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old = FileLock(path)
    old.acquire()
    path.unlink()
    with locked(path, timeout=0):
        assert path.exists()
    old.release()


def test_waiting_for_a_replaced_lock_file_takes_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old, waiting = FileLock(path), FileLock(path, timeout=60)
    old.acquire()
    thread = threading.Thread(target=waiting.acquire)
    thread.start()
    path.unlink()
    old.release()
    thread.join()
    with pytest.raises(BusyError):
        FileLock(path, timeout=0).acquire()
    waiting.release()


def test_a_symlink_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "lock").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(tmp_path / "lock").acquire()


def test_release_is_idempotent(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    lock.release()
    lock.release()
    with locked(tmp_path / "lock", timeout=0):
        pass
