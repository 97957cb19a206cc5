"""A push to a layout and an export, cut short at each step: the same command works again, and leaves no trace of it.

By default some steps are taken; with ``STRATUM_TEST_KILLS=all`` it is every one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratum.sys.atomic import new_file, temporary_name
from tests.support.injection import DONE, REFUSED, calls_of, failed_at, killed_at
from tests.support.verbs import Scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

STEPS = "mkdir,mkdirat,rename,renameat,renameat2,link,linkat,fsync,fdatasync"
EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 8


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    made = Scene(tmp_path_factory.mktemp("verbs"))
    made.fresh(mounted=False)
    yield made
    made.clean()
    sys.dont_write_bytecode = writes_bytecode


def place(scene: Scene) -> Path:
    return scene.directory / "new/place"


def to_layout(scene: Scene) -> None:
    scene.verb("push", "app:v2", f"oci:{place(scene)}:v1")


def as_image(scene: Scene) -> None:
    scene.verb("push", "--as", "image", "app:v2", f"oci:{place(scene)}:v1")


def to_file(scene: Scene) -> None:
    scene.verb("export", "app:v2", place(scene) / "app.stratum.tar")


VERBS: dict[str, Callable[[Scene], None]] = {"push": to_layout, "push-image": as_image, "export": to_file}


def prepare(scene: Scene, name: str = "push") -> None:
    shutil.rmtree(place(scene).parent, ignore_errors=True)
    if name == "export":
        place(scene).mkdir(parents=True)


def traces(scene: Scene) -> list[str]:
    return [name for _, _, files in os.walk(place(scene)) for name in files if name.startswith(".tmp-")]


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("how", ["killed", "failing"])
def test_cut_short(scene: Scene, name: str, how: str) -> None:
    def verb() -> None:
        VERBS[name](scene)

    prepare(scene, name)
    steps = calls_of(verb, STEPS)
    assert sum(steps.values()) > 2
    places = [(call, number) for call, count in steps.items() for number in range(1, count + 1)]
    for call, number in places if EVERY else random.sample(places, min(SAMPLE, len(places))):
        prepare(scene, name)
        if how == "killed":
            outcome = killed_at(verb, call, number)
            assert outcome.status in (-signal.SIGKILL, DONE), outcome
        else:
            outcome = failed_at(verb, call, number, "EIO" if "sync" in call else "ENOSPC")
            assert outcome.status in (REFUSED, DONE), outcome
        print(f"{name} {how} at {call} {number}: {outcome}")
        verb()
        assert not traces(scene)
        whole = f"oci:{place(scene)}:v1" if "push" in name else place(scene) / "app.stratum.tar"
        scene.verb("import", whole, "again")
        if name != "push-image":
            assert scene.store.tags.get("again", "latest") == scene.store.tags.get("app", "v2")


def test_a_living_writers_file_stays(scene: Scene) -> None:
    prepare(scene)
    to_layout(scene)
    to_file(scene)
    blobs = place(scene) / "blobs/sha256"
    alive = [new_file(directory) for directory in (place(scene), blobs)]
    dead = [directory / temporary_name() for directory in (place(scene), blobs)]
    other = place(scene) / ".tmp-of somebody else"
    for path in (*dead, other):
        path.write_text("")
    to_layout(scene)
    to_file(scene)
    assert all(path.exists() for _, path in alive)
    assert not any(path.exists() for path in dead)
    assert other.exists()
    for fd, _ in alive:
        os.close(fd)
    other.unlink()
    to_layout(scene)
    assert not traces(scene)


def test_a_directory_of_somebody_elses_is_no_interrupted_layout(scene: Scene) -> None:
    for name in ("blobs/file", "blobs/sha256/file", ".tmp-notes", ".git/x"):
        prepare(scene)
        path = place(scene) / name
        path.parent.mkdir(parents=True)
        path.write_text("precious")
        with pytest.raises(Exception, match="neither empty nor an OCI image layout"):
            to_layout(scene)
        assert path.read_text() == "precious"
    prepare(scene)
    (place(scene) / "blobs/sha256").mkdir(parents=True)
    (place(scene) / temporary_name()).write_text("")
    to_layout(scene)
    assert not traces(scene)
