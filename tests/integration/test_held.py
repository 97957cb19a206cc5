"""A worktree in the hand: found by any name, locked, with nothing half done, and let go whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api import worktrees
from stratum.api.mounting import mount, unmount
from stratum.api.session import Session
from stratum.errors import BusyError, DamagedError, ExistsError, NotFoundError, UsageError
from stratum.mount.state import State
from stratum.refs import Ref
from stratum.store.worktrees import Worktrees
from tests.support.injection import calls_of, killed_at
from tests.support.verbs import Scene

pytestmark = pytest.mark.root


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """``app+dev`` has uncommitted work; it is mounted."""
    scene = Scene(tmp_path)
    scene.fresh(mounted=True)
    yield scene
    scene.clean()


def is_free(session: Session) -> bool:
    """Whether another thread gets ``app+dev`` at once."""
    got: list[bool] = []

    def try_it() -> None:
        try:
            with session.hold(Ref("app", worktree="dev"), timeout=0):
                got.append(True)
        except BusyError:
            got.append(False)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return got == [True]


def test_any_name_of_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = scene.mountpoint / "dir"
    monkeypatch.chdir(inside)
    for name in ("app+dev", "app:dev", Ref("app", worktree="dev"), str(scene.mountpoint), str(inside), ".", "../own"):
        with scene.session.hold(name) as held:
            assert (held.stratum, held.name, str(held)) == ("app", "dev", "app+dev")
            assert held.worktree == scene.store.worktrees.get("app", "dev")
            assert held.mounted == scene.session.state.find_mountpoint(scene.mountpoint)
            assert held.lease is None


def test_what_is_no_worktree(scene: Scene, tmp_path: Path) -> None:
    commit = scene.store.tags.get("app", "v1")
    for name in ("app+nope", "nope+dev", "nope", "app+main", "app:main", str(tmp_path / "nope")):
        with pytest.raises(NotFoundError), scene.session.hold(name):
            pass
    for name in ("app:v1", commit, f"app:{commit}", str(tmp_path)):
        with pytest.raises(UsageError), scene.session.hold(name):
            pass
    assert scene.store.worktrees.names("app") == ["dev"]
    assert not (scene.store_dir / "refs/app/worktrees/nope.lock").exists()


def test_main_is_made_only_where_that_is_asked_for(scene: Scene) -> None:
    scene.verb("tag", "app:v1", "latest")
    with pytest.raises(NotFoundError), scene.session.hold("app+main"):
        pass
    with scene.session.hold("app", create=True) as held:
        assert str(held) == "app+main"


def test_somebody_else_has_it(scene: Scene) -> None:
    session = scene.session
    with session.hold("app+dev"):
        assert not is_free(session)
        assert not is_free(scene.session)
    assert is_free(session)


@pytest.mark.parametrize("error", [ExistsError("x"), KeyboardInterrupt()])
def test_it_is_let_go_whatever_happens(scene: Scene, error: BaseException) -> None:
    session = scene.session
    with pytest.raises(type(error)), session.hold("app+dev"):
        raise error
    assert is_free(session)
    with session.hold("app+dev") as held:
        assert held.commit().changed


def test_in_one_thread_it_is_the_same_one(scene: Scene) -> None:
    session = scene.session
    with session.hold("app+dev") as held:
        with session.hold(str(scene.mountpoint)) as again:
            assert again is held
            made = again.commit().commit
        assert held.worktree.commit == made
        assert not is_free(session)
    with session.hold("app+dev") as later:
        assert later is not held


def test_it_is_read_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def call(*args: object) -> object:
            read.append(name)
            return original(*args)

        monkeypatch.setattr(kind, name, call)

    counted(Worktrees, "_get")
    counted(State, "_load")
    with scene.session.hold("app+dev") as held:
        assert held.mounted is not None
        assert held.plan().upperdir == held.worktree.upperdir
        assert held.reachable_mount() == held.mounted
        assert not held.is_free()[0]
        held.shown()
    assert read == ["_load", "_get"]


def test_what_a_killed_switch_left_is_finished_first(scene: Scene) -> None:
    def reset() -> None:
        scene.verb("reset", "app+dev", "app:v2")

    killed_at(reset, "move_mount", 1)
    assert scene.store.worktrees.has_leftovers("app", "dev")
    assert not (scene.mountpoint / "new in v2").exists()
    with scene.session.hold("app+dev") as held:
        assert not scene.store.worktrees.has_leftovers("app", "dev")
        assert held.worktree.base_commit == scene.store.tags.get("app", "v2")
        assert held.mounted == scene.session.state.find_mountpoint(scene.mountpoint)
        assert (scene.mountpoint / "new in v2").exists()
        assert held.keep("nothing is left to keep") is None
    scene.check(set(scene.store.commits.list()))


def test_what_is_done_shows_in_the_hand(scene: Scene) -> None:
    session = scene.session
    unmount(session, str(scene.mountpoint))
    with session.hold("app+dev") as held:
        assert held.mounted is None
        assert held.is_free() == (True, None)
        first = held.commit().commit
        assert (held.worktree.base_commit, held.worktree.commit) == (first, first)
        held.mount(scene.mountpoint)
        assert held.mounted == scene.session.state.find_mountpoint(scene.mountpoint)
        with pytest.raises(BusyError, match="mounted already"):
            held.mount(scene.directory / "other")
        (scene.mountpoint / "more").write_text("more")
        kept = held.replace(scene.store.tags.get("app", "v2"), "test")
        assert kept is not None
        assert held.worktree.base_commit == scene.store.tags.get("app", "v2")
        assert held.mounted == scene.session.state.find_mountpoint(scene.mountpoint)
        assert not (scene.mountpoint / "more").exists()
        assert held.worktree == scene.store.worktrees.get("app", "dev")


def test_mounting_takes_few_locks(scene: Scene) -> None:
    """Those of the store, the worktree and the images, the mount state's to look, to claim and to confirm, and of the
    two new files that the state goes into; all but these are given back."""
    scene.fresh()
    mount(scene.session, "app:v1", str(scene.directory / "v1"))
    counted = calls_of(lambda: mount(scene.session, "app+dev", str(scene.mountpoint)), "flock")
    assert counted["flock"] == 2 * 6 + 2


def test_one_that_cannot_be_read_can_be_thrown_away(scene: Scene) -> None:
    scene.fresh()
    (scene.store_dir / "refs/app/worktrees/dev/meta.toml").write_text("garbage")
    with pytest.raises(DamagedError):
        worktrees.remove(scene.session, "app+dev")
    worktrees.remove(scene.session, "app+dev", discard=True)
    assert scene.store.worktrees.names("app") == []
