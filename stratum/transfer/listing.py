"""What a repository holds, without fetching it: its tags, with what each of them names, and what one commit says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target
from stratum.transfer.artifact import read_manifest, read_metadata

if TYPE_CHECKING:
    from stratum.store.metadata import CommitMeta

WORKERS = 8


@dataclass(frozen=True, slots=True)
class RemoteTag:
    """A tag and the commit that it names.

    ``size`` is what all blobs have together, in bytes as stored; blobs shared with other tags count for each.
    ``commit``, ``created`` (RFC 3339), ``size`` and ``manifest_digest`` are None where the tag names no commit; then
    ``problem`` says what it is instead.
    """

    tag: str
    commit: str | None = None
    created: str | None = None
    size: int | None = None
    manifest_digest: str | None = None
    problem: str | None = None


def list_remote(target: Target, access: Access) -> list[RemoteTag]:
    """The tags of the repository of ``target`` (its own tag does not matter), sorted by name.

    Raises ``NotFoundError`` where there is no such repository or it has no tags, ``StratumError`` in the registry's
    words.
    """
    with open_source(target, access) as remote, ThreadPoolExecutor(WORKERS) as pool:
        tags = list(pool.map(lambda tag: _describe(remote, tag), remote.list_tags()))
    if not tags:
        raise NotFoundError(f"{target.place} does not exist, or has no tags")
    return tags


def _describe(remote: Source, tag: str) -> RemoteTag:
    try:
        data, digest = remote.get_manifest(tag)
    except (DamagedError, NotFoundError) as exc:
        return RemoteTag(tag, problem=exc.message)
    try:
        manifest = read_manifest(data, tag)
    except StratumError as exc:
        return RemoteTag(tag, manifest_digest=digest, problem=exc.message)
    size = len(data) + sum(blob.size for blob in manifest.blobs)
    return RemoteTag(tag, manifest.commit, manifest.created, size, digest)


def look_up(source: Target, access: Access) -> CommitMeta:
    """What the commit that ``source`` names says of itself; its tree is not looked at.

    Raises ``NotFoundError`` where there is none, ``DamagedError`` for what does not fit together, ``StratumError`` in
    the registry's words.
    """
    with open_source(source, access) as remote:
        manifest = read_manifest(remote.get_manifest(source.reference)[0], str(source))
        return read_metadata(fetch(remote, manifest.config), manifest, str(source))
