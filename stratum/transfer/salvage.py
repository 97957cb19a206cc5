"""Bringing back what a damaged store lacks, from any place that a commit can be pulled from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target
from stratum.transfer.artifact import read_manifest
from stratum.transfer.objects import WORKERS, ObjectFetch, fetch_objects, find_parts, read_packs
from stratum.transfer.pull import pulled
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import running

if TYPE_CHECKING:
    from stratum.store import Store

ARTIFACTS_MAX = 1000
"""No more artifacts of one place are looked through."""


def salvage(store: Store, source: Target, access: Access, objects: dict[bytes, int], commits: set[str]) -> list[str]:
    """Fetch what is there of ``objects`` (digest -> size in bytes) and ``commits`` (hashes); what went wrong, in words.

    The artifact that ``source`` names is looked through first, then the others of its repository, until all is found.
    Everything that arrives is checked as in a pull. An artifact that cannot be read does not keep the others from
    being. Raises ``StratumError`` where the place cannot be reached at all.
    """
    problems = []
    with open_source(source, access) as remote:
        for reference in _references(remote, source):
            missing = dict(store.residence.lacking(objects.items()))
            lost = {commit for commit in commits if not store.commits.exists(commit)}
            if not missing and not lost:
                break
            try:
                _look_through(store, remote, reference, missing, lost)
            except NotFoundError:
                continue
            except StratumError as exc:
                problems.append(exc.message)
    return problems


def _references(remote: Source, source: Target) -> list[str]:
    others = [tag for tag in remote.list_tags() if tag != source.reference]
    return [source.reference, *others][:ARTIFACTS_MAX]


def _look_through(store: Store, remote: Source, reference: str, missing: dict[bytes, int], lost: set[str]) -> None:
    where = str(remote.target)
    manifest = read_manifest(remote.get_manifest(reference)[0], where)
    if manifest.commit in lost:
        with pulled(store, remote, reference, kind="repair"):
            return
    if missing:
        what = f"fetching objects from {where}"
        with store.begin(what) as tx, running(what, 1, None) as job:
            with ThreadPoolExecutor(WORKERS) as pool:
                packs = read_packs(manifest.packs, partial(fetch, remote), where, pool)
            files = PackFiles(store.layout, tx.directory, remote)
            objects = ObjectFetch(remote, tx.object_staging, files, job)
            fetch_objects(store, tx, objects, find_parts(packs, missing))
