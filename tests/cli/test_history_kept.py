"""What becomes of histories: in a garbage collection, in a check, and when their worktree is removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.segments import segment_name
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of, when_text
from tests.cli.trees import make_tree
from tests.support.command import Command

pytestmark = pytest.mark.root

DAY = 86400
APP = ("app", "main")


@pytest.fixture
def store(cli: Command, tmp_path: Path) -> Store:
    """``app+main`` with a history of three versions of /v: 40 and 39 days old, and of now, which is what it shows."""
    cli.ok("import", "--bare", make_tree(tmp_path / "src", {"f": "f" * 5000}), "app")
    cli.ok("worktree", "add", "app+main", "app:latest")
    store = Store.open(cli.store)
    base = store.worktrees.get(*APP).base_commit
    log = [Record(1, at(41), "base", commit=base)]
    with store.begin("versions") as tx:
        for n, days in ((2, 40), (3, 39), (4, 0)):
            data = b"%04d" % n * 1000
            entry = entry_of(File(0o100644, 0, 0, 0, size=4000, digest=tx.add_bytes(data)))
            log.append(Record(n, at(days), "create" if n == 2 else "write", b"/v", entry, by="vim"))
        tx.publish_objects()
    with store.histories.writing():
        writer = store.histories.writer(*APP)
        writer.append(log)
        writer.seal()
        writer.close()
    return store


def at(days: int) -> str:
    return when_text(time.time_ns() - days * DAY * 1_000_000_000)


def test_a_collection_lets_old_versions_go(cli: Command, store: Store) -> None:
    would = cli.json("gc", "-n")
    assert (would["forgotten_versions"], would["removed_objects"], would["removed_histories"]) == (2, 2, [])
    assert "would remove 2 versions of files from histories" in cli.ok("gc", "-n")
    done = cli.json("gc")
    assert (done["forgotten_versions"], done["removed_objects"]) == (2, 2)
    assert [record.why for record in store.histories.records(*APP)] == [None, "thinned", "thinned", None]
    assert cli("fsck").code == 0
    assert cli.json("gc")["forgotten_versions"] == 0


def test_a_limit_is_a_setting(cli: Command, store: Store) -> None:
    assert cli.json("gc", "-n", env={"STRATUM_HISTORY_MAX": "none"})["forgotten_versions"] == 2
    result = cli("gc", "-n", env={"STRATUM_HISTORY_MAX": "a lot"})
    assert result.code == 2
    assert "history_max" in result.stderr
    assert store.histories.last(*APP) == 4


def test_a_removed_worktree_leaves_its_history_for_a_while(cli: Command, store: Store) -> None:
    cli.ok("worktree", "remove", "app+main")
    assert cli.json("gc")["removed_histories"] == []
    assert store.histories.last(*APP) == 4
    directory = store.layout.history(*APP)
    long_ago = time.time() - 31 * DAY
    for path in (*directory.iterdir(), directory):
        os.utime(path, (long_ago, long_ago))
    assert cli.json("gc", "-n")["removed_histories"] == ["app+main"]
    assert "removed the history of app+main, which is no worktree any more" in cli.ok("gc")
    assert not directory.exists()


def test_what_is_discarded_goes_with_its_history(cli: Command, store: Store) -> None:
    cli.ok("worktree", "remove", "app+main", "--discard")
    assert store.histories.each() == []


def test_the_histories_of_a_removed_stratum_come_back(cli: Command, store: Store, tmp_path: Path) -> None:
    cli.ok("remove", "app", "--yes")
    assert cli.json("list") == []
    assert cli("fsck").code == 0
    cli.ok("import", "--bare", tmp_path / "src", "app")
    assert store.histories.last(*APP) == 4
    cli.ok("remove", "app", "--yes", "--discard")
    assert store.histories.each() == [APP]  # there was no such worktree
    assert cli("fsck").code == 0


def test_a_damaged_log_is_one_line_and_is_mended(cli: Command, store: Store) -> None:
    path = store.layout.history(*APP) / segment_name(1, sealed=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    result = cli("gc")
    assert result.code == 5
    assert len(result.stderr.strip().splitlines()) <= 2
    assert "not known what the history of app+main needs" in result.stderr
    found = cli("fsck")
    assert found.code == 5
    assert "history refs/app/history/main: it is damaged at its beginning" in found.stdout
    repaired = cli("fsck", "--repair")
    assert repaired.code == 0, repaired.stdout
    assert "put what is damaged into quarantine" in repaired.stdout
    assert cli("fsck").code == 0
    assert cli("gc").code == 0
