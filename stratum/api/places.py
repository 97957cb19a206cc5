"""Places in order: garbage collection of an object store, and the removal of tags there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stratum.errors import UnsupportedError, UsageError
from stratum.progress import Progress

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.oci.access import Access
    from stratum.oci.target import Target
    from stratum.transfer.placegc import PlaceCollected

DEFAULT_AGE = "24h"


@dataclass(frozen=True, slots=True)
class CollectedThere:
    """What a collection of ``place`` did, one after the other: a second one after a wait. ``age`` is in seconds."""

    place: str
    age: float
    runs: tuple[PlaceCollected, ...]

    @property
    def last(self) -> PlaceCollected:
        """What is true now."""
        return self.runs[-1]

    def removed(self) -> dict[str, tuple[int, int]]:
        """Kind -> (objects, bytes) that all runs removed."""
        return {
            kind: (
                sum(run.removed[kind].objects for run in self.runs),
                sum(run.removed[kind].bytes for run in self.runs),
            )
            for kind in self.last.removed
        }


def collect_place(
    session: Session,
    text: str,
    access: Access,
    *,
    age: str | None = None,
    dry_run: bool = False,
    wait: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> CollectedThere:
    """Remove from the object store that ``text`` names what nothing there has named for ``age`` (a duration).

    ``wait``: stay until what is marked now may go, and remove that, too; ``tell`` is told how long. Raises
    ``UsageError`` for a text that names no place, or more than one, ``UnsupportedError`` for a place that is no object
    store, and as ``transfer.placegc``.
    """
    from stratum.api.maintenance import parse_duration
    from stratum.oci.bucket import open_bucket
    from stratum.transfer.placegc import collect_place as run

    seconds = parse_duration(age or DEFAULT_AGE).total_seconds()
    target = _place_of(session, text)
    assert target.bucket is not None
    # One who collects where conditions do not count could not know that it is the only one.
    with open_bucket(target.bucket, replace(access, unsafe_concurrent=False)) as store:
        done = [run(store, seconds, dry_run=dry_run, progress=progress)]
        if wait and not dry_run and done[0].all_due is not None:
            left = max(done[0].all_due - done[0].time, 0) + 1
            tell(f"waiting for {left:.0f} s, until what is marked may go")
            time.sleep(left)
            done.append(run(store, seconds, progress=progress))
    return CollectedThere(target.place, seconds, tuple(done))


def _place_of(session: Session, text: str) -> Target:
    target, has_tag = _parsed(session, text)
    if target.host is not None:
        raise UnsupportedError(
            f"{target.place} is in a registry, which collects its own garbage",
            hint="'docker-registry garbage-collect --delete-untagged CONFIG' while it takes no pushes; zot does it by "
            "itself; with others see their settings",
        )
    if target.bucket is None:
        raise UnsupportedError(
            f"{target.place} is no object store, and is not collected",
            hint="push what is still needed to a new one, and remove this one",
        )
    if has_tag or target.digest is not None:
        raise UsageError(f"{text} names a tag, and a place is collected as a whole", hint=f"--place {target.place}")
    return target


def _parsed(session: Session, text: str) -> tuple[Target, bool]:
    """What ``text`` names, and whether it has a tag. ``UsageError``."""
    from stratum.oci.target import parse_target

    target, other = (parse_target(text, session.config.registry, default_tag=tag) for tag in ("one", "two"))
    return target, target.tag == other.tag


@dataclass(frozen=True, slots=True)
class RemovedTag:
    """A tag that was removed, or would be: PLACE:TAG, and the digest of the manifest that it named."""

    reference: str
    manifest: str


def remove_remote_tag(session: Session, text: str, access: Access, *, dry_run: bool = False) -> RemovedTag:
    """Remove the tag PLACE:TAG that ``text`` is; what it named stays there until a collection.

    Raises ``UsageError`` where no tag is given, ``UnsupportedError`` for a place that is no object store,
    ``NotFoundError`` where there is no such tag, ``ChangedError`` where somebody moves it at the same moment.
    """
    from stratum.oci.objectstore import ObjectStore

    target, has_tag = _parsed(session, text)
    if target.bucket is None:
        raise UnsupportedError(
            f"{target.place} is no object store, and tags can be removed from these only",
            hint="a registry has ways of its own to remove a tag",
        )
    if target.digest is not None or not has_tag:
        raise UsageError(f"{text} names no tag to remove", hint=f"write it as {target.place}:TAG")
    with ObjectStore(target, access) as place:
        found = place.read_tag(target.tag)[0].digest
        if not dry_run:
            place.remove_tag(target.tag, found)
    return RemovedTag(str(target), found)
