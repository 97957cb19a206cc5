"""What is there already that a push can build on: in its repository, or in another one of the same registry or
bucket."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.frozen import frozen
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source, fetch
from stratum.transfer.artifact import Manifest, Pack, read_manifest
from stratum.transfer.keeptag import chosen
from stratum.transfer.objects import read_packs
from stratum.transfer.packs import Member
from stratum.transfer.planning import Base, Plan
from stratum.transfer.relatives import where

_BASES_MAX = 8


Found = tuple[Manifest, str]
"""A commit's manifest, and its digest."""
Listing = Callable[[Manifest, str], "list[Pack] | None"]
"""The packs of a manifest, given with its digest, where they are known without asking for their indexes."""


@frozen
class There:
    """What a repository has: the commit that the tag names now, ``present``, and the one to build on, with the digest
    of its manifest; ``digest`` is what the tag names, a commit or not, None where there is no such tag."""

    base: Found | None = None
    present: Manifest | None = None
    digest: str | None = None


def find_there(remote: Source, tag: str, commit: str, parent: str | None) -> There:
    """What there is for a push of ``commit`` to ``tag``: to build on is what the tag names, else the commit or its
    parent under another tag, else the newest-looking. A tag that names something else counts as none."""
    present, digest = read_manifest_of(remote, tag)
    if present is not None and digest is not None:
        return There((present, digest), present, digest)
    candidates = []
    for other in sorted(set(chosen(remote.list_tags())) - {tag}, key=_natural, reverse=True)[:_BASES_MAX]:
        found = read_base(remote, other)
        if found is not None and found[0].commit in (parent, commit):
            return There(found, None, digest)
        candidates += [found] if found is not None else []
    return There(candidates[0] if candidates else None, None, digest)


def read_base(remote: Source, reference: str) -> Found | None:
    """The commit that a tag or digest names, with the digest of its manifest; None where it names none."""
    manifest, digest = read_manifest_of(remote, reference)
    return (manifest, digest) if manifest is not None and digest is not None else None


def read_manifest_of(remote: Source, reference: str) -> tuple[Manifest | None, str | None]:
    """What a tag or digest names, where that is a commit, and the digest of what it names; None where there is none."""
    try:
        data, digest = remote.get_manifest(reference)
    except NotFoundError:
        return None, None
    try:
        return read_manifest(data, str(remote.target)), digest
    except StratumError:
        return None, digest


def has_all(remote: Source, manifest: Manifest) -> bool:
    """Whether all that the manifest names is there: each blob is asked for."""
    return all(map(remote.has_blob, manifest.blobs))


def _of_what_is_there(remote: Source, manifest: Manifest, pool: Executor) -> Manifest:
    """The manifest without the tree layers and packs that are not there any more."""
    blobs = manifest.blobs
    there = {blob for blob, is_there in zip(blobs, pool.map(remote.has_blob, blobs), strict=True) if is_there}
    packs = tuple(pack for pack in manifest.packs if there.issuperset(pack.blobs))
    return replace(manifest, trees=tuple(tree for tree in manifest.trees if tree in there), packs=packs)


def load_base(remote: Source, found: Found, listing: Listing, pool: Executor, *, asks: bool) -> Base | None:
    """The commit with its packs; None where it is damaged, as then it is not built on. ``asks``: only with what is
    there of it, for which it is asked."""
    manifest, digest = found
    if asks:
        manifest = _of_what_is_there(remote, manifest, pool)
    known = listing(manifest, digest)
    if known is not None:
        return Base(manifest, known)
    try:
        return Base(manifest, read_packs(manifest.packs, partial(fetch, remote), str(remote.target), pool))
    except (DamagedError, NotFoundError):
        return None


def mount_base(
    elsewhere: Iterable[Source],
    plan: Callable[[Base | None], Plan],
    mount: Callable[[str, Descriptor], bool],
    pool: Executor,
) -> Plan:
    """The plan that builds on the first of other repositories from which all that stays can be mounted, else the one
    that sends everything. ``mount(repository, blob)`` tells whether it could be."""
    for remote in elsewhere:
        with remote:
            try:
                manifest = read_manifest(remote.get_manifest(remote.target.reference)[0], str(remote.target))
                base = Base(manifest, read_packs(manifest.packs, partial(fetch, remote), str(remote.target), pool))
            except StratumError:
                continue  # gone, or not for this user
        found = plan(base)
        if all(pool.map(partial(mount, where(remote.target)[1]), found.borrowed)):
            return found
    return plan(None)


@frozen
class Bases:
    """What a push to ``remote`` can build on.

    ``there`` is what the repository has by its tags, ``known`` are digests of other manifests in it that have objects
    of the commit; ``elsewhere`` are places whose blobs can be mounted by ``mount(repository, blob)``, which tells
    whether that worked. ``lacking(packs)`` are the objects for new packs that would have to be fetched. ``listing``
    knows packs of manifests in the repository. ``asks``: no manifest is believed that what it names is there.
    """

    remote: Source
    there: There
    elsewhere: Iterable[Source]
    known: Iterable[str]
    lacking: Callable[[Iterable[Sequence[Member]]], Mapping[bytes, int]]
    mount: Callable[[str, Descriptor], bool]
    listing: Listing
    asks: bool = False

    def best(self, plan_on: Callable[[Base | None], Plan], pool: Executor) -> Plan:
        """The plan to push by: the one on what the repository has, else on what can be mounted. Where that would send
        objects that are not here, the one for which the least has to be fetched."""

        def to_fetch(plan: Plan) -> int:
            return sum(self.lacking(plan.packs).values())

        there = self.there.base
        base = self._load(there, pool)
        plan = plan_on(base) if there is not None else mount_base(self.elsewhere, plan_on, self.mount, pool)
        if not to_fetch(plan):
            return plan
        wider = self._wider(base, pool)
        if wider is not None:
            plan = min(plan, plan_on(wider), key=to_fetch)
        if to_fetch(plan) and there is not None:
            plan = min(plan, mount_base(self.elsewhere, plan_on, self.mount, pool), key=to_fetch)
        return plan

    def _load(self, found: Found | None, pool: Executor) -> Base | None:
        asks = self.asks or self.remote.local  # where that costs nothing, all that is built on is looked at
        return load_base(self.remote, found, self.listing, pool, asks=asks) if found is not None else None

    def _wider(self, base: Base | None, pool: Executor) -> Base | None:
        """``base`` with the packs of the other manifests in the repository too."""
        packs = list(base.packs) if base is not None else []
        for digest in self.known:
            other = self._load(read_base(self.remote, digest), pool)
            if other is not None:
                have = {pack.layers.pack.digest for pack in packs}
                packs += (pack for pack in other.packs if pack.layers.pack.digest not in have)
                base = Base(base.manifest if base is not None else other.manifest, packs)
        return base


def _natural(tag: str) -> list[tuple[int, str]]:
    """Sorts v9 before v10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag)]
