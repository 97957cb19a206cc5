"""What one reference in a registry names, without fetching it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.oci.target import Target
from stratum.transfer.artifact import read_manifest, read_metadata

if TYPE_CHECKING:
    from stratum.store.metadata import CommitMeta


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    """A commit elsewhere: what it says of itself, and the digest of the manifest that names it."""

    meta: CommitMeta
    manifest_digest: str


def look_up(source: Target, access: Access) -> RemoteCommit:
    """The commit that ``source`` names, by its manifest and metadata; the tree is not looked at.

    Raises ``NotFoundError`` where there is none, ``DamagedError`` for what does not fit together, ``StratumError`` in
    the registry's words.
    """
    with open_source(source, access) as remote:
        data, digest = remote.get_manifest(source.reference)
        manifest = read_manifest(data, str(source))
        return RemoteCommit(read_metadata(fetch(remote, manifest.config), manifest, str(source)), digest)
