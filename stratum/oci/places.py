"""The places that commits are in: a registry, an OCI image layout, an archive."""

from __future__ import annotations

from stratum.errors import UsageError
from stratum.oci.access import Access
from stratum.oci.remote import Remote
from stratum.oci.target import Target


def open_remote(target: Target, access: Access, *, create: bool = False) -> Remote:
    """The repository that ``target`` names; ``create`` makes an OCI image layout where there is none."""
    if target.directory is not None:
        from stratum.oci.layout import Layout

        return Layout(target, create=create)
    if target.archive is not None:
        from stratum.oci.archive import ArchiveReader

        if create:
            raise UsageError(f"{target} can only be read", hint="stratum export writes archives")
        archive = ArchiveReader(target)
        try:
            archive.verify()
        except BaseException:
            archive.close()
            raise
        return archive
    from stratum.oci.client import RegistryClient

    remote: Remote = RegistryClient(target, access)
    return remote
