"""A program that loses nothing of what it was told is on disk, through kills, live commits and rollbacks.

Set STRATUM_TEST_ROUNDS for more rounds than the few that fit into every run.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command

pytestmark = [pytest.mark.root, pytest.mark.podman]

ROUNDS = int(os.environ.get("STRATUM_TEST_ROUNDS", "2"))

JOURNAL = r"""
set -e
cd /data
put() { dd of=$1 conv=fsync 2> /dev/null; }
recover() {
    n=0; last=0
    while read -r sum number; do
        [ "$(echo "$number" | sha256sum | cut -c 1-64)" = "$sum" ] && [ "$number" = $((last + 1)) ] || break
        last=$number; n=$((n + 1))
    done < journal
    head -n $n journal | put journal.new; mv journal.new journal
}
[ -e journal ] || : > journal
recover
echo "start $last" >&2
while :; do
    last=$((last + 1))
    echo "$(echo $last | sha256sum | cut -c 1-64) $last" | dd of=journal oflag=append conv=notrunc,fsync 2> /dev/null
    echo $last | put side.new; mv side.new side
    echo $last
    sleep 0.02
done
"""
"""Numbers with checksums, each synced before it is said to be written. The copy in ``side`` is replaced by rename."""


@dataclass(frozen=True)
class Census:
    """What could be left behind: mounts, loop devices in use, processes and temporary files of this environment."""

    mounts: int
    loops: int
    processes: int
    files: int


def census(podman: PodmanEnv, cli: Command) -> Census:
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    return Census(
        mounts=len(podman.mounts()) + sum(str(cli.store) in line for line in mount_lines()),
        loops=sum(str(cli.store) in path.read_text() for path in loops),
        processes=podman.count_processes(),
        files=len(list((cli.store / "tmp").iterdir())) + len(list(cli.runtime_dir.iterdir())),
    )


def mount_lines() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()


@pytest.fixture
def podman(cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    with PodmanEnv() as environment:
        cli.ok("hook", "install", "--force", tmp_path / "hooks")
        environment.hooks_dir = tmp_path / "hooks"
        cli.environment |= environment.for_stratum
        yield environment


class Writer:
    """The container with the journal."""

    def __init__(self, podman: PodmanEnv) -> None:
        self.podman = podman
        volume = "stratum.dev/volume.a=db+main:/data"
        self.podman.run("-d", "--name", "writer", "--annotation", volume, podman.image, "sh", "-c", JOURNAL)
        self.begun = int(self._said("start").split()[1])

    def _said(self, word: str) -> str:
        deadline = time.monotonic() + 60
        while True:
            logs = self.podman.podman("logs", "writer")
            for line in (logs.stdout + logs.stderr).splitlines():
                if line.startswith(word):
                    return line
            assert time.monotonic() < deadline, logs.stderr
            time.sleep(0.05)

    def promised(self) -> int:
        """The last number that it said is written."""
        numbers = [int(line) for line in self.podman.podman("logs", "writer").stdout.split() if line.isdecimal()]
        return max(numbers, default=self.begun)

    def write_some(self) -> int:
        goal = self.promised() + 3
        deadline = time.monotonic() + 60
        while (number := self.promised()) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return number

    def kill(self) -> int:
        """Kill it; the last number that it promised."""
        self.podman.podman("kill", "--signal", "KILL", "writer")
        self.podman.wait_stopped("writer")
        number = self.promised()
        self.podman.remove("writer")
        return number


def numbers(cli: Command, commit: str, tmp_path: Path) -> int:
    """The last number of the journal in ``commit``, which must be whole but for its last line."""
    target = tmp_path / "look"
    cli.ok("mount", commit, target)
    try:
        lines = (target / "journal").read_text().splitlines()
        side = int((target / "side").read_text() or 0)
    finally:
        cli.ok("unmount", target)
    written = [int(line.split()[1]) for line in lines[:-1]]
    assert written == list(range(1, len(lines)))
    assert side in (len(lines) - 1, len(lines))
    return len(lines)


def test_kills_commits_and_rollbacks(podman: PodmanEnv, cli: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cli.ok("import", "--bare", tmp_path / "empty", "db")
    chance = random.Random(ROUNDS)
    before: Census | None = None
    least = 0
    for number in range(ROUNDS):
        writer = Writer(podman)
        assert writer.begun >= least, "what was promised is lost"
        promised = writer.write_some()
        live = cli.ok("commit", "db+main")
        assert numbers(cli, live, tmp_path) >= promised
        writer.write_some()
        promised = writer.kill()
        stopped = cli.json("show", "db+main")["commit"]["metadata_hash"]
        assert numbers(cli, stopped, tmp_path) >= promised
        if number % 2 == 0 or chance.random() < 0.3:
            cli.ok("reset", "db+main", live)
            promised = numbers(cli, live, tmp_path) - 1
        least = promised
        before = before or census(podman, cli)
    assert census(podman, cli) == before
    assert json.loads((cli.runtime_dir / "state").read_text())["mounts"] == []
    assert cli("fsck").code == 0
