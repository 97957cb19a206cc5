"""After a push: the target is a source of the commit, so that what was sent need not be here for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError, UsageError
from stratum.oci.remote import Source, fetch
from stratum.transfer.artifact import read_manifest
from stratum.transfer.catalogs import can_be_noted, source_of, target_of
from stratum.transfer.objects import WORKERS, read_packs
from stratum.transfer.packcatalogs import catalog_of
from stratum.tree.contents import counted_objects

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.store import Store
    from stratum.store.sources import CommitSource

Listed = tuple[bytes, "str | None"]
"""A catalog, and the manifest whose catalog it is a change of (``Sources.put_catalog``)."""


def sources_in(store: Store, commit: str, remote: Source) -> list[str]:
    """The digests of the manifests in ``remote`` that the commit has recorded as sources."""
    try:
        sources = store.sources.of(commit)
        return [source.manifest for source in sources if target_of(source).place == remote.noted.place]
    except (DamagedError, UsageError):
        return []


class Recording:
    """Records a push of the commit to ``remote``, opened with ``access``. Nothing is recorded of a place that nobody
    finds again, in a store that can only be read, or of a commit that was removed meanwhile."""

    def __init__(self, store: Store, commit: str, remote: Source, access: Access) -> None:
        self._store, self._commit, self._remote, self._access = store, commit, remote, access
        self._is_possible = remote.lasting and can_be_noted(remote.noted)

    def begin(self, manifest: str, catalog: Listed) -> None:
        """Have the catalog of the ``manifest`` (a digest) in the store, beside its being sent: no commit names it yet,
        and ``record`` looks whether it is still there."""
        with suppress(StratumError):
            if self._is_possible:
                with self._store.begin(f"recording a push to {self._remote.target}") as tx:
                    self._store.sources.put_catalog(tx, manifest, *catalog)

    def record(self, manifest: str, catalog: Listed | None) -> None:
        """Record the manifest. Without its catalog, this has to be looked at, unless it was recorded before."""
        if not self._is_possible:
            return
        store, commit = self._store, self._commit
        source = source_of(self._remote.noted, manifest, "push", self._access)
        try:
            with store.begin(f"recording the push to {source.reference}") as tx:
                if not store.commits.exists(commit):
                    return
                if catalog is None and _is_recorded(store, commit, source):
                    store.sources.seen(tx, commit, source.reference, source.seen)
                    return
                data, of = catalog or _read_catalog(store, commit, self._remote, source)
                store.sources.record(tx, commit, source, data, of)
        except UnsupportedError:
            return


def _is_recorded(store: Store, commit: str, source: CommitSource) -> bool:
    try:
        store.sources.catalog(source.manifest)
        return any(known.reference == source.reference for known in store.sources.of(commit))
    except (DamagedError, NotFoundError):
        return False


def _read_catalog(store: Store, commit: str, remote: Source, source: CommitSource) -> Listed:
    where, dump = str(remote.target), store.commits.dump(commit)
    manifest = read_manifest(remote.get_manifest(source.manifest)[0], where)
    with ThreadPoolExecutor(WORKERS) as pool:
        packs = read_packs(manifest.packs, partial(fetch, remote), where, pool)
    return catalog_of(packs, *counted_objects(dump)), None
