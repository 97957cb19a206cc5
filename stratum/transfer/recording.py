"""After a push: the target is a source of the commit, so that what was sent need not be here for ever."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, UnsupportedError, UsageError
from stratum.oci.remote import Source, fetch
from stratum.transfer.artifact import Pack, read_manifest
from stratum.transfer.catalogs import catalog_of, target_of
from stratum.transfer.objects import WORKERS, read_packs

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.sources import CommitSource


def sources_in(store: Store, commit: str, remote: Source) -> list[str]:
    """The digests of the manifests in ``remote`` that the commit has recorded as sources."""
    try:
        sources = store.sources.of(commit)
        return [source.manifest for source in sources if target_of(source).place == remote.noted.place]
    except (DamagedError, UsageError):
        return []


def record_push(
    store: Store,
    commit: str,
    remote: Source,
    source: CommitSource,
    objects: dict[bytes, int],
    packs: Sequence[Pack] | None,
) -> None:
    """Record ``source``, in ``remote``, with the commit, which needs ``objects``. ``packs`` are those of its manifest;
    None: they have to be looked at, unless it was recorded before.

    Nothing is recorded in a store that can only be read, or of a commit that was removed meanwhile.
    """
    try:
        with store.begin(f"recording the push to {source.reference}") as tx:
            if not store.commits.exists(commit):
                return
            if packs is None and _is_recorded(store, commit, source):
                store.sources.seen(tx, commit, source.reference, source.seen)
                return
            packs = packs if packs is not None else _packs(remote, source)
            store.sources.record(tx, commit, source, catalog_of(packs, objects))
    except UnsupportedError:
        return


def _is_recorded(store: Store, commit: str, source: CommitSource) -> bool:
    try:
        store.sources.catalog(source.manifest)
        return any(known.reference == source.reference for known in store.sources.of(commit))
    except (DamagedError, NotFoundError):
        return False


def _packs(remote: Source, source: CommitSource) -> list[Pack]:
    where = str(remote.target)
    manifest = read_manifest(remote.get_manifest(source.manifest)[0], where)
    with ThreadPoolExecutor(WORKERS) as pool:
        return read_packs(manifest.packs, partial(fetch, remote), where, pool)
