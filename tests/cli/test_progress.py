"""How far long work is: on a terminal with files, bytes, rate and total; nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from stratum.ingest import counting, statcache
from stratum.ingest.directory import import_directory
from stratum.ingest.restore import Rules, restore_below
from stratum.ingest.selection import NOTHING, Excludes
from stratum.store import Store
from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.root

FILES = 700
SIZE = 1000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for number in range(FILES):
        path = source / f"d{number % 7}/e/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * (SIZE // 4))
    (source / "link").symlink_to("/etc")
    return source


def on_a_terminal(cli: Command, *arguments: str) -> str:
    """What the command writes to a terminal that is its standard error, without what moves the cursor."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "STRATUM_STORE": str(cli.store), "STRATUM_RUNTIME_DIR": str(cli.runtime_dir)}
    environment |= {"COLUMNS": "150", "TERM": "xterm"}
    with subprocess.Popen([SCRIPT, *arguments], stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
            if not piece:
                break
            said += piece
        os.close(ours)
    assert process.returncode == 0, said
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())


def test_bars_have_numbers(cli: Command, source: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    everything = "683.6 KiB of 683.6 KiB"
    for arguments, label in (
        (("import", "--bare", str(source), "app"), "importing"),
        (("verify", "app"), "verifying"),
        (("fsck",), "checking"),
        (("restore", "app", "/", "--to", str(tmp_path / "to")), "restoring"),
    ):
        said = on_a_terminal(cli, *arguments)
        assert f"{label}, finishing" in said
        assert re.search(rf"{FILES} files, {everything}", said), said
        assert "\n\n" not in said
    assert "importing" not in on_a_terminal(cli, "import", "--quiet", "--bare", str(source), "other")
    code, _, err = cli("import", "--bare", str(source), "third")
    assert (code, "files, " in err, "KiB/s" in err) == (0, True, False)


def test_what_will_be_read_is_counted_ahead(source: Path) -> None:
    root = os.open(source, os.O_RDONLY)
    try:
        assert counting.count(root, NOTHING) == FILES * SIZE
        assert counting.count(root, Excludes((b"/d1/",))) == FILES * SIZE * 6 // 7
        with counting.Counting(root, NOTHING) as counted:
            while counted.look() is None:
                pass
            assert counted.total == FILES * SIZE
    finally:
        os.close(root)


@pytest.mark.parametrize("again", [False, True])
def test_an_import_tells_all_of_it(source: Path, tmp_path: Path, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statcache, "TELLS_AFTER", -(10**18))
    monkeypatch.setattr(statcache, "TELLS_AFTER_COARSE", -(10**18))
    store, told = Store.create(tmp_path / "store"), []
    with store.begin("a test") as tx:
        if again:
            import_directory(store, tx, source)
            tx.publish_objects()
            (source / "d1/e/f1").write_bytes(b"x" * SIZE)
        tree, _ = import_directory(
            store, tx, source, progress=lambda done, total, /, files=None: told.append((done, total, files))
        )
        tx.publish_objects()
        assert told[-1][0] == FILES * SIZE
        assert told[-1][2] == FILES
        assert told == sorted(told, key=lambda step: step[0])
        assert not again or {total for _, total, _ in told} == {FILES * SIZE}
        written: list[tuple[int, bool]] = []
        (tmp_path / "to").mkdir()
        root = os.open(tmp_path / "to", os.O_RDONLY)
        restore_below(
            store.objects, tree, root, tmp_path / "to", b"", Rules(), lambda size, ends: written.append((size, ends))
        )
        os.close(root)
    assert (sum(size for size, _ in written), sum(ends for _, ends in written)) == (FILES * SIZE, FILES)
