"""Where servers listen: sockets that are left behind, those of others, and two servers at the same time."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stratum.errors import BusyError, StratumError, UsageError
from stratum.serving import listen, parse_address


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket; it is short, as such paths are limited to 108 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "new" / "socket"


def leave_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_a_socket_is_its_owners_and_goes_with_its_server(path: Path) -> None:
    with listen(path, "server"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(BusyError, match="another server listens"), listen(path, "server"):
            pass
        assert path.is_socket()
    assert os.listdir(path.parent) == []


def test_a_socket_that_was_left_behind_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    leave_behind(path)
    with listen(path, "server"):
        pass
    assert os.listdir(path.parent) == []


def test_what_is_no_socket_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("kept")
    with pytest.raises(UsageError, match="is no socket"), listen(path, "server"):
        pass
    assert path.read_text() == "kept"
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(UsageError, match="is no socket"), listen(path, "server"):
        pass
    assert path.is_symlink()


def test_a_server_that_has_no_place_for_more_is_there_all_the_same(path: Path) -> None:
    path.parent.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        full = False
        while not full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(str(path)) != 0
        with pytest.raises(BusyError), listen(path, "server"):
            pass


def test_the_socket_of_another_is_not_removed(path: Path) -> None:
    with listen(path, "server"):
        path.unlink()
        leave_behind(path)
    assert path.is_socket()


def test_one_of_many_that_start_at_once_listens(path: Path) -> None:
    path.parent.mkdir()
    leave_behind(path)
    ready, answers = threading.Barrier(8), []
    stop = threading.Event()

    def start() -> None:
        ready.wait()
        try:
            with listen(path, "server"):
                answers.append("listens")
                stop.wait(30)
        except BusyError:
            answers.append("busy")
        if len(answers) == 8:
            stop.set()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["busy"] * 7 + ["listens"]


def test_a_path_that_is_too_long(path: Path) -> None:
    with pytest.raises(StratumError, match="cannot listen at"), listen(path.parent / ("x" * 120), "server"):
        pass
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/x", Path("/run/x")),
        ("unix:/run/x", Path("/run/x")),
        (":80", ("", 80)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text: str, address: Path | tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "80", "host:", "host:x", "host:65536", "unix:run/x", "unix:"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="neither HOST:PORT nor unix:///PATH"):
        parse_address(text)


def test_tcp() -> None:
    with listen(("127.0.0.1", 0), "server") as listener:
        with socket.create_connection(listener.getsockname()):
            pass
        with pytest.raises(StratumError, match="cannot listen at 127"), listen(listener.getsockname(), "server"):
            pass
