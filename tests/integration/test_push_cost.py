"""What pushes cost: bytes sent follow bytes changed, and memory follows neither; no copy of the data is made."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.registry_artifacts import make_commit
from tests.e2e.registry_server import registry_server
from tests.support.command import SCRIPT, Command
from tests.support.pulling import pull

COMMITS = 30
LARGE = int(os.environ.get("STRATUM_TEST_LARGE_FILE", "67108864"))
"""Bytes of the large file; half of it is a hole."""


def test_thirty_commits_cost_what_they_change(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    numbers = random.Random(3)
    files = {f"d{n % 10}/file{n:03}": numbers.randbytes(20_000) for n in range(300)}
    commit = make_commit(store, files)
    whole = push(store, commit, parse_target(f"oci:{tmp_path}/layout:v0"), Access()).bytes_sent
    sent = changed = 0
    for number in range(1, COMMITS + 1):
        for name in numbers.sample(sorted(files), 3):
            files[name] = numbers.randbytes(20_000)
            changed += 20_000
        commit = make_commit(store, files, parent=commit)
        sent += push(store, commit, parse_target(f"oci:{tmp_path}/layout:v{number}"), Access()).bytes_sent
    print(f"{COMMITS} pushes of {changed} changed bytes sent {sent}; the first sent {whole}")
    assert changed <= sent < 2 * changed
    second = Store.create(tmp_path / "second")
    assert pull(second, parse_target(f"oci:{tmp_path}/layout:v{COMMITS}"), Access()).commit == commit


def make_large(path: Path) -> None:
    """A file of ``LARGE`` bytes: a hole, random data, and a hole again."""
    data = random.Random(4).randbytes(1 << 20)
    with path.open("wb") as file:
        file.seek(LARGE // 4)
        for number in range(LARGE // 2 >> 20):
            file.write(number.to_bytes(8, "little") + data[8:])
        file.truncate(LARGE)


_MEASURE = (
    "import resource, subprocess, sys;"
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def memory(cli: Command, *args: str | Path) -> int:
    """Run a verb, which must succeed; the most memory that it, or a process of its own, had, in bytes.

    A small process starts it: what is started counts its starter's memory as its own until it execs.
    """
    line = [sys.executable, "-I", "-S", "-c", _MEASURE, SCRIPT, *args]
    return int(subprocess.run(line, env=cli.environment, check=True, capture_output=True).stdout) * 1024


@pytest.mark.registry
def test_a_large_sparse_file(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    make_large(tmp_path / "source/large")
    commit = cli.ok("import", "--bare", tmp_path / "source", "app")
    with registry_server(tmp_path / "server") as server:
        target = f"{server.host}/team/app"
        used = memory(cli, "push", "app", target)
        cli.environment["STRATUM_STORE"] = str(tmp_path / "other")
        used = max(used, memory(cli, "pull", target))
    assert used < 250 << 20
    assert cli.ok("show", "app").split()[1] == commit
    (path,) = (path for path in (tmp_path / "other/objects").glob("??/*"))
    assert path.stat().st_size == LARGE
    assert path.stat().st_blocks * 512 < LARGE * 0.6
    print(f"{LARGE} bytes with {used} bytes of memory")
