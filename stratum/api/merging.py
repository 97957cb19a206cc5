"""The moves of a stratum in the hand: what this store's tags did is noted, what others did is carried out.

What a tag was moved **on** decides what is merged and what is replaced. Who moves a tag by hand, or back to an earlier
commit, has seen what it named. A commit goes on with the work of this host: what came of peers and is not in the
commit's history was not seen by who made it, so it is merged with the commit, not undone. So it is with an import, of
which only what this host did before counts: what is imported does not change because a peer did something.

The tag ``conflict-HOST-TAG-ID`` keeps the other side of each conflict, for as long as that is not settled. Such tags
follow from the moves of others, and are none themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import NotFoundError, StratumError
from stratum.frozen import frozen
from stratum.store.ancestry import Ancestry
from stratum.store.clock import utc_now
from stratum.store.lineage import Recorded
from stratum.store.moves import Shown, state_text
from stratum.store.retention import parse_time
from stratum.sync.merging import Merger, Value
from stratum.sync.moves import LINEAGE_MAX, PARENTS_MAX, Move, move_id, move_text

if TYPE_CHECKING:
    from stratum.store.moves import Book, State
    from stratum.store.reflog import ReflogEntry
    from stratum.sync.line import Heads, Line
    from stratum.sync.moves import Settled
    from stratum.tree.model import Directory

BY_SYNC = "sync"
"""How ``why`` begins in the reflog where a tag was put where the moves say."""
_BY_HAND = ("tag ", "merge ", BY_SYNC)
_BY_GC = "gc:"
_IMPORT, _PATCH = "import ", "import of "
_KEY = 17
"""Characters of an author: the key's ID, with the mark before it."""
_CONFLICT_TAG = re.compile(r"conflict-.+-[0-9a-f]{8}")


@frozen
class Carried:
    """A tag that was put where the moves say: what it named and names (None: it was not there, it is removed), and how
    many moves were merged."""

    tag: str
    old: str | None
    new: str | None
    merged: int


@frozen
class Outcome:
    """What became of the tags; ``failed`` is tag -> why it could not be put where the moves say; ``lacking`` are the
    commits that this would have taken, of the ``lacking_tags``."""

    carried: list[Carried]
    failed: dict[str, str]
    lacking: set[str]
    lacking_tags: set[str]


@contextmanager
def in_hand(session: Session, name: str) -> Iterator[Hand]:
    """Take the moves of stratum ``name``, which exists, in the hand for the block: locked, read once. ``BusyError``."""
    with session.store.locks.moves(name):
        yield Hand(session, name)


def own_author(session: Session) -> str:
    """NAME~KEYID of this host, as moves have it."""
    from stratum.peers.keys import key_id

    card = session.create_store().peers.own()
    return f"{card.name}~{key_id(card.certificate)}"


def same_key(author: str, other: str) -> bool:
    """Whether two authors are one host, whatever it calls itself."""
    return author[-_KEY:] == other[-_KEY:]


