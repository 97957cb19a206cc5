"""The keeper of a store's watcher and its worker: killed, replaced, handed over and spoken to while files change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api import watcher
from stratum.api.watching import history_off, history_on
from stratum.errors import BusyError, StratumError
from stratum.history.adopting import KILLED
from stratum.history.wire import flush, socket_name
from stratum.sys.packets import MAX_PACKET, reachable
from tests.support import hydrating
from tests.support.command import SCRIPT
from tests.support.keepers import hurry
from tests.support.watched import Watched, replace, until

pytestmark = pytest.mark.root


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    scene = Watched(tmp_path)
    try:
        scene.on()
        yield scene
    finally:
        scene.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches ends as soon as there is nothing to watch, and not after ten seconds."""
    hurry(monkeypatch)


def socket_of(watched: Watched) -> Path:
    return watched.run / socket_name(os.stat(watched.cli.store))


class Writer(threading.Thread):
    """Gives files new contents, each of another one, until it is stopped."""

    def __init__(self, mnt: Path, pause: float = 0.02) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self._mnt = mnt
        self._pause = pause
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            text = f"version {len(self.written)}"
            replace(self._mnt / "often", text)
            self.written.append(text.encode())

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_what_is_closed_is_in_the_log_soon_and_by_whom(watched: Watched) -> None:
    subprocess.run(["sh", "-c", "echo hello > new; sleep 2"], cwd=watched.mnt, check=True)  # it is seen while it lives
    until(lambda: watched.of("/new"))
    (record,) = [record for record in watched.records() if record.path == b"/new"]
    assert (record.op, record.by) == ("create", "sh")
    assert next(record.op for record in watched.records()) == "base"
    watched.is_exact()


def _has_another(watched: Watched, worker: int) -> bool:
    """Whether another worker watches, and the one before has ended, which can be the last that has the events."""
    status = watched.ask("status")
    assert status is not None
    return status["watcher"] is not None and status["worker"] != worker and worker not in watched.running()


@pytest.mark.parametrize("which", ["worker", "keeper"])
def test_where_one_is_killed_nothing_is_missed(watched: Watched, which: str) -> None:
    writer = Writer(watched.mnt)
    writer.start()
    for _ in range(4):
        before = watched.worker
        watched.kill(**{which: True})
        until(lambda before=before: _has_another(watched, before))
        time.sleep(0.3)
    writer.end()
    watched.is_exact()
    if not watched.gaps():  # a worker may be killed just when it reads what was closed, and then that is told
        assert set(writer.written) <= watched.contents("/often")
    assert set(watched.gaps()) <= ({KILLED} if which == "worker" else set())


def test_a_worker_killed_at_any_point_of_its_start_is_replaced(watched: Watched) -> None:
    writer = Writer(watched.mnt)
    writer.start()
    for number in range(8):
        watched.kill(worker=True)
        time.sleep(0.08 * number)
    writer.end()
    watched.is_exact()
    if not watched.gaps():
        assert set(writer.written) <= watched.contents("/often")
    assert set(watched.gaps()) <= {KILLED}


def test_where_both_are_killed_there_is_a_gap_and_then_it_is_exact_again(watched: Watched) -> None:
    replace(watched.mnt / "file", "before")
    watched.flush()
    watched.kill(keeper=True, worker=True)
    assert watched.flush() is None
    replace(watched.mnt / "file", "never seen")
    replace(watched.mnt / "file", "meanwhile")
    (watched.mnt / "dir" / "file").unlink()
    watched.on()
    watched.is_exact()
    assert len(watched.gaps()) == 1
    assert watched.contents("/file") == {b"before", b"meanwhile"}


def test_a_mount_starts_who_watches(watched: Watched) -> None:
    watched.cli.ok("unmount", "app+dev")
    watched.kill(keeper=True, worker=True)
    watched.cli.ok("mount", "app+dev", watched.mnt)
    assert len(watched.running()) == 2
    (watched.mnt / "new").write_text("x")
    watched.flush()
    assert watched.of("/new") == ["create"]


def test_two_that_turn_a_history_on_start_one_keeper(tmp_path: Path) -> None:
    scene = Watched(tmp_path, mounted=False)
    try:
        names = [f"app+w{number}" for number in range(5)]
        for name in names:
            scene.cli.ok("worktree", "add", name, "app:latest")
        notes: list[str | None] = []
        turning = [
            threading.Thread(target=lambda name=name: notes.append(history_on(scene.session, name).note))
            for name in names
        ]
        for thread in turning:
            thread.start()
        for thread in turning:
            thread.join()
        assert notes == [None] * len(names)
        until(lambda: len(scene.running()) == 2)
        status = scene.ask("status")
        assert status is not None
        assert sorted(status["watcher"]["worktrees"]) == names
    finally:
        scene.close()


