"""C4 IDs and C4M texts of files, directories and refs: what something is, how it differs, and patches applied.

``api.c4trees`` says what a text names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stratum.api.c4trees import DEFAULTS, STDIN, Options, Tree, found, is_path, listed
from stratum.c4.ids import EMPTY, C4Id, hasher, id_of_digest
from stratum.c4.model import UNKNOWN, Manifest, Node, walk
from stratum.c4.patches import Counts, count, diff
from stratum.c4.reader import EXPANDED_MAX, Section, read, read_sections, resolve, split_lines
from stratum.c4.sequence import id_of_list, members, most_members
from stratum.c4.times import written_time
from stratum.c4.writer import id_of, mode_text, pretty, write
from stratum.errors import NotFoundError, StratumError, UsageError, os_error_text

if TYPE_CHECKING:
    from stratum.api.session import Session

DIFFERENCES_MAX = 10_000
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Identified:
    """What ``text`` names: ``kind`` is ``file`` or ``directory``, ``size`` in bytes, of a directory as listings have
    it."""

    text: str
    kind: str
    id: C4Id
    size: int | None


@dataclass(frozen=True, slots=True)
class Diffed:
    """How to make one of another: the IDs of both, the patch, and what it does. Without entries both are the same."""

    old: C4Id
    new: C4Id
    patch: Manifest
    counts: Counts

    def lines(self, *, laid_out: bool = False) -> Iterator[str]:
        """The patch as a text that ends with the ID of its result; nothing where both are the same."""
        if self.patch.children:
            yield f"{self.old}\n"
            yield from (pretty if laid_out else write)(self.patch)
            yield f"{self.new}\n"


@dataclass(frozen=True, slots=True)
class Difference:
    """A path, and what is other there than the manifest says."""

    path: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a manifest says, and where it is not so: ``count`` differences, of which ``DIFFERENCES_MAX`` are listed.
    ``entries`` were compared, ``id`` is the manifest's."""

    id: C4Id
    entries: int
    count: int = 0
    differences: list[Difference] = field(default_factory=list)


def identify(session: Session, text: str, options: Options = DEFAULTS) -> Identified:
    """The ID of a file's content, or of a directory's listing. Raises ``NotFoundError``, ``UsageError`` for what is
    neither, ``StratumError`` for what cannot be read."""
    from stratum.ingest.identify import identify_file

    if text == STDIN:
        sha, size = hasher(), 0
        while piece := sys.stdin.buffer.read(_PIECE):
            sha.update(piece)
            size += len(piece)
        return Identified(text, "file", id_of_digest(sha.digest()), size)
    if is_path(text) and not os.path.isdir(text):
        digest, size = identify_file(text)
        return Identified(text, "file", id_of_digest(digest), size)
    with found(session, text, options) as there:
        if isinstance(there, Tree):
            return Identified(text, "directory", there.id, there.size)
        return Identified(text, "file", there[1], there[0].size)


@contextmanager
def pieces_of(path: str) -> Iterator[Iterator[bytes]]:
    """A text in pieces: of a file, or of standard input for ``-``. ``NotFoundError``, ``StratumError``."""
    if path == STDIN:
        yield iter(lambda: sys.stdin.buffer.read(_PIECE), b"")
        return
    try:
        with open(path, "rb", buffering=0) as file:
            yield iter(lambda: file.read(_PIECE), b"")
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None


def what_of(path: str) -> str:
    """What errors call a text."""
    return "standard input" if path == STDIN else path


def read_text(path: str) -> Manifest:
    """The manifest that a C4M file says. ``UsageError`` for what is none, ``NotFoundError``, ``StratumError``."""
    with pieces_of(path) as pieces:
        return read(split_lines(pieces, what_of(path)), what_of(path))


def _manifest_of_tree(tree: Tree, what: str) -> Manifest:
    return read(split_lines(tree.lister.text(), what), what)


def _is_text(text: str) -> bool:
    return is_path(text) and not os.path.isdir(text)


def compare(session: Session, old: str, new: str, options: Options = DEFAULTS) -> Diffed:
    """The patch that makes ``new`` of ``old``: C4M files, directories, refs. Where a file says hard links, trees are
    listed with theirs. Raises ``UsageError`` for what is no C4M, and for a patch alone."""
    texts = {text: read_text(text) for text in dict.fromkeys((old, new)) if _is_text(text)}
    options = replace(options, groups=options.groups or any(map(_has_groups, texts.values())))

    def manifest(text: str) -> Manifest:
        if text in texts:
            found = texts[text]
        else:
            with listed(session, text, options) as tree:
                found = _manifest_of_tree(tree, text)
        if found.base is not None:
            raise UsageError(
                f"{what_of(text)} is a patch of {found.base}, which is not at hand",
                hint="apply it first: stratum c4 patch MANIFEST PATCH",
            )
        return found

    before, after = manifest(old), manifest(new)
    patch = diff(before, after)
    return Diffed(id_of(before), id_of(after), patch, count(before, patch))


