"""Which entries of a source's directories an import takes, and what it leaves out.

Left out is what patterns say (``tree.ignore``): those that were given come first, then the files ``.stratumignore`` of
the source, the deepest first, each for its own directory and what is below. What is in a directory that is left out is
not looked at. Further:

- what is on other file systems than the source. A mount point stays, as an empty directory. A single file that is
  mounted is taken: overlayfs shows files of its own with other device numbers, too.
- what is in a directory marked as a cache (https://bford.info/cachedir/). The directory and the mark stay.
- files that are larger than some size.

A file ``.stratumignore`` belongs to the source, so it may be anybody's: only a regular file of at most
``IGNORE_FILE_MAX`` bytes is obeyed, and it cannot bring back what was left out by a pattern that was given.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Protocol

from stratum.errors import StratumError, UsageError, os_error_text
from stratum.frozen import frozen
from stratum.ingest.staging import open_source
from stratum.tree.ignore import Rules, lines_of, parse_patterns, verdict_of

IGNORE_FILE = ".stratumignore"
IGNORE_FILE_MAX = 256 << 10
PATTERNS_MAX = 10_000
"""Most patterns of such files that are in force in one directory."""

_TAG = "CACHEDIR.TAG"
_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Entry = tuple[str, os.stat_result]
"""Name, and what lstat says."""


@frozen
class Excludes:
    """What is to be left out: ``patterns`` (lines of ``tree.ignore``, those that come later count more), what
    ``.stratumignore`` says where ``ignore_files``, other file systems, caches, files of more than ``larger_than``
    bytes."""

    patterns: tuple[bytes, ...] = ()
    ignore_files: bool = False
    one_file_system: bool = False
    caches: bool = False
    larger_than: int | None = None

    @property
    def asked(self) -> bool:
        """Whether anything was asked for that only directories can do."""
        return bool(self.patterns) or self.one_file_system or self.caches or self.larger_than is not None


NOTHING = Excludes()


class LeftOut:
    """How much was left out: files and directories (with all in them) by name, mark or size, ``file_systems`` that are
    mounted below; ``size`` is of the files, in bytes, as what is in a directory was not looked at."""

    __slots__ = ("directories", "file_systems", "files", "size")

    def __init__(self, files: int = 0, directories: int = 0, file_systems: int = 0) -> None:
        self.files = files
        self.directories = directories
        self.file_systems = file_systems
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.files or self.directories or self.file_systems)

    def take(self, other: LeftOut) -> None:
        """Be as ``other`` is."""
        self.files, self.directories = other.files, other.directories
        self.file_systems, self.size = other.file_systems, other.size

    def add(self, info: os.stat_result) -> None:
        """One more entry is left out."""
        if stat.S_ISDIR(info.st_mode):
            self.directories += 1
        else:
            self.files += 1
            self.size += info.st_size if stat.S_ISREG(info.st_mode) else 0


@frozen
class Place:
    """A directory of the source: its path below it, with a slash at its end (nothing: the source itself), and the rules
    in force there, those that count most first."""

    path: bytes = b""
    rules: tuple[tuple[bytes, Rules], ...] = ()


class Leave(Protocol):
    """Told of an entry that is left out."""

    def __call__(self, path: bytes, name: str, info: os.stat_result, /, *, large: bool, rules: bool) -> None:
        """``name`` in the directory ``path`` (below the source, with a slash at its end): for its size where ``large``.
        ``rules``: what is in it may say what else is left out."""


class Selection:
    """Chooses among the entries of one source, whose directory is on ``device``; ``left_out`` counts, ``leave`` is told
    of each entry that is left out."""

    def __init__(
        self, excludes: Excludes, device: int, left_out: LeftOut | None = None, leave: Leave | None = None
    ) -> None:
        self.left_out = LeftOut() if left_out is None else left_out
        self._told = leave
        self._excludes = excludes
        self._device = device
        given = parse_patterns(excludes.patterns)
        self._given = ((b"", Rules(given)),) if given else ()
        self._chooses = excludes.asked or excludes.ignore_files

    @property
    def crosses(self) -> bool:
        """Whether other file systems are entered."""
        return not self._excludes.one_file_system

    def is_beyond(self, info: os.stat_result) -> bool:
        """Whether a directory is on another file system, of which nothing is taken."""
        return not self.crosses and info.st_dev != self._device

    def chosen(self, fd: int, place: Place, info: os.stat_result, entries: list[Entry]) -> tuple[Place, list[Entry]]:
        """Those of ``entries`` of the open directory ``fd`` (``info``) that are taken, in their order; and ``place``
        with its own rules. ``StratumError`` where its ``.stratumignore`` cannot be read."""
        if not self._chooses:
            return place, entries
        if self.is_beyond(info):
            self.left_out.file_systems += 1
            return place, []
        if self._excludes.caches and _has_tag(fd, entries):
            for name, entry in entries:
                if name != _TAG:
                    self._leave(place, name, entry)
            return place, [(name, entry) for name, entry in entries if name == _TAG]
        if self._excludes.ignore_files:
            place = _with_file(fd, place, entries)
        rules = (*self._given, *place.rules)
        largest = self._excludes.larger_than
        if not rules and largest is None:
            return place, entries
        taken = []
        for name, entry in entries:
            mode = entry.st_mode
            if rules and verdict_of(rules, place.path + os.fsencode(name), stat.S_ISDIR(mode)):
                self._leave(place, name, entry)
            elif largest is not None and stat.S_ISREG(mode) and entry.st_size > largest:
                self._leave(place, name, entry, large=True)
            else:
                taken.append((name, entry))
        return place, taken

    def _leave(self, place: Place, name: str, info: os.stat_result, *, large: bool = False) -> None:
        self.left_out.add(info)
        if self._told is not None:
            rules = name in (IGNORE_FILE, _TAG) and stat.S_ISREG(info.st_mode)
            self._told(place.path, name, info, large=large, rules=rules)


def below(place: Place, name: bytes) -> Place:
    """The subdirectory ``name``, with the rules from above."""
    return Place(place.path + name + b"/", place.rules)


def read_patterns(path: str) -> tuple[bytes, ...]:
    """The lines of a file of patterns that a user names."""
    try:
        with open(path, "rb") as file:
            data = file.read(IGNORE_FILE_MAX + 1)
    except OSError as exc:
        raise UsageError(f"cannot read the patterns in {path}: {os_error_text(exc)}") from None
    if len(data) > IGNORE_FILE_MAX:
        raise UsageError(f"{path} is no list of patterns: it has more than {IGNORE_FILE_MAX >> 10} KiB")
    return tuple(lines_of(data))


def _with_file(fd: int, place: Place, entries: Sequence[Entry]) -> Place:
    """``place`` with the rules of its ``.stratumignore``, where it has one that is obeyed."""
    if not any(name == IGNORE_FILE and stat.S_ISREG(info.st_mode) for name, info in entries):
        return place
    where = os.fsdecode(place.path) + IGNORE_FILE
    try:
        data = _start_of(fd, IGNORE_FILE, IGNORE_FILE_MAX + 1)
    except OSError as exc:
        raise StratumError(
            f"cannot read {where}: {os_error_text(exc)}", hint="take it away, or import with --no-ignore-files"
        ) from None
    patterns = parse_patterns(lines_of(data)) if data is not None else []
    in_force = len(patterns) + sum(len(rules) for _, rules in place.rules)
    if data is not None and (len(data) > IGNORE_FILE_MAX or in_force > PATTERNS_MAX):
        raise StratumError(
            f"{where} has more than {IGNORE_FILE_MAX >> 10} KiB, or with those above it more than {PATTERNS_MAX} "
            "patterns",
            hint="make it shorter, or import with --no-ignore-files",
        )
    return Place(place.path, ((place.path, Rules(patterns)), *place.rules)) if patterns else place


def _has_tag(fd: int, entries: Sequence[Entry]) -> bool:
    """Whether the directory is marked as a cache."""
    if not any(name == _TAG and stat.S_ISREG(info.st_mode) for name, info in entries):
        return False
    try:
        return _start_of(fd, _TAG, len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


def _start_of(directory: int, name: str, size: int) -> bytes | None:
    """At most ``size`` bytes from the beginning of a regular file; None where it is none any more."""
    try:
        fd = open_source(name, _OPEN, directory)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        return file.read(size) if stat.S_ISREG(os.fstat(fd).st_mode) else None