def test_the_code_on_disk_takes_over_and_nothing_is_missed(watched: Watched) -> None:
    writer = Writer(watched.mnt)
    writer.start()
    workers = {watched.worker}
    for _ in range(3):
        watched.cli.ok("watch", "--restart-worker")
        workers.add(watched.worker)
    writer.end()
    watched.is_exact()
    assert len(workers) == 4
    assert not watched.gaps()
    assert set(writer.written) <= watched.contents("/often")


def test_one_in_the_foreground_takes_over_from_one_that_was_started_by_the_way(watched: Watched) -> None:
    writer = Writer(watched.mnt)
    writer.start()
    keeper = watched.keeper
    with subprocess.Popen([SCRIPT, "watch"], env=watched.cli.environment) as foreground:
        until(lambda: (watched.ask("status") or {}).get("lasting"))
        assert watched.keeper == foreground.pid
        until(lambda: keeper not in watched.running())
        writer.end()
        watched.is_exact()
        assert not watched.gaps()
        assert set(writer.written) <= watched.contents("/often")
        second = watched.cli("watch")
        assert second.code == 4
        assert second.stderr.startswith(f"error: the store {watched.cli.store} is watched already, by process ")
        foreground.send_signal(signal.SIGTERM)
        assert foreground.wait(60) == 0
    assert not socket_of(watched).exists()
    assert watched.cli("watch", "--stop").code == 3


def test_one_with_another_runtime_directory_is_refused(watched: Watched, tmp_path: Path) -> None:
    elsewhere = {"STRATUM_RUNTIME_DIR": str(tmp_path / "elsewhere")}
    for words in (["watch"], ["watch", "--once"]):
        result = watched.cli(*words, env=elsewhere)
        assert result.code == 4
        assert f"process {watched.keeper}" in result.stderr or f"process {watched.worker}" in result.stderr
        assert len(result.stderr.splitlines()) == 2


# Waiting for what was closed


def test_a_commit_an_unmount_and_a_reset_wait_for_what_was_closed(watched: Watched) -> None:
    (watched.mnt / "a").write_text("1")
    watched.cli.ok("commit", "app+dev", "one")
    assert watched.of("/a") == ["create"]
    (watched.mnt / "a").write_text("22")
    watched.cli.ok("reset", "app+dev", "app:one")
    assert watched.of("/a")[:2] == ["create", "write"]
    (watched.mnt / "b").write_text("3")
    watched.cli.ok("unmount", "app+dev")
    assert watched.of("/b") == ["create"]
    watched.is_exact()
    assert not watched.gaps()


def test_a_watcher_that_hangs_keeps_a_commit_for_a_while_and_that_is_told(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "FLUSH_PATIENCE", 1.0)
    (watched.mnt / "a").write_text("1")
    hanging = watched.worker
    os.kill(hanging, signal.SIGSTOP)
    told: list[str] = []
    session = watched.session
    session.tell = told.append
    started = time.monotonic()
    with session.hold("app+dev") as held:
        held.commit()
        held.keep("again")
    assert time.monotonic() - started < 50  # and not the minute that it is else
    assert len(told) == 1
    assert "does not answer within 1 s: the history of app+dev may lack its last changes" in told[0]
    with contextlib.suppress(ProcessLookupError):  # its keeper has killed it, where all this took half a minute
        os.kill(hanging, signal.SIGCONT)
    watched.is_exact()
    assert watched.of("/a") == ["create"]


def test_a_worker_that_does_not_answer_is_replaced(watched: Watched) -> None:
    """One that is stopped looks like one that hangs. The real limit is 30 s, so the keeper here is another."""
    watched.cli.ok("watch", "--stop")
    program = (
        "import sys; sys.path[:] = {path!r}; from stratum.history import keeper; keeper.Keeper.PING = 0.2; "
        "keeper.Keeper.PATIENCE = 1.0; keeper.main({settings!r})"
    )
    settings = {**watcher.keeper_settings(watched.session), "start": True}
    subprocess.run([sys.executable, "-IS", "-c", program.format(path=sys.path, settings=settings)], check=True)
    watched.flush()
    stopped = watched.worker
    os.kill(stopped, signal.SIGSTOP)
    (watched.mnt / "a").write_text("1")
    watched.is_exact()
    assert watched.worker != stopped
    assert watched.of("/a") == ["create"]


# The end


def test_it_ends_with_the_last_history(hasty: None, watched: Watched) -> None:
    (watched.mnt / "a").write_text("1")
    assert history_off(watched.session, "app+dev") == ("app+dev", True)
    assert watched.of("/a") == ["create"]
    until(lambda: not watched.running(), 60)
    assert not socket_of(watched).exists()
    (watched.mnt / "b").write_text("1")
    assert history_off(watched.session, "app+dev") == ("app+dev", False)
    assert watched.of("/b") == []
    watched.cli.ok("commit", "app+dev")
    assert not watched.running()


