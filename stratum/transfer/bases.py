"""What is there already that a push can build on: in its repository, or in another one of the same registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.descriptor import Descriptor
from stratum.oci.remote import Source, fetch
from stratum.transfer.artifact import Manifest, read_manifest
from stratum.transfer.objects import read_packs
from stratum.transfer.planning import Base, Plan

_BASES_MAX = 8


@dataclass(frozen=True, slots=True)
class There:
    """What a repository has: the commit that the tag names now, ``present``, with the digest of its manifest, and the
    one to build on."""

    base: Manifest | None = None
    present: Manifest | None = None
    digest: str = ""


def find_there(remote: Source, tag: str, commit: str, parent: str | None) -> There:
    """What there is for a push of ``commit`` to ``tag``: to build on is what the tag names, else the commit or its
    parent under another tag, else the newest-looking. A tag that names something else counts as none."""
    present = read_base(remote, tag)
    if present is not None:
        return There(present[0], *present)
    candidates = []
    for other in sorted(set(remote.list_tags()) - {tag}, key=_natural, reverse=True)[:_BASES_MAX]:
        found = read_base(remote, other)
        if found is not None and found[0].commit in (parent, commit):
            return There(found[0])
        candidates += [found[0]] if found is not None else []
    return There(candidates[0] if candidates else None)


def read_base(remote: Source, reference: str) -> tuple[Manifest, str] | None:
    """The commit that a tag or digest names, with the digest of its manifest; None where it names none."""
    try:
        data, digest = remote.get_manifest(reference)
    except NotFoundError:
        return None
    try:
        return read_manifest(data, str(remote.target)), digest
    except StratumError:
        return None


def load_base(remote: Source, manifest: Manifest, pool: Executor) -> Base | None:
    """The commit with its packs; None where it is damaged, as then it is not built on."""
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
        if all(pool.map(partial(mount, remote.target.repository), found.borrowed)):
            return found
    return plan(None)


def _natural(tag: str) -> list[tuple[int, str]]:
    """Sorts v9 before v10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag)]
