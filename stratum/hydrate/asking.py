"""Asking places whether they still have what commits were found to have there."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError, UnreachableError
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.places import open_source
from stratum.oci.target import Target
from stratum.transfer.catalogs import access_to, target_of

if TYPE_CHECKING:
    from stratum.store.sources import CommitSource
    from stratum.store.store import Store

_PACKS = "application/octet-stream"
_AT_ONCE = 8
_CONNECT = 5.0
_PATIENCE = 30.0
"""Seconds that a place has for one answer: somebody may be waiting for room."""


def ask(
    store: Store, sources: Iterable[CommitSource], access: Access, *, counting_on: int | None = None
) -> tuple[dict[str, bool], list[str]]:
    """Whether each of the places has the artifact and all of its packs, by the reference of the source; and what went
    wrong with those that did not say, in words. ``counting_on`` is the era of this store, where peers are to keep it,
    as this store is about to let go.

    A place that cannot be reached is not asked again. The packs are those of the catalogs in ``store``.
    """
    patient = replace(access, connect_timeout=_CONNECT, read_timeout=_PATIENCE, patience=_PATIENCE)
    by_place: dict[str, list[CommitSource]] = {}
    answers: dict[str, bool] = {}
    problems: list[str] = []
    for source in sources:
        by_place.setdefault(source.place, []).append(source)
    for place, among in by_place.items():
        problem = _ask_place(store, among, patient, answers, counting_on)
        problems += [f"{place}: {problem}"] if problem else []
    return answers, problems


def _ask_place(
    store: Store, sources: list[CommitSource], access: Access, answers: dict[str, bool], counting_on: int | None
) -> str | None:
    """Ask one place for its sources, as far as it answers; what went wrong."""
    try:
        for source in sources:
            blobs = _packs(store, source)
            if blobs is not None:
                target, reached = target_of(source), access_to(access, source)
                there = still_there(target, blobs, reached)
                if there and counting_on is not None and target.peer is not None:
                    there = _promised(target, reached, counting_on)
                answers[source.reference] = there
    except StratumError as exc:
        return exc.message
    return None


def _packs(store: Store, source: CommitSource) -> list[Descriptor] | None:
    """The packs of a source; None where its catalog cannot be read, so that it lists nothing."""
    try:
        packs = store.sources.catalog(source.manifest).packs
    except (DamagedError, NotFoundError):
        return None
    return [Descriptor(_PACKS, f"sha256:{pack.pack.sha256.hex()}", pack.pack.size) for pack in packs]


def _promised(target: Target, access: Access, era: int) -> bool:
    """Whether the peer promises, in this era of ours, to keep what it has there. Raises ``StratumError`` where it does
    not say."""
    from stratum.oci.peerclient import PeerClient

    assert target.peer is not None
    assert target.digest is not None
    with closing(PeerClient(target.peer, access)) as peer:
        return peer.keep(target.repository, target.digest, era)


def let_off(store: Store, sources: Iterable[CommitSource], access: Access) -> None:
    """Tell peers that they need not keep what is here whole: of those of the sources that are at peers, and of whose
    commits nothing may be missing here. Nobody relies on what they had promised from then on. Who is away is not told.
    """
    from stratum.oci.peerclient import PeerClient

    at_peers = [source for source in sources if source.at_peer]
    if not at_peers:
        return
    patient = replace(access, connect_timeout=_CONNECT, read_timeout=_PATIENCE, patience=_PATIENCE)
    with store.locks.store():  # so that nothing is evicted between these two
        whole = [source for source in at_peers if _is_whole(store, source)]
        era = store.promises.begin_era() if whole else 0
    for source in whole:
        target = target_of(source)
        if target.peer is not None and target.digest is not None:
            with suppress(StratumError), closing(PeerClient(target.peer, patient)) as peer:
                peer.let_off(target.repository, target.digest, era)


def _is_whole(store: Store, source: CommitSource) -> bool:
    """Whether all commits that have the source are here whole."""
    for commit in store.sources.commits():
        with suppress(DamagedError):
            if store.sources.is_partial(commit) and source.reference in {s.reference for s in store.sources.of(commit)}:
                return False
    return True


def still_there(target: Target, blobs: Iterable[Descriptor], access: Access) -> bool:
    """Whether a place has the manifest that ``target`` names by digest, and the blobs. Raises ``StratumError`` where it
    does not say, as a directory on a disk that is not mounted now."""
    directory = target.directory or target.archive
    if target.bucket is not None and target.bucket.scheme == "file":
        directory = Path(target.bucket.name)
    if directory is not None and not directory.exists():
        raise UnreachableError(f"{directory} is not there now")
    try:
        with open_source(target, access) as place:
            place.get_manifest(target.reference)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                return all(pool.map(place.has_blob, blobs))
    except NotFoundError:
        return False
