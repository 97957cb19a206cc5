"""Every verb that changes anything, killed at each call that writes, renames, links, syncs or mounts.

By default a few calls are taken from each verb, other ones in every run; with ``STRATUM_TEST_KILLS=all`` it is every
call.
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

from stratum.peers.cards import Card
from stratum.peers.keys import certificate_in, make_key_file
from tests.support.grounds import small_trees_on_each_other
from tests.support.injection import DONE, MOUNTING, REFUSED, WRITING, calls_of, failed_at, killed_at
from tests.support.leftovers import unmount_below
from tests.support.verbs import Scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]

EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 2
Verb = Callable[[Scene], None]


def migrate(scene: Scene) -> None:
    scene.verb("init", "--migrate", "fresh", scene.directory / "other")


def migrate_and_move(scene: Scene) -> None:
    originals = scene.directory / "originals"
    scene.verb("init", "--migrate", "--originals", originals, "fresh", scene.directory / "other")


def restore(scene: Scene) -> None:
    scene.verb("restore", "app:v2", "dir", "--to", "app+dev")


def commit_and_unmount(scene: Scene) -> None:
    scene.verb("commit", scene.mountpoint)
    scene.verb("unmount", scene.mountpoint)


def export(scene: Scene) -> None:
    scene.verb("export", "app:v2", scene.directory / "exported/app.stratum.tar")


def know_and_share(scene: Scene) -> None:
    scene.verb("peer", "add", "laptop", CARD)
    scene.verb("share", "app", "--with", "laptop")
    scene.verb("peer", "id", "--new", "--name", "attic")


CARD = Card("laptop", certificate_in(make_key_file(), "a file"))
UNMOUNTED: dict[str, Verb] = {
    "peers": know_and_share,
    "import": lambda scene: scene.verb("import", "--bare", "--force", scene.source, "app:v2"),
    "import-new": lambda scene: scene.verb("import", "--bare", scene.source, "other"),
    "commit": lambda scene: scene.verb("commit", "app+dev", "v3"),
    "tag": lambda scene: scene.verb("tag", "app:v1", "stable"),
    "tag-move": lambda scene: scene.verb("tag", "--move", "app:v1", "stable"),
    "tag-force": lambda scene: scene.verb("tag", "--force", "app:v1", "v2"),
    "worktree-add": lambda scene: scene.verb("worktree", "add", "app+more", "app:v2"),
    "worktree-remove": lambda scene: scene.verb("worktree", "remove", "app+dev"),
    "reset": lambda scene: scene.verb("reset", "app+dev", "app:v2"),
    "rebase": lambda scene: scene.verb("rebase", "--ours", "app+dev", "app:v2"),
    "restore": restore,
    "patchset": lambda scene: scene.verb("patchset", "build", scene.patchset, "app:merged"),
    "pull": lambda scene: scene.verb("pull", f"{scene.layout}:latest", "app:pulled"),
    "export": export,
    "gc": lambda scene: scene.verb("gc", "--reflog-age", "0"),
    "gc-tags": lambda scene: scene.verb("gc", "--tags", "v*", "--keep-last", "1"),
    "pin": lambda scene: scene.verb("tag", "--pin", "app:v1"),
    "migrate": migrate,
    "migrate-and-move": migrate_and_move,
    "mount-persist": lambda scene: scene.verb("mount", "--persist", "app:v1", scene.directory / "boot"),
    "mount-all": lambda scene: scene.verb("mount", "--all"),
    "mount": lambda scene: scene.verb("mount", "app+dev", scene.mountpoint),
    "remove": lambda scene: scene.verb("remove", "--yes", "app:v2"),
}
MOUNTED: dict[str, Verb] = {
    "commit": lambda scene: scene.verb("commit", scene.mountpoint, "v3"),
    "reset": lambda scene: scene.verb("reset", scene.mountpoint, "app:v2"),
    "rebase": lambda scene: scene.verb("rebase", "--ours", scene.mountpoint, "app:v2"),
    "unmount": lambda scene: scene.verb("unmount", scene.mountpoint),
    "unmount-forget": lambda scene: scene.verb("unmount", "--forget", scene.mountpoint),
    "fold": commit_and_unmount,
}
CASES = [(name, verb, False) for name, verb in UNMOUNTED.items()] + [
    (f"live-{name}", verb, True) for name, verb in MOUNTED.items()
]


ORIGINALS: dict[str, bytes] = {}
"""What a migration finds."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    with small_trees_on_each_other():
        made = Scene(tmp_path_factory.mktemp("verbs"))
        ORIGINALS.update(contents(made.directory / "other"))
        yield made
        made.clean()
    sys.dont_write_bytecode = writes_bytecode


