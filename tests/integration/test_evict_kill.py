"""An eviction that is killed, or whose calls fail, at any call: no commit lacks an object without a mark that tells."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.errors import StratumError
from stratum.hydrate.evict import Evictor
from stratum.store import Store
from stratum.tree.contents import objects_of
from tests.support.injection import DONE, REFUSED, calls_of, failed_at, killed_at
from tests.support.stores import abandoned
from tests.unit.hydrate.test_evict import Place

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 3


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two commits with sources that share an object, and one of which only this store has all."""
    place = Place(tmp_path_factory.mktemp("evict"))
    place.sourced(b"abc", "v1")
    place.sourced(b"cd", "v2")
    place.commit(b"ef", "local")
    return place


class Scene:
    def __init__(self, template: Place, directory: Path) -> None:
        self._template = template.store.root
        self._directory = directory
        self._number = 0
        self.fresh()

    def fresh(self) -> None:
        """The store as it was before."""
        self._number += 1
        root = self._directory / f"store-{self._number}"
        shutil.rmtree(self._directory / f"store-{self._number - 1}", ignore_errors=True)
        subprocess.run(["cp", "-a", self._template, root], check=True)
        self.store = Store.open(root)

    def evict(self) -> None:
        from stratum.config import load_config
        from stratum.mount.state import State

        store, state = Store.open(self.store.root), State(self._directory / "run")
        done = Evictor(store, state, load_config({})).evict(lambda held: held, older_than=0)
        assert done.objects == 4

    def check(self) -> int:
        """What must hold at any time; how many objects are here."""
        store = Store.open(self.store.root)
        for commit in store.commits.list():
            missing = store.residence.missing(objects_of(store.commits.dump(commit)))
            assert store.sources.is_partial(commit) or not missing, f"{commit} lacks objects and nobody knows"
            assert not store.residence.lost([commit], missing)
        local = store.tags.get("evictable", "local")
        assert not store.sources.is_partial(local)
        return len(list(store.objects.names()))


@pytest.fixture
def scene(template: Place, tmp_path: Path) -> Scene:
    return Scene(template, tmp_path)


def chosen(calls: dict[str, int]) -> list[tuple[str, int]]:
    """Which calls are tried."""
    # What strace has no name for, it shows whatever it is asked for.
    known = {call: count for call, count in calls.items() if not call.startswith("syscall_")}
    every = [(call, number) for call, count in sorted(known.items()) for number in range(1, count + 1)]
    if EVERY:
        return every
    removing = [item for item in every if item[0] == "unlink"]
    return sorted({*random.sample(every, min(SAMPLE * len(calls), len(every))), *removing})


def test_killed_at_any_call(scene: Scene) -> None:
    calls = calls_of(scene.evict)
    assert scene.check() == 2
    assert calls["unlink"] >= 4
    for call, number in chosen(dict(calls)):
        scene.fresh()
        assert killed_at(scene.evict, call, number).status < 0, (call, number)
        scene.check()
        _again(scene)
        assert scene.check() == 2
        with scene.store.begin("collecting what is dead"):
            pass
        assert not abandoned(scene.store)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_failing_at_any_call(scene: Scene, error: str) -> None:
    calls = calls_of(scene.evict)
    for call, number in chosen(dict(calls)):
        scene.fresh()
        outcome = failed_at(scene.evict, call, number, error)
        assert outcome.status in (DONE, REFUSED), (call, number, outcome)
        scene.check()
        _again(scene)
        assert scene.check() == 2


def _again(scene: Scene) -> None:
    from stratum.config import load_config
    from stratum.mount.state import State

    state = State(scene.store.root.parent / "run")
    Evictor(Store.open(scene.store.root), state, load_config({})).evict(lambda held: held, older_than=0)


def test_the_mark_is_durable_before_anything_goes(scene: Scene, tmp_path: Path) -> None:
    """The order of calls: the mark's file and its directory are synced before the first object is removed."""
    log: list[str] = []

    def noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            log.append(f"{name} {args[0] if name == 'unlink' else ''}")
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename", "unlink"):
            patch.setattr(os, name, noted(name, getattr(os, name)))
        scene.evict()
    first = next(number for number, line in enumerate(log) if line.startswith("unlink") and "/objects/" in line)
    before = [line.strip() for line in log[:first]]
    assert before.count("rename") == 2, "two commits are marked"
    assert "fsync" in before[len(before) - before[::-1].index("rename") :], "and the names of the marks are on disk"


def test_a_full_disk_is_no_reason_not_to_evict(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to commits that are partial already goes without a byte being written."""
    with scene.store.begin("a test") as tx:
        for tag in ("v1", "v2"):
            scene.store.sources.set_partial(tx, scene.store.tags.get("evictable", tag))

    def full(*_args: object, **_options: object) -> None:
        raise StratumError("the disk is full")

    monkeypatch.setattr("stratum.store.transaction.Transactions.begin", full)
    scene.evict()
    assert scene.check() == 2