def test_a_history_that_is_on_again_tells_what_nobody_saw(watched: Watched) -> None:
    history_off(watched.session, "app+dev")
    (watched.mnt / "b").write_text("1")
    watched.on()
    watched.is_exact()
    assert len(watched.gaps()) == 1


def test_it_ends_where_the_store_is_deleted(hasty: None, tmp_path: Path) -> None:
    scene = Watched(tmp_path, mounted=False)
    try:
        scene.on()
        shutil.rmtree(scene.cli.store)
        until(lambda: not scene.running(), 60)
        assert [name for name in os.listdir(scene.run) if name.endswith(".sock")] == []
    finally:
        scene.close()


def test_it_ends_where_another_store_is_in_the_place_of_its_own(hasty: None, tmp_path: Path) -> None:
    scene = Watched(tmp_path, mounted=False)
    try:
        scene.on()
        os.rename(scene.cli.store, tmp_path / "moved")
        scene.cli.ok("import", "--bare", tmp_path / "source", "app")
        until(lambda: not scene.running(), 60)
        scene.cli.store = tmp_path / "moved"
        scene.cli.environment["STRATUM_STORE"] = str(tmp_path / "moved")
        scene.on()
        scene.is_exact()
    finally:
        scene.close()


def test_a_worktree_that_is_removed_is_not_watched_any_more(hasty: None, tmp_path: Path) -> None:
    scene = Watched(tmp_path, mounted=False)
    try:
        scene.on()
        scene.cli.ok("worktree", "remove", "app+dev")
        until(lambda: not scene.running(), 60)
    finally:
        scene.close()


def test_the_socket_of_killed_processes_is_replaced(watched: Watched) -> None:
    watched.kill(keeper=True, worker=True)
    assert socket_of(watched).exists()
    assert watched.cli("watch", "--stop").code == 3
    watched.on()
    assert watched.flush() is not None


# Who asks


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff\xfe",
        b"[" * 50_000,
        b"x" * (MAX_PACKET + 5),
        b"{}",
        b'{"op": "nosuch"}',
        b'{"op": ["status"]}',
        b'{"op": "flush"}',
        b'{"op": "flush", "name": "../x", "worktree": "/"}',
        b'{"op": "flush", "name": {}, "worktree": []}',
    ],
)
def test_garbage_ends_nothing(watched: Watched, packet: bytes) -> None:
    before = watched.running()
    file = os.memfd_create("x")
    for fds in ([], [file], [file] * 20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            with reachable(watched.run, socket_of(watched).name) as path:
                client.connect(path)
            client.settimeout(30)
            socket.send_fds(client, [packet], fds)
            client.shutdown(socket.SHUT_WR)
            told = client.recv(MAX_PACKET)
            assert not told or "error" in json.loads(told)
    os.close(file)
    assert watched.running() == before
    assert watched.flush() is not None


def test_others_than_root_cannot_ask(watched: Watched) -> None:
    program = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    s.connect(sys.argv[1])
    s.send(b'{"op": "status"}')
    print(s.recv(10))
except PermissionError:
    print("not let in")
except (BrokenPipeError, ConnectionResetError):
    print("hung up")
"""

    def told() -> str:
        run = [sys.executable, "-c", program, socket_of(watched).name]
        return subprocess.run(run, cwd=watched.run, capture_output=True, text=True, check=True).stdout

    watched.run.chmod(0o755)
    assert told() == "not let in\n"
    socket_of(watched).chmod(0o777)  # and where somebody opened it, the keeper looks who it is
    assert told() in ("hung up\n", "b''\n")


def test_what_an_engine_left_open_for_its_hook_is_closed(watched: Watched) -> None:
    """Whoever waits for the end of it would wait as long as anything is watched."""
    watched.cli.ok("watch", "--stop")
    watched.cli.ok("unmount", "app+dev")
    reading, writing = os.pipe()
    subprocess.run(
        [SCRIPT, "mount", "app+dev", watched.mnt], env=watched.cli.environment, pass_fds=[writing], check=True
    )
    os.close(writing)
    assert watched.running()
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_flush_of_what_has_no_history_is_refused(watched: Watched) -> None:
    with pytest.raises(StratumError, match="is not kept"):
        flush(watched.run, watched.cli.store, "app", "nosuch")


def test_one_that_yields_does_so_only_to_one_that_lasts(watched: Watched) -> None:
    with subprocess.Popen([SCRIPT, "watch"], env=watched.cli.environment) as foreground:
        until(lambda: (watched.ask("status") or {}).get("lasting"))
        with pytest.raises(BusyError, match="is watched already"):
            watched.ask("yield")
        hydrating.kill(foreground.pid)
        foreground.wait(60)
    until(lambda: len(watched.running()) == 2)  # its worker has started another in the background
    assert watched.flush() is not None
    assert not watched.gaps()
