"""What events say changed in one upperdir, until a batch looks at it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from stratum.ingest.upperstate import UpperDirectory
    from stratum.sys.actors import Actor

NAMES_MAX = 4096
"""From so many entries on, a directory is looked at as a whole."""
_MOVES_MAX = 10_000
_ACTORS_MAX = 50_000
_DEPTH_MAX = 4096  # also of directories that were moved into one another, as far as it was heard of


class NewDirectory:
    """A directory that no batch has seen yet: ``name`` in ``parent``, as far as it was heard of."""

    __slots__ = ("name", "parent")

    def __init__(self, parent: AnyDirectory, name: bytes) -> None:
        self.parent = parent
        self.name = name

    def move(self, parent: AnyDirectory, name: bytes) -> None:
        """It is there now. Nothing changes where it would be in itself: then not all was heard of yet."""
        above, depth = parent, 0
        while isinstance(above, NewDirectory) and depth < _DEPTH_MAX:
            if above is self:
                return
            above, depth = above.parent, depth + 1
        self.parent, self.name = parent, name

    def path(self) -> bytes:
        """The path."""
        names: list[bytes] = []
        directory: AnyDirectory = self
        while isinstance(directory, NewDirectory) and len(names) < _DEPTH_MAX:
            names.append(directory.name)
            directory = directory.parent
        top = b"" if isinstance(directory, NewDirectory) else directory.path().rstrip(b"/")
        return b"/".join([top, *reversed(names)])


AnyDirectory = Union["UpperDirectory", NewDirectory]


class Dirt:
    """Entries by their directories; a directory of which nothing is named is looked at itself."""

    def __init__(self) -> None:
        self.names: dict[AnyDirectory, set[bytes] | None] = {}
        """The names of entries in a directory, None for all of them. What is in a new one is dirty anyway."""
        self.modified: dict[AnyDirectory, set[bytes]] = {}
        """Files of which nothing is known but that they were written to: they may still be open."""
        self.actors: dict[tuple[AnyDirectory, bytes], Actor] = {}
        """Who did something with an entry last."""
        self.moves: dict[tuple[AnyDirectory, bytes], tuple[AnyDirectory, bytes]] = {}
        """Where entries that were renamed were before."""
        self.first = 0.0
        self.last = 0.0
        """When the first and the last of it was told (``time.monotonic``); 0 where nothing was."""

    def __bool__(self) -> bool:
        return self.first > 0

    def touch(self) -> None:
        """Something is to be looked at."""
        self.last = time.monotonic()
        self.first = self.first or self.last

    def add(self, directory: AnyDirectory, name: bytes | None, actor: Actor | None = None) -> None:
        """The entry ``name`` changed; None: the directory itself."""
        self.touch()
        names = self.names.setdefault(directory, set())
        if name is None or names is None:
            return
        names.add(name)
        if len(names) > NAMES_MAX:
            self.names[directory] = None
        self._by(directory, name, actor)

    def add_modified(self, directory: AnyDirectory, name: bytes, actor: Actor | None = None) -> None:
        """Somebody wrote to the file ``name``, or cut it short."""
        self.touch()
        names = self.modified.setdefault(directory, set())
        names.add(name)
        if len(names) > NAMES_MAX:
            del self.modified[directory]
            self.names[directory] = None
        self._by(directory, name, actor)

    def add_move(self, old: tuple[AnyDirectory, bytes], new: tuple[AnyDirectory, bytes]) -> None:
        """The entry ``old`` became ``new``."""
        if len(self.moves) < _MOVES_MAX:
            self.moves[new] = self.moves.pop(old, old)

    def _by(self, directory: AnyDirectory, name: bytes, actor: Actor | None) -> None:
        if actor is not None and len(self.actors) < _ACTORS_MAX:
            self.actors[directory, name] = actor

    def forget(self, directory: AnyDirectory) -> None:
        """A directory is gone; what is dirty in it with it."""
        self.names.pop(directory, None)
        self.modified.pop(directory, None)


class Paths:
    """The paths of entries at one moment, that of each directory asked for once. ``gone`` are paths of directories that
    are not there any more."""

    def __init__(self, gone: Mapping[AnyDirectory, bytes] | None = None) -> None:
        self._known: dict[AnyDirectory, bytes] = dict(gone or {})

    def of(self, entry: tuple[AnyDirectory, bytes]) -> bytes:
        """The path of an entry; of the directory itself where the name is ``.``."""
        directory, name = entry
        path = self._known.get(directory)
        if path is None:
            path = self._known[directory] = directory.path()
        return path if name == b"." else path.rstrip(b"/") + b"/" + name
