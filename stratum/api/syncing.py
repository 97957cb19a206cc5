"""``sync``: the histories of a stratum here and at peers become one, in both directions.

What travels are moves of tags (``sync.moves``), and the commits that they name, with those that came before. What tags
name then follows from the moves (``api.merging``). Commits come before the moves that name them, and a tag moves when
all that it needs is here, so wherever this is cut short, what is there is whole, and the next time goes on.

No lock is held while a peer is waited for, so two hosts may sync with each other at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from stratum.api.merging import BY_SYNC, Carried, in_hand, same_key
from stratum.errors import DamagedError, DeniedError, NotFoundError, StratumError, UsageError
from stratum.frozen import frozen
from stratum.refs import check_name
from stratum.sync.wire import message_text, read_message

if TYPE_CHECKING:
    from stratum.api.merging import Hand
    from stratum.api.session import Session
    from stratum.oci.access import Access
    from stratum.oci.target import Target
    from stratum.progress import Progress
    from stratum.store.transaction import Transaction
    from stratum.sync.moves import Move
    from stratum.sync.wire import Message
    from stratum.transfer.artifact import Manifest

    Moves = Sequence[tuple[str, bytes, Move]]

_ROUNDS = 10
"""How often both sides go over what the other one did meanwhile."""
_PAGES_MAX = 200
_HISTORY_MAX = 10_000
"""Commits that are brought for being the history of one."""


class Peer(Protocol):
    """Where moves and commits are exchanged with another host. Raises ``StratumError``."""

    name: str

    def moves(self, stratum: str) -> bytes: ...

    def send_moves(self, stratum: str, data: bytes) -> bytes: ...

    def pull(self, tx: Transaction, stratum: str, commit: str) -> None:
        """Bring a commit here, which ``tx`` holds from then on."""

    def push(self, stratum: str, commit: str) -> None:
        """Send a commit there."""

    def close(self) -> None: ...

    @property
    def lazy(self) -> bool:
        """Whether a pull leaves contents where they are."""


@frozen
class Met:
    """What came of a sync with one peer: moves and commits that came and went, tags that were moved here, and what is
    to be said. ``error`` is why it ended early."""

    peer: str
    moves_in: int = 0
    moves_out: int = 0
    commits_in: int = 0
    commits_out: int = 0
    carried: tuple[Carried, ...] = ()
    notes: tuple[str, ...] = ()
    error: StratumError | None = None


def sync(
    session: Session,
    name: str,
    peers: Sequence[str] = (),
    *,
    access: Access,
    lazy: bool = False,
    progress: Progress | None = None,
) -> Iterator[Met]:
    """Sync stratum ``name``, which is made where it is not here, with each of ``peers``, by default with those of
    ``peers_of``.

    A peer that fails keeps none from being synced with; what it left undone is done the next time. ``lazy``: contents
    of files stay with the peers until they are read. ``NotFoundError`` where there is no such peer, ``UsageError``
    where there is none to sync with.
    """
    check_name(name)
    store = session.create_store()
    for peer in peers:
        store.peers.get(peer)
    chosen = peers or peers_of(session, name)
    if not chosen:
        known = store.namespaces.exists(name)
        raise UsageError(
            f"it is not said with whom to sync {name}{'' if known else ', which is not here yet'}",
            hint=f"name a peer: stratum sync {name} PEER; 'stratum peer list' shows those that are known (one that may "
            "only read is to be named)",
        )
    for peer in chosen:
        yield meet(session, name, partial(reach, session, peer, access, lazy, progress), peer)


def reach(session: Session, peer: str, access: Access, lazy: bool = False, progress: Progress | None = None) -> Peer:
    """A peer over the network, for ``meet``. ``UsageError`` where it is not known where it listens."""
    return _Remote(session, peer, access, lazy, progress)


def peers_of(session: Session, name: str) -> list[str]:
    """The peers to sync ``name`` with: who may write to it, and those with whom it is not shared and was synced before,
    as far as their address is known. What who may only read has made of it comes here where that peer is named."""
    store = session.store
    before = store.moves.read(name).state.peers if store.namespaces.exists(name) else {}
    known = sorted(store.peers.now().peers.items())
    return [peer for peer, each in known if each.address and each.strata.get(name, peer in before)]


def meet(session: Session, name: str, opened: Callable[[], Peer], who: str) -> Met:
    """Sync stratum ``name`` with one peer, which ``opened`` gives; what came of it, also where that is an error."""
    job = _Meeting(session, name, who)
    try:
        peer = opened()
        try:
            job.run(peer)
        finally:
            peer.close()
    except StratumError as exc:
        job.error = exc
    return job.met()


class _Meeting:
    """One sync with one peer."""

    def __init__(self, session: Session, name: str, who: str) -> None:
        self._session = session
        self._store = session.store
        self._name = name
        self._who = who
        self._counts = [0, 0, 0, 0]
        self._carried: list[Carried] = []
        self._notes: dict[str, None] = {}
        self._lacking: set[str] = set()
        self._there: set[str] = set()
        self._may_write = True
        self.error: StratumError | None = None

    def met(self) -> Met:
        """What came of it so far."""
        counts = self._counts[0], self._counts[1], self._counts[2], self._counts[3]
        return Met(self._who, *counts, tuple(self._carried), tuple(self._notes), self.error)

    def run(self, peer: Peer) -> None:
        """Go over what either side lacks until neither lacks anything."""
        found = self._ask(peer)  # which also tells whether there is such a stratum
        ensure(self._session, self._name)
        with self._store.begin(f"sync of {self._name}", apart=True) as tx:
            for _ in range(_ROUNDS):
                self._bring(peer, tx, found)
                out = self._take(found)
                found = self._send(peer, out) if out else []
                if not found:
                    break
        if self._lacking:
            self._notes[f"peer {peer.name} has not all that is needed; another peer may have it"] = None

    # Moves

    def _ask(self, peer: Peer) -> Moves:
        """All moves that the peer has and this host lacks."""
        have: set[str] = set()
        if self._store.moves.exists(self._name):  # else the peer is asked first whether it shares it at all
            with in_hand(self._session, self._name) as hand:
                hand.note(new_tags=False)
                have.update(hand.heads, hand.peer(self._who))
        data = message_text(have)[0]
        try:
            return self._pages(peer, have, data)
        except DeniedError:
            self._may_write = False
        answer = self._read(peer, peer.moves(self._name))
        if answer.more:
            raise StratumError(
                f"peer {peer.name} has more moves of {self._name} than it tells those who may only read",
                hint=f"on {peer.name}: stratum share {self._name} --with PEER --write",
            )
        return answer.moves

    def _pages(self, peer: Peer, have: set[str], data: bytes) -> Moves:
        """What the peer answers to ``data``, which says that this host has ``have``, and what it sends further."""
        found: list[tuple[str, bytes, Move]] = []
        for _ in range(_PAGES_MAX):
            answer = self._read(peer, peer.send_moves(self._name, data))
            found += answer.moves
            if not answer.more or not answer.moves:
                return found
            older = {parent for _, _, move in found for parent in move.parents}
            have = have | {name for name, _, _ in found if name not in older}
            data = message_text(have)[0]
        raise StratumError(f"peer {peer.name} sends more and more moves of {self._name}")

    def _read(self, peer: Peer, data: bytes) -> Message:
        answer = read_message(data, f"peer {peer.name}")
        if answer.note:
            self._notes[f"peer {peer.name}: {answer.note}"] = None
        self._there = set(answer.have)
        return answer

    def _take(self, found: Moves) -> Moves:
        """Add what came, carry it out; what the peer lacks."""
        with in_hand(self._session, self._name) as hand:
            self._tell_of_own(hand, found)
            self._counts[0] += hand.add(found)
            hand.note()
            outcome = hand.carry_out(f"{BY_SYNC} with {self._who}")
            self._carried += outcome.carried
            self._lacking = outcome.lacking
            for tag, why in outcome.failed.items():
                self._notes[f"{self._name}:{tag} stays where it is: {why}"] = None
            hand.set_peer(self._who, self._there)
            return list(hand.lacked(self._there))

    def _tell_of_own(self, hand: Hand, found: Moves) -> None:
        """Say where moves come back that this very store made and does not know any more."""
        if any(same_key(move.author, hand.author) and name not in hand.book.line(move.tag) for name, _, move in found):
            note = f"this store is older than peer {self._who} knows it, as one from a backup is: nothing is lost"
            self._notes[note] = None

    def _send(self, peer: Peer, out: Moves) -> Moves:
        """Give the peer the moves that it lacks, and the commits before; what it has besides."""
        found: list[tuple[str, bytes, Move]] = []
        try:
            if not self._may_write:
                raise DeniedError("")
            for commit in self._outgoing(out):
                peer.push(self._name, commit)
                self._counts[3] += 1
            have, left = self._there | {name for name, _, _ in out}, [text for _, text, _ in out]
            while left:
                data, count = message_text(have, left)
                found += self._pages(peer, have, data)
                self._counts[1] += count
                left = left[count:]
        except DeniedError:
            self._notes[f"peer {peer.name} lets this host only read {self._name}, and gets nothing from here"] = None
            return []
        return found

    # Commits

    def _outgoing(self, out: Moves) -> list[str]:
        """The commits that moves name, with what came before and the peer cannot know, the oldest first."""
        commits, found = self._store.commits, dict[str, None]()
        book = self._store.moves.read(self._name)
        known = {
            line.moves[name].commit for line in book.lines.values() for name in line.before(line.known(self._there))
        }
        for _, _, move in reversed(out):
            commit = move.commit
            while commit is not None and commit not in found and commit not in known and len(found) < _HISTORY_MAX:
                if not commits.exists(commit):
                    break
                found[commit] = None
                commit = commits.parent(commit)
        return list(reversed(found))

    def _bring(self, peer: Peer, tx: Transaction, found: Moves) -> None:
        """Have the commits that moves name, and those that came before, as far as the peer has them."""
        wanted = {move.commit: None for _, _, move in reversed(found) if move.commit is not None}
        wanted.update(dict.fromkeys(self._lacking))
        wanted.update({move.over: None for _, _, move in found if move.over is not None})
        for commit in wanted:
            self._pull(peer, tx, commit)
        for commit in wanted:
            self._history(peer, tx, commit)

    def _pull(self, peer: Peer, tx: Transaction, commit: str) -> bool:
        """Whether a commit is here, or came."""
        with self._store.locks.store():
            ours = commit in self._store.moves.commits(self._name) and self._store.commits.exists(commit)
            if ours and (peer.lazy or not self._store.sources.is_partial(commit)):
                tx.hold(commit)
                return True
        try:
            peer.pull(tx, self._name, commit)
        except NotFoundError:
            return ours
        with self._store.locks.moves(self._name):
            self._store.moves.own(self._name, [commit])
        self._counts[2] += 1
        return True

    def _history(self, peer: Peer, tx: Transaction, commit: str) -> None:
        """Bring what came before a commit, up to what is here."""
        commits = self._store.commits
        for _ in range(_HISTORY_MAX):
            parent = commits.parent(commit) if commits.exists(commit) else None
            if parent is None or commits.exists(parent) or not self._pull(peer, tx, parent):
                break
            commit = parent


class _Remote:
    """A peer over the network."""

    def __init__(self, session: Session, name: str, access: Access, lazy: bool, progress: Progress | None) -> None:
        from stratum.oci.peerclient import PeerClient

        self.name = name
        self._session = session
        self._access = access
        self.lazy = lazy
        self._progress = progress
        self._known: set[bytes] | None = None  # the objects of the stratum's commits, when they were asked for
        self._client = PeerClient(name, access)

    def moves(self, stratum: str) -> bytes:
        return self._client.moves(stratum)

    def send_moves(self, stratum: str, data: bytes) -> bytes:
        return self._client.send_moves(stratum, data)

    def pull(self, tx: Transaction, stratum: str, commit: str) -> None:
        from stratum.api.realizing import bring
        from stratum.oci.places import open_source
        from stratum.transfer.pull import pulled
        from stratum.tree.contents import objects_of

        store, target = self._session.store, self._target(stratum, commit)
        with (
            open_source(target, self._access) as remote,
            pulled(
                store,
                remote,
                target.reference,
                access=self._access,
                jobs=self._session.config.jobs,
                lazy=True,
                progress=self._progress,
                accept=partial(_check_commit, commit, self.name),
                proving=partial(self._unproven, stratum),
            ),
        ):
            tx.hold(commit)
        objects = objects_of(store.commits.dump(commit))
        with store.locks.store():
            missing = store.residence.missing(objects)
        if missing and not self.lazy:
            bring(self._session, missing, commit, self._access, self._progress)
        if self._known is not None:
            self._known.update(objects)

    def _unproven(self, stratum: str, objects: Mapping[bytes, int]) -> Mapping[bytes, int]:
        """Those of the objects that are here, and in no commit of the stratum: the peer has to show that it has them,
        or who knows an object's name could have what is another stratum's."""
        from stratum.api.registry import Repository

        store = self._session.store
        with store.locks.store():
            missing = store.residence.missing(objects)
            here = {digest: size for digest, size in objects.items() if digest not in missing}
            if here and self._known is None:
                self._known = Repository(self._session, stratum).objects()
        known = self._known or set()
        return {digest: size for digest, size in here.items() if digest not in known}

    def push(self, stratum: str, commit: str) -> None:
        from stratum.transfer.push import push

        session = self._session
        push(
            session.store,
            commit,
            self._target(stratum, commit),
            self._access,
            jobs=session.config.jobs,
            progress=self._progress,
        )

    def _target(self, stratum: str, commit: str) -> Target:
        from stratum.oci.target import parse_target

        return parse_target(f"peer://{self.name}/{stratum}:{commit}")

    def close(self) -> None:
        self._client.close()


def _check_commit(commit: str, peer: str, manifest: Manifest) -> None:
    if manifest.commit != commit:
        raise DamagedError(f"peer {peer} gave commit {manifest.commit} where {commit} was asked for")


class Exchanging:
    """The other side of a sync: what this host answers to a peer that it knows. For many threads."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def offered(self, stratum: str, peer: str, *, writable: bool) -> bytes:
        """All moves, as far as they fit a message. ``NotFoundError`` where there is no such stratum."""
        self._session.store.namespaces.check(stratum)
        with in_hand(self._session, stratum) as hand:
            hand.note()
            return _reply(hand, set())

    def receive(self, stratum: str, peer: str, data: bytes, *, writable: bool) -> bytes:
        """Take the moves in a message of ``peer``, where it may write, and answer with what it lacks.

        ``NotFoundError`` where there is no such stratum, ``DeniedError`` where it may not write, ``DamagedError`` for
        what is no message.
        """
        store, message = self._session.store, read_message(data, f"peer {peer}")
        if message.moves and not writable:
            raise DeniedError(f"peer {peer} may only read {stratum}")
        if writable:
            ensure(self._session, stratum)  # who may push there may be the first
        store.namespaces.check(stratum)
        with in_hand(self._session, stratum) as hand:
            hand.add(message.moves)
            named = (move.commit for _, _, move in message.moves if move.commit is not None)
            pushed = store.repositories.of_commit
            hand.own(commit for commit in named if not hand.has(commit) and pushed(stratum, commit) is not None)
            hand.note()
            outcome = hand.carry_out(f"{BY_SYNC} with {peer}")
            hand.set_peer(peer, message.have)
            note = "; ".join(f"{stratum}:{tag} stays where it is there: {why}" for tag, why in outcome.failed.items())
            return _reply(hand, {*message.have, *(name for name, _, _ in message.moves)}, note)


def _reply(hand: Hand, there: set[str], note: str = "") -> bytes:
    return message_text(hand.heads, (text for _, text, _ in hand.lacked(there)), note)[0]


def ensure(session: Session, name: str) -> None:
    """Make stratum ``name`` where it is missing."""
    store = session.store
    if not store.namespaces.exists(name):
        with store.begin(f"making {name}") as tx, store.locks.ref(name):
            store.namespaces.ensure(tx, name)
