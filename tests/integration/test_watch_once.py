"""Histories without a process that watches, on stores that cannot be written, and by users who are not root."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api.watching import history_on
from stratum.history.versions import CLOCK_STEP
from stratum.sys import mountapi
from tests.support.command import SCRIPT
from tests.support.watched import Watched, until

pytestmark = pytest.mark.root


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    scene = Watched(tmp_path)
    try:
        scene.on()
        scene.cli.ok("watch", "--stop")
        yield scene
    finally:
        scene.close()


def test_what_changed_is_recorded_by_a_look_and_no_process_stays(watched: Watched) -> None:
    (watched.mnt / "new").write_text("x")
    (watched.mnt / "dir" / "file").unlink()
    time.sleep(2 * CLOCK_STEP / 1e9)  # what changed a moment before a look may be more than the look saw
    shown = watched.cli("watch", "--once")
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("app+dev  ")
    assert "records, up to CHANGE " in shown.stdout
    assert not watched.running()
    assert watched.of("/new") == ["create"]
    assert watched.of("/dir/file") == ["delete"]
    assert len(watched.gaps()) == 1
    watched.is_exact()
    assert watched.cli.ok("watch", "--once") == "app+dev  nothing new"


def test_json(watched: Watched) -> None:
    before = len(watched.records())
    (watched.mnt / "new").write_text("x")
    (item,) = watched.cli.json("watch", "--once")
    assert item == {"worktree": "app+dev", "before": before, "change": len(watched.records()), "error": None}


def test_where_somebody_watches_it_is_a_flush(watched: Watched) -> None:
    watched.on()
    (watched.mnt / "new").write_text("x")
    watched.cli.ok("watch", "--once")
    assert watched.of("/new") == ["create"]
    assert watched.running()
    assert not watched.gaps()


def test_without_any_history_there_is_nothing_to_do(watched: Watched) -> None:
    watched.cli.ok("history", "off", "app+dev")
    shown = watched.cli("watch", "--once")
    assert (shown.code, shown.stdout) == (0, "")
    assert "no worktree has its history on" in shown.stderr
    assert watched.cli.json("watch", "--once") == []


def test_one_that_cannot_be_read_keeps_no_other_from_it(watched: Watched) -> None:
    watched.cli.ok("worktree", "add", "app+other", "app:latest")
    watched.on("app+other")
    watched.cli.ok("watch", "--stop")
    (watched.cli.store / "refs" / "app" / "worktrees" / "other" / "meta.toml").write_text("nonsense")
    (watched.mnt / "new").write_text("x")
    result = watched.cli("watch", "--once")
    assert result.code == 1
    assert "warning: app+other: " in result.stderr
    assert "1 of 2 histories could not be brought up to date" in result.stderr
    assert watched.of("/new") == ["create"]


@pytest.mark.parametrize(
    "words", [["--once", "--stop"], ["--restart-worker", "--stop"], ["--once", "--restart-worker"]]
)
def test_two_things_at_once_are_refused(watched: Watched, words: list[str]) -> None:
    assert watched.cli("watch", *words).code == 2


def test_where_nobody_watches_there_is_nobody_to_tell(watched: Watched) -> None:
    for word in ("--stop", "--restart-worker"):
        result = watched.cli("watch", word)
        assert result.code == 3
        assert "nobody watches" in result.stderr


def test_without_a_store_nothing_is_watched(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "STRATUM_STORE": str(tmp_path / "nosuch"),
        "STRATUM_RUNTIME_DIR": str(tmp_path / "run"),
    }
    for words in (["watch"], ["watch", "--once"], ["watch", "--stop"]):
        done = subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 2)


# What cannot be written


@pytest.fixture
def read_only(watched: Watched) -> Iterator[Watched]:
    """The store, of which a look was recorded, on a mount that cannot be written."""
    watched.cli.ok("unmount", "app+dev")
    store = watched.cli.store
    subprocess.run(["mount", "--bind", store, store], check=True)
    mount = os.open(store, os.O_PATH | os.O_DIRECTORY)
    mountapi.mount_setattr(mount, attributes=mountapi.MOUNT_ATTR_RDONLY)
    os.close(mount)
    yield watched
    subprocess.run(["umount", store], check=True)


def test_a_store_that_can_only_be_read_is_read(read_only: Watched) -> None:
    cli = read_only.cli
    assert cli.ok("history", "app+dev")
    for words in (["history", "off", "app+dev"], ["history", "on", "app+dev", "--strict"], ["watch", "--once"]):
        result = cli(*words)
        assert result.code in (1, 6), words
        assert "Read-only file system" in result.stderr, words
        assert len(result.stderr.splitlines()) <= 3
    assert read_only.running() == []


# Who is not root

AS_NOBODY = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_who_is_not_root_has_histories_of_their_own_store(tmp_path: Path) -> None:
    """Nobody but root can mount, so it is written to as a restore does: names are told, and contents are there."""
    scene = Watched(tmp_path, mounted=False)
    try:
        for path in [scene.cli.store, *scene.cli.store.rglob("*"), scene.run]:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        for parent in (tmp_path, *tmp_path.parents):
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o1:
                parent.chmod(parent.stat().st_mode | 0o11)

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = ["/usr/bin/python3", "-c", AS_NOBODY, str(SCRIPT), *words]
            return subprocess.run(
                command,
                env=scene.cli.environment | {"HOME": "/nosuch"},
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                timeout=120,
            )

        on = run("history", "on", "app+dev")
        assert on.returncode == 0, on.stderr
        assert on.stderr.count("warning") == ("no ranges in /etc/subuid" in on.stderr)
        assert all(os.stat(f"/proc/{pid}").st_uid == 65534 for pid in scene.running())
        assert len(scene.running()) == 2
        upper = scene.cli.store / "refs/app/worktrees/dev/upperdir"
        program = "import sys; open(sys.argv[1], 'w').write('x' * 100)"
        made = ["/usr/bin/python3", "-c", AS_NOBODY, "/usr/bin/python3", "-c", program, str(upper / "new")]
        subprocess.run(made, check=True)
        until(lambda: "create" in run("history", "app+dev", "/new").stdout)
        newest = json.loads(run("--format", "json", "history", "app+dev", "/new").stdout)[0]
        assert newest["op"] == "create", "the making of the worktree, in the same second, was before"
        change = newest["change"]
        assert run("cat", f"app+dev@{change}", "/new").stdout == "x" * 100
        stopped = run("watch", "--stop")
        assert stopped.returncode == 0, stopped.stderr
        assert not scene.running()
    finally:
        scene.close()
        with contextlib.suppress(FileNotFoundError):  # where users can have no namespaces
            os.kill(int((scene.run / "session").read_text().split()[0]), signal.SIGKILL)


# Without events


def test_by_a_setting_upperdirs_are_looked_through(watched: Watched) -> None:
    watched.cli.environment["STRATUM_HISTORY_EVENTS"] = "scan"
    note = history_on(watched.session, "app+dev").note
    assert note is not None
    assert "between two looks is not seen" in note
    status = watched.ask("status")
    assert status is not None
    assert status["watcher"]["events"] is False
    (watched.mnt / "new").write_text("x")
    until(lambda: watched.of("/new"))
    watched.is_exact()
    assert watched.cli("status", env={"STRATUM_HISTORY_EVENTS": "never"}).code == 2
