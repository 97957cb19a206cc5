"""Imports that are interrupted or killed: they end at once, and the next one goes on where they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.ingest.journal import NAME, Journal, Journalled
from stratum.store import Store
from tests.support.capabilities import program
from tests.support.command import SCRIPT, Command
from tests.support.stores import check, leftovers

pytestmark = pytest.mark.root

FILES = 3000
SIZE = 20_000
HEEDS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background jobs of a shell ignore
from stratum.cli.start import main
main()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files of one size and different content, old enough to be told from later states of them."""
    source = tmp_path / "source"
    for number in range(FILES):
        path = source / f"d{number % 20}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * (SIZE // 4))
    time.sleep(0.2)
    return source


def staged(store_dir: Path) -> dict[int, Path]:
    """The objects that transactions have staged, by inode number."""
    return {path.stat().st_ino: path for path in (store_dir / "tmp").glob("*/objects/*/*") if path.is_file()}


def cut_short(cli: Command, source: Path, store_dir: Path, number: signal.Signals) -> dict[int, Path]:
    """Start an import, end it by a signal when it has staged some; what it had staged."""
    command = [sys.executable, "-c", HEEDS_CTRL_C, "import", "--bare", source, "app"]
    process = subprocess.Popen(
        command,
        env=cli.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    enough = False
    while not enough and process.poll() is None:
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGSTOP)  # with its workers: looking takes longer than staging the rest may
        noted = any((store_dir / "tmp").glob(f"*/{NAME}"))
        enough = noted and len(staged(store_dir)) >= FILES // 4
        if enough:
            process.send_signal(number)
        os.killpg(process.pid, signal.SIGCONT)
    _, said = process.communicate()
    said = said.strip()
    expected = {signal.SIGINT: (130, "error: interrupted"), signal.SIGKILL: (-signal.SIGKILL, "")}
    assert (process.returncode, said) == expected[number]
    found = staged(store_dir)
    assert FILES // 4 <= len(found) <= FILES
    return found


def journalled(store_dir: Path) -> int:
    """How many files the journal of an import that was cut short has."""
    (path,) = (store_dir / "tmp").glob(f"*/{NAME}")
    return (path.stat().st_size) // 72


def files_read(cli: Command, source: Path, tmp_path: Path) -> int:
    """How many source files an import reads."""
    log = tmp_path / "log"
    strace = [program("strace"), "-f", "-qq", "-e", "trace=pread64", "-o", str(log)]
    command = [*strace, SCRIPT, "import", "--bare", source, "app"]
    subprocess.run(command, env=cli.environment, check=True, stdout=subprocess.DEVNULL)
    return log.read_text("utf-8", "replace").count(f", {SIZE + 1}, 0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_the_next_import_goes_on(
    cli: Command, source: Path, store_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = cut_short(cli, source, store_dir, number)
    noted = journalled(store_dir)
    assert noted > 0
    assert files_read(cli, source, tmp_path) <= FILES - noted + 1
    store = Store.open(store_dir)
    kept = before.keys() & {path.stat().st_ino for path in (store_dir / "objects").glob("*/*")}
    assert len(kept) >= noted - 1
    assert not leftovers(store)
    check(store)
    cli.ok("fsck")
    other = Command(tmp_path / "other", tmp_path / "run")
    other.ok("import", "--bare", source, "app")
    assert other.json("show", "app")["commit"]["metadata_hash"] == cli.json("show", "app")["commit"]["metadata_hash"]


def change(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, SIZE // 2),
        lambda path: change(path, bytes(SIZE)),
        lambda path: path.unlink(),
    ],
    ids=["cut", "zeros", "gone"],
)
def test_what_a_power_cut_left_of_it_is_not_trusted(
    cli: Command, source: Path, store_dir: Path, damage: Callable[[Path], None]
) -> None:
    for path in cut_short(cli, source, store_dir, signal.SIGKILL).values():
        damage(path)
    cli.ok("import", "--bare", source, "app")
    check(Store.open(store_dir))
    cli.ok("verify", "app")
    assert cli.json("show", "app")["files"]["count"] == FILES


def test_what_changed_meanwhile_is_read(cli: Command, source: Path, store_dir: Path, tmp_path: Path) -> None:
    cut_short(cli, source, store_dir, signal.SIGKILL)
    for number in range(0, FILES, 7):
        path = source / f"d{number % 20}" / f"f{number}"
        info = path.stat()
        path.write_bytes(b"new!" * (SIZE // 4))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    cli.ok("import", "--bare", source, "app")
    other = Command(tmp_path / "other", tmp_path / "run")
    other.ok("import", "--bare", source, "app")
    assert other.json("show", "app")["commit"]["metadata_hash"] == cli.json("show", "app")["commit"]["metadata_hash"]


def test_gc_takes_the_leavings(cli: Command, source: Path, store_dir: Path) -> None:
    cut_short(cli, source, store_dir, signal.SIGINT)
    cli.ok("status")
    assert leftovers(Store.open(store_dir))
    assert cli.json("gc")["bytes_freed"] > FILES // 4 * SIZE
    assert not leftovers(Store.open(store_dir))


@pytest.mark.parametrize("cut", [1, 50, 72, 80])
def test_a_journal_is_read_up_to_where_it_is_whole(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    keys = [(1, number, 2, 3, 4) for number in range(4)]
    for key in keys:
        journal.add(key, bytes([key[1]]) * 32)
        journal.flush()
    path = tmp_path / NAME
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert [Journalled([tmp_path]).find(key) is not None for key in keys] == [True, True, True, False]
    path.write_bytes(data[:90] + b"\xff" + data[91:])
    assert [Journalled([tmp_path]).find(key) is not None for key in keys] == [True, False, False, False]
    assert Journalled([tmp_path / "nothing"]).find(keys[0]) is None


def test_files_that_changed_just_now_are_not_remembered(cli: Command, store_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "new"
    source.mkdir()
    store = Store.create(store_dir)
    from stratum.ingest.directory import import_directory

    with store.begin("importing", resumable=True) as tx:
        (source / "f").write_bytes(os.urandom(SIZE))
        import_directory(store, tx, source)
        assert not (tx.directory / NAME).exists()
