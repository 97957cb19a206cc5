"""Eviction: what may go, in which order, and that nothing goes that only this store has."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.composefs.verity import verity_digest
from stratum.config import load_config
from stratum.errors import BusyError, DamagedError
from stratum.frozen import replace
from stratum.hydrate import evict
from stratum.hydrate.evict import Evicted, Evictor, make_room
from stratum.hydrate.evictable import Shelf, Why
from stratum.mount.state import State
from stratum.store import Store
from stratum.store.budget import set_budget
from stratum.store.clock import rfc3339, utc_now
from stratum.store.keeping import Rule, Rules
from stratum.store.locks import StoreLocks
from stratum.store.sources import CommitSource
from stratum.sys.pagecache import resident_pages
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of
from tests.support import stores
from tests.support.effort import examples

NAME = "evictable"
FILES = {b"%c" % letter: b"%c" % letter * 5000 for letter in b"abcdef"}
DIGESTS = {name: verity_digest(data) for name, data in FILES.items()}
ALL = 1 << 60


def everything(_held: int) -> int:
    return ALL


class Place:
    """A store in ``directory``, and who evicts from it."""

    def __init__(self, directory: Path, **settings_: str) -> None:
        self.store = Store.create(directory / "store")
        self.state = State(directory / "run")
        environment = {f"STRATUM_{key.upper()}": value for key, value in settings_.items()}
        self.config = load_config(environment)
        self.evictor = Evictor(self.store, self.state, self.config)

    def commit(self, names: bytes, tag: str | None = None) -> str:
        """The commit of the files with these names of one letter, all real."""
        made = stores.commit(self.store, pick(names))
        if tag is not None:
            self.store.tags.set(NAME, tag, made)
        return made

    def source(self, commit: str, names: bytes, *, hours: float = 0, gone: bool = False, place: str = "r/x") -> None:
        """Note a source of the commit that has these files and was seen some hours ago."""
        from datetime import timedelta

        when = rfc3339(utc_now() - timedelta(hours=hours))
        noted = replace(stores.source(pick(names), place), seen=when, gone=when if gone else None)
        with self.store.begin("a test") as tx:
            self.store.sources.record(tx, commit, noted, stores.catalog(pick(names)))

    def sourced(self, names: bytes, tag: str | None = None) -> str:
        """A commit with a source that has all of it."""
        made = self.commit(names, tag)
        self.source(made, names)
        return made

    def here(self) -> bytes:
        """The names of the files whose content is here."""
        return b"".join(name for name, digest in DIGESTS.items() if self.store.objects.has(digest))

    def evict(self, want: Callable[[int], int] = everything, **options: object) -> Evicted:
        return self.evictor.evict(want, **{"older_than": 0.0, **options})  # type: ignore[arg-type]

    def age(self, name: bytes, hours: float) -> None:
        """Let the object have come so long ago."""
        when = time.time() - hours * 3600
        os.utime(self.store.objects.path(DIGESTS[name]), (when, when))


def pick(names: bytes) -> dict[bytes, bytes]:
    return {name: FILES[name] for name in FILES if name in names}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


letters = st.sets(st.sampled_from(sorted(FILES)), min_size=1).map(lambda names: b"".join(sorted(names)))
# What a source lists, when it was seen, whether it is known to be gone.
known_sources = st.lists(st.tuples(letters, st.sampled_from([0, 1, 7, 100]), st.booleans()), max_size=3)


@settings(max_examples=examples(60))
@given(
    st.dictionaries(letters, st.tuples(known_sources, st.booleans()), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(sorted(FILES)), st.sampled_from(Rule)),
    st.booleans(),
)
def test_just_that_goes_which_every_commit_has_a_source_for(
    commits: dict[bytes, tuple[list[tuple[bytes, int, bool]], bool]], rules: dict[bytes, Rule], dry_run: bool
) -> None:
    directory = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    try:
        place = Place(directory)
        made = {}
        for number, (names, (sources, tagged)) in enumerate(commits.items()):
            made[names] = place.commit(names, f"v{number}" if tagged else None)
            for which, (listed, hours, gone) in enumerate(sources):
                place.source(made[names], listed, hours=hours, gone=gone, place=f"r/{number}-{which}")
        if any(tagged for _, tagged in commits.values()):
            for name, rule in rules.items():
                place.store.keeping.set(NAME, b"/" + name, rule)
        before = place.here()

        def may_go(name: bytes) -> bool:
            needing = {names: value for names, value in commits.items() if name in names}
            if any(rules.get(name) is Rule.REAL for _, tagged in needing.values() if tagged):
                return False
            return all(
                any(name in listed and hours <= 6 and not gone for listed, hours, gone in sources)
                for sources, _ in needing.values()
            )

        going = bytes(letter for letter in before if may_go(bytes([letter])))
        done = place.evict(dry_run=dry_run)
        assert done.objects == len(going)
        assert place.here() == (before if dry_run else bytes(letter for letter in before if letter not in going))
        partial = {names for names, commit in made.items() if place.store.sources.is_partial(commit)}
        assert partial == (set() if dry_run else {names for names in made if set(names) & set(going)})
        assert sorted(done.marked) == sorted(made[names] for names in partial)
        assert place.evict().objects == (len(going) if dry_run else 0)
        for commit in made.values():
            assert place.store.residence.counts(commit).lost == 0
    finally:
        shutil.rmtree(directory)


def test_why_something_stays(place: Place) -> None:
    place.sourced(b"ab", "v1")
    place.store.keeping.set(NAME, b"/a", Rule.REAL)
    place.commit(b"bc", "v2")
    older = place.commit(b"d", "v3")
    place.source(older, b"d", hours=7)
    place.sourced(b"e", "v4")
    done = place.evict(dry_run=True, older_than=3600)
    usage = place.store.objects.weigh(DIGESTS[b"a"]).usage  # type: ignore[union-attr]
    assert done.stays == {
        Why.LOCAL: (1, usage),  # b; c is no content that a source has
        Why.RULE: (1, usage),
        Why.GONE: (1, usage),
        Why.RECENT: (1, usage),
    }
    held = place.evictor.held(older_than=3600)
    assert (held.real, held.unreal, held.evictable) == ((4, 4 * usage), (0, 0), (0, 0))
    assert held.stays == done.stays
    assert place.evict().objects == 1
    held = place.evictor.held()
    assert (held.real, held.unreal) == ((3, 3 * usage), (1, 5000))


def test_of_two_sizes_one_is_a_lie(place: Place) -> None:
    made = place.sourced(b"a")
    lying = stores.source({b"a": b"lie"}, "r/y")
    text = stores.catalog(pick(b"a"))
    from stratum.store.catalog import Blob, NewPack, write_catalog

    text = write_catalog([NewPack(Blob(b"\1" * 32, 10), [(10, 9999)], [(DIGESTS[b"a"], 512, 4999)])])
    with place.store.begin("a test") as tx:
        place.store.sources.record(tx, made, replace(lying, seen=rfc3339(utc_now())), text)
    assert place.evict().objects == 0


def test_a_damaged_catalog_lists_nothing(place: Place) -> None:
    made = place.sourced(b"ab")
    path = place.store.sources.catalog_path(place.store.sources.of(made)[0].manifest)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    assert place.evict().objects == 0


def test_damaged_sources_are_none(place: Place) -> None:
    made = place.sourced(b"ab")
    (place.store.layout.beside(made, "sources")).write_text("nonsense")
    assert place.evict().objects == 0


def test_where_a_commit_cannot_be_read_nothing_goes(place: Place) -> None:
    place.sourced(b"ab")
    broken = place.commit(b"c")
    stores.spoil_tree(place.store, broken)
    with pytest.raises(DamagedError, match="not known what commit"):
        place.evict()
    assert place.here() == b"abc"


def test_a_time_to_come_is_no_time(place: Place) -> None:
    made = place.commit(b"a")
    place.source(made, b"a", hours=-2)
    assert place.evict().objects == 0


def test_what_a_running_command_needs_stays(place: Place) -> None:
    place.sourced(b"ab")
    with place.store.begin("a test", apart=True) as tx:
        (tx.directory / "needs").write_bytes(DIGESTS[b"a"])
        assert place.evict().stays.keys() == {Why.BUSY}
        assert place.here() == b"a"
    assert place.evict().objects == 1


def test_the_order(place: Place) -> None:
    """What rules call unreal, what is in no page cache, what came first, what is large."""
    big = {b"big": b"b" * 50_000}
    made = stores.commit(place.store, {**FILES, **big})
    place.store.tags.set(NAME, "v1", made)
    listed = replace(stores.source({**FILES, **big}), seen=rfc3339(utc_now()))
    with place.store.begin("a test") as tx:
        place.store.sources.record(tx, made, listed, stores.catalog({**FILES, **big}))
    place.store.keeping.set(NAME, b"/c", Rule.UNREAL)
    names = {**DIGESTS, b"big": verity_digest(big[b"big"])}
    for name, digest in names.items():
        path = place.store.objects.path(digest)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if name in (b"a", b"b"):
                file.read()
        hours = {b"a": 50.2, b"b": 60.2, b"d": 10.2, b"e": 20.2}.get(name, 5.2)
        os.utime(path, (time.time() - hours * 3600,) * 2)
    pages = resident_pages(place.store.objects.path(DIGESTS[b"a"]))
    order = []
    while place.evict(lambda _: 1).objects:
        gone = [name for name, digest in names.items() if not place.store.objects.has(digest)]
        order += [name for name in gone if name not in order]
    in_use = [b"b", b"a"]
    assert pages
    assert order == [b"c", b"e", b"d", b"big", b"f", *in_use]


def test_no_more_goes_than_is_asked_for(place: Place) -> None:
    place.sourced(b"abcdef")
    usage = place.store.objects.weigh(DIGESTS[b"a"]).usage  # type: ignore[union-attr]
    done = place.evict(lambda held: held - 4 * usage)
    assert (done.objects, done.bytes, done.short) == (2, 2 * usage, 0)
    assert place.evict(lambda held: held).objects == 4
    place.commit(b"a")
    assert place.evict(lambda _: 100).short == 100


def test_what_came_just_now_stays(place: Place) -> None:
    place.sourced(b"ab")
    place.age(b"a", 0.2)
    assert place.evictor.evict(everything).objects == 1
    assert place.here() == b"b"


def test_what_is_in_the_landing_too_stays(place: Place) -> None:
    place.sourced(b"ab")
    other = place.store.root / "landed"
    os.link(place.store.objects.path(DIGESTS[b"a"]), other)
    done = place.evict()
    assert (done.objects, place.here()) == (1, b"a")
    assert done.stays.keys() == {Why.RECENT}
    other.unlink()
    assert place.evict().objects == 1


def test_only_some_objects(place: Place) -> None:
    place.sourced(b"abc")
    assert place.evict(only={DIGESTS[b"b"], verity_digest(b"none")}).objects == 1
    assert place.here() == b"ac"


def test_what_changes_meanwhile_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local commit that needs what was chosen, made just before the store is locked."""
    place.sourced(b"abc")
    local: list[str] = []
    choose = Evictor._in_order

    def slowly(evictor: Evictor, *args: object) -> object:
        chosen = list(choose(evictor, *args))  # type: ignore[arg-type]
        if not local:
            local.append(stores.commit(place.store, pick(b"b")))
        return iter(chosen)

    monkeypatch.setattr(Evictor, "_in_order", slowly)
    assert place.evict().objects == 2
    assert place.here() == b"b"
    assert not place.store.sources.is_partial(local[0])


