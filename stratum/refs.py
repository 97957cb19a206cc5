"""The ref grammar: how strata, tags, worktrees and commits are named.

::

    NAME                     [A-Za-z0-9][A-Za-z0-9._-]{0,127}; not 64 hex digits, no '.lock' ending
    NAME:TAG  NAME:HASH      a tag first, then a commit hash or a unique prefix of at least 7 hex digits
    NAME+WORKTREE            never together with ':'
    NAME+WORKTREE@CHANGE     what the worktree showed after that operation of its history: a number from 1 on
    NAME@CHANGE              the same of its worktree ``main``
    HASH                     a commit, where no stratum has that name
    REF@{WHEN}               what a tag, a worktree or NAME named at that moment, by the reflog
    REF~N  REF~  REF^        the Nth commit before it, or the one before; these can follow each other and ``@{WHEN}``
    REF:/PATH  NAME:TAG:PATH a file or directory in any of these (``split_ref_path``)

NAME alone is the stratum as it is now: its worktree ``main`` where a worktree is meant, and where a commit is meant the
last commit of ``main``, or the tag ``latest`` where there is no ``main``. It is so in every verb.

Parsing is purely textual; which tag or commit is meant is decided by ``store.resolve``.
"""

from __future__ import annotations

import re

from stratum.errors import UsageError, quoted
from stratum.frozen import frozen, replace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HASH = re.compile(r"[0-9a-f]{64}")
# Compiled when they are first used: most refs have none of these.
_PREFIX = r"[0-9a-f]{7,64}"
_CHANGE = r"[1-9][0-9]{0,14}"
_MOMENT = r"@\{[^{}]*\}"
_PAST = r"([^@~^]*)(?:@\{([^{}]{1,100})\})?((?:~(?:[1-9][0-9]{0,6})?|\^)*)"
_STEP = r"~([0-9]*)|\^"

DEFAULT_WORKTREE = "main"
DEFAULT_TAG = "latest"


@frozen
class Ref:
    """A parsed reference.

    ``name`` is the stratum (it may turn out to be a bare commit hash or prefix when nothing has that name);
    at most one of ``tag`` (a tag, or a commit hash or prefix after ':') and ``worktree`` is set. With ``change``, never
    beside a tag, a state that the worktree (``main`` where none is set) once showed is meant: a commit, and no
    worktree. So it is with ``when`` (words for a moment) and ``back`` (generations before that), never beside
    ``change``.
    """

    name: str
    tag: str | None = None
    worktree: str | None = None
    change: int | None = None
    when: str | None = None
    back: int = 0

    def __str__(self) -> str:
        text = self.name
        if self.worktree is not None:
            text = f"{self.name}+{self.worktree}"
        elif self.tag is not None:
            text = f"{self.name}:{self.tag}"
        if self.change is not None:
            text += f"@{self.change}"
        if self.when is not None:
            text += f"@{{{self.when}}}"
        return f"{text}~{self.back}" if self.back else text

    @property
    def past(self) -> bool:
        """Whether it is a commit that is reached from a tag, worktree or commit: before it, or named by it once."""
        return self.when is not None or self.back > 0

    @property
    def bare(self) -> bool:
        """Whether only a NAME (or HASH) was given."""
        return self.tag is None and self.worktree is None and self.change is None and not self.past

    @property
    def live(self) -> bool:
        """Whether it is NAME+WORKTREE, as the worktree is now."""
        return self.worktree is not None and self.change is None and not self.past


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
    return re.fullmatch(_PREFIX, text) is not None


def is_change(text: str) -> bool:
    """Whether ``text`` may be a CHANGE: a number from 1 on."""
    return re.fullmatch(_CHANGE, text) is not None


def parse_ref(text: str) -> Ref:
    """Parse ``text`` by the grammar above; ``UsageError`` says what is wrong with it.

    A 64-digit hash is returned as ``Ref(name=HASH)``; the caller's resolver gives it meaning.
    """
    if "~" in text or "^" in text or "@{" in text:
        return _parse_past(text)
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


