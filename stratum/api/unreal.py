"""Verbs that read contents of commits, some of which may not be here yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from stratum.progress import Progress
from stratum.tree.model import Directory, File, Inode, walk

if TYPE_CHECKING:
    from stratum.api.workplace import Workplace


def bring_all(place: Workplace, commit: str, *, offline: bool = False, progress: Progress | None = None) -> None:
    """Have every object of a commit here, as ``bring`` does."""
    from stratum.tree.contents import objects_of

    store = place.store
    if not store.sources.is_partial(commit):
        return
    from stratum.transfer.realize import mark_whole

    bring(place, [commit], objects_of(store.commits.dump(commit)), offline=offline, progress=progress)
    mark_whole(store, [commit])


def bring_inodes(
    place: Workplace,
    commits: Iterable[str],
    inodes: Iterable[Inode],
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> None:
    """Have the objects of ``inodes``, and of what is below them, here, as ``bring`` does."""
    partial = [commit for commit in commits if place.store.sources.is_partial(commit)]
    if partial:
        objects = {file.digest: file.size for file in _files(inodes) if file.digest is not None}
        bring(place, partial, objects, offline=offline, progress=progress)


def bring(
    place: Workplace,
    commits: Iterable[str],
    objects: Mapping[bytes, int],
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> None:
    """Fetch those of ``objects`` (digest -> size) that are not here, and may be so: of partial ``commits``.

    ``offline``: ``UnsupportedError`` instead, that says what would be fetched from where. Raises as
    ``transfer.realize.fetch_missing``.
    """
    store = place.store
    partial = [commit for commit in commits if store.sources.is_partial(commit)]
    if not partial:
        return
    from stratum.hydrate.evict import make_room
    from stratum.oci.access import access_of
    from stratum.store.peerbook import finder
    from stratum.transfer.realize import check_real, fetch_missing

    if offline:
        check_real(store, objects, partial)
        return
    with store.locks.store():
        missing = store.residence.missing(objects)
    if missing:
        access, jobs = access_of(place.config, peer=finder(place.config.store)), place.config.jobs
        make_room(store, place.state, place.config, access, sum(missing.values()))
        fetch_missing(store, missing, access, commits=partial, jobs=jobs, progress=progress)


def _files(inodes: Iterable[Inode]) -> Iterator[File]:
    for inode in inodes:
        if isinstance(inode, File):
            yield inode
        elif isinstance(inode, Directory):
            yield from (below for _, below in walk(inode) if isinstance(below, File))