def test_batches_are_small(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evict, "_BATCH", 2)
    monkeypatch.setattr(evict, "_BATCH_MAX", 2)
    place.sourced(b"abcde")
    held: list[bool] = []
    take = StoreLocks.store

    def noted(locks: StoreLocks, *, exclusive: bool = False, timeout: float = 1.0) -> object:
        held.append(exclusive)
        return take(locks, exclusive=exclusive, timeout=timeout)

    monkeypatch.setattr(StoreLocks, "store", noted)
    assert place.evict().objects == 5
    assert 3 <= sum(held) <= 5


def test_whoever_holds_the_store_is_waited_for_and_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.sourced(b"ab")
    other = StoreLocks(place.store.layout)
    with other.store(), pytest.raises(BusyError, match="the store"):
        place.evict(timeout=0.1)
    assert place.here() == b"ab"
    place.age(b"a", 1)
    monkeypatch.setattr(evict, "LOCK_WAIT", 0.1)
    set_budget(place.store.layout, place.store.transactions, limit=0, min_free=0)
    with other.store():
        done = make_room(place.store, place.state, place.config, None, 1)
    assert done.short == 1
    assert "the store" in done.problems[0]


# Room


def test_a_store_that_is_no_cache_is_left_alone(place: Place) -> None:
    """Whoever never pulled lazily and set no limit keeps what was pulled, however full the disk is."""
    made = place.sourced(b"ab")
    place.age(b"a", 1)
    assert place.evictor.make_room(1 << 60).objects == 0
    with place.store.begin("a test") as tx:
        place.store.sources.set_partial(tx, made)
    assert place.evictor.make_room(1 << 60).objects == 1
    assert place.here() == b"b"


