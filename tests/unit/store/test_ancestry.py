"""Where commits come from, also where the store lacks some of them or several histories lead to one tree."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.ancestry import ANCESTORS, Ancestry, read_ancestors, write_ancestors
from stratum.store.fsck import check
from stratum.store.lineage import ANCESTORS_MAX, Meeting, Recorded, spanning
from stratum.store.repair import repair
from tests.support.stores import directory, file

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def commit(store: Store, number: int, parent: str | None = None) -> str:
    """The commit whose tree is told by ``number`` alone."""
    with store.begin("a test") as tx:
        root = directory({b"n": file(tx, b"%d" % number)})
        return store.commits.write(tx, root, parent=parent).metadata_hash


def chain(store: Store, numbers: Iterable[int], parent: str | None = None) -> list[str]:
    """Commits one on top of the other, the oldest first."""
    made: list[str] = []
    for number in numbers:
        made.append(commit(store, number, made[-1] if made else parent))
    return made


def forget(store: Store, *commits: str) -> None:
    """Take commits out of the store, as an early version's collection did."""
    for gone in commits:
        store.commits.remove([gone])


def record(store: Store, of: str, ancestors: Iterable[str], whole: bool = False) -> None:
    with store.begin("a test") as tx:
        Ancestry(store).record(tx, of, Recorded(tuple(ancestors), whole))


@given(st.lists(hashes, min_size=1, max_size=30), st.booleans())
def test_what_is_recorded_is_read_again(ancestors: list[str], whole: bool) -> None:
    recorded = Recorded(tuple(ancestors), whole)
    assert read_ancestors(write_ancestors(recorded), "x") == recorded


@given(st.data())
def test_a_changed_byte_is_seen(data: st.DataObject) -> None:
    whole = write_ancestors(Recorded(("a" * 64, "b" * 64), True))
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytes([*whole[:place], whole[place] ^ data.draw(st.integers(1, 255)), *whole[place + 1 :]])
    with pytest.raises(DamagedError):
        read_ancestors(damaged, "x")
    with pytest.raises(DamagedError):
        read_ancestors(whole[:place], "x")


def test_a_history_is_followed_to_its_beginning(store: Store) -> None:
    made = chain(store, range(5))
    found = Ancestry(store).lineage(made[4])
    assert (list(found.distance), found.whole) == (made[::-1], True)
    assert Ancestry(store).descends(made[4], made[0])
    assert not Ancestry(store).descends(made[0], made[4])


def test_a_history_goes_on_behind_commits_that_are_only_told_of(store: Store) -> None:
    made = chain(store, range(6))
    forget(store, made[3], made[4])
    assert Ancestry(store).lineage(made[5]).whole is False
    record(store, made[5], [made[4], made[3], made[2]])
    found = Ancestry(store).lineage(made[5])
    assert (list(found.distance), found.whole) == (made[::-1], True)
    record(store, made[0], ["f" * 64])
    assert Ancestry(store).lineage(made[5]).whole is False


def test_where_histories_meet(store: Store) -> None:
    trunk = chain(store, range(3))
    left, right = chain(store, range(10, 13), trunk[1]), chain(store, range(20, 22), trunk[1])
    other = chain(store, range(30, 32))
    ancestry = Ancestry(store)
    assert ancestry.meeting(left[2], right[1]) == Meeting((trunk[1],), True)
    assert ancestry.meeting(left[0], left[2]) == Meeting((left[0],), True)
    assert ancestry.meeting(left[2], left[0]) == Meeting((left[0],), True)
    assert ancestry.meeting(left[2], left[2]) == Meeting((left[2],), True)
    assert ancestry.meeting(left[2], other[1]) == Meeting((), True)


