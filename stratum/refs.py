"""The ref grammar: how strata, tags, worktrees and commits are named.

::

    NAME                     [A-Za-z0-9][A-Za-z0-9._-]{0,127}; not 64 hex digits, no '.lock' ending
    NAME:TAG  NAME:HASH      a tag first, then a commit hash or a unique prefix of at least 7 hex digits
    NAME+WORKTREE            never together with ':'
    NAME+WORKTREE@CHANGE     what the worktree showed after that operation of its history: a number from 1 on
    NAME@CHANGE              the same of its worktree ``main``
    HASH                     a commit, where no stratum has that name

NAME alone is the stratum as it is now: its worktree ``main`` where a worktree is meant, and where a commit is meant the
last commit of ``main``, or the tag ``latest`` where there is no ``main``. It is so in every verb.

Parsing is purely textual; which tag or commit is meant is decided by ``store.resolve``.
"""

from __future__ import annotations

import re

from stratum.errors import UsageError, quoted
from stratum.frozen import frozen

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HASH = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{7,64}")
_CHANGE = re.compile(r"[1-9][0-9]{0,14}")

DEFAULT_WORKTREE = "main"
DEFAULT_TAG = "latest"


@frozen
class Ref:
    """A parsed reference.

    ``name`` is the stratum (it may turn out to be a bare commit hash or prefix when nothing has that name);
    at most one of ``tag`` (a tag, or a commit hash or prefix after ':') and ``worktree`` is set. With ``change``, never
    beside a tag, a state that the worktree (``main`` where none is set) once showed is meant: a commit, and no
    worktree.
    """

    name: str
    tag: str | None = None
    worktree: str | None = None
    change: int | None = None

    def __str__(self) -> str:
        text = self.name
        if self.worktree is not None:
            text = f"{self.name}+{self.worktree}"
        elif self.tag is not None:
            text = f"{self.name}:{self.tag}"
        return text if self.change is None else f"{text}@{self.change}"

    @property
    def bare(self) -> bool:
        """Whether only a NAME (or HASH) was given."""
        return self.tag is None and self.worktree is None and self.change is None

    @property
    def live(self) -> bool:
        """Whether it is NAME+WORKTREE, as the worktree is now."""
        return self.worktree is not None and self.change is None


def check_name(name: str, what: str = "stratum name") -> str:
    """Return ``name`` if it may name a stratum, a tag or a worktree, else raise ``UsageError``.

    ``what`` names the kind in the message. The same grammar holds for all three, so every name is also
    safe as one path component.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} is not a valid {what}",
            hint="a name starts with a letter or digit and has up to 128 letters, digits, '.', '_' and '-'",
        )
    if name.endswith(".lock"):
        raise UsageError(f"{quoted(name)} is not a valid {what}: names ending in '.lock' are reserved")
    if _HASH.fullmatch(name):
        raise UsageError(f"{quoted(name)} is not a valid {what}: 64 hex digits always mean a commit")
    return name


def is_name(text: str) -> bool:
    """Whether ``check_name`` accepts ``text``."""
    return _NAME.fullmatch(text) is not None and not text.endswith(".lock") and not is_hash(text)


def is_hash(text: str) -> bool:
    """Whether ``text`` is a full commit hash: 64 lower-case hex digits."""
    return _HASH.fullmatch(text) is not None


def is_hash_prefix(text: str) -> bool:
    """Whether ``text`` may be a commit hash or a prefix of one (7 to 64 lower-case hex digits)."""
    return _PREFIX.fullmatch(text) is not None


def is_change(text: str) -> bool:
    """Whether ``text`` may be a CHANGE: a number from 1 on."""
    return _CHANGE.fullmatch(text) is not None


def parse_ref(text: str) -> Ref:
    """Parse ``text`` by the grammar above; ``UsageError`` says what is wrong with it.

    A 64-digit hash is returned as ``Ref(name=HASH)``; the caller's resolver gives it meaning.
    """
    if "@" in text:
        return _parse_change(text)
    if ":" in text and "+" in text:
        raise UsageError(
            f"{quoted(text)} names both a tag (':') and a worktree ('+')",
            hint="use NAME:TAG for a commit or NAME+WORKTREE for a worktree, not both",
        )
    if ":" in text:
        name, _, tag = text.partition(":")
        return Ref(check_name(name), tag=tag if is_hash(tag) else check_name(tag, "tag"))
    if "+" in text:
        name, _, worktree = text.partition("+")
        return Ref(check_name(name), worktree=check_name(worktree, "worktree name"))
    return Ref(text if is_hash(text) else check_name(text))


def _parse_change(text: str) -> Ref:
    """``NAME+WORKTREE@CHANGE`` or ``NAME@CHANGE``."""
    whose, _, number = text.partition("@")
    if not is_change(number):
        raise UsageError(
            f"{quoted(text)} names no CHANGE after the '@'",
            hint="write NAME+WORKTREE@CHANGE, with a number that 'stratum history NAME+WORKTREE' shows",
        )
    ref = parse_ref(whose)
    if ref.tag is not None:
        raise UsageError(
            f"{quoted(text)}: tags and commits do not change, and have no CHANGE", hint=f"leave '@{number}' out"
        )
    return Ref(check_name(ref.name), worktree=ref.worktree, change=int(number))


def parse_lasting(text: str) -> Ref:
    """``parse_ref`` for who is given refs that have to mean the same for long: no state of a worktree's history, which
    ends with the history. ``UsageError``."""
    ref = parse_ref(text)
    if ref.change is not None:
        raise UsageError(
            f"{ref} is a state in a worktree's history, which is not possible here",
            hint=f"give it a tag first ('stratum tag {ref} TAG') and name {ref.name}:TAG",
        )
    return ref


def parse_tag(text: str, default: str = DEFAULT_TAG) -> tuple[str, str]:
    """(stratum, tag) of NAME or NAME:TAG, as what a verb sets; ``default`` is the tag of NAME alone. ``UsageError``."""
    ref = parse_ref(text)
    if ref.change is not None:
        raise UsageError(f"{text} is a state of a worktree; what is set here is a tag", hint="give NAME or NAME:TAG")
    if ref.worktree is not None:
        raise UsageError(f"{text} is a worktree; what is set here is a tag", hint="give NAME or NAME:TAG")
    return check_name(ref.name), check_name(ref.tag or default, "tag")


def parse_new_tag(text: str) -> tuple[str | None, str]:
    """(stratum, tag) of TAG or NAME:TAG, as what a verb sets; None for the stratum that it is about. ``UsageError``."""
    name, colon, tag = text.partition(":")
    return (check_name(name), check_name(tag, "tag")) if colon else (None, check_name(text, "tag"))