def test_room_is_made_within_the_limit_and_some_more(place: Place) -> None:
    place.sourced(b"abcdef")
    for number, name in enumerate(sorted(FILES)):
        place.age(name, 20 - number + 0.2)
    usage = place.store.objects.weigh(DIGESTS[b"a"]).usage  # type: ignore[union-attr]
    set_budget(place.store.layout, place.store.transactions, limit=6 * usage, min_free=0)
    assert place.evictor.make_room(0).objects == 0
    assert place.evictor.make_room(usage).objects == 2, "one, and the margin"
    assert place.here() == b"cdef"
    assert place.evictor.make_room(usage).objects == 0, "there is room, as was counted before"
    assert place.evictor.make_room(2 * usage).objects == 0, "there is, as is found by a look: nothing came"
    assert place.evictor.make_room(3 * usage).objects == 2


def test_where_nothing_may_go_it_is_said(place: Place) -> None:
    place.commit(b"ab")
    set_budget(place.store.layout, place.store.transactions, limit=10, min_free=0)
    done = place.evictor.make_room(1000)
    assert done.objects == 0
    assert done.short >= 990


# Rules, as trees have them


def test_rules_are_for_all_names_of_a_file(place: Place) -> None:
    made = place.commit(b"abc")
    found = Shelf(place.store).ruled(made, Rules({b"/a": Rule.REAL, b"/b": Rule.UNREAL}))
    assert found == {Rule.REAL: {DIGESTS[b"a"]}, Rule.UNREAL: {DIGESTS[b"b"]}, Rule.AUTO: {DIGESTS[b"c"]}}
    found = Shelf(place.store).ruled(made, Rules({b"/": Rule.REAL}))
    assert found[Rule.REAL] == {DIGESTS[name] for name in (b"a", b"b", b"c")}


