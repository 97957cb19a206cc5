"""Other repositories of a registry, or prefixes of a bucket, that have blobs of a commit, because it or an ancestor was
pulled from or pushed to there.

A registry makes such blobs part of another repository without being sent them (cross-repository mount, OCI
distribution specification 1.1), and an object store copies them. So a commit goes from ``team/staging`` to
``team/production`` for the price of a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.oci.target import PEER_PREFIX, Target, parse_target
from stratum.transfer.catalogs import target_of

if TYPE_CHECKING:
    from stratum.store import Store

GENERATIONS_MAX = 16
"""No more ancestors are looked at."""


def relatives(store: Store, commit: str, target: Target) -> Iterator[Target]:
    """The manifests elsewhere in the registry or bucket of ``target`` that the commit and its ancestors came from, or
    are known to be in, the nearest first. Only what the store itself recorded counts."""
    keeper, repository = where(target)
    seen = {repository}
    ancestor: str | None = commit
    for _ in range(GENERATIONS_MAX):
        if ancestor is None or keeper is None:
            return
        try:
            meta = store.commits.meta(ancestor)
        except NotFoundError:
            return
        for place in (_place(meta.origin or {}), *_recorded(store, ancestor)):
            other = where(place) if place is not None else (None, "")
            if place is not None and other[0] == keeper and other[1] not in seen:
                seen.add(other[1])
                yield place
        ancestor = meta.parent_commit


def where(target: Target) -> tuple[str | None, str]:
    """The registry, bucket or peer that has the place, and what the place is called there; None for all others."""
    if target.bucket is not None:
        return target.bucket.root, target.bucket.prefix
    return f"{PEER_PREFIX}{target.peer}" if target.peer is not None else target.host, target.repository


def _recorded(store: Store, commit: str) -> list[Target]:
    """The commit's sources; none where their list is damaged."""
    try:
        return [target_of(source) for source in store.sources.of(commit)]
    except (DamagedError, UsageError):
        return []


def _place(origin: object) -> Target | None:
    """The manifest that a pull recorded, or None."""
    if not isinstance(origin, dict) or origin.get("kind") != "pull":
        return None
    reference, _, _ = str(origin.get("reference")).partition("@")
    try:
        return parse_target(f"{reference}@{origin.get('manifest')}")
    except UsageError:
        return None
