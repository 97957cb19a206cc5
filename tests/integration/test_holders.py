"""What every kind of holder promises: one suite, run for each kind, and for one that only this file knows.

A new kind is a record type in ``stratum.store.holders`` and one line in ``HOLDERS``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.api.inuse import in_use
from stratum.api.session import Session
from stratum.api.status import status
from stratum.config import load_config
from stratum.errors import BusyError, DamagedError
from stratum.frozen import frozen
from stratum.mount.build import unmount
from stratum.refs import Ref
from stratum.store import holders
from stratum.store.holders import HOST, Container, Holder, KubernetesVolume, NamedVolume, Promise, holder_of, written
from stratum.sys.proc import Process, process_of, start_time
from stratum.volumes.grant import grant, reconcile, release
from tests.support.containers import Container as Running
from tests.support.stores import commit

pytestmark = pytest.mark.root

DEV = Ref("app", worktree="dev")
SOMEBODY = Container("f" * 64)


@frozen
class Toy(Holder):
    """A kind that no part of the product knows."""

    id: str
    kind = "toy"
    ended = "was put away"
    field = "toy"

    def words(self) -> str:
        return f"toy {self.id}"

    def how_to_release(self, mountpoint: str) -> str:
        return "put the toy away"


HOLDERS = [
    (HOST, "this host was unmounted", "at-{worktree}", "at-dev"),
    (Container("0123456789abcdef"), "container 0123456789ab stopped", "at-{container}", "at-0123456789ab"),
    (NamedVolume("my.volume"), "volume my.volume was unmounted", "at-{volume}", "at-my.volume"),
    (NamedVolume("___"), "volume ___ was unmounted", "at-{volume}", "at-volume"),
    (KubernetesVolume("db+main"), "Kubernetes volume db+main was unpublished", "at-{volume}", "at-db-main"),
    (
        KubernetesVolume("pvc-0a1b2c3d-4e"),
        "Kubernetes volume pvc-0a1b2c3d-4e was unpublished",
        "{volume}",
        "pvc-0a1b2c3d",
    ),
    (Toy("bear"), "toy bear was put away", "at-{toy}", "at-bear"),
]


class Scene:
    """A store with ``app+dev``, and a holder that mounts it and goes again, with and without telling."""

    def __init__(self, directory: Path, holder: Holder, words: str, template: str, tag: str) -> None:
        self.holder, self.words, self.template, self.tag = holder, words, template, tag
        self.directory = directory
        self.running: Running | None = None
        self.process: Process | None = None
        self.config = load_config({}, store=str(directory / "store"), runtime_dir=str(directory / "run"))
        self.session = Session(self.config)
        self.base = commit(self.session.create_store(), {b"one": b"1"})
        self.session.store.worktrees.create("app", "dev", self.base)
        self.place = directory / "mnt"
        self.place.mkdir()
        self.lease_file = self.session.store.layout.worktree("app", "dev") / "lease.toml"

    def take(self, promise: Promise | None = None, **options: bool) -> None:
        """Get the worktree and mount it; a container, which has its mounts to itself, is on record only."""
        process = self.process
        if isinstance(self.holder, Container):
            self.running = Running(self.directory)
            pid = self.running.process.pid
            process = self.process = process_of(pid, start_time(pid) or 0)
        with grant(
            self.session, DEV, self.holder, promise or Promise(tag=self.template), process=process, **options
        ) as granted:
            assert granted.failure is None
            if process is None:
                granted.held.mount(self.place, holder=self.holder)
                return
            self.session.state.claim(
                store=self.session.store.root,
                ref=str(DEV),
                commit=self.base,
                mountpoint=self.place,
                read_only=False,
                holder=self.holder,
                process=process,
            )

    def write(self, name: str) -> None:
        place = self.place if self.running is None else self.lease_file.parent / "upperdir"
        (place / name).write_text(name)

    def end(self) -> None:
        """The holder needs the worktree no more."""
        if self.running is None:
            unmount(self.place)
        else:
            self.running.stop()

    def vanish(self) -> None:
        """As after a reboot: nothing is there any more, and nobody said so."""
        self.end()
        self.session = Session(self.config)

    def names(self) -> set[bytes]:
        tree = self.session.store.worktrees.get("app", "dev")
        return set(self.session.store.commits.tree(tree.commit).children)

    def moves(self) -> list[str]:
        return [entry.why for entry in self.session.store.reflog.read("app") if entry.old is not None]


@pytest.fixture(params=HOLDERS, ids=lambda row: f"{row[0].kind}-{row[3]}")
def scene(
    tmp_path: Path, runtime_dir: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setitem(holders.KINDS, Toy.kind, Toy)
    made = Scene(tmp_path, *request.param)
    yield made
    if made.running is not None:
        made.running.stop()


def test_it_is_written_in_one_form_and_known_again(scene: Scene) -> None:
    assert holder_of(kind=written(scene.holder)["kind"], holder_id=written(scene.holder)["id"]) == scene.holder
    scene.take()
    lease = scene.session.store.worktrees.lease("app", "dev")
    assert lease is not None
    assert lease.holder == scene.holder
    (record,) = scene.session.state.records()
    assert record.holder == scene.holder
    told = json.loads((scene.config.runtime_dir / "state").read_text())["mounts"][0]["holder"]
    assert {key: told[key] for key in ("kind", "id")} == written(scene.holder)
    scene.vanish()


def test_nobody_else_gets_it_meanwhile_and_is_told_who_has_it(scene: Scene) -> None:
    scene.take()
    for other in (SOMEBODY, scene.holder):
        with pytest.raises(BusyError) as caught, grant(scene.session, DEV, other, Promise()):
            pass
        assert f"by {scene.holder.words()}" in caught.value.message
        assert caught.value.hint == scene.holder.how_to_release(str(scene.place))
    lease = scene.session.store.worktrees.lease("app", "dev")
    assert lease is not None
    assert lease.holder == scene.holder
    scene.vanish()


def test_it_keeps_what_it_has_where_its_calls_are_repeated(scene: Scene) -> None:
    scene.take(again=True)
    before = scene.lease_file.read_bytes()
    with grant(scene.session, DEV, scene.holder, Promise(tag=scene.template), process=scene.process, again=True):
        pass
    assert scene.lease_file.read_bytes() == before
    assert scene.moves() == []
    scene.vanish()


def test_what_it_was_promised_is_done_once_and_told_of_as_it_was(scene: Scene) -> None:
    scene.take()
    scene.write("new")
    scene.end()
    done = release(scene.session, "app", "dev", scene.holder)
    assert done is not None
    assert (done.holder, done.tag, done.note) == (scene.holder, scene.tag, None)
    assert scene.session.store.tags.get("app", scene.tag) == done.commit
    assert scene.names() == {b"one", b"new"}
    assert scene.moves() == [scene.words]
    assert scene.session.store.reflog.read("app")[-1].why == scene.words
    assert not scene.lease_file.exists()
    assert release(scene.session, "app", "dev", scene.holder) is None


def test_an_end_that_nobody_reported_is_made_up_for(scene: Scene) -> None:
    scene.take()
    scene.write("new")
    scene.vanish()
    assert status(scene.session, "app")[0].worktrees[0].waiting == scene.holder.words()
    (done,) = reconcile(scene.session)
    assert (done.holder, done.tag) == (scene.holder, scene.tag)
    assert scene.names() == {b"one", b"new"}
    assert scene.moves() == [scene.words]
    assert reconcile(scene.session) == []


def test_an_end_that_is_reported_is_nobody_elses(scene: Scene) -> None:
    scene.take()
    scene.vanish()
    assert reconcile(scene.session, ended=SOMEBODY, missed=False) == []
    assert scene.lease_file.exists()
    (done,) = reconcile(scene.session, ended=scene.holder, missed=False)
    assert done.tag == scene.tag


def test_the_next_holder_makes_up_for_it_too(scene: Scene) -> None:
    scene.take()
    scene.write("new")
    scene.vanish()
    with grant(scene.session, DEV, SOMEBODY, Promise()) as granted:
        assert granted.failure is None
        assert scene.names() == {b"one", b"new"}
        assert scene.session.store.tags.get("app", scene.tag) == granted.held.worktree.commit
    lease = scene.session.store.worktrees.lease("app", "dev")
    assert lease is not None
    assert lease.holder == SOMEBODY


def test_a_start_that_fails_gives_nothing(scene: Scene) -> None:
    with pytest.raises(ZeroDivisionError), grant(scene.session, DEV, scene.holder, Promise()):
        raise ZeroDivisionError
    assert not scene.lease_file.exists()
    assert in_use(scene.session, "app", "dev") is None
    with grant(scene.session, DEV, scene.holder, Promise()) as granted:
        pass
    granted.revoke()
    assert not scene.lease_file.exists()
    with grant(scene.session, DEV, SOMEBODY, Promise()):
        pass
    granted.revoke()
    assert scene.lease_file.exists(), "what somebody else was given since is theirs"


def test_what_cannot_be_kept_is_told_and_keeps_nobody_from_going_on(scene: Scene) -> None:
    scene.take(Promise(tag="no/tag"))
    scene.write("new")
    scene.vanish()
    (failed,) = reconcile(scene.session)
    assert failed.error is not None
    assert "no/tag" in failed.error.message
    assert status(scene.session, "app")[0].worktrees[0].lease_error == failed.error.message
    with grant(scene.session, DEV, scene.holder, Promise(tag=scene.template)) as granted:
        assert granted.failure is not None
        lease = scene.session.store.worktrees.lease("app", "dev")
        assert lease is not None
        assert lease.last_error == granted.failure.message
    assert release(scene.session, "app", "dev", scene.holder) is not None
    assert status(scene.session, "app")[0].worktrees[0].lease_error is None


def test_a_tag_that_is_not_to_be_moved_stays(scene: Scene) -> None:
    scene.session.store.tags.set("app", scene.tag, scene.base, why="a test")
    scene.take(Promise(tag=scene.template, move_tag=False))
    scene.write("new")
    scene.end()
    done = release(scene.session, "app", "dev", scene.holder)
    assert done is not None
    assert done.tag is None
    assert "exists already" in str(done.note)
    assert scene.session.store.tags.get("app", scene.tag) == scene.base
    assert not scene.lease_file.exists()


def test_nothing_is_committed_that_was_not_to_be(scene: Scene) -> None:
    scene.take(Promise(commit=False))
    scene.write("new")
    scene.end()
    done = release(scene.session, "app", "dev", scene.holder)
    assert done is not None
    assert (done.commit, done.tag) == (None, None)
    assert scene.names() == {b"one"}
    assert not scene.lease_file.exists()


def test_a_lease_of_a_kind_that_is_not_known_is_damage_and_no_more(tmp_path: Path, runtime_dir: Path) -> None:
    scene = Scene(tmp_path, Toy("bear"), "", "", "")
    with grant(scene.session, DEV, scene.holder, Promise()):
        pass
    with pytest.raises(DamagedError, match="unknown holder kind 'toy'"):
        Session(scene.config).store.worktrees.lease("app", "dev")
    (found,) = reconcile(Session(scene.config))
    assert isinstance(found.error, DamagedError)
