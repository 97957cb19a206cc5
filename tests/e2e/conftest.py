"""A private Podman for the tests of a module, and what most of its tests begin with; some modules have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hooked import FILES, records, strata_mounts
from tests.e2e.podman_env import PodmanEnv
from tests.support.command import Command
from tests.support.lazily import Far, Lazily


@pytest.fixture(scope="module")
def engine() -> Iterator[PodmanEnv]:
    """One private Podman for all tests of this module."""
    with PodmanEnv() as environment:
        yield environment


@pytest.fixture
def podman(engine: PodmanEnv, cli: Command, tmp_path: Path) -> Iterator[PodmanEnv]:
    """Podman with the hook of this test's store installed; at the end nothing is mounted, on record or leased."""
    cli.ok("hook", "install", "--force", tmp_path / "hooks")
    engine.hooks_dir = tmp_path / "hooks"
    cli.environment |= engine.for_stratum
    try:
        yield engine
    finally:
        engine.remove_all()
    assert not engine.container_mounts()
    assert strata_mounts(cli) == []
    assert records(cli) == []
    assert not list(cli.store.glob("refs/*/worktrees/*/lease.toml"))
    assert not list((cli.store / "tmp").glob("*/owner"))


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    """The stratum ``app`` with a tag ``latest`` of ``FILES`` and a worktree ``dev``; its first commit."""
    source = tmp_path / "source"
    for name, text in FILES.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    commit = cli.ok("import", "--bare", source, "app")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    return commit


@pytest.fixture
def lazily(far: Far, tmp_path: Path) -> Iterator[Lazily]:
    """A lazy mount of its tree."""
    with Lazily(tmp_path / "lazily", far) as mounted:
        far.slow.forget()
        yield mounted