def _has_groups(manifest: Manifest) -> bool:
    return any(node.group for _, node in walk(manifest.children))


def patched(paths: Sequence[str]) -> Manifest:
    """What a chain of C4M files says together: a manifest, and patches of it in their order. Every ID on the way is
    checked. Raises ``UsageError``."""
    sections: list[Section] = []
    for path in paths:
        with pieces_of(path) as pieces:
            more = read_sections(split_lines(pieces, what_of(path)), what_of(path))
        if sections and more and more[0].before is None:
            raise UsageError(f"{what_of(path)} is no patch: it does not begin with the ID of what it changes")
        sections += more
    if sections and sections[0].before not in {None, EMPTY}:
        raise UsageError(
            f"{what_of(paths[0])} is a patch of {sections[0].before}, which is not at hand",
            hint="name the manifest that it changes before it",
        )
    return resolve(sections, " and ".join(map(what_of, paths)))


def verify(session: Session, path: str, text: str, options: Options = DEFAULTS) -> Verified:
    """Compare a directory or ref with a C4M file, by reading every object. What the file leaves open (null) is not
    compared; a directory of which it has the ID alone is compared by that."""
    manifest = read_text(path)
    if manifest.base is not None:
        raise UsageError(f"{what_of(path)} is a patch of {manifest.base}, and no manifest", hint="apply it first")
    options = replace(options, groups=_has_groups(manifest), rereads=True)
    with listed(session, text, options) as tree:
        there = _manifest_of_tree(tree, text)
    comparison = _Comparison(manifest)
    comparison.run(there)
    return Verified(id_of(manifest), comparison.entries, comparison.count, comparison.differences)


class _Comparison:
    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._expanded = 0
        self.entries = 0
        self.count = 0
        self.differences: list[Difference] = []

    def run(self, there: Manifest) -> None:
        work = [(b"", self._manifest.children, there.children)]
        while work:
            prefix, said, real = work.pop()
            met = set()
            for key, node in said.items():
                for name, one in self._entries(key, node, real):
                    met.add(name)
                    self.entries += 1
                    other = real.get(name)
                    path = prefix + name
                    if other is None:
                        self._add(path, "it is not there")
                        continue
                    self._compare(path, one, other)
                    if one.children is not None and (one.children or one.c4id is None or not other.children):
                        work.append((path, one.children, other.children or {}))
                    elif one.children is not None and one.c4id != other.c4id:
                        self._add(path, f"it is {other.c4id}")
            for name in real.keys() - met:
                self._add(prefix + name, "the manifest does not have it")
        self.differences.sort(key=lambda difference: difference.path)

    def _entries(self, key: bytes, node: Node, real: dict[bytes, Node]) -> Iterator[tuple[bytes, Node]]:
        """The entry, or the members of a sequence."""
        if node.sequence is None:
            yield key, node
            return
        self._expanded += most_members(node.sequence)
        if self._expanded > EXPANDED_MAX:
            raise UsageError(f"the manifest has sequences of over {EXPANDED_MAX} members")
        names = members(node.sequence)
        ids = self._manifest.lists.get(node.c4id) if node.c4id is not None else None
        if ids is not None and len(ids) != len(names):
            self._add(key, f"its list has {len(ids)} IDs for {len(names)} members")
            ids = None
        slash = key[len(node.name) :]
        for place, name in enumerate(names):
            member = node.copy()
            member.size = member.time = None
            member.c4id = ids[place] if ids is not None else None
            yield name + slash, member
        there = [real[name + slash].c4id for name in names if name + slash in real]
        known = [c4id for c4id in there if c4id is not None]
        if node.c4id is not None and ids is None and len(known) == len(names) and id_of_list(known) != node.c4id:
            self._add(key, f"the members are {id_of_list(known)} together")

    def _compare(self, path: bytes, one: Node, other: Node) -> None:
        if one.kind not in {UNKNOWN, other.kind}:
            self._add(path, f"it is of another type: {mode_text(other.kind, other.mode)}")
            return
        directory = one.children is not None
        pairs: list[tuple[object, object, str]] = [
            (one.mode, other.mode, f"its mode is {mode_text(other.kind, other.mode)}"),
            (one.time, other.time, f"its time is {written_time(other.time)}"),
            (one.target, other.target, "it points elsewhere"),
        ]
        if not directory and other.kind != "l":
            pairs.append((one.size, other.size, f"its size is {other.size}"))
            pairs.append((one.c4id, other.c4id, f"it is {other.c4id}"))
        for said, real, what in pairs:
            if said is not None and said != real:
                self._add(path, what)
                break

    def _add(self, path: bytes, what: str) -> None:
        self.count += 1
        if self.count <= DIFFERENCES_MAX:
            self.differences.append(Difference(path, what))
