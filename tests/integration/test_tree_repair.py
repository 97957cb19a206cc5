"""What a repair, a pull or an import brings back of commits that are stored on each other, from a place that has some
of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.api import maintenance, transfer
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import StratumError
from stratum.store.findings import Finding
from tests.integration.test_fsck import flip_first, flip_last
from tests.support.grounds import Stack, check_kept, collect
from tests.support.stores import check

pytestmark = pytest.mark.root

ALL = {"whole", "first", "second", "third", "shared", "orphan"}


class Scene:
    """A stack, and an OCI layout that some of its commits were pushed to, which the store does not know."""

    def __init__(self, tmp_path: Path) -> None:
        self.session = Session(load_config({}, store=str(tmp_path / "store"), runtime_dir=str(tmp_path / "run")))
        self.stack = Stack(self.session.create_store())
        self.store = self.session.store
        self.layout = f"oci:{tmp_path}/layout"
        self.chain = self.store.trees.chain(self.stack.commits["third"])

    def pushed(self, *tags: str, forget: bool = True) -> None:
        for tag in tags:
            transfer.push(self.session, f"stack:{tag}", f"{self.layout}:{tag}", access=self.session.access())
            if forget:
                self.store.layout.beside(self.stack.commits[tag], "sources").unlink()

    def file(self, tag: str) -> Path:
        return self.store.layout.commit(self.stack.commits[tag])

    def frame(self, number: int = 0, of: str = "whole") -> Path:
        return self.store.trees.frame_path(self.store.trees.chain(self.stack.commits[of])[-1][1].frames[number].sha256)

    def readable(self) -> set[str]:
        return {tag for tag, commit in self.stack.commits.items() if self._can_be_read(commit)}

    def _can_be_read(self, commit: str) -> bool:
        try:
            return self.store.commits.dump(commit).size > 0
        except StratumError:
            return False

    def damage(self) -> list[Finding]:
        return maintenance.fsck(self.session).damage

    def repair(self) -> maintenance.Fscked:
        return maintenance.fsck_repair(self.session, source=self.layout)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    assert [record.level for _, record in scene.chain] == [3, 2, 1, 0], "the stack is not what it is said to be"
    return scene


def test_a_frame_comes_from_any_commit_that_has_it(scene: Scene) -> None:
    scene.pushed("shared")
    both = {scene.frame(n, of="whole") for n in range(2)} & {scene.frame(n, of="shared") for n in range(2)}
    flip_first(both.pop())
    assert len(scene.damage()) == 1
    done = scene.repair()
    assert not done.damage
    assert done.quarantine is not None
    assert scene.readable() == ALL
    assert not scene.damage()
    collect(scene.store)
    check_kept(scene.store)
    check(scene.store)


def test_what_a_place_has_is_stored_whole_and_the_rest_is_told(scene: Scene) -> None:
    scene.pushed("third")
    flip_last(scene.file("first"))
    [found] = scene.damage()
    assert set(found.hurts) == {"stack:first", "stack:second", "stack:third"}
    done = scene.repair()
    assert [finding.path for finding in done.damage] == [found.path]
    assert scene.readable() == ALL - {"first", "second"}
    assert scene.store.trees.record(scene.stack.commits["third"]).level == 0
    [found] = scene.damage()
    assert set(found.hurts) == {"stack:first", "stack:second"}
    check(scene.store, besides={scene.stack.commits["first"], scene.stack.commits["second"]})


@pytest.mark.parametrize("damage", [flip_last, Path.unlink])
def test_a_ground_that_is_lost_is_not_needed_by_what_comes_back(scene: Scene, damage: Callable[[Path], None]) -> None:
    scene.pushed("orphan")
    damage(scene.store.layout.grounds / scene.stack.gone)
    [found] = scene.damage()
    assert (found.kind, found.hurts) == ("ground", ["stack:orphan"])
    assert not scene.repair().damage
    assert scene.readable() == ALL
    assert not scene.damage()
    assert scene.store.trees.record(scene.stack.commits["orphan"]).level == 0
    check(scene.store)


def test_a_pull_and_a_repair_heal_all_that_is_stored_on_what_came(scene: Scene) -> None:
    scene.pushed("first")
    flip_last(scene.file("first"))
    assert scene.readable() == ALL - {"first", "second", "third"}
    before = scene.store.commits.meta(scene.stack.commits["first"])
    transfer.pull(scene.session, f"{scene.layout}:first", "stack:first", access=scene.session.access())
    assert scene.readable() == ALL
    assert not scene.damage()
    assert scene.store.commits.meta(scene.stack.commits["first"]) == before, "what was said of it stays"
    flip_last(scene.file("first"))
    assert not scene.repair().damage
    assert scene.readable() == ALL


def test_a_commit_is_fetched_from_where_it_was_pushed_to(scene: Scene) -> None:
    scene.pushed("third", "whole", forget=False)
    scene.frame().unlink()
    scene.file("third").unlink()
    done = maintenance.fsck_repair(scene.session)
    assert (done.damage, done.problems) == ([], [])
    assert scene.readable() == ALL
    assert (scene.store.commits.meta(scene.stack.commits["third"]).origin or {})["kind"] == "repair"
    check(scene.store)


def test_a_ground_that_comes_back_heals_what_is_stored_on_it(scene: Scene) -> None:
    """As it is stored whole, whatever was made of it meanwhile."""
    scene.pushed("whole", "first", "second")
    for tag in ("first", "second"):
        scene.store.tags.remove("stack", tag)
        scene.stack.commits.pop(tag)
    collect(scene.store)
    grounds = [scene.store.layout.grounds / name for name, _ in scene.chain[1:3]]
    for ground in grounds:
        flip_last(ground)
    assert not scene.repair().damage
    assert scene.readable() == ALL - {"first", "second"}
    assert [record.level for _, record in scene.store.trees.chain(scene.stack.commits["third"])] == [3, 0]
    collect(scene.store)
    check_kept(scene.store)


def test_metadata_and_the_tree_of_a_commit_are_mended_by_themselves(scene: Scene) -> None:
    flip_first(scene.file("first"))
    [found] = scene.damage()
    assert (found.kind, found.hurts) == ("metadata", ["stack:first"])
    assert scene.readable() == ALL
    assert not maintenance.fsck_repair(scene.session).damage
    assert not scene.damage()
    ground = scene.store.layout.grounds / scene.stack.commits["first"]
    ground.write_bytes(scene.file("first").read_bytes())
    flip_last(scene.file("first"))
    assert not maintenance.fsck_repair(scene.session).damage
    assert not scene.damage()
    assert scene.readable() == ALL
