"""Images made and removed while processes are killed, calls fail and others do the same: there are whole ones or none,
and whoever was told of one finds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.imageroom import Room
from stratum.store.images import LOCK
from tests.support.injection import DONE, REFUSED, WRITING, calls_of, failed_at, killed_at
from tests.support.stores import commit


class Scene:
    """A commit without an image, and one whose image goes where it is made."""

    def __init__(self, directory: Path) -> None:
        self.store = Store.create(directory / "store")
        self.old, self.new = (commit(self.store, {name: b"x" * 5000}) for name in (b"old", b"new"))
        self.prepare()

    def prepare(self) -> None:
        self.store.images.drop(self.new)
        os.utime(self.store.images.ensure(self.old), (0, 0))

    def make(self) -> None:
        self.store.images.ensure(self.new, lambda: Room(0))

    def check(self) -> None:
        for made in self.store.images.list():
            self.store.images.check(made, self.store.commits.tree(made))
        self.make()
        self.store.images.trim(Room(0))
        assert list(self.store.images.list()) == [self.new]
        self.store.images.check(self.new, self.store.commits.tree(self.new))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_killed_or_failing_at_any_call(scene: Scene) -> None:
    for call, count in calls_of(scene.make, f"{WRITING},flock").items():
        for number in range(1, count + 1):
            for error in (None, "ENOSPC", "EIO") if call != "flock" else (None,):
                scene.prepare()
                outcome = failed_at(scene.make, call, number, error) if error else killed_at(scene.make, call, number)
                assert outcome.status in ({DONE, REFUSED} if error else {-9, DONE}), (call, number, error, outcome)
                scene.check()
    left = set(os.listdir(scene.store.layout.images)) - {LOCK, f"{scene.new}.cfs"}
    assert left == {path.name for path in scene.store.images.others()}


def test_who_was_told_of_an_image_finds_it_whoever_removes_what_is_old(scene: Scene) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.set_blocking(reader, False)
        status = 1
        try:
            while True:
                scene.store.images.trim(Room(0))
                try:
                    os.read(reader, 1)
                except BlockingIOError:
                    continue
                break
            status = 0
        finally:
            os._exit(status)
    os.close(reader)
    for _ in range(300):
        path = scene.store.images.ensure(scene.old)
        path.open("rb").close()
        os.utime(path, (0, 0))
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