def points(scene: Scene, name: str, verb: Verb, *, mounted: bool, calls: str) -> tuple[list[tuple[str, int]], set[str]]:
    """Where to interrupt the verb, as (call, number), and the commits that there are when it has succeeded."""
    prepare(scene, mounted)
    counted = calls_of(lambda: verb(scene), calls)
    found = [(call, number) for call, count in counted.items() for number in range(1, count + 1)]
    after = set(scene.store.commits.list()) | scene.old_commits | {scene.work}
    scene.refs_when_done = scene.refs()
    scene.as_asked = {scene.shown()} if name == "restore" else set()
    if not EVERY:
        found = random.sample(found, min(SAMPLE, len(found)))
    return found, after


def prepare(scene: Scene, mounted: bool) -> None:
    check_originals(scene)
    scene.fresh(mounted=mounted)
    shutil.rmtree(scene.directory / "exported", ignore_errors=True)
    (scene.directory / "exported").mkdir()
    # Something for a garbage collection to remove.
    scene.verb("import", "--bare", scene.directory / "other", "loose")
    scene.old_commits |= set(scene.store.commits.list())
    scene.verb("remove", "--yes", "loose")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def check_originals(scene: Scene) -> None:
    """What was migrated is below the mount or where it was moved to, each file at one of the two; put it back."""
    unmount_below(scene.directory)
    place, aside = scene.directory / "other", scene.directory / "originals"
    if aside.is_dir():
        for entry in aside.iterdir():
            assert not os.path.lexists(place / entry.name)
            entry.rename(place / entry.name)
        aside.rmdir()
        os.utime(place, ns=(scene.originals_mtime, scene.originals_mtime))  # every migration makes the same commit
    assert contents(place) == ORIGINALS


def check_exported(scene: Scene) -> None:
    """What has the name of an export is a whole one."""
    for path in (scene.directory / "exported").glob("*.tar"):
        scene.verb("import", path, "again")
        assert scene.store.tags.get("again", "latest") == scene.store.tags.get("app", "v2")


@pytest.mark.parametrize(("name", "verb", "mounted"), CASES, ids=[case[0] for case in CASES])
def test_killed(scene: Scene, name: str, verb: Verb, mounted: bool) -> None:
    places, commits = points(scene, name, verb, mounted=mounted, calls=f"{WRITING},{MOUNTING}")
    assert places
    for call, number in places:
        prepare(scene, mounted)
        outcome = killed_at(lambda: verb(scene), call, number)
        print(f"{name} killed at {call} {number}: {outcome}")
        assert outcome.status in (-signal.SIGKILL, DONE), outcome
        scene.check(commits)
        check_exported(scene)
        scene.check_after_next(commits)


@pytest.mark.parametrize(("name", "verb", "mounted"), CASES, ids=[case[0] for case in CASES])
def test_failing(scene: Scene, name: str, verb: Verb, mounted: bool) -> None:
    """The same calls failing: with EIO where something is synced, else as on a disk that is full or over quota."""
    places, commits = points(scene, name, verb, mounted=mounted, calls=WRITING)
    for call, number in places:
        prepare(scene, mounted)
        error = "EIO" if "sync" in call else random.choice(["ENOSPC", "EDQUOT"])
        outcome = failed_at(lambda: verb(scene), call, number, error)
        print(f"{name} with {error} at {call} {number}: {outcome}")
        assert outcome.status in (DONE, REFUSED), outcome
        if outcome.status == DONE:
            if name == "live-fold" and scene.refs() != scene.refs_when_done:
                scene.verb("gc")  # unmounted it is all the same, and what could not be folded then is folded now
            assert scene.refs() == scene.refs_when_done, "reported as done, and it is not"
        scene.check(commits)
        check_exported(scene)
        scene.check_after_next(commits)