@settings(max_examples=examples(6))
@given(st.lists(st.tuples(st.integers(0, 15_000), st.integers(100, 2000)), min_size=1, max_size=3))
def test_trees_that_share_frames(changes: list[tuple[int, int]]) -> None:
    """Large trees that differ in little: the objects of each are just those of its dump."""
    from stratum.tree.contents import objects_of
    from stratum.tree.model import File

    directory = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    try:
        store = Store.create(directory / "store")
        names = [b"%06d" % number for number in range(15_000)]
        made = []
        files = {name: verity_digest(name) for name in names}
        for at, count in [(0, 0), *changes]:
            files.update({name: verity_digest(b"changed" + name) for name in names[at : at + count]})
            children = {name: File(0o100644, 0, 0, 0, size=1000, digest=digest) for name, digest in files.items()}
            with store.begin("a test") as tx:
                data = dict.fromkeys(files.values(), 1000)
                made.append(_write(store, tx, stores.directory(children), data))
        shelf = Shelf(store)
        for commit in [*made, *made]:
            needed = set(objects_of(store.commits.dump(commit)))
            assert shelf.needs([commit]) == needed
            some = set(random.sample(sorted(needed), 2))
            needing = [one for one in made if not some.isdisjoint(objects_of(store.commits.dump(one)))]
            assert shelf.needing(made, some) == needing
        assert shelf.needs(made) == set().union(*map(objects_of, map(store.commits.dump, made)))
    finally:
        shutil.rmtree(directory)


def _write(store: Store, tx: object, root: object, data: dict[bytes, int]) -> str:
    from stratum.store.catalog import Blob, NewPack, write_catalog

    members = [(digest, 512 + 1000 * number, size) for number, (digest, size) in enumerate(data.items())]
    packs = [NewPack(Blob(b"\1" * 32, 10), [(10, 1 << 40)], members)]
    text = write_catalog(packs)
    manifest = f"sha256:{len(data):064x}"
    noted = CommitSource(f"r/x@{manifest}", manifest, None, rfc3339(utc_now()), "pull")
    return store.commits.write(tx, root, sources=[(noted, text)]).metadata_hash  # type: ignore[arg-type]


def test_what_a_history_names_stays(place: Place) -> None:
    """Its commits come and go, and who asks for a version has no source to fetch it from."""
    made = place.sourced(b"ab", "v1")
    place.store.worktrees.create(NAME, "dev", made)
    log = [Record(1, "2026-11-29T23:59:01.123Z", "base", commit=made)]
    entry = entry_of(File(0o100644, 0, 0, 0, size=5000, digest=DIGESTS[b"a"]))
    log.append(Record(2, "2026-11-29T23:59:02.123Z", "create", b"/v", entry))
    with place.store.histories.writing():
        writer = place.store.histories.writer(NAME, "dev")
        for record in log:
            before = place.evictor.held(older_than=0.0).stays
            writer.append([record])
        writer.close()
    assert before == {}
    assert place.evictor.held(older_than=0.0).stays.keys() == {Why.HISTORY}
    place.evict()
    assert place.here() == b"a"
