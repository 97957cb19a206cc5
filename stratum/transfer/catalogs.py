"""What is kept of an artifact that has a commit: where it is (``store.sources``), and what its packs hold
(``store.catalog``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.composefs.verity import DIGEST_SIZE, chunk_count
from stratum.oci.bucketname import NETWORK
from stratum.oci.target import Target, is_loopback, parse_target
from stratum.store.catalog import Blob, NewPack, write_catalog
from stratum.store.clock import rfc3339, utc_now
from stratum.store.sources import CommitSource

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.oci.descriptor import Descriptor
    from stratum.transfer.artifact import Pack


def catalog_of(packs: Iterable[Pack], needed: Mapping[bytes, int]) -> bytes:
    """The catalog of an artifact with these packs, of the objects ``needed`` (digest -> size in bytes), each as it is
    in the first pack that has it. Packs without any are left out."""
    return write_catalog(_new_packs(packs, dict(needed)))


def _new_packs(packs: Iterable[Pack], left: dict[bytes, int]) -> Iterator[NewPack]:
    """The packs with what they have of ``left``, which is taken out of it."""
    for pack in packs:
        members = []
        for (digest, size), offset in zip(pack.index.members, pack.index.offsets, strict=True):
            if left.get(digest) == size:
                del left[digest]
                members.append((digest, offset, size))
        if members:
            yield NewPack(_blob(pack.layers.pack), pack.index.frames, members, _verity(pack))


def _verity(pack: Pack) -> Blob | None:
    """The blob with the hashes of the pack's large object; one that cannot be that is as none."""
    verity, members = pack.layers.verity, pack.index.members
    if verity is None or len(members) != 1 or verity.size != DIGEST_SIZE * chunk_count(members[0].size):
        return None
    return _blob(verity)


def _blob(blob: Descriptor) -> Blob:
    return Blob(bytes.fromhex(blob.hex), blob.size)


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
    return parse_target(source.reference)


def access_to(access: Access, source: CommitSource) -> Access:
    """``access``, with what the source says of how its place is spoken to."""
    ca_file = Path(source.ca_file) if source.ca_file is not None else access.ca_file
    return replace(access, plain_http=access.plain_http or source.plain_http, ca_file=ca_file)
