"""Asking the source of a commit (``store.sources``) whether it still has what was written down of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import NotFoundError
from stratum.oci.descriptor import Descriptor
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.transfer.artifact import PACK_MEDIA_TYPE, read_manifest
from stratum.transfer.catalogs import catalog_of, target_of
from stratum.transfer.objects import WORKERS, read_packs
from stratum.tree.contents import objects_of

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.oci.target import Target
    from stratum.store import Store
    from stratum.store.catalog import Catalog
    from stratum.store.sources import CommitSource


def still_has(source: CommitSource, catalog: Catalog, access: Access) -> bool:
    """Whether the place has the manifest and all packs that the catalog lists; the bytes of packs are not looked at.

    ``StratumError`` where the place cannot be asked, also where it is a directory or file that is not there now.
    """
    target = target_of(source)
    _check_reachable(target)
    packs = [Descriptor(PACK_MEDIA_TYPE, f"sha256:{pack.pack.sha256.hex()}", pack.pack.size) for pack in catalog.packs]
    with open_source(target, access) as remote, ThreadPoolExecutor(WORKERS) as pool:
        try:
            remote.get_manifest(source.manifest)
        except NotFoundError:
            return False
        return all(pool.map(remote.has_blob, packs))


def fetch_catalog(store: Store, source: CommitSource, access: Access) -> bytes:
    """The catalog of the artifact, made anew from what the place says. ``NotFoundError``, ``DamagedError``,
    ``StratumError`` in the place's words."""
    target = target_of(source)
    with open_source(target, access) as remote, ThreadPoolExecutor(WORKERS) as pool:
        manifest = read_manifest(remote.get_manifest(source.manifest)[0], str(target))
        packs = read_packs(manifest.packs, partial(fetch, remote), str(target), pool)
    if store.commits.exists(manifest.commit):
        return catalog_of(packs, objects_of(store.commits.dump(manifest.commit)))
    return catalog_of(packs, {member.digest: member.size for pack in packs for member in pack.index.members})


def _check_reachable(target: Target) -> None:
    place = target.directory or target.archive
    if place is not None and not place.exists():
        raise NotFoundError(f"{place} is not there", hint="it may be on a disk that is not mounted")
