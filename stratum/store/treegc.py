"""What goes with commits that nobody needs: what is beside them, and the grounds and frames of their trees.

Commits and grounds are removed together (``Commits.remove``), those that are stored on others first, each level in one
durable step, and frames after them: wherever it is cut short, none is there without all that it is made of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import is_hash
from stratum.store.coverage import Coverage, Part, lines_in
from stratum.store.needed import Needed
from stratum.sys.usage import disk_usage
from stratum.tree.contents import digests_in

if TYPE_CHECKING:
    from stratum.store.store import Store

_FIELD = 40
"""Bits for how many commits of one owner have a line."""


@dataclass(slots=True)
class GoingFiles:
    """Which files go: those of ``commits``, of which the ones ``beneath`` others become grounds; ``beside`` are those
    beside commits that are not there or go; ``grounds``; ``frames`` (SHA-256)."""

    commits: list[str] = field(default_factory=list)
    beneath: set[str] = field(default_factory=set)
    beside: list[str] = field(default_factory=list)
    grounds: list[str] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Weighed:
    """Bytes on disk of the files that go: of each commit with what is beside it, of each frame, and of grounds."""

    commits: dict[str, int] = field(default_factory=dict)
    frames: dict[bytes, int] = field(default_factory=dict)
    grounds: int = 0

    @property
    def total(self) -> int:
        """Of all of them."""
        return sum(self.commits.values()) + sum(self.frames.values()) + self.grounds


def find_going(store: Store, kept: Collection[str], needed: Needed) -> GoingFiles:
    """The files that go where the commits ``kept`` stay, all of which are ``needed``. ``DamagedError``, or
    ``NotFoundError``, where it is not known what these are stored on."""
    records, frames = needed.beneath(kept)
    names = store.layout.names_in(store.layout.commits)
    return GoingFiles(
        [name for name in names if is_hash(name) and name not in kept],
        records,
        [name for name in names if not is_hash(name) and is_hash(of := name.partition(".")[0]) and of not in kept],
        [name for name in store.trees.grounds() if name not in records or name in kept],
        [sha256 for sha256 in store.trees.frames() if sha256 not in frames],
    )


def weigh(store: Store, going: GoingFiles, images: Mapping[str, int]) -> Weighed:
    """What the files take that go, with the ``images`` of commits: commit -> bytes."""
    layout, found = store.layout, Weighed(dict(images))
    for name in (*going.beside, *(commit for commit in going.commits if commit not in going.beneath)):
        commit = name.partition(".")[0]
        found.commits[commit] = found.commits.get(commit, 0) + disk_usage(layout.commits / name)
    found.frames = {sha256: disk_usage(store.trees.frame_path(sha256)) for sha256 in going.frames}
    replaced = going.beneath.intersection(going.commits)  # of grounds that are commits again
    found.grounds = sum(disk_usage(layout.grounds / name) for name in replaced.union(going.grounds))
    return found


def remove_unnamed(store: Store, going: GoingFiles) -> None:
    """Remove what is beside commits that are not there, and the frames of which no tree is made."""
    beside = (name for name in going.beside if not store.commits.exists(name.partition(".")[0]))
    store.transactions.discard_all(store.layout.commits, beside)
    shards: dict[Path, list[str]] = {}
    for path in map(store.trees.frame_path, going.frames):
        shards.setdefault(path.parent, []).append(path.name)
    for directory, names in shards.items():
        store.transactions.discard_all(directory, names)


def whose(store: Store, owners: Mapping[str, str], needed: Collection[bytes]) -> dict[bytes, str]:
    """Of objects that are not ``needed``, whose they are: ``owners`` is commit -> owner, of commits that go. What
    several owners have is nobody's, under the empty name; what cannot be read is not told."""
    names, found = sorted(set(owners.values())), dict[bytes, str]()
    weights = {name: 1 << _FIELD * number for number, name in enumerate(names)}

    def take(part: Part) -> None:
        data = part.data if part.frame is None else store.trees.checked_frame(part.frame)
        for lines, weight in lines_in(part, data):
            number = ((weight & -weight).bit_length() - 1) // _FIELD
            owner = "" if weight >> _FIELD * (number + 1) else names[number]
            for digest in digests_in(lines):
                if digest not in needed and found.setdefault(digest, owner) != owner:
                    found[digest] = ""

    coverage = Coverage(store.trees.record)
    for commit, owner in owners.items():
        with suppress(DamagedError, NotFoundError):
            take(coverage.add(commit, weights[owner]))
    for part in coverage.parts(lambda weight, error: None):
        with suppress(DamagedError):
            take(part)
    return found


def whose_frames(store: Store, owners: Mapping[str, str]) -> dict[bytes, str]:
    """The same of the frames that the commits are made of, be they needed or not."""
    found, going = dict[bytes, str](), Needed(store.layout, store.trees)
    for commit, owner in owners.items():
        with suppress(DamagedError, NotFoundError):
            for sha256 in going.beneath([commit])[1]:
                if found.setdefault(sha256, owner) != owner:
                    found[sha256] = ""
    return found