def test_where_histories_meet_is_not_known_behind_a_gap(store: Store) -> None:
    trunk = chain(store, range(3))
    left, right = chain(store, range(10, 13), trunk[2]), chain(store, range(20, 23), trunk[2])
    forget(store, right[1])
    assert not Ancestry(store).meeting(left[2], right[2]).sure
    forget(store, trunk[2])
    record(store, right[2], [right[1], right[0], trunk[2], trunk[1], trunk[0]], whole=True)
    record(store, left[0], [trunk[2], trunk[1], trunk[0]], whole=True)
    meeting = Ancestry(store).meeting(left[2], right[2])
    assert trunk[2] in meeting.commits
    assert not meeting.sure


def test_a_commit_that_is_its_own_ancestor_ends_no_walk_in_a_loop(store: Store) -> None:
    made = chain(store, range(3))
    record(store, made[0], [made[2], made[1]])
    ancestry = Ancestry(store)
    for commit_hash in made:
        assert set(ancestry.lineage(commit_hash).distance) == set(made)
    assert ancestry.meeting(made[2], made[0]) == Meeting((made[2],), True)
    assert made[1] not in Ancestry(store).to_send(made[1]).ancestors


def test_a_second_history_of_the_same_tree_counts_too(store: Store) -> None:
    here, there = chain(store, range(3)), chain(store, range(10, 12))
    record(store, here[2], [there[1], there[0]], whole=True)
    ancestry = Ancestry(store)
    assert set(ancestry.lineage(here[2]).distance) == {*here, *there}
    assert ancestry.meeting(there[1], here[2]) == Meeting((there[1],), True)
    assert ancestry.meeting(commit(store, 50, here[1]), here[2]) == Meeting((here[1],), True)


def test_what_is_told_again_adds_and_takes_nothing_away(store: Store) -> None:
    made = chain(store, range(6))
    forget(store, *made[:5])
    record(store, made[5], [made[4], made[3]])
    record(store, made[5], [made[4]])
    assert Ancestry(store).recorded(made[5]) == Recorded((made[4], made[3]))
    record(store, made[5], made[4::-1], whole=True)
    assert Ancestry(store).recorded(made[5]) == Recorded(tuple(made[4::-1]), True)


def test_nothing_is_recorded_that_the_store_can_tell_itself(store: Store) -> None:
    made = chain(store, range(4))
    record(store, made[3], made[2::-1], whole=True)
    assert not (store.layout.beside(made[3], ANCESTORS)).exists()


def test_what_is_sent_is_bounded_and_says_where_it_ends(store: Store) -> None:
    made = chain(store, range(3))
    assert Ancestry(store).to_send(made[2]) == Recorded((made[1], made[0]), True)
    assert Ancestry(store).to_send(made[0]) == Recorded()
    many = [f"{number:064x}" for number in range(ANCESTORS_MAX)]
    record(store, made[0], many)
    sent = Ancestry(store).to_send(made[2])
    assert sent.ancestors == (made[1], made[0], *many)[:ANCESTORS_MAX]
    assert not sent.whole


def test_a_gap_is_spanned_up_to_what_stays(store: Store) -> None:
    made = chain(store, range(6))
    ancestry = Ancestry(store)
    assert spanning(ancestry, made[5], {made[4], made[3]}) == Recorded((made[4], made[3], made[2]))
    assert spanning(ancestry, made[2], {made[1], made[0]}) == Recorded((made[1], made[0]), True)


def test_damage_is_found_and_put_aside(store: Store) -> None:
    made = chain(store, range(2))
    record(store, made[0], ["f" * 64])
    path = store.layout.beside(made[0], ANCESTORS)
    assert check(store).damage == []
    path.write_bytes(path.read_bytes().replace(b"f", b"e"))
    with pytest.raises(DamagedError, match="is damaged"):
        Ancestry(store).lineage(made[1])
    findings = check(store).findings
    assert [(finding.kind, finding.path) for finding in findings] == [("ancestors", f"commits/{made[0]}.ancestors")]
    with store.locks.store(exclusive=True):
        repair(store, findings)
    assert findings[0].repair == "put into quarantine"
    assert check(store).damage == []
    assert list(Ancestry(store).lineage(made[1]).distance) == made[::-1]
