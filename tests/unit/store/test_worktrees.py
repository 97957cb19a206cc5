from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from stratum import toml
from stratum.errors import BusyError, DamagedError, ExistsError, NotFoundError, UsageError
from stratum.frozen import replace
from stratum.store import Store
from stratum.store.holders import Container, Holder, KubernetesVolume, Lease, NamedVolume, Promise
from stratum.store.tables import write_tables
from stratum.sys.proc import Process
from tests.support.stores import check, commit, directory, leftovers

MTIME = -1_234_567_891


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture
def base(store: Store) -> str:
    with store.begin("a test") as tx:
        return store.commits.write(tx, directory({}, mode=0o41751, mtime=MTIME)).metadata_hash


@pytest.fixture
def other(store: Store) -> str:
    return commit(store, {b"a": b"2"})


def test_a_worktree_is_made_as_designed(store: Store, base: str) -> None:
    made = store.worktrees.create("app", "dev", base, "what for", why="worktree add")
    assert made.directory == store.root / "refs" / "app" / "worktrees" / "dev"
    assert set(os.listdir(made.directory)) - {"mark"} == {"meta.toml", "upperdir", "workdir"}  # root marks it
    tables = toml.loads((made.directory / "meta.toml").read_text())
    assert len(tables.pop("check")["sha256"]) == 64
    assert tables == {
        "worktree": {
            "name": "dev",
            "base_commit": base,
            "forked_from": base,
            "created": made.created,
            "last_modified": made.created,
            "description": "what for",
        }
    }
    assert store.worktrees.get("app", "dev") == made
    assert store.worktrees.list("app") == [made]
    assert str(made) == "app+dev"
    assert made.head is None
    assert made.commit == base
    info = made.upperdir.stat()
    assert (info.st_mode, info.st_mtime_ns) == (0o41751, MTIME)
    assert stat.S_IMODE(made.workdir.stat().st_mode) == 0o700
    assert [(e.kind, e.which, e.old, e.new, e.why) for e in store.reflog.read("app")] == [
        ("worktree", "dev", None, base, "worktree add")
    ]
    assert not leftovers(store)
    check(store)


def test_bad_input_leaves_nothing(store: Store, base: str) -> None:
    before = sorted(store.root.rglob("*"))
    for name, worktree in (("..", "dev"), ("app", "a/b"), ("app", "..")):
        with pytest.raises(UsageError):
            store.worktrees.create(name, worktree, base)
    with pytest.raises(NotFoundError):
        store.worktrees.create("app", "dev", "0" * 64)
    with pytest.raises(UsageError, match="description"):
        store.worktrees.create("app", "dev", base, "\udc80")
    for call in (store.worktrees.get, store.worktrees.remove):
        with pytest.raises(NotFoundError):
            call("app", "dev")
    (store.root / "refs" / "app.lock").unlink()
    assert sorted(store.root.rglob("*")) == before


def test_a_worktree_is_not_made_twice(store: Store, base: str) -> None:
    made = store.worktrees.create("app", "dev", base)
    (made.upperdir / "work").write_text("precious")
    with pytest.raises(ExistsError, match=r"app\+dev"):
        store.worktrees.create("app", "dev", base)
    assert (made.upperdir / "work").read_text() == "precious"


def test_the_head_moves_and_base_and_upperdir_stay(store: Store, base: str, other: str) -> None:
    made = store.worktrees.create("app", "dev", base)
    (made.upperdir / "work").write_text("x")
    moved = store.worktrees.set_head("app", "dev", other, why="commit")
    assert store.worktrees.get("app", "dev") == moved
    assert (moved.base_commit, moved.head, moved.commit) == (base, other, other)
    assert (made.upperdir / "work").read_text() == "x"
    assert store.worktrees.set_head("app", "dev", other).head == other
    assert [(e.old, e.new) for e in store.reflog.read("app")] == [(None, base), (base, other)]
    with pytest.raises(NotFoundError):
        store.worktrees.set_head("app", "dev", "0" * 64)


def test_descriptions(store: Store, base: str) -> None:
    text = 'quotes " and \n lines \x07'
    store.worktrees.create("app", "dev", base, text)
    assert store.worktrees.get("app", "dev").description == text


