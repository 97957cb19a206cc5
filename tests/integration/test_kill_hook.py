"""The stages of the OCI hook, killed at each call that writes, renames, links, syncs, mounts or enters a namespace.

The container has a volume of every kind. When its hook was killed, the container is dead too, as an engine does it;
then comes whatever may come next, and all must be as if the hook had ended or never begun. By default a few calls are
taken of each stage, other ones in every run; with ``STRATUM_TEST_KILLS=all`` it is every call.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.api.history import Opened
from stratum.errors import StratumError
from stratum.hook.main import main
from stratum.hook.scratch import SCRATCH
from stratum.podman import CREATE_RUNTIME, POSTSTOP
from stratum.sys import mountinfo
from tests.support.containers import HOST_ROOT, Container
from tests.support.injection import (
    DONE,
    MOUNTING,
    REFUSED,
    WRITING,
    calls_of,
    failed_at,
    killed_at,
    undisturbed,
)
from tests.support.stores import leftovers
from tests.support.verbs import Scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 2
CALLS = f"{WRITING},{MOUNTING},setns"
VOLUMES = {
    "worktree": "app+dev:/data:tag=last",
    "new": "app+made:/deep/new:create=app:v2",
    "commit": "app:v2:/read",
    "scratch": "app:v1:/scratch:scratch",
    "born": "born+main:/born:create;uid=7;mode=700;copy-up",
}
WORK = r"""
cd "$1"
seq 2000 > data/from_the_container
seq 3000 > data/dir/changed
mv data/own data/dir/mine
rm data/same
seq 4000 > deep/new/work
seq 6000 > born/work
seq 5000 > "scratch/thrown away"
[ "$(head -c 3 'read/new in v2')" = new ]
"""


class HookScene(Scene):
    """A scene with containers on it; ``expected`` is what app+dev shows."""

    def __init__(self, directory: Path, *, user_namespace: bool) -> None:
        super().__init__(directory)
        self.user_namespace = user_namespace
        self.bundles = directory / "bundles"
        self.expected = self.work
        self._containers: list[Container] = []

    def fresh(self, *, mounted: bool = False) -> None:
        self.stop_all()
        super().fresh(mounted=mounted)

    def clean(self) -> None:
        self.stop_all()
        super().clean()

    def stop_all(self) -> None:
        for container in self.__dict__.get("_containers", []):
            container.stop()

    def container(self) -> Container:
        # A container's layers are reached by its own root.
        for directory in (self.directory, *self.directory.parents[:3]):
            directory.chmod(directory.stat().st_mode | 0o111)
        made = Container(self.bundles, user_namespace=self.user_namespace)
        self._containers.append(made)
        host_root = HOST_ROOT if self.user_namespace else 0
        (made.rootfs / "born/sub").mkdir(parents=True)
        (made.rootfs / "born/sub/of the image").write_bytes(b"image" * 900)
        os.link(made.rootfs / "born/sub/of the image", made.rootfs / "born/linked")
        for path in (made.rootfs / "born", *(made.rootfs / "born").rglob("*")):
            os.chown(path, host_root + 5, host_root + 6)
        return made

    def hook(self, stage: str, container: Container) -> Callable[[], None]:
        """A run of the stage, for a child process to make."""
        changes = {} if stage == CREATE_RUNTIME else {"status": "stopped", "pid": 0}
        state = container.bundle / "state.json"
        state.write_bytes(container.state(VOLUMES, **changes))

        def run() -> None:
            with state.open("rb") as file:
                os.dup2(file.fileno(), 0)
            os.environ["STRATUM_STORE"] = str(self.store_dir)
            os.environ["STRATUM_RUNTIME_DIR"] = str(self.runtime_dir)
            code = main([stage])
            if code:
                raise StratumError(f"exit code {code}")

        return run

    def run_hook(self, stage: str, container: Container) -> None:
        outcome = undisturbed(self.hook(stage, container))
        assert outcome.status == DONE, outcome

    def started(self) -> Container:
        """A container with its volumes, in which somebody has worked."""
        container = self.container()
        self.run_hook(CREATE_RUNTIME, container)
        container.inside("sh", "-ec", WORK, "sh", str(container.rootfs))
        return container

    def nothing_held(self) -> None:
        """No volume is on record, leased or mounted anywhere."""
        store = self.store
        assert self.session.state.records() == []
        for name in store.names():
            for worktree in store.worktrees.names(name):
                assert store.worktrees.lease(name, worktree) is None
        where = str(self.store_dir)
        assert [entry for _, entry in mountinfo.everywhere() if where in entry.super_options] == []

    def check_whole(self) -> None:
        """Nothing is damaged, tags are old or new, what app+dev shows is all that was written."""
        assert not self.damage()
        store = self.store
        assert self.shown() == self.expected
        tags = store.tags.list("app")
        assert tags.pop("last", self.expected) == self.expected
        assert set(tags) == {"v1", "v2"}
        assert set(tags.values()) <= self.old_commits
        for worktree in store.worktrees.list("app"):
            assert store.commits.exists(worktree.base_commit)
            assert store.commits.exists(worktree.commit)
        self.check_born()

    def check_born(self) -> None:
        """The worktree that begins as what the image has is whole, or it is not there."""
        if "born" not in self.store.names() or not self.store.worktrees.names("born"):
            return
        tree = Opened(self.session).tree_of("born+main")
        assert (tree.uid, tree.gid, tree.mode & 0o7777) == (7, 6, 0o700)
        names = {b"sub", b"linked"}
        assert names <= set(tree.children) <= {*names, b"work"}
        copied = tree.children[b"linked"]
        assert (copied.uid, copied.gid, copied.size) == (5, 6, 4500)
        assert tree.children[b"sub"].children == {b"of the image": copied}

    def check_at_end(self, *, committed: bool) -> None:
        """After the next stage or verb nothing is held, and what containers left is committed, once."""
        self.check_whole()
        self.nothing_held()
        store = self.store
        if committed:
            assert store.worktrees.get("app", "dev").commit == self.expected
            assert store.tags.get("app", "last") == self.expected
        # An entry is written before the move that it tells of, so an interrupted one is told of twice.
        moves = [entry for entry in store.reflog.read("app") if entry.which == "dev" and entry.new == self.expected]
        assert len(moves) <= 2
        assert len({entry.old for entry in moves}) <= 1
        self.verb("tag", "--force", "app:v1", "next")
        assert not leftovers(self.store)
        self.verb("gc")
        assert self.shown() == self.expected


def next_poststop(scene: HookScene, container: Container) -> None:
    scene.run_hook(POSTSTOP, container)
    assert not (container.bundle / SCRATCH).exists()


def next_container(scene: HookScene, container: Container) -> None:
    other = scene.container()
    scene.run_hook(CREATE_RUNTIME, other)
    shown = Path(f"/proc/{other.process.pid}/root{other.rootfs}/data")
    assert (shown / "renamed/moved").read_bytes() == b"dir/deep/moved" * 700
    other.stop()
    scene.run_hook(POSTSTOP, other)


def next_reconcile(scene: HookScene, container: Container) -> None:
    scene.verb("reconcile")


NEXT = (next_poststop, next_container, next_reconcile)


@pytest.fixture(scope="module", params=[False, True], ids=["host-users", "user-namespace"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HookScene]:
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    made = HookScene(tmp_path_factory.mktemp("hook"), user_namespace=request.param)
    yield made
    made.clean()
    sys.dont_write_bytecode = writes_bytecode


def prepare(scene: HookScene, stage: str) -> Container:
    """A container that the stage is about to be run for."""
    scene.fresh()
    scene.expected = scene.work
    if stage == CREATE_RUNTIME:
        return scene.container()
    container = scene.started()
    container.stop()
    scene.expected = scene.shown()
    return container


def points(scene: HookScene, stage: str, calls: str) -> list[tuple[str, int]]:
    container = prepare(scene, stage)
    counted = calls_of(scene.hook(stage, container), calls)
    found = [(call, number) for call, count in counted.items() for number in range(1, count + 1)]
    assert found
    return found if EVERY else random.sample(found, min(SAMPLE, len(found)))


def go_on(scene: HookScene, stage: str, container: Container, number: int) -> None:
    """What was interrupted is whole; the container ends; something comes next; and nothing is left."""
    container.stop()
    scene.check_whole()
    comes_next = NEXT[number % len(NEXT)] if EVERY else random.choice(NEXT)
    print(f"  then {comes_next.__name__}")
    comes_next(scene, container)
    scene.check_at_end(committed=stage == POSTSTOP)


@pytest.mark.parametrize("stage", [CREATE_RUNTIME, POSTSTOP])
def test_killed(scene: HookScene, stage: str) -> None:
    for index, (call, number) in enumerate(points(scene, stage, CALLS)):
        container = prepare(scene, stage)
        outcome = killed_at(scene.hook(stage, container), call, number)
        print(f"{stage} killed at {call} {number}: {outcome}")
        assert outcome.status in (-signal.SIGKILL, DONE), outcome
        go_on(scene, stage, container, index)


@pytest.mark.parametrize("stage", [CREATE_RUNTIME, POSTSTOP])
def test_failing(scene: HookScene, stage: str) -> None:
    """The same calls failing: a start that failed holds nothing, a stop that failed is made up for."""
    for index, (call, number) in enumerate(points(scene, stage, WRITING)):
        container = prepare(scene, stage)
        error = "EIO" if "sync" in call else random.choice(["ENOSPC", "EDQUOT"])
        outcome = failed_at(scene.hook(stage, container), call, number, error)
        print(f"{stage} with {error} at {call} {number}: {outcome}")
        assert outcome.status in (DONE, REFUSED), outcome
        go_on(scene, stage, container, index)
