"""Fixtures that all tests share. See README.md in this folder for how tests are laid out and what they may need."""

from __future__ import annotations

import gc
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from stratum.sys.namespaces import CLONE_NEWNS, unshare
from tests.support import capabilities, hydrating
from tests.support.command import Command, close_servers
from tests.support.effort import examples
from tests.support.leftovers import Session, unmount_below
from tests.support.rootless import other_user, single_user, user, users  # noqa: F401  (fixtures)
from tests.support.s3server import s3_server  # noqa: F401  (a fixture)

if TYPE_CHECKING:
    from tests.support.lazily import Far

# Generated examples do real work on disks and mounts, so time is no criterion; in CI they are the same in every run.
hypothesis.settings.register_profile(
    "stratum",
    max_examples=examples(100),
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None if os.environ.get("CI") else hypothesis.settings.default.database,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("stratum")


_MACHINE = pytest.StashKey[Session]()


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes (``--numprocesses``) each has a mount namespace of its own: what the tests of another one
    start would get copies of its mounts, and so keep worktrees in use.

    What pytest keeps of thousands of tests is not looked at again and again for garbage.
    """
    gc.set_threshold(50_000, 20, 50)
    if _is_worker(config) and capabilities.missing_root() is None:
        unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests are in the environment of what they start, which has little room."""
    return f"{argname}-of-{len(val)}" if isinstance(val, (str, bytes)) and len(val) > 200 else None


LONGEST = ["podman", "csi", "e2e", "integration", "cli"]
"""Groups of tests, and folders of files that are groups of their own, by how long one takes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What one process runs as a whole: the tests of a file, all of Podman's and all of the CSI driver's.

    Of several processes each takes the next group when it is through with one. The long ones come first, so that at the
    end all have something to do.
    """
    places: dict[str, int] = {}
    for item in items:
        name = "csi" if item.path.name.startswith("test_csi_") else str(item.path)
        group = "podman" if item.get_closest_marker("podman") else name
        item.add_marker(pytest.mark.xdist_group(group))
        kind = group if group in LONGEST else item.path.relative_to(Path(__file__).parent).parts[0]
        places[item.nodeid] = LONGEST.index(kind) if kind in LONGEST else len(LONGEST)
    if config.getoption("loadgroup", False):
        items.sort(key=lambda item: places[item.nodeid])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail where the groups are not kept together: then tests share a machine that cannot, and fixtures are made anew
    for every few of them."""
    config = session.config
    if _is_worker(config) and config.getoption("loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist does not know the groups of the tests"


def pytest_sessionstart(session: pytest.Session) -> None:
    """With several processes in CI, the one that starts them looks at the machine before and after them."""
    if os.environ.get("CI") and session.config.getoption("numprocesses", None):
        session.stash[_MACHINE] = Session(Path(session.config.rootpath) / "no-such-directory", alone=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where that finds something new."""
    machine = session.stash.get(_MACHINE, None)
    if machine is not None and (left := machine.leftovers()):
        session.config.get_terminal_writer().line("\nthe tests left behind:\n" + "\n".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need root, podman, the registry server or mkcomposefs fail with one line where it is missing.

    Those that take samples take the same in every run of CI.
    """
    capabilities.require(item)
    if os.environ.get("CI"):
        random.seed(item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session when it leaves a mount, a loop device, a process or a mount record on the machine."""
    alone = bool(os.environ.get("CI")) and not _is_worker(request.config)
    session = Session(tmp_path_factory.getbasetemp(), alone=alone)
    yield
    close_servers()
    left = session.leftovers()
    unmount_below(tmp_path_factory.getbasetemp())
    assert not left, "the tests left behind:\n" + "\n".join(left)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is tried again in this process, where it is not the waiting that is tested."""
    monkeypatch.setattr("stratum.oci.transport.PAUSE", 0.01)


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """Where the store of this test goes; not there yet."""
    return tmp_path / "store"


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Iterator[Path]:
    """A private runtime directory; what is still mounted below the test's directory at the end is taken down, and what
    serves such mounts."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    yield directory
    if os.geteuid() == 0:
        unmount_below(tmp_path)
    hydrating.stop(directory)


@pytest.fixture(scope="session")
def far_away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """One registry far away for all tests."""
    from tests.support.lazily import far_registry

    with far_registry(tmp_path_factory.mktemp("far")) as registry:
        yield registry


@pytest.fixture
def far(far_away: Far) -> Far:
    """It, well and at once, with nothing asked yet."""
    far_away.well()
    return far_away


@pytest.fixture
def cli(store_dir: Path, runtime_dir: Path) -> Command:
    """The ``stratum`` command with a store and a runtime directory of its own: ``code, out, err = cli("list")``."""
    return Command(store_dir, runtime_dir)