def test_renewing_puts_base_and_upperdir_in_place_at_once(store: Store, base: str, other: str) -> None:
    made = store.worktrees.create("app", "dev", base, "kept")
    (made.upperdir / "deep" / "er").mkdir(parents=True)
    lease = Lease(Container("c"), "2025-06-09T10:30:00Z", Promise())
    store.worktrees.set_lease("app", "dev", lease)
    with store.worktrees.lock("app", "dev"), store.begin("a test") as tx:
        renewed = store.worktrees.renew(tx, replace(made, base_commit=other, head=other), why="commit")
    assert store.worktrees.get("app", "dev") == renewed
    assert (renewed.base_commit, renewed.head, renewed.description) == (other, other, "kept")
    assert renewed.created == made.created
    assert os.listdir(renewed.upperdir) == []
    assert store.worktrees.lease("app", "dev") == lease
    assert not leftovers(store)
    with store.begin("a test") as tx:
        upperdir = store.worktrees.new_upperdir(tx, base)
        (upperdir / "carried").write_text("x")
        store.worktrees.renew(tx, replace(renewed, base_commit=base, head=None), upperdir)
    assert os.listdir(renewed.upperdir) == ["carried"]
    assert store.worktrees.get("app", "dev").commit == base
    assert [(e.old, e.new) for e in store.reflog.read("app")] == [(None, base), (base, other), (other, base)]


def test_removal(store: Store, base: str) -> None:
    made = store.worktrees.create("app", "dev", base)
    (made.upperdir / "work").write_text("x")
    store.worktrees.remove("app", "dev", why="done")
    assert store.worktrees.names("app") == []
    assert not made.directory.exists()
    assert store.reflog.read("app")[-1].old == base
    assert store.reflog.read("app")[-1].new is None
    assert not leftovers(store)
    with pytest.raises(NotFoundError):
        store.worktrees.get("app", "dev")
    store.worktrees.create("app", "dev", base)


def test_leases(store: Store, base: str) -> None:
    store.worktrees.create("app", "dev", base)
    assert store.worktrees.lease("app", "dev") is None
    for lease in (
        Lease(Container("abc"), "2025-06-09T10:30:00Z", Promise(commit=False)),
        Lease(Container("def"), "2025-06-09T10:31:00Z", Promise(tag="{name}-{time}"), "disk full\n"),
        Lease(NamedVolume("___"), "2025-06-09T10:31:00Z", Promise(tag="t", move_tag=False)),
        Lease(KubernetesVolume("db+main"), "2025-06-09T10:31:00Z", Promise()),
        Lease(Container("x"), "2025-06-09T10:31:00Z", Promise(pre_commit="a 'b' && \"c\"", post_commit="d")),
        Lease(Container("c"), "2025-06-09T10:31:00Z", Promise(), None, Process(1, 2, "4:7", "b")),
        Lease(Container("c"), "2025-06-09T10:31:00Z", Promise(), None, Process(1, 2)),
        Lease(Container("c"), "2025-06-09T10:31:00Z", Promise(), about="web, docker.io/library/redis:7"),
    ):
        store.worktrees.set_lease("app", "dev", lease)
        assert Store.open(store.root).worktrees.lease("app", "dev") == lease
    store.worktrees.clear_lease("app", "dev")
    store.worktrees.clear_lease("app", "dev")
    assert store.worktrees.lease("app", "dev") is None
    with pytest.raises(NotFoundError):
        store.worktrees.set_lease("app", "nope", lease)


