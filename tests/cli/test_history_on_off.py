"""``history on`` and ``off``: what is printed, which exit codes, what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hydrating
from tests.support.command import Command


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Command]:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    command = Command(tmp_path / "store", run)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    command.ok("import", "--bare", source, "app")
    command.ok("worktree", "add", "app+dev", "app:latest")
    yield command
    hydrating.stop(run)


def test_on_and_off(cli: Command) -> None:
    shown = cli("history", "on", "app+dev")
    assert (shown.code, shown.stdout) == (0, "")
    assert shown.stderr == "the history of app+dev is kept from now on; contents of files up to 64.0 MiB\n"
    assert cli("history", "on", "app+dev").stderr.startswith("the history of app+dev is kept, as it was already;")
    assert "app+dev" in cli.ok("history", "off", "app+dev", "--format", "json")
    again = cli("history", "off", "app+dev")
    assert (again.code, again.stderr) == (0, "the history of app+dev was not kept\n")


def test_settings_are_those_that_were_given_last(cli: Command) -> None:
    first = cli.json("history", "on", "app+dev", "--exclude", "*/node_modules", "--exclude", "/a", "--max-file", "1M")
    assert (first["exclude"], first["max_file"], first["was_on"]) == (["*/node_modules", "/a"], 1 << 20, False)
    assert (first["worktree"], first["strict"], first["note"]) == ("app+dev", False, None)
    second = cli.json("history", "on", "app+dev")
    assert (second["exclude"], second["max_file"], second["was_on"]) == ([], 64 << 20, True)
    assert second["since"] == first["since"]


def test_a_name_alone_is_its_worktree_main(cli: Command) -> None:
    assert cli.json("history", "on", "app")["worktree"] == "app+main"
    assert cli.json("history", "off", "app") == {"worktree": "app+main", "was_on": True, "discarded": False}


def test_what_was_kept_can_be_discarded(cli: Command, tmp_path: Path) -> None:
    secret = b"a password that is too long to be kept in the log itself: " + os.urandom(40).hex().encode()
    view = tmp_path / "view"
    view.mkdir()
    cli.ok("history", "on", "app+dev")
    cli.ok("history", "on", "app")  # who watches has another one to go on with
    cli.ok("mount", "app+dev", view)
    (view / "secret").write_bytes(secret)
    (view / "short").write_bytes(b"hunter2")
    assert cli.ok("history", "app+dev", "/secret")
    (view / "secret").unlink()
    (view / "short").unlink()
    cli.ok("history", "app+dev")
    assert holds(cli, secret)
    assert holds(cli, b"hunter2")
    shown = cli("history", "off", "app+dev", "--discard")
    assert (shown.code, shown.stderr) == (0, "the history of app+dev is not kept any more; all that was kept is gone\n")
    assert cli("history", "app+dev").code == 3
    cli.ok("gc")
    assert not holds(cli, secret)
    assert not holds(cli, b"hunter2")
    cli.ok("history", "on", "app+dev")
    (view / "new").write_text("y")
    assert cli.json("history", "app+dev")[-1]["change"] == 1, "it begins anew"
    cli.ok("watch", "--stop")
    assert cli.json("history", "off", "app+dev", "--discard")["discarded"]
    assert cli("history", "app+dev").code == 3
    cli.ok("unmount", view)


def test_what_is_listed_while_nobody_watches_is_told_to_be_old(cli: Command) -> None:
    cli.ok("history", "on", "app+dev")
    assert cli("history", "app+dev").stderr == ""
    cli.ok("watch", "--stop")
    for words in (["history", "app+dev"], ["restore", "app+dev", "/file", "--at", "now", "--to", "-"]):
        shown = cli(*words)
        assert "nobody watches app+dev now: 'stratum watch --once' brings its history up to date" in shown.stderr, words
    cli.ok("watch", "--once")


def test_where_the_kernel_is_not_asked_it_is_said_what_is_not_seen(cli: Command) -> None:
    looking = {"STRATUM_HISTORY_EVENTS": "scan"}
    shown = cli("history", "on", "app+dev", "--strict", env=looking)
    assert shown.code == 0
    assert shown.stderr.splitlines()[0] == (
        "warning: what comes and goes in app+dev between two looks is not seen, and --strict has no effect: "
        "so say the settings (history_events)"
    )
    assert "watched by looking again and again: so say the settings" in cli.ok("status", "app+dev")


def holds(cli: Command, text: bytes) -> bool:
    """Whether any file of the store has these bytes."""
    files = [path for path in cli.store.rglob("*") if path.is_file() and not path.is_symlink()]
    return any(text in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["on", "app+nosuch"], 3, "there is no worktree app+nosuch"),
        (["off", "app+nosuch"], 3, "there is no worktree app+nosuch"),
        (["on", "nosuch"], 3, "nosuch"),
        (["on", "app:latest"], 2, "app:latest"),
        (["on", "app+dev", "--exclude", "node_modules"], 2, "'node_modules' fits no path in a worktree"),
        (["on", "app+dev", "--exclude", ""], 2, "'' fits no path in a worktree"),
        (["on", "app+dev", "--exclude", "/" + "x" * 5000], 2, "fits no path in a worktree"),
        (["on", "app+dev", "--max-file", "big"], 2, "--max-file must be a number of bytes"),
        (["on"], 2, "Missing argument"),
        (["on", "app+dev", "more"], 2, "unexpected extra argument"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(cli: Command, words: list[str], code: int, text: str) -> None:
    result = cli("history", *words)
    assert result.code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_store_that_cannot_be_watched_is_told_of_and_the_history_is_on(cli: Command) -> None:
    cli.runtime_dir.rmdir()
    cli.runtime_dir.write_text("in the way")
    result = cli("history", "on", "app+dev")
    assert result.code == 0
    assert result.stderr.startswith("warning: the history of app+dev is not kept now: ")
    cli.runtime_dir.unlink()
    assert cli.json("history", "on", "app+dev")["was_on"] is True
