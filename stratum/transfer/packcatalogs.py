"""What is kept of an artifact's packs, its catalog (``store.catalog``), and packs as a catalog lists them. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stratum.composefs.verity import DIGEST_SIZE, chunk_count
from stratum.oci.descriptor import Descriptor
from stratum.store.catalog import Blob, Catalog, NewPack, write_catalog
from stratum.transfer.artifact import Pack, PackLayers
from stratum.transfer.packs import Members, PackIndex


def catalog_of(packs: Iterable[Pack], needed: Mapping[bytes, int], uses: Mapping[bytes, int] | None = None) -> bytes:
    """The catalog of an artifact with these packs, of the objects ``needed`` (digest -> size in bytes), each as it is
    in the first pack that has it. Packs without any are left out. ``uses`` is as for ``write_catalog``."""
    return write_catalog(new_packs(packs, dict(needed)), uses)


def new_packs(packs: Iterable[Pack], left: dict[bytes, int]) -> Iterator[NewPack]:
    """The packs with what they have of ``left``, which is taken out of it."""
    for pack in packs:
        members, spares = [], []
        for (digest, size), offset in zip(pack.index.members, pack.index.offsets, strict=True):
            if left.get(digest) == size:
                del left[digest]
                members.append((digest, offset, size))
            else:
                spares.append((digest, offset, size))
        if members:
            yield NewPack(_blob(pack.layers.pack), pack.index.frames, members, _verity(pack), spares)


def packs_in(catalog: Catalog, layers: Sequence[PackLayers]) -> list[Pack] | None:
    """The packs of an artifact, as its indexes tell of them; None where its catalog does not list all of them.
    ``DamagedError`` where that is damaged."""
    catalog.check()
    listed = {(pack.pack.sha256.hex(), pack.pack.size): pack for pack in catalog.packs}
    packs = []
    for layer in layers:
        pack = listed.get((layer.pack.hex, layer.pack.size))
        if pack is None:
            return None
        listed_in = catalog.contents(pack)
        digests = b"".join([digest for digest, _, _ in listed_in])
        members = Members(digests, array("Q", [size for _, _, size in listed_in]))
        frames = [catalog.frame(number) for number in range(*pack.frames)]
        packs.append(Pack(layer, PackIndex(tuple([(frame.size, frame.archive_size) for frame in frames]), members)))
    return packs


def _verity(pack: Pack) -> Blob | None:
    """The blob with the hashes of the pack's large object; one that cannot be that is as none."""
    verity, members = pack.layers.verity, pack.index.members
    if verity is None or len(members) != 1 or verity.size != DIGEST_SIZE * chunk_count(members[0].size):
        return None
    return _blob(verity)


def _blob(blob: Descriptor) -> Blob:
    return Blob(bytes.fromhex(blob.hex), blob.size)