class Hand:
    """The moves of a stratum, whose lock is held. First those of others are added, if any came, then what this store's
    tags did is noted, then all is carried out."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self.author = own_author(session)
        self._session = session
        self._store = session.store
        self.book: Book = self._store.moves.read(name)
        self._state: State = self.book.state
        self._written = b"" if self.book.is_lost else state_text(self._state)
        self._ancestry = Ancestry(self._store)
        self._trees: dict[str, Directory] = {}
        self._tags: dict[str, str] = {}
        self._ours = set(self._store.moves.commits(name))
        self._unnoted: dict[str, _UnknownError] = {}

    @property
    def heads(self) -> list[str]:
        """The newest moves of all tags."""
        return [name for line in self.book.lines.values() for name in line.heads]

    # What this store's tags did

    def note(self, *, new_tags: bool = True) -> int:
        """Make a move of what each tag did since it was looked at last; how many these are. Durable.

        Without ``new_tags``, tags that were never looked at wait until it is known what others say of them.
        """
        store, state = self._store, self._state
        self._tags = store.tags.list(self.name)
        for tag, shown in state.next.items():
            if self._tags.get(tag) == shown.commit:
                state.tags[tag] = shown
        state.next.clear()
        entries: list[ReflogEntry] = []
        made: list[tuple[str, bytes]] = []
        for tag in sorted({*self._tags, *state.tags} if new_tags else state.tags):
            before, commit = state.tags.get(tag), self._tags.get(tag)
            if _CONFLICT_TAG.fullmatch(tag) or commit == (before.commit if before else None):
                continue
            entries = entries or store.reflog.read(self.name)
            told = (entry for entry in reversed(entries) if entry.which == tag and entry.kind == "tag")
            last = next((entry for entry in told if entry.new == commit), None)
            try:
                made += self._noted(tag, commit, last)
            except _UnknownError as exc:
                self._unnoted[tag] = exc
        self.own(self._tags.values())
        store.moves.append(self.name, made)
        self._write()
        return len(made)

    def own(self, commits: Iterable[str]) -> None:
        """Have commits be the stratum's: what a move names counts only where it is one of these, as somebody may name
        what is another stratum's. Durable."""
        new = [commit for commit in dict.fromkeys(commits) if commit not in self._ours]
        self._store.moves.own(self.name, new)
        self._ours.update(new)

    def has(self, commit: str) -> bool:
        """Whether a commit is here, and the stratum's."""
        return commit in self._ours and self._store.commits.exists(commit)

    def _noted(self, tag: str, commit: str | None, last: ReflogEntry | None) -> list[tuple[str, bytes]]:
        """The move of a tag that names ``commit`` now, as ``last`` tells; none where it shows moves that are known."""
        line, seen, tags = self.book.line(tag), self._seen(tag), self._state.tags
        why = last.why if last is not None else ""
        if commit is None and why.startswith(_BY_GC):
            return []  # a rule of this store let it go, nobody removed it
        parents = self._made_on(line, seen, commit, why)
        at = line.at(commit) if commit is not None else None
        if at is not None and (at == parents or tag not in tags):
            tags[tag] = Shown(commit, at)
            return []
        for name in line.heads:
            move = line.moves[name]
            if (move.commit, move.parents, move.author) == (commit, parents, self.author):  # noted, and then killed
                tags[tag] = Shown(commit, (name,))
                return []
        name, text = self._move(tag, commit, parents, when=last.when if last is not None else "")
        tags[tag] = Shown(commit, (name,))
        return [(name, text)]

    def work(self, tag: str, commit: str, *, is_new: bool) -> None:
        """Note the last commit of a worktree as a move of the tag, which it was not set to, made on what the worktree
        has. One that is not new was noted, unless it is not known at all."""
        line = self.book.line(tag)
        parents, at = self._made_on(line, self._seen(tag), commit, ""), line.at(commit)
        self.own([commit])
        if at is None or (is_new and at != parents):
            self._store.moves.append(self.name, [self._move(tag, commit, parents)])

    def _seen(self, tag: str) -> Heads:
        """The moves that the tag showed when it was looked at last."""
        shown = self._state.tags.get(tag)
        return self.book.line(tag).known(shown.heads) if shown is not None else ()

    def _made_on(self, line: Line, seen: Heads, commit: str | None, why: str) -> Heads:
        """What a move of the tag to ``commit`` was made on."""
        if commit is None or why.startswith(_BY_HAND):
            return seen
        own = [name for name in line.before(seen) if same_key(line.moves[name].author, self.author)]
        history = () if why.startswith(_IMPORT) and not why.startswith(_PATCH) else self._history(line, commit)
        return line.newest(line.before([*history, *own])) or seen

    def _history(self, line: Line, commit: str) -> Heads:
        """The moves that showed the commit or an ancestor of it, as far as is known."""
        known = self._ancestry.lineage(commit, limit=10 * LINEAGE_MAX).distance
        return line.known(name for ancestor in known for name in line.first_at(ancestor))

    def _move(
        self,
        tag: str,
        commit: str | None,
        parents: Heads,
        *,
        when: str = "",
        settles: Sequence[Settled] = (),
        over: str | None = None,
    ) -> tuple[str, bytes]:
        """A move of this host, added to its line: ID and text. ``over`` stands for what merging ``parents`` gives where
        that is not to be had; ``when`` (RFC 3339) is now where it says nothing."""
        line, lineage, value, parents = self.book.line(tag), [], Value(None), parents[:PARENTS_MAX]
        if len(parents) > 1:
            value = self._value(tag, line, parents, over)
        elif not parents and commit is not None:
            lineage = [*self._ancestry.lineage(commit, limit=LINEAGE_MAX + 1).distance][1:]
        move = Move(
            tag=tag,
            commit=commit,
            parents=parents,
            author=self.author,
            time=int((parse_time(when) or utc_now()).timestamp() * 1000),
            over=value.commit,
            lineage=tuple(lineage),
            conflicts=value.conflicts,
            settles=tuple(settles),
        )
        text = move_text(move)
        name = move_id(text)
        line.add(name, move)
        return name, text

    def _value(self, tag: str, line: Line, parents: Heads, over: str | None) -> Value:
        """What ``parents`` show, as a commit."""
        shown = self._state.tags.get(tag)
        if shown is not None and shown.heads == parents:
            return Value(shown.commit, None, shown.contested)
        if over is not None:
            return Value(over)
        value = Merger(line, self._tree).value(parents)
        return Value(self._commit(line, parents, value), None, value.conflicts)

    # What others did

    def add(self, moves: Iterable[tuple[str, bytes, Move]]) -> int:
        """Take the moves of others; how many are new. Those whose parents are not known are left out. Durable."""
        new = []
        for name, text, move in moves:
            line = self.book.line(move.tag)
            if name not in line and line.add(name, move):
                new.append((name, text))
        self._store.moves.append(self.name, new)
        return len(new)

    def carry_out(self, why: str = BY_SYNC) -> Outcome:
        """Put each tag where the moves say, and keep the other sides of conflicts by tags.

        What cannot be, as a commit is not here or somebody moves the tag meanwhile, is told, and done the next time.
        """
        outcome, state = Outcome([], {}, set(), set()), self._state
        for tag, line in sorted(self.book.lines.items()):
            if line.heads != self._seen(tag) and not _CONFLICT_TAG.fullmatch(tag):
                with self._failing(outcome, tag):
                    if tag in self._unnoted:
                        raise self._unnoted[tag]
                    value = Merger(line, self._tree).value(line.heads)
                    state.next[tag] = Shown(self._commit(line, line.heads, value), line.heads, value.conflicts)
            self._trees.clear()
        self._write()
        for tag, shown in sorted(state.next.items()):
            old = self._tags.get(tag)
            with self._failing(outcome, tag):
                self._put(tag, old, shown.commit, why)
                state.tags[tag] = shown
                if old != shown.commit:
                    outcome.carried.append(Carried(tag, old, shown.commit, len(shown.heads)))
        state.next.clear()
        self._keep_others(outcome, why)
        self._write()
        return outcome

    @contextmanager
    def _failing(self, outcome: Outcome, tag: str) -> Iterator[None]:
        try:
            yield
        except StratumError as exc:
            outcome.failed[tag] = exc.message
            if isinstance(exc, _UnknownError):
                outcome.lacking.add(exc.commit)
                outcome.lacking_tags.add(tag)

    def _put(self, tag: str, old: str | None, new: str | None, why: str) -> None:
        if new is not None:
            self._store.tags.set(self.name, tag, new, expected=old, why=why)
            self._tags[tag] = new
        elif old is not None:
            self._store.tags.remove(self.name, tag, expected=old, why=why)
            del self._tags[tag]

    def _keep_others(self, outcome: Outcome, why: str) -> None:
        """Have a tag for the other side of each conflict, and none for what is settled."""
        wanted: dict[str, str] = {}
        for tag, line in sorted(self.book.lines.items()):
            others = {conflict.other: line.moves[conflict.other] for conflict in self.book.conflicts(tag)}
            wanted.update({conflict_tag(move, name): move.commit for name, move in others.items() if move.commit})
        known = self._state.conflicts
        if self.book.is_lost:
            known = {tag: commit for tag, commit in self._tags.items() if _CONFLICT_TAG.fullmatch(tag)}
        for tag in sorted({*wanted, *known}):
            old, new = self._tags.get(tag), wanted.get(tag)
            with self._failing(outcome, tag):
                if old != new:
                    if new is not None and not self.has(new):
                        raise _UnknownError(new)
                    self._put(tag, old, new, why)
        self._state.conflicts.clear()
        self._state.conflicts.update(wanted)

    def _tree(self, commit: str) -> Directory:
        if not self.has(commit):
            raise _UnknownError(commit)
        if commit not in self._trees:
            self._trees[commit] = self._store.commits.open_tree(commit)
        return self._trees[commit]

    def _commit(self, line: Line, heads: Heads, value: Value) -> str | None:
        """The commit of what was merged, made where there is none, which is here."""
        if value.tree is None or value.commit is not None:
            if value.commit is not None and not self.has(value.commit):
                raise _UnknownError(value.commit)
            return value.commit
        made_of = [commit for name in line.ordered(heads) if (commit := line.moves[name].commit) is not None]
        return self.write(value.tree, made_of, "merge", self._trees.get(made_of[0]))

    def write(self, tree: Directory, made_of: Sequence[str], what: str, like: Directory | None = None) -> str:
        """The commit of a tree that was made of those of some commits, the last of which is its parent; all others are
        its ancestors too. ``like`` is that of one of them, whose directories it shares."""
        store, known = self._store, list(reversed(made_of))
        with store.begin(f"syncing {self.name}") as tx:
            made = store.commits.write(
                tx,
                tree,
                parent=known[0],
                message=f"{what} of {self.name}",
                origin={"kind": what},
                timestamp=self._session.now(),
                near=known[0],
                known=like,
            )
            others = tuple(commit for commit in known if commit != made.metadata_hash)
            self._ancestry.record(tx, made.metadata_hash, Recorded(others))
            self.own([made.metadata_hash])
        return made.metadata_hash

    # Settling, and who knows what

    def lacked(self, there: Iterable[str]) -> Iterator[tuple[str, bytes, Move]]:
        """The moves that somebody lacks who has just these and what they were made on: ID, text and move, parents
        first."""
        known = set(there)
        for line in self.book.lines.values():
            for name in line.since(known):
                yield name, move_text(line.moves[name]), line.moves[name]

    def decide(self, tag: str, commit: str | None, settles: Sequence[Settled], *, over: str | None = None) -> None:
        """Make a move of the tag to ``commit`` (None: to what it names) on all that is known, and have ``settles``
        count no more. ``carry_out`` comes after."""
        heads = self.book.line(tag).heads
        move = self._move(tag, commit or self._tags.get(tag), heads, settles=settles, over=over)
        self._store.moves.append(self.name, [move])

    def set_peer(self, peer: str, heads: Iterable[str]) -> None:
        """Note the newest moves that a peer has, too."""
        given = set(heads)
        self._state.peers[peer] = tuple(sorted(name for line in self.book.lines.values() for name in line.known(given)))
        self._write()

    def peer(self, peer: str) -> Heads:
        """The newest moves that both had when they talked last."""
        return self._state.peers.get(peer, ())

    def _write(self) -> None:
        text = state_text(self._state)
        if text != self._written:
            self._store.moves.write(self.name, text)
            self._written = text


class _UnknownError(NotFoundError):
    """A commit that is not here."""

    def __init__(self, commit: str) -> None:
        super().__init__(
            f"commit {commit} is needed to merge what others did, and is not here",
            hint="sync with a peer that has it, or settle it: stratum merge NAME:TAG --ours",
        )
        self.commit = commit


def conflict_tag(move: Move, name: str) -> str:
    """The tag that keeps what the move has, as the other side of a conflict."""
    return f"conflict-{move.host[:40]}-{move.tag[:60]}-{name[:8]}"
