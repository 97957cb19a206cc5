"""Patterns of what is left out, in the grammar of ``.gitignore`` (gitignore(5)). Pure.

::

    *.log        a name, in the directory that the pattern is of or anywhere below
    /build       with a slash at its beginning or inside, a path from that directory on
    cache/       a slash at the end: directories only
    a/**/b       '**/' is any directories or none, '/**' all that is inside, '*' and '?' no slash, [a-z] one of these
    !keep.log    not to be left out after all, unless a directory above is left out
    # text       a comment; '\\#', '\\!' and '\\ ' are the characters themselves

Of several patterns that fit, the last one decides. A pattern that is malformed fits nothing. What ``git check-ignore``
says is the measure, also where its manual is silent. Matching takes time in proportion to the length of the path, at
most squared, whatever the pattern: patterns may come from a source that nobody trusts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stratum.frozen import frozen

PATTERN_MAX = 4096
"""A longer pattern fits nothing, as no path is longer."""

_BOM = b"\xef\xbb\xbf"
_SPECIAL = b"*?[\\"
_OTHER = b"[^/]"
_ASCII = range(128)
_CLASSES = {
    b"alnum": bytes(c for c in _ASCII if chr(c).isalnum()),
    b"alpha": bytes(c for c in _ASCII if chr(c).isalpha()),
    b"blank": b" \t",
    b"cntrl": bytes([*range(32), 127]),
    b"digit": b"0123456789",
    b"graph": bytes(range(33, 127)),
    b"lower": bytes(range(97, 123)),
    b"print": bytes(range(32, 127)),
    b"punct": bytes(c for c in range(33, 127) if not chr(c).isalnum()),
    b"space": b" \t\n\r\x0b\x0c",
    b"upper": bytes(range(65, 91)),
    b"xdigit": b"0123456789abcdefABCDEF",
}


class _MalformedError(Exception):
    """A pattern that fits nothing."""


@frozen
class Pattern:
    """One pattern: what it says (``negative``: not to be left out), for directories only or for all, and what it fits:
    a name or a path ``exactly``, or what ends with ``suffix``, or what ``regex`` fits as a whole."""

    negative: bool
    directories: bool
    is_path: bool
    exactly: bytes | None = None
    suffix: bytes | None = None
    regex: re.Pattern[bytes] | None = None

    def fits(self, path: bytes, name: bytes, directory: bool) -> bool:
        """Whether it fits what has this path below the pattern's directory, and this name."""
        if self.directories and not directory:
            return False
        text = path if self.is_path else name
        if self.exactly is not None:
            return text == self.exactly
        if self.suffix is not None:
            return text.endswith(self.suffix)
        return self.regex is not None and self.regex.fullmatch(text) is not None


