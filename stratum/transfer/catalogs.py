"""From the packs of an artifact to the catalog that is kept of it (``store.catalog``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from stratum.store.catalog import Blob, NewPack, write_catalog

if TYPE_CHECKING:
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
            yield NewPack(_blob(pack.layers.pack), pack.index.frames, members)


def _blob(blob: Descriptor) -> Blob:
    return Blob(bytes.fromhex(blob.hex), blob.size)
