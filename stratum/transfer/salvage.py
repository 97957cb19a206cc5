"""Bringing back what a damaged store lacks, from any place that a commit can be pulled from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.errors import NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import Source
from stratum.oci.target import Target
from stratum.transfer.artifact import read_manifest
from stratum.transfer.pull import pull_from, pull_objects

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
            missing = {digest: size for digest, size in objects.items() if not store.objects.has(digest, size)}
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
    data, _ = remote.get_manifest(reference)
    if read_manifest(data, str(remote.target)).commit in lost:
        pull_from(store, remote, reference, kind="repair")
    elif missing:
        pull_objects(store, remote, reference, missing)
