"""From a target to the place that it names: a registry, an OCI image layout, an archive, an object store, a peer."""

from __future__ import annotations

from stratum.errors import UsageError
from stratum.oci.access import Access
from stratum.oci.remote import Sink, Source
from stratum.oci.target import Target


def open_source(target: Target, access: Access) -> Source:
    """The place to read what ``target`` names from.

    An archive is verified as a whole first. Raises ``NotFoundError`` for one that is not there, and ``StratumError``;
    registries and layouts say what is wrong when they are asked.
    """
    if target.own:
        from stratum.oci.ownblobs import OwnBlobs

        return OwnBlobs(target, access.own_blobs)
    if target.archive is None:
        return open_sink(target, access, create=False)
    from stratum.oci.archive import ArchiveReader

    archive = ArchiveReader(target)
    try:
        archive.verify()
    except BaseException:
        archive.close()
        raise
    return archive


def open_sink(target: Target, access: Access, *, create: bool) -> Sink:
    """The place to write what ``target`` names to; ``create`` makes an OCI image layout where there is none.

    ``UsageError`` for an archive, ``StratumError`` where no layout can be made, or an object store cannot be used.
    """
    if target.bucket is not None:
        from stratum.oci.objectstore import ObjectStore

        return ObjectStore(target, access, writes=create)
    if target.peer is not None:
        from stratum.oci.lightly import lightly

        with lightly():
            from stratum.oci.peerplace import PeerPlace

        return PeerPlace(target, access)
    if target.directory is not None:
        from stratum.oci.layout import Layout

        return Layout(target, create=create)
    if target.archive is not None:
        raise UsageError(f"{target} can only be read", hint="stratum export writes archives")
    from stratum.oci.lightly import lightly

    with lightly():
        from stratum.oci.client import RegistryClient

    return RegistryClient(target, access)
