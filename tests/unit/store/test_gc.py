"""Garbage collection of a store: what stays, what goes, and when it refuses."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import BusyError, DamagedError
from stratum.store import Store
from stratum.store.ancestry import Ancestry
from stratum.store.clock import utc_now
from stratum.store.gc import CACHE_AGE, Collected, collect, read_ahead
from stratum.store.retention import Retention
from stratum.store.sources import SOURCES
from stratum.store.treerecord import FrameRef, TreeRecord, encode, join_file, split_file
from stratum.sys.locks import locked
from stratum.tree.zstdframe import compress
from tests.support.stores import check, commit, directory, file, leftovers, partial_commit, source, spoil_tree

NONE = Retention(timedelta())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def run(store: Store, rules: Retention = NONE, *, dry_run: bool = False, **mounted: str) -> Collected:
    with store.locks.store(exclusive=not dry_run):
        return collect(store, rules, mounted, dry_run=dry_run)


def big(letter: bytes) -> dict[bytes, bytes]:
    return {b"shared": b"s" * 5000, b"own": letter * 5000}


def test_refs_and_mounts_keep_commits_and_their_objects(store: Store) -> None:
    tagged, base, head, mounted, loose = (commit(store, big(letter)) for letter in (b"a", b"b", b"c", b"d", b"e"))
    store.tags.set("app", "v1", tagged)
    store.worktrees.create("app", "main", base)
    store.worktrees.set_head("app", "main", head)
    done = run(store, **{mounted: "mounted at /x"})
    assert list(done.commits) == [loose]
    assert done.kept == {tagged: "app:v1", base: "app+main", head: "app+main", mounted: "mounted at /x"}
    assert (done.objects, done.objects_kept) == (1, 5)
    assert done.bytes_freed >= 5000
    assert set(store.commits.list()) == {tagged, base, head, mounted}
    check(store)
    assert not leftovers(store)


def test_what_was_read_ahead_is_read_again_where_it_was_written_anew(store: Store) -> None:
    old, loose = commit(store, big(b"a")), commit(store, big(b"b"))
    store.tags.set("app", "v1", old)
    needed = read_ahead(store, NONE, {})
    assert needed.commits == {old}
    store.tags.set("app", "v2", new := commit(store, big(b"c")))
    path, dump = store.layout.commit(old), b"".join(store.commits.dump(old))
    with store.begin("a repair") as tx:  # in a frame, and not in its file
        record = TreeRecord(len(dump), 0, None, (), (FrameRef(tx.add_frame(compress(dump)), len(dump)),), b"")
        tx.publish_objects()
        metadata, _ = split_file(path.read_bytes(), str(path))
        tx.place_file(join_file(metadata, encode(record, old)), path)
    unnamed = tx_frame(store, b"no line of any tree\n")
    done = collect(store, NONE, {}, needed=needed)
    assert (set(done.kept), list(done.commits)) == ({old, new}, [loose])
    assert set(store.trees.frames()) == {record.frames[0].sha256}
    assert unnamed not in store.trees.frames()
    check(store)


def tx_frame(store: Store, lines: bytes) -> bytes:
    """Store a frame that no tree has; its name."""
    with store.begin("a test") as tx:
        sha256 = tx.add_frame(compress(lines))
        tx.publish_objects()
    return sha256


def test_what_went_after_it_was_read_ahead(store: Store) -> None:
    commit_hash = commit(store, big(b"a"))
    store.tags.set("app", "v1", commit_hash)
    needed = read_ahead(store, NONE, {})
    store.tags.remove("app", "v1")
    done = collect(store, NONE, {}, needed=needed)
    assert (list(done.commits), done.objects) == ([commit_hash], 0)
    assert collect(store, NONE, {}).objects > 0


def test_some_strata_have_an_age_of_their_own(store: Store) -> None:
    commits = [commit(store, big(letter)) for letter in (b"a", b"b", b"c", b"d")]
    for name, old, new in (("volumes", *commits[:2]), ("own", *commits[2:])):
        store.tags.set(name, "v1", old)
        store.tags.set(name, "v1", new, force=True)
    rules = Retention(age=timedelta(), strata=frozenset({"volumes"}))
    assert list(run(store, rules).commits) == [commits[0]]


def test_recent_work_has_the_age_of_its_stratum(store: Store) -> None:
    made = {name: worktree_commit(store, name) for name in ("volumes", "own")}
    done = run(store, Retention(age=timedelta(), strata=frozenset({"volumes"})))
    assert list(done.commits) == [made["volumes"]]
    assert done.kept == {made["own"]: "recent work"}


def worktree_commit(store: Store, name: str) -> str:
    with store.begin("a test") as tx:
        root = directory({b"file": file(tx, name.encode() * 100)})
        return store.commits.write(tx, root, origin={"kind": "worktree", "worktree": f"{name}+main"}).metadata_hash


def test_the_reflog_keeps_for_a_while(store: Store) -> None:
    old, new = commit(store, big(b"a")), commit(store, big(b"b"))
    store.tags.set("app", "v1", old)
    store.tags.set("app", "v1", new, force=True)
    assert run(store, Retention()).kept == {new: "app:v1", old: "reflog of app"}
    assert list(run(store).commits) == [old]
    check(store)


def test_a_damaged_line_of_the_reflog_still_keeps_what_it_mentions(store: Store) -> None:
    old, new = commit(store, big(b"a")), commit(store, big(b"b"))
    store.tags.set("app", "v1", new)
    with (store.root / "refs/app/log.jsonl").open("ab") as log:
        log.write(b'{"when": "2026-01-01T00:00:00Z", "old": "%b", "n\n' % old.encode())
    assert run(store).kept == {new: "app:v1", old: "damaged reflog of app"}


def test_a_damaged_hash_in_the_reflog_still_keeps_its_commit(store: Store) -> None:
    old, new = commit(store, big(b"a")), commit(store, big(b"b"))
    store.tags.set("app", "v1", old)
    store.tags.set("app", "v1", new, force=True)
    path = store.root / "refs/app/log.jsonl"
    path.write_bytes(path.read_bytes().replace(old[20:].encode(), b"x" + old[21:].encode()))
    assert run(store).kept == {new: "app:v1", old: "damaged reflog of app"}


def test_work_of_a_removed_stratum_stays_for_the_age(store: Store) -> None:
    with store.begin() as tx:
        work = store.commits.write(
            tx, directory({b"a": file(tx, b"w" * 100)}), origin={"kind": "worktree", "worktree": "app+main"}
        ).metadata_hash
    imported = commit(store, {b"b": b"i" * 100})
    done = run(store, Retention())
    assert (done.kept, list(done.commits)) == ({work: "recent work"}, [imported])
    assert list(run(store).commits) == [work]


def test_a_dry_run_changes_nothing(store: Store) -> None:
    loose = commit(store, big(b"a"))
    with store.begin("alive"):
        (store.root / "tmp/dead").mkdir()
        done = run(store, dry_run=True)
        assert done.others == ["tmp/dead"]
    assert (list(done.commits), done.objects) == ([loose], 2)
    assert store.commits.list() == [loose]
    check(store)


def test_leftovers_caches_and_lock_files(store: Store) -> None:
    made = commit(store, {b"a": b"x" * 100})
    store.tags.set("app", "v1", made)
    for lock in ("refs/app/worktrees/main.lock", "refs/gone.lock"):  # as earlier versions left them
        (store.root / lock).touch()
    cache = store.root / "cache/ingest"
    cache.mkdir(parents=True)
    for name in ("old", "new", ".tmp-1"):
        (cache / name).write_bytes(b"cache")
    os.utime(cache / "old", (0, cache.stat().st_mtime - CACHE_AGE - 9))
    (store.root / "tmp/dead/objects").mkdir(parents=True)
    (store.root / "tmp/file").write_bytes(b"x")
    done = run(store)
    assert sorted(done.others) == [
        "cache/ingest/.tmp-1",
        "cache/ingest/old",
        "refs/app/worktrees/main.lock",
        "refs/gone.lock",
        "tmp/dead",
        "tmp/file",
    ]
    assert os.listdir(cache) == ["new"]
    assert not leftovers(store)
    assert run(store).others == []


def test_nothing_goes_while_it_is_unknown_what_is_needed(store: Store) -> None:
    good, bad = commit(store, big(b"a")), commit(store, big(b"b"))
    store.tags.set("app", "v1", bad)
    path = store.layout.commit(bad)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match="app:v1"):
        run(store)
    path.write_bytes(whole)
    os.rename(path, store.root / "elsewhere")
    with pytest.raises(DamagedError, match=r"is missing \(app:v1\)"):
        run(store)
    os.rename(store.root / "elsewhere", path)
    (store.root / "refs/app/tags/v2").write_text("not a link")
    with pytest.raises(DamagedError, match="app:v2"):
        run(store)
    (store.root / "refs/app/tags/v2").unlink()
    assert set(store.commits.list()) == {good, bad}
    check(store)


def test_it_waits_for_writers_and_says_who(store: Store) -> None:
    child_reads, parent_writes = os.pipe()
    child = os.fork()
    if child == 0:
        with store.begin("importing"):
            os.write(parent_writes, b"x")
            os.read(os.pipe()[0], 1)
    try:
        os.read(child_reads, 1)
        with pytest.raises(BusyError, match=f"process {child} "), store.locks.store(exclusive=True, timeout=0.1):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(child_reads)
        os.close(parent_writes)
    assert [name.partition("/")[0] for name in run(store).others] == ["tmp"]


def chain(store: Store, count: int, first: int = 0, parent: str | None = None) -> list[str]:
    """Commits on top of one another, the oldest first."""
    made: list[str] = []
    for number in range(first, first + count):
        with store.begin("a test") as tx:
            root = directory({b"n": file(tx, b"%d" % number * 100)})
            above = made[-1] if made else parent
            made.append(store.commits.write(tx, root, parent=above).metadata_hash)
    return made


ALL = Retention(timedelta(), history=None)
NO_HISTORY = Retention(timedelta(), history=timedelta())


def test_the_history_of_tags_worktrees_and_pins_stays(store: Store) -> None:
    tagged, work, pinned, loose = (chain(store, 3, first) for first in (0, 10, 20, 30))
    store.tags.set("app", "v1", tagged[2])
    store.worktrees.create("app", "main", work[2])
    store.tags.pin("app", commits={pinned[2]})
    done = run(store, ALL)
    assert sorted(done.commits) == sorted(loose)
    assert done.kept[tagged[0]] == "history of app:v1"
    assert done.kept[work[1]] == "history of app+main"
    assert done.kept[pinned[1]] == "history of pinned in app"
    assert done.objects == 3
    check(store)
    assert sorted(run(store, NO_HISTORY).kept) == sorted([tagged[2], work[2], pinned[2]])
    check(store)


def test_history_of_an_age_stays(store: Store) -> None:
    made = []
    for days in (30, 20, 10, 0):
        with store.begin("a test") as tx:
            root = directory({b"n": file(tx, b"%d" % days)})
            time = utc_now() - timedelta(days=days)
            made.append(store.commits.write(tx, root, parent=made[-1] if made else None, timestamp=time).metadata_hash)
    store.tags.set("app", "v1", made[-1])
    done = run(store, Retention(timedelta(), history=timedelta(days=15)))
    assert sorted(done.commits) == sorted(made[:2])


def test_a_history_goes_on_behind_what_was_collected(store: Store) -> None:
    made = chain(store, 6)
    store.tags.set("app", "old", made[1])
    store.tags.set("app", "new", made[5])
    assert sorted(run(store, NO_HISTORY).commits) == sorted([made[0], made[2], made[3], made[4]])
    found = Ancestry(store).lineage(made[5])
    assert (list(found.distance), found.whole) == (made[::-1], True)
    check(store)
    store.tags.remove("app", "old")
    assert run(store, ALL).kept[made[1]] == "history of app:new"
    assert list(run(store, NO_HISTORY).commits) == [made[1]]
    found = Ancestry(store).lineage(made[5])
    assert (list(found.distance), found.whole) == (made[::-1], True)


def test_history_that_cannot_be_read_stops_the_collection(store: Store) -> None:
    made, loose = chain(store, 3), commit(store, big(b"a"))
    store.tags.set("app", "v1", made[2])
    path = store.layout.commit(made[1])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"parent_commit", b"parent_comnit"))
    with pytest.raises(DamagedError, match="history of"):
        run(store, ALL)
    path.write_bytes(whole)
    assert list(run(store, ALL).commits) == [loose]


def stops(store: Store, name: str, count: int) -> list[str]:
    """Tags ``stop-0``, ... of commits of one day each, the last of them today; and ``release`` at the first."""
    made: list[str] = []
    for number in range(count):
        with store.begin("a test") as tx:
            root = directory({b"n": file(tx, name.encode() + b"%d" % number * 100)})
            time = utc_now() - timedelta(days=count - 1 - number)
            above = made[-1] if made else None
            made.append(store.commits.write(tx, root, parent=above, timestamp=time).metadata_hash)
        store.tags.set(name, f"stop-{number}", made[-1])
    store.tags.set(name, "release", made[0])
    return made


def test_tags_that_match_are_thinned_out_in_the_strata_that_are_named(store: Store) -> None:
    db, web = stops(store, "db", 6), stops(store, "web", 6)
    rules = Retention(timedelta(), daily=2, history=timedelta(), tags=("stop-*",), strata=frozenset(["db"]))
    would = run(store, rules, dry_run=True)
    assert sorted(store.tags.list("db")) == ["release", *(f"stop-{number}" for number in range(6))]
    done = run(store, rules)
    assert (done.tags, done.commits) == (would.tags, would.commits)
    assert sorted(store.tags.list("db")) == ["release", "stop-4", "stop-5"]
    assert sorted(done.commits) == sorted(db[1:4])
    assert done.strata == {commit: ["db"] for commit in db[1:4]}
    assert len(store.tags.list("web")) == 7
    assert set(web) <= set(done.kept)
    check(store)
    assert run(store, rules).commits == {}


def test_what_is_pinned_stays(store: Store) -> None:
    made = stops(store, "db", 5)
    rules = Retention(timedelta(), last=1, history=timedelta(), tags=("stop-*",))
    store.tags.pin("db", tags={"stop-1"}, commits={made[2]})
    done = run(store, rules)
    assert sorted(store.tags.list("db")) == ["release", "stop-1", "stop-4"]
    assert list(done.commits) == [made[3]]
    assert done.kept[made[2]] == "pinned in db"
    store.tags.pin("db", tags={"stop-1"}, commits={made[2]}, on=False)
    assert sorted(run(store, rules).commits) == sorted(made[1:3])
    assert not (store.layout.ref("db") / "pins.toml").exists()


def test_nothing_goes_where_the_pins_cannot_be_read(store: Store) -> None:
    made = stops(store, "db", 3)
    store.tags.pin("db", commits={made[0]})
    pins = store.layout.ref("db") / "pins.toml"
    pins.write_bytes(pins.read_bytes().replace(made[0][:8].encode(), b"00000000"))
    with pytest.raises(DamagedError, match=r"pins\.toml"):
        run(store, Retention(timedelta(), last=1, tags=("*",)))
    assert len(store.tags.list("db")) == 4
    assert len(store.commits.list()) == 3


def test_a_damaged_tree_that_stays_keeps_the_tags(store: Store) -> None:
    made = stops(store, "db", 3)
    spoil_tree(store, made[2])
    with pytest.raises(DamagedError):
        run(store, Retention(timedelta(), last=1, tags=("*",)))
    assert len(store.tags.list("db")) == 4


def test_real_objects_of_partial_commits_stay_and_catalogs_go_with_the_last_commit(store: Store) -> None:
    kept, loose = partial_commit(store, big(b"a")), partial_commit(store, big(b"b"))
    store.tags.set("app", "v1", kept)
    commit(store, {b"one": b"s" * 5000})  # it makes what both share real
    assert len(store.sources.manifests()) == 2
    done = run(store, dry_run=True)
    assert f"sources/{source(big(b'b')).manifest[7:]}" in done.others
    assert len(store.sources.manifests()) == 2
    done = run(store)
    assert loose in done.commits
    assert (done.objects, done.objects_kept) == (0, 1)
    assert store.sources.manifests() == [source(big(b"a")).manifest]
    assert store.sources.is_partial(kept)
    check(store)


@pytest.mark.parametrize("spoiled", ["sources", "catalog"])
def test_damage_to_what_tells_of_sources_removes_nothing_that_is_needed(store: Store, spoiled: str) -> None:
    files = big(b"a")
    kept = partial_commit(store, files)
    store.tags.set("app", "v1", kept)
    commit(store, {b"one": b"s" * 5000})
    partial_commit(store, big(b"b"))
    one = source(files)
    path = store.layout.beside(kept, SOURCES) if spoiled == "sources" else store.sources.catalog_path(one.manifest)
    path.write_bytes(b"[" + path.read_bytes())
    done = run(store)
    assert one.manifest in store.sources.manifests()
    assert len(store.sources.manifests()) == (2 if spoiled == "sources" else 1), "nobody knows which are needed"
    assert done.objects_kept == 1
    assert store.commits.exists(kept)


def test_what_lands_stays_while_somebody_fetches(store: Store) -> None:
    landing = store.layout.landing
    (landing / "ab").mkdir(parents=True)
    (landing / "ab/cd").write_bytes(b"x" * 5000)
    (landing / "whole.part").write_bytes(b"y" * 5000)
    (store.layout.ahead / "ef").mkdir(parents=True)
    with locked(landing / "owner"):
        assert not run(store).others
        assert not run(store, dry_run=True).others
    assert sorted(run(store, dry_run=True).others) == ["ahead/ef", "landing/ab", "landing/whole.part"]
    assert (landing / "ab/cd").exists()
    done = run(store)
    assert sorted(done.others) == ["ahead/ef", "landing/ab", "landing/whole.part"]
    assert os.listdir(landing) == ["owner"], "the directory itself is a layer of mounts, and stays"
    assert not run(store).others


def test_parts_of_large_objects_wait_for_a_day(store: Store) -> None:
    store.tags.set("app", "v1", partial_commit(store, big(b"a")))
    parts = store.layout.landing / "parts"
    parts.mkdir(parents=True)
    needed = verity_digest(b"a" * 5000).hex()
    for name in (needed, f"{needed}.map", "0" * 64, "0" * 64 + ".hashes", "strange"):
        (parts / name).write_bytes(b"x" * 100)
    assert len(run(store).others) == 3
    assert sorted(os.listdir(parts)) == [needed, f"{needed}.map"]
    os.utime(parts / needed, (0, 0))
    assert run(store).others == [f"landing/parts/{needed}"]


def test_what_is_named_for_a_mount_while_a_collection_runs_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker links objects without any lock; whenever it does, the commit that is mounted needs them."""
    files = {b"%d" % number: b"%d" % number * 3000 for number in range(40)}
    mounted, garbage = partial_commit(store, files), commit(store, {b"x": b"x" * 5000})
    waiting = [(verity_digest(data), data) for data in files.values()]

    def land() -> None:
        if waiting:
            digest, data = waiting.pop()
            path = store.objects.path(digest)
            path.parent.mkdir(exist_ok=True)
            (store.root / "tmp/fetched").write_bytes(data)
            os.rename(store.root / "tmp/fetched", path)

    real_lstat, real_listdir = os.lstat, os.listdir

    def lstat(path: Any, **options: Any) -> os.stat_result:
        land()
        return real_lstat(path, **options)

    def listdir(path: Any) -> list[str]:
        land()
        return real_listdir(path)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(os, "listdir", listdir)
    done = run(store, **{mounted: "mounted at /x"})
    monkeypatch.undo()
    assert list(done.commits) == [garbage]
    while waiting:
        land()
    assert run(store, **{mounted: "mounted at /x"}).objects == 0
    assert all(store.objects.has(verity_digest(data), len(data)) for data in files.values())
    check(store)
