"""The whole way, by the verbs: a history is switched on, somebody writes, and what was is listed and brought back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.trees import BIG, make_tree, shown
from tests.support import hydrating
from tests.support.command import Command
from tests.support.leftovers import unmount_below

pytestmark = pytest.mark.root
SOON = 60.0
"""Seconds; a save is listed after 1.5 on a machine that has nothing else to do."""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Command]:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    command = Command(tmp_path / "store", run)
    command.ok("import", "--bare", make_tree(tmp_path / "src", {"app.conf": "first", "d/big": BIG}), "app")
    command.ok("worktree", "add", "app+dev", "app:latest")
    command.ok("history", "on", "app+dev")
    yield command
    unmount_below(tmp_path)
    hydrating.stop(run)


@pytest.fixture
def mnt(cli: Command, tmp_path: Path) -> Path:
    """Where ``app+dev`` is mounted."""
    path = tmp_path / "mnt"
    path.mkdir()
    cli.ok("mount", "app+dev", path)
    return path


def lines(cli: Command, *args: str | Path) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads(cli.ok("history", "--format", "json", *args))
    return [line for line in document if line["op"] != "commit"]


def told(cli: Command, *args: str | Path) -> list[tuple[str, str | None]]:
    return [(line["op"], line["path"]) for line in lines(cli, *args)]


def test_what_is_closed_is_listed_at_once(cli: Command, mnt: Path) -> None:
    (mnt / "app.conf").write_text("second")
    assert told(cli, mnt / "app.conf")[0] == ("write", "/app.conf")
    (mnt / "new").write_text("x")
    (mnt / "new").rename(mnt / "newer")
    found = told(cli, "app+dev")
    assert ("create", "/newer") in found
    assert found[-1] == ("base", None)


def test_and_without_anybody_asking_soon(cli: Command, mnt: Path) -> None:
    before = lines(cli, "app+dev")[0]["change"]
    (mnt / "app.conf").write_text("second")
    log, deadline = cli.store / "refs/app/history/dev", time.monotonic() + SOON
    while b'"path":"/app.conf"' not in b"".join(path.read_bytes() for path in log.glob("*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert lines(cli, mnt / "app.conf")[0]["change"] > before


def test_undo_and_undo_of_undo(cli: Command, mnt: Path) -> None:
    for text in ("second", "third"):
        (mnt / "app.conf").write_text(text)
        cli.ok("history", "app+dev")  # each is in the log by its end
    newest, older = (line["change"] for line in lines(cli, "app+dev", "app.conf")[:2])
    cli.ok("restore", "app+dev", "app.conf", str(older))
    assert (mnt / "app.conf").read_text() == "second"
    (line,) = [line for line in lines(cli, "app+dev", "app.conf") if line["change"] > newest]
    assert (line["op"], line["by"]) == ("write", "stratum")
    cli.ok("restore", mnt / "app.conf", str(newest))
    assert (mnt / "app.conf").read_text() == "third"
    (mnt / "app.conf").unlink()
    hint = cli("history", "app+dev", "app.conf").stderr
    command = hint.partition("to have it back: stratum ")[2].split()
    cli.ok(*command)
    assert (mnt / "app.conf").read_text() == "third"


def test_ten_minutes_of_a_tree(cli: Command, mnt: Path, tmp_path: Path) -> None:
    (mnt / "d" / "x").write_text("x")
    cli.ok("history", "app+dev")
    time.sleep(1.1)  # moments have whole seconds
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1.1)
    os.rename(mnt / "d", mnt / "elsewhere")
    (mnt / "elsewhere" / "x").write_text("worse")
    (mnt / "elsewhere" / "big").unlink()
    cli.ok("restore", "app+dev", "d", "--at", moment)
    assert shown(mnt / "d") == {"x": "x", "big": BIG}
    out = tmp_path / "out"
    out.mkdir()
    cli.ok("restore", "app+dev", "/", "--at", moment, "--to", out)
    assert shown(out) == {"app.conf": "first", "d": None, "d/x": "x", "d/big": BIG}


def test_commits_and_what_is_not_mounted(cli: Command, mnt: Path) -> None:
    (mnt / "app.conf").write_text("second")
    commit = cli.ok("commit", "app+dev", "-m", "the second").strip()
    document = json.loads(cli.ok("history", "--format", "json", "app+dev"))
    move = next(line for line in document if line["commit"] == commit)
    assert (move["op"], move["why"]) == ("commit", "the second")
    write = next(line for line in document if line["path"] == "/app.conf")
    assert document.index(move) < document.index(write)
    cli.ok("unmount", mnt)
    first = lines(cli, "app+dev")[-1]["change"]
    cli.ok("restore", "app+dev", "app.conf", str(first))
    assert cli.ok("cat", "app+dev", "app.conf") == "first"
    assert cli.ok("cat", f"app+dev@{write['change']}", "app.conf") == "second"
    assert lines(cli, "app+dev")[0]["path"] == "/app.conf"


def test_a_file_that_is_open_has_no_version_yet(cli: Command, mnt: Path) -> None:
    with open(mnt / "log", "w") as file:
        file.write("not done")
        file.flush()
        (line,) = lines(cli, "app+dev", "log")
        assert (line["op"], line["unknown"]) == ("create", "open")
        result = cli("cat", f"app+dev@{line['change']}", "log")
        assert (result.code, result.stdout) == (1, "")
        assert "open for writing" in result.stderr
        status = cli.json("status", "app+dev")[0]["worktrees"][0]["history"]
        assert status["watched"]
        assert status["open"] == ["/log"]
    assert cli.ok("cat", f"app+dev@{lines(cli, 'app+dev', 'log')[0]['change']}", "log") == "not done"
