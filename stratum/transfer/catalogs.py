"""What is kept of where an artifact is that has a commit (``store.sources``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.oci.bucketname import NETWORK
from stratum.oci.target import Target, is_loopback, parse_target
from stratum.store.clock import rfc3339, utc_now
from stratum.store.sources import CommitSource

if TYPE_CHECKING:
    from stratum.oci.access import Access


def can_be_noted(target: Target) -> bool:
    """Whether the target can be a source of a commit: a path with bytes that are not Unicode has no place in a file of
    text."""
    return str(target).isprintable()


def source_of(target: Target, manifest: str, kind: str, access: Access | None) -> CommitSource:
    """The artifact whose ``manifest`` (a digest) ``target`` named just now, reached by ``access``."""
    scheme, host = target.scheme, target.host or ""
    archive = target.archive.absolute() if target.archive is not None else None
    reference = str(replace(target, digest=manifest, archive=archive))
    if scheme == "https" and is_loopback(host):  # where HTTP is what is spoken otherwise
        reference = f"https://{reference}"
    ca_file = access.ca_file if access is not None else None
    far = bool(host) or (target.bucket is not None and target.bucket.scheme in NETWORK)
    return CommitSource(
        reference,
        manifest,
        None if target.digest is not None else target.tag,
        rfc3339(utc_now()),
        kind,
        plain_http=scheme == "http" or (access is not None and access.plain_http and scheme is None and far),
        ca_file=str(ca_file.absolute()) if ca_file is not None and far else None,
    )


def target_of(source: CommitSource) -> Target:
    """What ``source_of`` made the source of; ``UsageError`` where its reference is none."""
    if source.is_own:
        return Target(own=True, digest=source.manifest)
    return parse_target(source.reference)


def access_to(access: Access, source: CommitSource) -> Access:
    """``access``, with what the source says of how its place is spoken to."""
    ca_file = Path(source.ca_file) if source.ca_file is not None else access.ca_file
    return replace(access, plain_http=access.plain_http or source.plain_http, ca_file=ca_file)
