"""C4M texts read: canonical ones, and those that are laid out for people; with their patches. Pure.

Everything that the specification rejects is rejected, with the number of the line. Where it contradicts itself or is
silent:

- The ID between two sections has to be that of all that was said above it, or that of the section above it. Whatever
  comes after the ID of a manifest that is not at hand cannot be checked so.
- A directory is what has a slash behind its name. A mode that says something else is rejected; ten dashes are read as
  the null that they once were there.
- A backslash in a name begins an escape, or is rejected. Bytes come from escapes only after that: none can bring a
  slash, a NUL, or the names ``.`` and ``..``.
- One indentation is that of the first line that has any; others have to be multiples of it.

What a hostile text may take is bounded by its length: lines, entries and depth have limits, and nothing is looked at
again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from stratum.c4.ids import EMPTY, ID_LENGTH, C4Id, is_id, parse
from stratum.c4.model import SIZE_MAX, UNGROUPED, UNKNOWN, Manifest, Node
from stratum.c4.names import read_name
from stratum.c4.patches import apply
from stratum.c4.sequence import id_of_list, ranges
from stratum.c4.times import read_time
from stratum.c4.writer import id_of
from stratum.errors import UsageError, quoted

LINE_MAX = 1 << 20
"""Bytes of a line that is an entry."""
LIST_MAX = ID_LENGTH * 100_000
"""Bytes of a line that lists the IDs of a sequence."""
ENTRIES_MAX = 8_000_000
EXPANDED_MAX = 4_000_000
"""Members of all sequences, and entries of listings that are looked up, that a text may stand for: one line is enough
for many."""
DEPTH_MAX = 2048
"""A path has no more components: Linux takes none with over 4096 bytes."""

_MODE = r"-|[-dlpsbc][r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_TIMES = (
    r"-|0|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9]{2}:[0-9]{2})",
    rf"(?:[A-Z][a-z]{{2}} +)?[A-Z][a-z]{{2}} +[0-9]{{1,2}} +{_CLOCK} +[^ ]+ +[^ ]+",
)
_ENTRY = re.compile(rf"( *)({_MODE}) +({'|'.join(_TIMES)}) +(-|[0-9][0-9,]*) +([^ ].*)")
_SIZE = re.compile(r"0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+")
_TOKEN = re.compile(r"(?:[^ \\]|\\.)+|\\")
_GROUP = re.compile(r"->([1-9][0-9]{0,8})")
_PLACE = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]*:(?!/)[^ ]*")
_RANGE = re.compile(r"\\.|\[([0-9,:-]+)\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_PERMISSIONS = {"r": 1, "w": 1, "x": 1, "s": 1, "t": 1}


class Section:
    """What is between two IDs on lines of their own: ``before`` is the ID above it, None for the first of a text that
    begins with entries; ``line`` is where the ID or the first entry is."""

    __slots__ = ("before", "line", "manifest")

    def __init__(self, before: C4Id | None, line: int) -> None:
        self.before = before
        self.line = line
        self.manifest = Manifest()


def split_lines(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    """The lines of a text that comes in pieces, without their line feeds. Raises UsageError for one that is too
    long."""
    rest, number = b"", 0
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        yield from lines
        number += len(lines)
        if len(rest) > LIST_MAX:
            raise UsageError(f"{what}, line {number + 1}: over {LIST_MAX} bytes")
    if rest:
        yield rest


def read(lines: Iterable[bytes], what: str, *, base: Manifest | None = None) -> Manifest:
    """The manifest that a text says, all its patches applied. ``what`` names the text in errors.

    Where the text begins with the ID of another manifest, that is ``base``; without one, the entries that change it
    are what is returned, with ``base`` set. Raises UsageError for all that is not C4M.
    """
    sections = read_sections(lines, what)
    for section in sections:
        if section.before is not None and not section.manifest.children:
            raise UsageError(
                f"{what}, line {section.line}: a patch without entries",
                hint="what ends with the ID of its result, as 'c4 diff' writes it, is read by 'stratum c4 patch'",
            )
    return resolve(sections, what, base=base)


def resolve(sections: list[Section], what: str, *, base: Manifest | None = None) -> Manifest:
    """The manifest after all patches, each ID on the way checked where it can be. A section without entries is only
    that. Raises UsageError."""
    first = sections[0] if sections else Section(None, 1)
    if base is None and first.before == EMPTY:
        base = Manifest()
    state: Manifest | None = None
    if first.before is None:
        state = first.manifest
    elif base is not None:
        _must_be(first, base, what, None)
        state = apply(base, first.manifest, what)
    result = first.manifest if state is None else state
    above = first.manifest
    for section in sections[1:]:
        if state is not None:
            _must_be(section, state, what, above)
        if section.manifest.children:
            result = apply(result, section.manifest, what, unknown_base=state is None)
            state = None if state is None else result
        above = section.manifest
    if state is None and first.before is not None:
        result.base = first.before
    return result


def _must_be(section: Section, state: Manifest, what: str, above: Manifest | None) -> None:
    """Raises UsageError unless the ID above ``section`` is that of ``state``, or of the section above it."""
    found = id_of(state)
    if section.before != found and (above is None or id_of(above) != section.before):
        raise UsageError(
            f"{what}, line {section.line}: {section.before} is not the ID of what is above it, which is {found}",
            hint="the patch was made of another manifest, or this text was changed",
        )


def read_sections(lines: Iterable[bytes], what: str) -> list[Section]:
    """The sections of a text as they stand there. An ID at the end, of the result, begins one without entries; two IDs
    one after the other, as where one patch ends and the next begins, have to be the same and begin one. Raises
    UsageError."""
    return _Parser(what).read(lines)


class _Parser:
    def __init__(self, what: str) -> None:
        self._what = what
        self._number = 0
        self._width = 0
        self._entries = 0
        self._section: Section | None = None
        self._sections: list[Section] = []
        self._open: list[dict[bytes, Node] | None] = []
        """The children of the last entry of each depth, from the top; None where it is no directory."""

    def read(self, lines: Iterable[bytes]) -> list[Section]:
        for self._number, line in enumerate(lines, 1):
            self._line(line)
        if self._section is not None:
            self._sections.append(self._section)
        return self._sections

    def _error(self, why: str, hint: str = "") -> UsageError:
        return UsageError(f"{self._what}, line {self._number}: {why}", hint=hint)

    def _line(self, raw: bytes) -> None:
        if b"\r" in raw:
            raise self._error("a carriage return; lines end with a line feed only")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._error("it is not UTF-8") from None
        bare = text.strip(" ")
        if not bare:
            return
        if bare.startswith("c4"):
            self._ids(bare)
            return
        if len(raw) > LINE_MAX:
            raise self._error(f"over {LINE_MAX} bytes")
        if self._number == 1 and text.startswith("\ufeff"):
            raise self._error("a byte order mark")
        if (found := _CONTROL.search(text)) is not None:
            raise self._error(f"a control character, {found[0]!r}")
        if bare.startswith("@"):
            raise self._error(f"a directive, {quoted(bare)}; there are none")
        self._add(text)

    def _ids(self, text: str) -> None:
        """A line of nothing but IDs: the boundary of a section, or the list of a sequence."""
        size = len(text)
        if size == ID_LENGTH and is_id(text):
            self._boundary(C4Id(text))
            return
        ids = [text[start : start + ID_LENGTH] for start in range(0, size, ID_LENGTH)]
        if size < 2 * ID_LENGTH or not all(map(is_id, ids)):
            raise self._error(f"{quoted(text[: 2 * ID_LENGTH])} is neither a C4 ID nor a list of them, and no entry")
        members = tuple(map(C4Id, ids))
        self._current().manifest.lists[id_of_list(members)] = members

    def _boundary(self, c4id: C4Id) -> None:
        section = self._section
        if section is not None and not section.manifest.children and (self._sections or section.before):
            if section.before != c4id:
                raise self._error("a patch without entries: another ID is on the line before")
            section.line = self._number
            return
        if section is not None:
            self._sections.append(section)
        self._section = Section(c4id, self._number)
        self._open = []

    def _current(self) -> Section:
        if self._section is None:
            self._section = Section(None, self._number)
        return self._section

    def _add(self, text: str) -> None:
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise self._error(f"over {ENTRIES_MAX} entries")
        indent = len(text) - len(text.lstrip(" "))
        node = self._entry(text)
        depth = self._depth(indent)
        del self._open[depth:]
        siblings = self._current().manifest.children if not depth else self._open[depth - 1]
        if siblings is None:
            raise self._error("it is indented under what is no directory")
        key = node.key
        other = key[:-1] if key.endswith(b"/") else key + b"/"
        if key in siblings or (other in siblings and not self._patching):
            raise self._error(
                f"{quoted(node.name)} is there twice; first in line {(siblings.get(key) or siblings[other]).line}"
            )
        siblings[key] = node
        self._open.append(node.children)

    @property
    def _patching(self) -> bool:
        return self._current().before is not None

    def _depth(self, indent: int) -> int:
        if not indent:
            return 0
        self._width = self._width or indent
        depth, rest = divmod(indent, self._width)
        if rest:
            raise self._error(f"it is indented by {indent} spaces, not by a multiple of {self._width}")
        if depth > len(self._open):
            raise self._error("it is indented under no entry")
        if depth > DEPTH_MAX:
            raise self._error(f"over {DEPTH_MAX} levels")
        return depth

    def _entry(self, text: str) -> Node:
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise self._error(self._mistake(text))
        _, mode, time, size, rest = found.groups()
        try:
            seconds = read_time(" ".join(time.split()))
        except ValueError as exc:
            raise self._error(f"{quoted(time)} is not a time: {exc}") from None
        kind, bits = _mode(mode)
        node = self._named(rest.rstrip(" "), kind, bits)
        node.time, node.size = seconds, self._size(size)
        return node

    def _mistake(self, text: str) -> str:
        """What is wrong with a line that has not the form of an entry."""
        fields = text.split()
        if not re.fullmatch(_MODE, fields[0]):
            return f"{quoted(fields[0])} is not a mode, such as -rw-r--r-- or -"
        if len(fields) < 4:
            return "an entry has a mode, a time, a size and a name"
        return f"after the mode comes no time, size and name: {quoted(text.strip())}"

    def _size(self, text: str) -> int | None:
        if text == "-":
            return None
        if _SIZE.fullmatch(text) is None:
            raise self._error(f"{quoted(text)} is not a size: digits, with a comma between thousands or without")
        digits = text.replace(",", "")
        if len(digits) > 19 or int(digits) > SIZE_MAX:
            raise self._error(f"{quoted(text)} is over what a file can have")
        return int(digits)

    def _named(self, rest: str, kind: str, mode: int | None) -> Node:
        """What comes after the size: name, link and ID."""
        name, _, c4id = rest.partition(" ")
        if "\\" not in rest and (c4id == "-" or is_id(c4id)):
            return self._node(name, kind, mode, None if c4id == "-" else C4Id(c4id))
        spans = [found.span() for found in _TOKEN.finditer(rest)]
        tokens = [rest[start:end] for start, end in spans]
        c4id_of = self._id_at_end(tokens, kind)
        if c4id_of is not None:
            tokens.pop(), spans.pop()
        operator = next((place for place, token in enumerate(tokens) if place and _is_operator(token)), len(tokens))
        node = self._node(rest[: spans[operator - 1][1]], kind, mode, c4id_of or None)
        if operator < len(tokens):
            after = spans[operator + 1 :]
            self._link(node, tokens[operator], rest[after[0][0] : after[-1][1]] if after else "")
        return node

    def _id_at_end(self, tokens: list[str], kind: str) -> C4Id | None:
        """The ID in the last field, ``""`` for a null one, or None where it was left out."""
        last = tokens[-1]
        if len(tokens) == 1:
            return None
        if tokens[-2] == "->" and (kind == "l" or _PLACE.fullmatch(last)):
            return None
        if last == "-":
            return C4Id("")
        if last.startswith("c4") and not _PLACE.fullmatch(last):
            try:
                return parse(last)
            except UsageError as exc:
                raise self._error(exc.message) from None
        return None

    def _node(self, written: str, kind: str, mode: int | None, c4id: C4Id | None) -> Node:
        name, sequence = self._name(written.removesuffix("/"))
        if written.endswith("/"):
            if kind not in {"d", UNKNOWN} and not (kind == "-" and mode == 0):
                raise self._error(
                    f"the mode of {quoted(name)} is not that of a directory, but its name ends with a slash"
                )
            if kind != "d":
                kind, mode = "d", None
        elif kind == "d":
            raise self._error(f"the name of the directory {quoted(name)} ends with no slash")
        return Node(name, kind, mode, None, None, c4id, sequence=sequence, line=self._number)

    def _name(self, written: str) -> tuple[bytes, tuple[bytes, str, bytes] | None]:
        sequence = None
        try:
            if "[" in written:
                found = next((found for found in _RANGE.finditer(written) if found[1] is not None), None)
                if found is not None:
                    ranges(found[1])
                    sequence = (read_name(written[: found.start()]), found[1], read_name(written[found.end() :]))
            name = b"%s[%s]%s" % (sequence[0], sequence[1].encode(), sequence[2]) if sequence else read_name(written)
        except ValueError as exc:
            raise self._error(f"{quoted(written)} is not a name: {exc}", "brackets are written \\[ and \\]") from None
        if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
            raise self._error(f"{quoted(name)} is not a name but a path, or no name at all")
        return name, sequence

    def _link(self, node: Node, operator: str, text: str) -> None:
        """Take the link of an entry: ``text`` is what is between the operator and the ID."""
        if node.kind == "l":
            if operator != "->" or not text:
                raise self._error(f"the symbolic link {quoted(node.name)} has no target behind '->'")
            self._target(node, text)
            return
        group = _GROUP.fullmatch(operator)
        if (group is not None and not text) or (operator == "->" and not text):
            if node.children is not None:
                raise self._error(f"the directory {quoted(node.name)} is a hard link")
            node.group = int(group[1]) if group is not None else UNGROUPED
            return
        if group is None and _PLACE.fullmatch(text) and ".." not in text.partition(":")[2].split("/"):
            node.flow, node.place = operator, text
        elif operator == "->" and node.kind == UNKNOWN:
            self._target(node, text)
        else:
            raise self._error(
                f"{quoted(text)} is no place that {quoted(node.name)} flows to or from: a name, a colon, a path in it"
            )

    def _target(self, node: Node, text: str) -> None:
        node.target = read_name(text, strict=False)
        if b"\0" in node.target:
            raise self._error(f"a NUL in the target of {quoted(node.name)}")


def _is_operator(token: str) -> bool:
    return token in {"->", "<-", "<>"} or _GROUP.fullmatch(token) is not None


def _mode(text: str) -> tuple[str, int | None]:
    """The kind and the permissions that a mode says."""
    if text == "-":
        return UNKNOWN, None
    bits = 0
    for place, char in enumerate(text[1:]):
        bits |= _PERMISSIONS.get(char, 0) << (8 - place)
    for place, bit in ((3, 0o4000), (6, 0o2000), (9, 0o1000)):
        if text[place] in "sStT":
            bits |= bit
    return text[0], bits