@pytest.mark.parametrize(
    ("container", "holder", "tag"),
    [
        ("0123abcd", Container("0123abcd"), "at-{container}"),
        ("volume/my.volume", NamedVolume("my.volume"), "at-{volume}"),
        ("kubernetes/db+main", KubernetesVolume("db+main"), "at-{volume}"),
    ],
)
def test_a_lease_of_the_first_form_is_read(store: Store, base: str, container: str, holder: Holder, tag: str) -> None:
    made = store.worktrees.create("app", "dev", base)
    table = {"container": container, "since": "2026", "commit": True, "tag_template": "at-{container}"}
    process = {"pid": 1, "start_time": 2, "pid_namespace": "4:7", "boot": "b"}
    (made.directory / "lease.toml").write_bytes(write_tables({"lease": table | process}, "a lease"))
    lease = Lease(holder, "2026", Promise(tag=tag), None, Process(**process))  # type: ignore[arg-type]
    assert store.worktrees.lease("app", "dev") == lease
    (made.directory / "lease.toml").write_bytes(write_tables({"lease": table | {"container": "x/y"}}, "a lease"))
    with pytest.raises(DamagedError, match="unknown holder kind 'x'"):
        store.worktrees.lease("app", "dev")


def test_a_locked_worktree_waits(store: Store, base: str) -> None:
    store.worktrees.create("app", "dev", base)
    store.worktrees.create("app", "other", base)
    second = Store.open(store.root)
    with store.worktrees.lock("app", "dev"):
        with pytest.raises(BusyError, match=r"app\+dev"), second.worktrees.lock("app", "dev", timeout=0):
            pass
        with second.worktrees.lock("app", "other", timeout=0):
            pass
        store.worktrees.set_head("app", "dev", base)


def test_lock_files_go_with_what_they_lock(store: Store, base: str) -> None:
    for number in range(3):
        store.worktrees.create("app", f"w{number}", base)
        with store.worktrees.lock("app", f"w{number}"):
            pass
        assert sorted(os.listdir(store.layout.worktrees("app"))) == [f"w{number}", f"w{number}.lock"]
        store.worktrees.remove("app", f"w{number}")
    with store.worktrees.lock("app", "never"):
        pass
    assert sorted(os.listdir(store.layout.worktrees("app"))) == []
    store.remove("app")
    assert os.listdir(store.layout.refs) == []


def test_locks_exclude_while_worktrees_come_and_go(store: Store, base: str) -> None:
    """Lock files are removed and made again under those who wait for them; two never hold the lock at once."""
    store.worktrees.create("app", "other", base)
    inside: list[int] = []
    overlaps: list[list[int]] = []

    def work(me: int) -> None:
        own = Store.open(store.root)
        for step in range(40):
            with own.worktrees.lock("app", "dev", timeout=60):
                inside.append(me)
                if inside != [me]:
                    overlaps.append(list(inside))
                if own.worktrees.exists("app", "dev") and step % 2:
                    own.worktrees.remove("app", "dev")
                inside.remove(me)
            with suppress(ExistsError):
                own.worktrees.create("app", "dev", base)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    store.worktrees.remove("app", "dev")
    assert sorted(os.listdir(store.layout.worktrees("app"))) == ["other", "other.lock"]


def test_damage_is_named(store: Store, base: str, tmp_path: Path) -> None:
    made = store.worktrees.create("app", "dev", base)
    meta = made.directory / "meta.toml"
    good = meta.read_bytes()
    for content in (b"", b"\xff", b"[worktree]\n", good.replace(base.encode(), b"../../x"), good + b"[worktree]\n"):
        meta.write_bytes(content)
        with pytest.raises(DamagedError, match=r"meta\.toml"):
            store.worktrees.get("app", "dev")
    meta.unlink()
    with pytest.raises(DamagedError, match=r"lost its meta\.toml"):
        store.worktrees.get("app", "dev")
    meta.symlink_to("/etc/passwd")
    with pytest.raises(DamagedError, match="symbolic link"):
        store.worktrees.get("app", "dev")
    meta.unlink()
    meta.write_bytes(good)
    (made.directory / "lease.toml").write_text("[lease]\ncontainer = 1\n")
    with pytest.raises(DamagedError, match=r"lease\.toml"):
        store.worktrees.lease("app", "dev")
    store.worktrees.clear_lease("app", "dev")
    made.upperdir.rmdir()
    made.upperdir.symlink_to(tmp_path)
    with pytest.raises(DamagedError, match="upperdir"):
        store.worktrees.get("app", "dev")
    store.worktrees.remove("app", "dev")
    assert tmp_path.exists()
    assert store.worktrees.names("app") == []