class Rules:
    """Patterns in their order, asked together."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._patterns = list(patterns)
        self._exact: dict[tuple[bool, bytes], list[int]] = {}
        self._others: list[int] = []
        for number, pattern in enumerate(self._patterns):
            if pattern.exactly is not None:
                self._exact.setdefault((pattern.is_path, pattern.exactly), []).append(number)
            else:
                self._others.append(number)
        self._others.reverse()

    def __len__(self) -> int:
        return len(self._patterns)

    def verdict(self, path: bytes, name: bytes, directory: bool) -> bool | None:
        """Whether it is to be left out; None where no pattern fits. ``path`` is relative to the patterns' directory."""
        last = -1
        for key in ((False, name), (True, path)):
            for number in reversed(self._exact.get(key, ())):
                if directory or not self._patterns[number].directories:
                    last = max(last, number)
                    break
        for number in self._others:
            if number < last:
                break
            if self._patterns[number].fits(path, name, directory):
                last = number
                break
        return None if last < 0 else not self._patterns[last].negative


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a file that are patterns. Every text is such a file."""
    lines = data.removeprefix(_BOM).split(b"\n")
    return [line.removesuffix(b"\r") for line in lines if line and not line.startswith(b"#")]


def parse_patterns(lines: Iterable[bytes]) -> list[Pattern]:
    """The patterns that lines are, without those that can fit nothing."""
    return [pattern for line in lines if (pattern := parse_pattern(line)) is not None]


def parse_pattern(line: bytes) -> Pattern | None:
    """The pattern that a line is, and no comment; None where it can fit nothing."""
    text = _without_spaces(line.partition(b"\0")[0])
    negative = text.startswith(b"!")
    text = text.removeprefix(b"!")
    directories = text.endswith(b"/")
    text = text.removesuffix(b"/")
    is_path = b"/" in text
    text = text.removeprefix(b"/")
    if not text or len(text) > PATTERN_MAX:
        return None
    plain = _plain_length(text)
    if plain == len(text):
        return Pattern(negative, directories, is_path, exactly=text)
    if not is_path and text[:1] == b"*" and _plain_length(text[1:]) == len(text) - 1:
        return Pattern(negative, directories, is_path, suffix=text[1:])
    try:
        regex = re.compile(_Translation(text, plain, is_path).regex())
    except _MalformedError:
        return None
    return Pattern(negative, directories, is_path, regex=regex)


def _without_spaces(line: bytes) -> bytes:
    """The line without spaces at its end, but for one after a backslash."""
    end = at = 0
    while at < len(line):
        escaped = line[at : at + 1] == b"\\"
        at += 2 if escaped else 1
        if escaped or line[at - 1 : at] != b" ":
            end = at
    return line[:end]


def _plain_length(text: bytes) -> int:
    """How many characters at the beginning stand for themselves."""
    return next((at for at, char in enumerate(text) if char in _SPECIAL), len(text))


def _set_regex(chosen: set[int]) -> bytes:
    """The regex of one of these characters, by its ranges: the library takes long over sets that are spelled out."""
    ranges: list[list[int]] = []
    for char in sorted(chosen):
        if ranges and char == ranges[-1][1] + 1:
            ranges[-1][1] = char
        else:
            ranges.append([char, char])
    return b"[%b]" % b"".join(b"\\x%02x-\\x%02x" % (first, last) for first, last in ranges)


class _Translation:
    """A pattern on its way to a regular expression. What need not be tried again in another way is in a group that is
    left for good once it fitted, so that many stars cost no more than one."""

    def __init__(self, text: bytes, plain: int, is_path: bool) -> None:
        self._text = text
        self._plain = plain
        self._is_path = is_path
        self._groups = 0

    def regex(self) -> bytes:
        """The regular expression, for the whole of a path or name."""
        chunks = self._chunks()
        parts = []
        for number, (lead, pieces) in enumerate(chunks):
            last = number == len(chunks) - 1
            body = self._segments(pieces)
            if not lead:
                parts.append(body)
            else:
                parts.append(lead + body if last else self._for_good(lead + body))
        return b"(?s:" + b"".join(parts) + b")"

    def _for_good(self, regex: bytes) -> bytes:
        self._groups += 1
        return b"(?=(?P<g%d>%b))(?P=g%d)" % (self._groups, regex, self._groups)

    # Taking apart

    def _chunks(self) -> list[tuple[bytes, list[bytes | None]]]:
        """What is between the '**': (what they stand for, single characters as regexes; None for a star)."""
        text, at = self._text, 0
        chunks: list[tuple[bytes, list[bytes | None]]] = [(b"", [])]
        while at < len(text):
            char = text[at : at + 1]
            if char == b"*":
                at = self._stars(at, chunks)
                continue
            if char == b"?":
                piece, at = _OTHER, at + 1
            elif char == b"[":
                piece, at = self._set(at + 1)
            elif char == b"\\":
                if at + 1 == len(text):
                    raise _MalformedError
                piece, at = re.escape(text[at + 1 : at + 2]), at + 2
            else:
                piece, at = re.escape(char), at + 1
            chunks[-1][1].append(piece)
        return chunks

    def _stars(self, start: int, chunks: list[tuple[bytes, list[bytes | None]]]) -> int:
        """Take the stars at ``start``; where to go on."""
        text = self._text
        end = start
        while text[end : end + 1] == b"*":
            end += 1
        # git looks at what is behind the plain beginning alone, so stars there are at the beginning, too.
        begins = start in (0, self._plain) or text[start - 1 : start] == b"/"
        rest = text[end:]
        if end - start < 2 or not self._is_path or not begins or not (not rest or rest.startswith((b"/", b"\\/"))):
            chunks[-1][1].append(None)
            return end
        if not rest:
            chunks.append((b".*", []))
        elif rest.startswith(b"/"):
            chunks.append((b"(?:.*?/)??", []))
            end += 1
        else:
            chunks.append((b"(?:.*?/)", []))
            end += 2
        return end

    def _set(self, at: int) -> tuple[bytes, int]:
        """(regex, where it ends) of the set of characters whose '[' is before ``at``."""
        text = self._text
        negated = text[at : at + 1] in (b"!", b"^")
        at += negated
        members: set[int] = set()
        before = -1  # the character that a range may begin with
        first = True
        while first or text[at : at + 1] != b"]":
            first = False
            char = self._char(at)
            if char == 0x5C:
                before, at = self._char(at + 1), at + 2
                members.add(before)
            elif char == 0x2D and before >= 0 and text[at + 1 : at + 2] not in (b"", b"]"):
                at += 1
                if self._char(at) == 0x5C:
                    at += 1
                members.update(range(before, self._char(at) + 1))
                before, at = -1, at + 1
            elif char == 0x5B and text[at + 1 : at + 2] == b":":
                name, end = self._class(at)
                if name is None:
                    members.add(char)
                    before, at = char, at + 1
                else:
                    members.update(name)
                    before, at = -1, end
            else:
                members.add(char)
                before, at = char, at + 1
        chosen = set(range(256)) - members if negated else members
        chosen.discard(0x2F)
        if not chosen:
            raise _MalformedError
        return _set_regex(chosen), at + 1

    def _class(self, at: int) -> tuple[bytes | None, int]:
        """(members, where it ends) of the [:class:] that begins at ``at``; no members where it is none."""
        end = self._text.find(b"]", at + 2)
        if end < 0:
            raise _MalformedError
        if end - at < 3 or self._text[end - 1 : end] != b":":
            return None, at
        members = _CLASSES.get(self._text[at + 2 : end - 1])
        if members is None:
            raise _MalformedError
        return members, end + 1

    def _char(self, at: int) -> int:
        if at >= len(self._text):
            raise _MalformedError
        return self._text[at]

    # Putting together

    def _segments(self, pieces: Sequence[bytes | None]) -> bytes:
        """The regex of pieces, which may go over several directories."""
        parts = []
        segment: list[bytes | None] = []
        for piece in pieces:
            segment.append(piece)
            if piece == b"/":
                parts.append(self._segment(segment))
                segment = []
        if segment:
            parts.append(self._segment(segment))
        return b"".join(parts)

    def _segment(self, pieces: Sequence[bytes | None]) -> bytes:
        runs: list[list[bytes]] = [[]]
        for piece in pieces:
            if piece is None:
                runs.append([])
            else:
                runs[-1].append(piece)
        out = [b"".join(runs[0])]
        out += [self._for_good(b"[^/]*?" + b"".join(run)) for run in runs[1:-1] if run]
        if len(runs) > 1:
            out.append(b"[^/]*" + b"".join(runs[-1]))
        return b"".join(out)


def verdict_of(rules: Sequence[tuple[bytes, Rules]], path: bytes, directory: bool) -> bool:
    """Whether what has ``path`` is left out by ``rules``, each of a directory (a path with a slash at its end, or
    nothing), those that count most first."""
    name = path[path.rfind(b"/") + 1 :]
    for base, of_directory in rules:
        found = of_directory.verdict(path[len(base) :], name, directory)
        if found is not None:
            return found
    return False
