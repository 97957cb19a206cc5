"""``merge``: what is in conflict in a stratum that is synced, and settling it for all.

Whose version is **ours** does not depend on which one is shown: it is that of this host, where one side is, else the
one that is shown. Settling is a move as any other, so it counts everywhere; what two hosts settle differently at the
same time is in conflict again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from stratum.api.merging import conflict_tag, in_hand, own_author, same_key
from stratum.errors import ConflictError, NotFoundError, UsageError
from stratum.frozen import frozen
from stratum.store.clock import rfc3339
from stratum.sync.settling import settled

if TYPE_CHECKING:
    from stratum.api.merging import Hand
    from stratum.api.session import Session
    from stratum.store.moves import Book
    from stratum.sync.line import Line
    from stratum.sync.merging import Conflict
    from stratum.tree.model import Directory

Prefer = Literal["ours", "theirs", "both"]


@frozen
class Side:
    """One side of a conflict: whose version, the commit that has it (None: the tag was removed), when it became that of
    the tag (RFC 3339), and whether this host did that."""

    host: str
    commit: str | None
    when: str
    own: bool


@frozen
class Contest:
    """A path (raw bytes; with a slash at its end: all that is below) of a tag that is in conflict. ``kept`` is the tag
    with the version that is not shown, ``move`` the ID of its move."""

    tag: str
    path: bytes
    shown: Side
    other: Side
    kept: str
    move: str

    @property
    def ours(self) -> Side:
        """The side of this host, or that which is shown."""
        return self.other if self.other.own and not self.shown.own else self.shown


@frozen
class Merged:
    """What was settled, and the tags that were set: tag -> (old, new commit)."""

    settled: list[Contest]
    tags: dict[str, tuple[str | None, str | None]]


def conflicts(session: Session, name: str, tag: str | None = None, paths: Sequence[bytes] = ()) -> list[Contest]:
    """What is in conflict in stratum ``name``, in a tag, at or below paths. ``NotFoundError``."""
    store = session.store
    store.namespaces.check(name)
    if tag is not None:
        store.tags.get(name, tag)
    book = store.moves.read(name)
    return _contests(book, own_author(session), tag, paths) if book.lines else []


def _contests(book: Book, author: str, tag: str | None, paths: Sequence[bytes]) -> list[Contest]:
    return [
        _contest(line, each, conflict, author)
        for each, line in sorted(book.lines.items())
        if tag in (None, each)
        for conflict in book.conflicts(each)
        if not paths or any((conflict.path.rstrip(b"/") + b"/").startswith(path.rstrip(b"/") + b"/") for path in paths)
    ]


def _contest(line: Line, tag: str, conflict: Conflict, author: str) -> Contest:
    def side(name: str) -> Side:
        move = line.moves[name]
        when = datetime.fromtimestamp(move.time / 1000, timezone.utc)
        return Side(move.host, move.commit, rfc3339(when), same_key(move.author, author))

    kept = conflict_tag(line.moves[conflict.other], conflict.other)
    return Contest(tag, conflict.path, side(conflict.shown), side(conflict.other), kept, conflict.other)


def decide(
    session: Session, name: str, tag: str | None = None, paths: Sequence[bytes] = (), *, prefer: Prefer
) -> Merged:
    """Give each path in conflict the version that is preferred; with ``both`` it keeps the one that is shown, and the
    other one is beside it, as NAME.conflict-HOST.

    Where what others did cannot be merged at all, as nobody has a commit that this takes, the tag is settled as a
    whole: it stays as it is with ``ours``, and names what others moved it to last with ``theirs``. ``NotFoundError``
    where there is nothing to be settled, ``ConflictError`` where somebody moves a tag meanwhile; what reading a commit
    raises.
    """
    store = session.store
    store.namespaces.check(name)
    with in_hand(session, name) as hand:
        hand.note()
        lacking = hand.carry_out().lacking_tags & hand.book.lines.keys()
        before, found = store.tags.list(name), _contests(hand.book, hand.author, tag, paths)
        stuck = [] if paths else [each for each in sorted(lacking) if tag in (None, each)]
        if not found and not stuck:
            where = f"{name}:{tag}" if tag is not None else name
            raise NotFoundError(f"nothing is in conflict in {where}{' there' if paths else ''}")
        for each in sorted({contest.tag for contest in found}):
            _decide(hand, session, each, [contest for contest in found if contest.tag == each], prefer)
        for each in stuck:
            _decide_whole(hand, session, each, prefer)
        concerned = sorted({contest.tag for contest in found} | {*stuck})
        failed = hand.carry_out("merge").failed
        for each in concerned:
            if each in failed:
                raise ConflictError(f"{name}:{each} stays where it is: {failed[each]}")
        after = store.tags.list(name)
    return Merged(found, {each: (before.get(each), after.get(each)) for each in concerned})


def _decide(hand: Hand, session: Session, tag: str, found: Sequence[Contest], prefer: Prefer) -> None:
    """Settle some conflicts of one tag."""
    commits = session.store.commits
    shown = session.store.tags.get(hand.name, tag)
    before = tree = commits.open_tree(shown)
    others: dict[str, Directory] = {}
    for contest in sorted(found, key=lambda contest: (contest.other.when, contest.move)):
        shown_is_meant = (contest.ours is contest.shown) == (prefer == "ours")
        commit = contest.other.commit
        if commit is None or (prefer != "both" and shown_is_meant):
            continue
        if commit not in others:
            others[commit] = commits.open_tree(commit)
        tree = settled(tree, others[commit], contest.path, both=prefer == "both", host=contest.other.host)
    commit = hand.write(tree, [shown], "merge", before) if tree is not before else shown
    hand.decide(tag, commit, [(contest.path, contest.move) for contest in found])


def _decide_whole(hand: Hand, session: Session, tag: str, prefer: Prefer) -> None:
    """Settle a tag whose moves cannot be merged."""
    if prefer == "both":
        raise UsageError(
            f"{hand.name}:{tag} cannot have both: a commit that merging takes is not here",
            hint="sync with a peer that has it; or take one: --ours what the tag names, --theirs what others gave it",
        )
    line = hand.book.line(tag)
    moves = [line.moves[name] for name in line.ordered(line.heads)]
    there = [move.commit for move in moves if move.commit is not None and not same_key(move.author, hand.author)]
    here = [commit for commit in there if session.store.commits.exists(commit)]
    commit = session.store.tags.find(hand.name, tag) if prefer == "ours" else (here[-1] if here else None)
    if commit is None:
        raise NotFoundError(f"{hand.name}:{tag} cannot be settled so: there is no such version here")
    hand.decide(tag, commit, (), over=commit)
