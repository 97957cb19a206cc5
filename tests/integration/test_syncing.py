"""Stores that sync with each other."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest

from stratum.api.settling import decide
from stratum.api.syncing import Exchanging, Met, meet, peers_of
from stratum.errors import NotFoundError, UnreachableError
from stratum.frozen import replace
from stratum.store.fsck import check
from stratum.store.gc import collect
from stratum.store.retention import Retention
from stratum.sync.moves import Move, move_text
from stratum.sync.wire import message_text
from tests.support.syncing import NAME, TAG, Host, Link
from tests.unit.sync.test_convergence import edited


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    made = [Host(tmp_path, name) for name in ("ann", "bob", "cleo")]
    for host in made:
        host.knows(*(other for other in made if other is not host))
    return made


def test_nothing_is_taken_of_who_may_only_read_unless_it_is_named(hosts: list[Host]) -> None:
    ann, bob, cleo = hosts
    book = ann.store.peers
    for other in (bob, cleo):
        book.add(other.name, other.store.peers.own().certificate, "192.0.2.1:5443", "")
    assert peers_of(ann.session, NAME) == ["bob", "cleo"]
    book.share(NAME, "bob", write=False)
    bob.sync(ann)  # who asks is known from then on
    assert peers_of(ann.session, NAME) == ["cleo"]
    book.unshare(NAME, "cleo")
    assert peers_of(ann.session, NAME) == []
    ann.sync(cleo)
    assert peers_of(ann.session, NAME) == ["cleo"]


def test_histories_go_both_ways_and_merge_by_path(hosts: list[Host]) -> None:
    ann, bob, _ = hosts
    first = ann.commit({b"a": b"1", b"b": b"1"})
    met = bob.sync(ann)
    assert (met.moves_in, met.commits_in, met.error) == (1, 1, None)
    assert bob.tags() == {TAG: first}
    # Both know one move, so neither makes one of what the other did.
    assert not bob.sync(ann).moves_out
    assert not ann.sync(bob).moves_in

    ann.commit({b"a": b"2", b"b": b"1"})
    last = ann.commit({b"a": b"2", b"b": b"1", b"new": b"n"})
    bob.commit({b"a": b"1", b"b": b"2"})
    met = ann.sync(bob)
    assert (met.moves_in, met.moves_out, met.error) == (1, 1, None)
    assert ann.tags() == bob.tags()
    assert ann.files() == {b"a": b"2", b"b": b"2", b"new": b"n"}
    assert bob.store.commits.exists(str(bob.store.commits.parent(last)))  # what came before, too
    # A tag that is removed is removed; one that somebody moved meanwhile stays.
    ann.put(first, "v1")
    ann.sync(bob)
    ann.store.tags.remove(NAME, "v1")
    bob.sync(ann)
    assert "v1" not in bob.tags()
    ann.put(first, "v1")
    ann.sync(bob)
    ann.store.tags.remove(NAME, "v1")
    bob.put(last, "v1")
    bob.sync(ann)
    assert ann.tags()["v1"] == bob.tags()["v1"] == last
    # One that a rule let go here stays there, and comes back when somebody moves it.
    ann.store.tags.remove(NAME, "v1", why="gc: thinned out")
    ann.sync(bob)
    assert "v1" not in ann.tags()
    bob.put(first, "v1")
    ann.sync(bob)
    assert ann.tags()["v1"] == bob.tags()["v1"] == first


def test_going_back_is_a_move_and_work_that_goes_on_undoes_nobody_elses(hosts: list[Host]) -> None:
    ann, bob, _ = hosts
    first = ann.commit({b"a": b"1"})
    bob.sync(ann)
    bob.commit({b"a": b"1", b"b": b"of bob"})
    ann.sync(bob)
    # What ann's worktree commits knows nothing of bob's file, and is merged with it.
    ann.commit({b"a": b"2"}, parent=first)
    ann.sync(bob)
    assert ann.files() == bob.files() == {b"a": b"2", b"b": b"of bob"}
    # An import that brings what was there before brings nothing.
    shown = ann.tags()
    ann.commit({b"a": b"2"}, why="import /srv/a")
    ann.sync(bob)
    assert ann.tags() == bob.tags() == shown
    # Who puts the tag back by hand means it.
    ann.put(first)
    bob.sync(ann)
    assert ann.tags() == bob.tags() == {TAG: first}


def test_both_sides_of_a_conflict_stay_everywhere(hosts: list[Host]) -> None:
    ann, bob, cleo = hosts
    ann.commit({b"a": b"1", b"d": b"1"})
    bob.sync(ann)
    cleo.sync(bob)
    ann.commit({b"a": b"ann", b"d": b"1"})
    lost = ann.tags()[TAG]
    bob.commit({b"a": b"bob"})
    cleo.commit({b"a": b"1", b"d": b"cleo"})
    bob.sync(ann)
    cleo.sync(bob)
    ann.sync(cleo)
    bob.sync(cleo)
    assert ann.tags() == bob.tags() == cleo.tags()
    assert ann.files() == {b"a": b"bob", b"d": b"cleo"}
    assert [conflict.path for conflict in cleo.conflicts()] == [b"/a", b"/d"]
    kept = {commit for tag, commit in ann.tags().items() if tag.startswith("conflict-ann-latest-")}
    assert kept == {lost}
    # They stay listed when work goes on, and garbage collections keep them.
    bob.commit({b"a": b"bob", b"d": b"cleo", b"more": b"m"})
    for host in (bob, ann):
        cleo.sync(host)
    assert [conflict.path for conflict in ann.conflicts()] == [b"/a", b"/d"]
    collect(cleo.store, Retention(), {})
    assert cleo.store.commits.exists(lost)
    assert not check(cleo.store).damage


def test_a_conflict_is_settled_for_all(hosts: list[Host]) -> None:
    ann, bob, cleo = hosts
    ann.commit({b"a": b"1", b"b": b"1", b"c": b"1"})
    bob.sync(ann)
    ann.commit({b"a": b"ann", b"b": b"ann", b"c": b"ann"})
    bob.commit({b"a": b"bob", b"b": b"bob", b"c": b"bob"})
    bob.sync(ann)
    cleo.sync(ann)
    assert ann.files() == {b"a": b"bob", b"b": b"bob", b"c": b"bob"}
    decide(ann.session, NAME, TAG, [b"/a"], prefer="ours")
    decide(ann.session, NAME, None, [b"/b"], prefer="theirs")
    decide(ann.session, NAME, prefer="both")
    assert ann.files() == {b"a": b"ann", b"b": b"bob", b"c": b"bob", b"c.conflict-ann": b"ann"}
    assert ann.tags().keys() == {TAG}
    assert not ann.conflicts()
    # Settled otherwise elsewhere meanwhile, it is in conflict again; settled alike, it is not.
    decide(bob.session, NAME, TAG, [b"/a"], prefer="ours")
    decide(bob.session, NAME, TAG, [b"/b"], prefer="ours")
    cleo.sync(bob)
    for one, other in ((ann, bob), (cleo, ann), (bob, cleo)):
        assert one.sync(other).error is None
    assert ann.tags() == bob.tags() == cleo.tags()
    assert [conflict.path for conflict in cleo.conflicts()] == [b"/a"]
    with pytest.raises(NotFoundError):
        decide(cleo.session, NAME, TAG, [b"/b"], prefer="ours")


def test_what_cannot_be_merged_is_told_and_settled_as_a_whole(hosts: list[Host]) -> None:
    ann, bob, cleo = hosts
    first = ann.commit({b"a": b"1"})
    bob.sync(ann)
    bob.commit({b"a": b"1", b"b": b"bob"})
    bob.sync(cleo)
    ann.commit({b"a": b"2"})
    shown = ann.tags()[TAG]
    for host in hosts:  # nobody has the commit any more that both began with
        host.store.commits.remove([first])
    met = ann.sync(cleo)
    assert met.error is None
    assert any("stays where it is" in note for note in met.notes)
    assert ann.tags()[TAG] == shown
    decide(ann.session, NAME, prefer="ours")
    cleo.sync(ann)
    bob.sync(cleo)
    assert ann.tags() == bob.tags() == cleo.tags() == {TAG: shown}


@pytest.mark.parametrize("seed", range(4))
def test_hosts_whose_connections_break_show_the_same_in_the_end(hosts: list[Host], seed: int) -> None:
    rng = random.Random(seed)
    commits = [hosts[0].commit({b"a": b"1", b"b": b"1"})]
    for _ in range(25):
        host, other = rng.sample(hosts, 2)
        kind = rng.random()
        if kind < 0.4:
            met = host.sync(other, breaks_after=rng.choice((None, None, 1, 2, 3, 5)))
            assert met.error is None or isinstance(met.error, UnreachableError)
        elif TAG not in host.tags() or kind < 0.5:
            host.put(
                rng.choice([commit for commit in commits if host.store.commits.exists(commit)] or [host.commit({})])
            )
        elif kind < 0.55:
            host.store.tags.remove(NAME, TAG)
        else:
            commits.append(host.commit(edited(rng, host.tree())))
    for host, other in [(a, b) for _ in range(2) for a in hosts for b in hosts if a is not b]:
        assert host.sync(other).error is None
    assert hosts[0].tags() == hosts[1].tags() == hosts[2].tags()
    assert hosts[0].conflicts() == hosts[1].conflicts() == hosts[2].conflicts()
    for host in hosts:
        assert not check(host.store).damage
        met = host.sync(hosts[0] if host is not hosts[0] else hosts[1])
        assert (met.moves_in, met.moves_out) == (0, 0)


def test_a_store_from_a_backup_loses_nothing(hosts: list[Host], tmp_path: Path) -> None:
    ann, bob, _ = hosts
    ann.commit({b"a": b"1"})
    bob.sync(ann)
    shutil.copytree(ann.store.root, tmp_path / "backup", symlinks=True)
    ann.commit({b"a": b"2"})
    ann.sync(bob)
    shutil.rmtree(ann.store.root)
    (tmp_path / "backup").rename(ann.store.root)
    again = Host(tmp_path, "ann")
    again.commit({b"a": b"1", b"b": b"since"})
    met = again.sync(bob)
    assert any("backup" in note for note in met.notes), met
    assert again.files() == bob.files() == {b"a": b"2", b"b": b"since"}


def test_syncs_at_once_from_both_sides(hosts: list[Host]) -> None:
    errors: list[object] = []
    for number in range(5):
        for host in hosts:
            host.commit({**({} if TAG not in host.tags() else host.files()), host.name.encode(): b"%d" % number})  # type: ignore[dict-item]  # contents are short, so they are there
        threads = [
            threading.Thread(target=lambda a=a, b=b: errors.append(a.sync(b).error))
            for a in hosts
            for b in hosts
            if a is not b
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == [None] * 30
    for host, other in [(a, b) for a in hosts for b in hosts if a is not b]:
        host.sync(other)
    assert hosts[0].tags() == hosts[1].tags() == hosts[2].tags()
    assert hosts[0].files() == {b"ann": b"4", b"bob": b"4", b"cleo": b"4"}


class Liar(Link):
    """A peer that answers with ``data`` once it has heard what there is."""

    data = b""

    def send_moves(self, stratum: str, data: bytes) -> bytes:
        super().send_moves(stratum, data)
        return self.data

    def push(self, stratum: str, commit: str) -> None:
        """It takes them, and what it says is what it says."""


def test_a_peer_that_lies_loses_nothing_of_ours(hosts: list[Host]) -> None:
    ann, bob, cleo = hosts
    first = ann.commit({b"a": b"1"})
    bob.sync(ann)
    mine = ann.commit({b"a": b"2", b"kept": b"k"})
    before = ann.tags()
    author, far = f"eve~{'0' * 16}", 250_000_000_000_000

    def hear(*moves: Move, head: bytes | None = None) -> Met:
        link = Liar(ann, bob, None)
        link.data = message_text([], map(move_text, moves))[0] if head is None else head
        return meet(ann.session, NAME, lambda: link, "bob")

    for head in (b"", b"\0" * 100, b"{}\n", b'{"stratum-moves": 2}\n', message_text([])[0] + b"{}\n"):
        assert hear(head=head).error is not None
    assert hear(Move(TAG, first, ("7" * 64,), author, far)).moves_in == 0  # nobody knows on what it was made
    assert ann.tags() == before
    # One that names what nobody has moves nothing, until somebody gets along without it.
    (root,) = [name for name in in_book(ann) if not in_book(ann)[name].parents]
    assert any("stays" in note for note in hear(Move(TAG, "8" * 64, (root,), author, far)).notes)
    assert ann.tags() == before
    decide(ann.session, NAME, TAG, prefer="ours")
    # What is another stratum's is not had by naming it, from either side.
    secret = ann.commit({b"secret": b"s"}, tag="v1")
    ann.store.tags.set("vault", "latest", secret)
    ann.store.tags.remove(NAME, "v1")
    (ann.store.layout.moves(NAME) / "commits").write_bytes(b"")  # as it never was here
    shown = ann.tags()
    named = Move(TAG, secret, (root,), author, far + 1)
    hear(named)
    assert ann.tags() == shown
    data = message_text([], [move_text(replace(named, time=far + 2))])[0]
    assert b"stays where it is" in Exchanging(ann.session).receive(NAME, "bob", data, writable=True)
    assert ann.tags() == shown
    decide(ann.session, NAME, TAG, prefer="ours")
    # Who may write can take what is ours from the tag, and from nowhere else.
    known = in_book(ann)
    heads = known.keys() - {parent for move in known.values() for parent in move.parents}
    hear(Move(TAG, first, tuple(sorted(heads)), author, far))
    assert ann.tags()[TAG] == first
    assert ann.store.commits.exists(mine)
    assert mine in {entry.old for entry in ann.store.reflog.read(NAME)}
    collect(ann.store, Retention(), {})
    assert ann.store.commits.exists(mine)
    ann.put(mine)
    ann.sync(cleo)
    assert cleo.files() == {b"a": b"2", b"kept": b"k"}


def in_book(host: Host) -> dict[str, Move]:
    """The moves of the tag."""
    return host.store.moves.read(NAME).line(TAG).moves
