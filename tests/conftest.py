"""Fixtures that all tests share. See README.md in this folder for how tests are laid out and what they may need."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import capabilities
from tests.support.command import Command
from tests.support.leftovers import Session, unmount_below

# Generated examples do real work on disks and mounts, so time is no criterion; in CI they are the same in every run.
hypothesis.settings.register_profile(
    "stratum",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None if os.environ.get("CI") else hypothesis.settings.default.database,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("stratum")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need root, podman, the registry server or mkcomposefs fail with one line where it is missing.

    Those that take samples take the same in every run of CI.
    """
    capabilities.require(item)
    if os.environ.get("CI"):
        random.seed(item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session when it leaves a mount, a loop device, a process or a mount record on the machine."""
    session = Session(tmp_path_factory.getbasetemp(), alone=bool(os.environ.get("CI")))
    yield
    left = session.leftovers()
    unmount_below(tmp_path_factory.getbasetemp())
    assert not left, "the tests left behind:\n" + "\n".join(left)


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """Where the store of this test goes; not there yet."""
    return tmp_path / "store"


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Iterator[Path]:
    """A private runtime directory; what is still mounted below the test's directory at the end is taken down."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    yield directory
    if os.geteuid() == 0:
        unmount_below(tmp_path)


@pytest.fixture
def cli(store_dir: Path, runtime_dir: Path) -> Command:
    """The real ``stratum`` script with a store and a runtime directory of its own: ``code, out, err = cli("list")``."""
    return Command(store_dir, runtime_dir)
