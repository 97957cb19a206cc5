"""Programs that Stratum starts inherit no lock and no descriptor of the store, while a verb has them.

Podman, which is started while a worktree is locked, is in ``e2e/test_podman_live.py``, a credential helper in
``e2e/test_registry_credentials.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from stratum.transfer.workers import WORTH_IT
from tests.support.command import Command
from tests.support.descriptors import Started, Watch

pytestmark = pytest.mark.root

START = """
import sys
sys.executable = sys.argv.pop(1)
from stratum.cli.start import main
main()
"""
"""The command line, its workers being started by another program than itself."""


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Enough for workers to be worth it, in an import and in a push."""
    directory = tmp_path / "source"
    directory.mkdir()
    for number in range(400):
        (directory / f"{number}").write_bytes(b"%d" % number * 100)
    (directory / "large").write_bytes(os.urandom(WORTH_IT + 1))
    return directory


def run(cli: Command, watch: Watch, *args: str | Path) -> list[Started]:
    """Run a verb that uses two workers; the programs that it started."""
    before = len(watch.started)
    done = subprocess.run(
        [sys.executable, "-c", START, watch.wrap(sys.executable), *args],
        env=cli.environment | {"STRATUM_JOBS": "2"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return watch.started[before:]


def check(cli: Command, started: list[Started]) -> None:
    """Workers were started, by a process that had the store's lock or that of a transaction. One that came late may
    have been stopped before it told."""
    assert started
    for program in started:
        program.check(cli.store)
        links = {item.link for item in program.starter}
        assert str(cli.store / "lock") in links or any(fnmatch(link, f"{cli.store}/tmp/*/owner") for link in links)


def test_workers(cli: Command, watch: Watch, source: Path, tmp_path: Path) -> None:
    check(cli, run(cli, watch, "import", "--bare", source, "app"))
    layout = f"oci:{tmp_path}/layout"
    check(cli, run(cli, watch, "push", "app:latest", f"{layout}:one"))
    cli.ok("remove", "--yes", "app")
    cli.ok("gc", "--reflog-age", "0")
    check(cli, run(cli, watch, "pull", f"{layout}:one", "app:back"))
