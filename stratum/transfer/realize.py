"""Bringing unreal objects: from the places that the commits which need them record (``store.sources``).

Everything that arrives is checked as in a pull, and has its place in the store as it comes, so that what was fetched
before something failed is there. A place that cannot be reached, or has lost something, does not keep the others from
being asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, NotFoundError, StratumError, UnsupportedError
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.progress import Progress
from stratum.transfer.artifact import PackLayers, read_manifest
from stratum.transfer.catalogs import access_to, target_of
from stratum.transfer.objects import WORKERS, ObjectFetch, fetch_objects, find_parts, read_packs
from stratum.transfer.packcatalogs import catalog_of
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import running
from stratum.tree.contents import counted_objects, objects_of

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.catalog import Catalog
    from stratum.store.sources import CommitSource

Objects = Mapping[bytes, int]
"""Digest -> size in bytes."""


def fetch_missing(
    store: Store,
    objects: Objects,
    access: Access,
    *,
    commits: Sequence[str],
    jobs: int = 1,
    progress: Progress | None = None,
) -> None:
    """Have all of ``objects`` in the store, fetching those that are not from the sources of ``commits``.

    The store is not locked meanwhile; garbage collections keep what is fetched. ``access`` is how registries are
    reached, besides what the sources say themselves. Raises the error of the first source that failed where others did
    not have what is missing then, and ``DamagedError`` where no source has it.
    """
    with store.locks.store():
        missing = store.residence.missing(objects)
    if not missing:
        return
    first: StratumError | None = None
    for source, catalog in _sources(store, commits):
        listed = _listed(catalog, missing)
        if not listed:
            continue
        failed = _fetch_from(store, source, catalog, listed, access, jobs, progress)
        first = first or failed
        with store.locks.store():
            missing = store.residence.missing(missing)
        if not missing:
            return
    raise first or _lost(missing)


def fetch_own(store: Store, source: CommitSource, objects: Objects, jobs: int = 1) -> None:
    """Have ``objects`` in the store, all of which are in blobs that were pushed to it: those of ``source``. Raises what
    went wrong."""
    from stratum.oci.access import Access

    access = Access(own_blobs=store.layout.blobs)
    failed = _fetch_from(store, source, store.sources.catalog(source.manifest), objects, access, jobs, None)
    if failed is not None:
        raise failed


def _sources(store: Store, commits: Iterable[str]) -> Iterator[tuple[CommitSource, Catalog]]:
    """The sources of the commits, each once, with their catalogs: those last that are known to have lost it."""
    found = {source.reference: source for commit in commits for source in store.sources.of(commit)}
    for source in sorted(found.values(), key=lambda source: source.gone is not None):
        catalog = _catalog(store, source)
        if catalog is not None:
            yield source, catalog


def _catalog(store: Store, source: CommitSource) -> Catalog | None:
    try:
        return store.sources.catalog(source.manifest)
    except (DamagedError, NotFoundError):
        return None


def _listed(catalog: Catalog, objects: Objects) -> dict[bytes, int]:
    from stratum.store.sources import not_listed

    try:
        rest = not_listed(objects, catalog)
    except DamagedError:
        return {}
    return {digest: size for digest, size in objects.items() if digest not in rest}


def _fetch_from(
    store: Store,
    source: CommitSource,
    catalog: Catalog,
    objects: Objects,
    access: Access,
    jobs: int,
    progress: Progress | None,
) -> StratumError | None:
    """Fetch what the source has of ``objects``, all of which ``catalog`` lists; what went wrong."""
    what = f"fetching from {source.reference}"
    try:
        target = target_of(source)
        with (
            store.begin(what, apart=True) as tx,
            open_source(target, access_to(access, source)) as remote,
            running(what, jobs, progress) as job,
        ):
            with store.locks.store():
                tx.need(objects)
            manifest = read_manifest(remote.get_manifest(source.manifest)[0], str(target))
            layers = _layers_with(catalog, objects, manifest.packs)
            with ThreadPoolExecutor(WORKERS) as pool:
                packs = read_packs(layers, partial(fetch, remote), str(target), pool)
            files = PackFiles(store.layout, tx.directory, remote)
            fetch_objects(store, tx, ObjectFetch(remote, tx.object_staging, files, job), find_parts(packs, objects))
    except BusyError:
        raise  # the store's, and another source would not change that
    except StratumError as exc:
        return exc
    return None


def _layers_with(catalog: Catalog, objects: Objects, layers: Iterable[PackLayers]) -> list[PackLayers]:
    """Those of the packs that have something of ``objects``."""
    numbers = {catalog.member(number).pack for number in map(catalog.find, objects) if number is not None}
    wanted = {catalog.packs[number].pack.sha256.hex() for number in numbers}
    return [pack for pack in layers if pack.pack.hex in wanted]


def _lost(missing: Objects) -> DamagedError:
    digest, size = next(iter(missing.items()))
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return DamagedError(
        f"object {digest.hex()} of {size} bytes{more}: not in the store, and no source of the commit has it",
        hint="run 'stratum fsck' to see whom that hurts, and pull or import again what has it",
    )


def check_real(store: Store, objects: Objects, commits: Sequence[str]) -> None:
    """``UnsupportedError`` where something of ``objects`` would have to be fetched: what, and from where."""
    with store.locks.store():
        missing = store.residence.missing(objects)
    if not missing:
        return
    places = [f"{source.place} (seen {source.seen})" for source, _ in _sources(store, commits)]
    raise UnsupportedError(
        f"{len(missing)} of {len(objects)} objects ({sum(missing.values())} bytes) are not here and nothing is to be"
        f" fetched; {'they are at ' + ', '.join(places[:3]) if places else 'no place is known to have them'}",
        hint="leave --offline out, or fetch them first: stratum realize REF",
    )


def mark_whole(store: Store, commits: Iterable[str]) -> None:
    """Take the mark of partial commits from those whose objects are all here by now."""
    for commit in commits:
        with store.locks.store():
            if store.sources.is_partial(commit) and not store.residence.missing(objects_of(store.commits.dump(commit))):
                store.sources.clear_partial(commit)


def fetch_catalog(store: Store, source: CommitSource, access: Access) -> bytes:
    """The catalog of an artifact, made anew from what its place says. ``NotFoundError``, ``DamagedError``,
    ``StratumError`` in the place's words."""
    target = target_of(source)
    with open_source(target, access_to(access, source)) as remote, ThreadPoolExecutor(WORKERS) as pool:
        manifest = read_manifest(remote.get_manifest(source.manifest)[0], str(target))
        packs = read_packs(manifest.packs, partial(fetch, remote), str(target), pool)
    with suppress(NotFoundError, DamagedError):
        return catalog_of(packs, *counted_objects(store.commits.dump(manifest.commit)))
    return catalog_of(packs, {member.digest: member.size for pack in packs for member in pack.index.members})