def _parse_past(text: str) -> Ref:
    """A ref with ``@{WHEN}``, ``~N`` or ``^`` behind it."""
    found = re.fullmatch(_PAST, text)
    if found is None:
        raise UsageError(
            f"{quoted(text)} is not a ref",
            hint="write REF~2 or REF^ for a commit before it, REF@{yesterday} or REF@{2h} for what it named then",
        )
    whose, when, steps = found.groups()
    ref = parse_ref(whose)
    back = sum(int(count or 1) for count in re.findall(_STEP, steps))
    when = when.strip() if when is not None else None
    if when == "":
        raise UsageError(
            f"{quoted(text)} says no moment in '@{{}}'", hint="write REF@{yesterday} or REF@{10 minutes ago}"
        )
    if when is not None and is_hash(ref.tag or ref.name):
        raise UsageError(f"{quoted(text)}: a hash always names the same commit", hint=f"leave '@{{{when}}}' out")
    return replace(ref, when=when, back=back)


def split_ref_path(text: str) -> tuple[str, str | None]:
    """(ref, path) of ``REF:/PATH`` or ``NAME:TAG:PATH``; (``text``, None) of any other text, a path of the file system
    too. Neither is looked at: ``parse_ref`` says what is wrong with a ref.

    What follows the first ':' is a PATH where it begins with '/', else a tag, behind which a second ':' begins a PATH.
    An empty one, as in ``NAME:TAG:``, is all of it. What is in ``@{...}`` separates nothing.
    """
    masked = re.sub(_MOMENT, lambda found: "@" + "." * (len(found[0]) - 1), text) if "@{" in text else text
    first, slash = masked.find(":"), masked.find("/")
    if first <= 0 or text[0] == "." or 0 <= slash < first:
        return text, None
    if slash == first + 1:
        return text[:first], text[slash:]
    second = masked.find(":", first + 1)
    if second < 0 or 0 <= slash < second:
        return text, None
    return text[:second], text[second + 1 :] or "/"


def parse_lasting(text: str) -> Ref:
    """``parse_ref`` for who is given refs that have to mean the same for long: no state of a worktree's history, which
    ends with the history, and nothing that moves with the clock or another commit. ``UsageError``."""
    ref = parse_ref(text)
    if ref.past:
        raise UsageError(
            f"{ref} is found anew each time that somebody asks, which is not possible here",
            hint=f"give it a tag first (stratum tag '{ref}' TAG) and name {ref.name}:TAG",
        )
    if ref.change is not None:
        raise UsageError(
            f"{ref} is a state in a worktree's history, which is not possible here",
            hint=f"give it a tag first ('stratum tag {ref} TAG') and name {ref.name}:TAG",
        )
    return ref


def parse_tag(text: str, default: str = DEFAULT_TAG) -> tuple[str, str]:
    """(stratum, tag) of NAME or NAME:TAG, as what a verb sets; ``default`` is the tag of NAME alone. ``UsageError``."""
    ref = parse_ref(text)
    if ref.past:
        raise UsageError(f"{text} is an earlier commit; what is set here is a tag", hint="give NAME or NAME:TAG")
    if ref.change is not None:
        raise UsageError(f"{text} is a state of a worktree; what is set here is a tag", hint="give NAME or NAME:TAG")
    if ref.worktree is not None:
        raise UsageError(f"{text} is a worktree; what is set here is a tag", hint="give NAME or NAME:TAG")
    return check_name(ref.name), check_name(ref.tag or default, "tag")


def parse_new_tag(text: str) -> tuple[str | None, str]:
    """(stratum, tag) of TAG or NAME:TAG, as what a verb sets; None for the stratum that it is about. ``UsageError``."""
    name, colon, tag = text.partition(":")
    return (check_name(name), check_name(tag, "tag")) if colon else (None, check_name(text, "tag"))
