"""What a push sends: which packs of an earlier one stay, what goes into new ones, and the manifest of all that. Pure.

A pack is kept while at least half of its archive is still needed, so that the cost of a push follows the change. Every
push with a base adds a small pack; when more than ``SMALL_PACKS_MAX`` of them have come together, all small packs are
written anew as few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from stratum.errors import UnsupportedError
from stratum.frozen import frozen
from stratum.oci.descriptor import Descriptor
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.oci.remote import Upload
from stratum.transfer.artifact import (
    CONFIG_MEDIA_TYPE,
    PACK_MEDIA_TYPE,
    Manifest,
    Pack,
    PackLayers,
    write_manifest,
)
from stratum.transfer.packcatalogs import catalog_of
from stratum.transfer.packs import LARGE_OBJECT, OBJECT_MAX, Member, archived_size, plan_packs

if TYPE_CHECKING:
    from stratum.store.lineage import Recorded
    from stratum.store.metadata import CommitMeta

SMALL_PACKS_MAX = 32

_SOME_DIGEST = "sha256:" + "0" * 64


@frozen
class Base:
    """A commit to build on, in the repository or where its blobs can be mounted from."""

    manifest: Manifest
    packs: Sequence[Pack]


@frozen
class Plan:
    """A push of the commit ``meta`` with the ancestors ``lineage``.

    ``trees`` are the tree layers. ``kept`` are packs of the base, ``known`` those of its tree layers that are also this
    commit's; ``packs`` has the objects of each new pack. ``catalog`` makes the catalog of the artifact
    (``store.sources``), given the new packs, and names the manifest whose catalog it is a change of, if any.
    """

    meta: CommitMeta
    lineage: Recorded
    trees: tuple[Upload, ...]
    known: tuple[Descriptor, ...]
    kept: tuple[PackLayers, ...]
    packs: tuple[tuple[Member, ...], ...]
    catalog: Callable[[Sequence[Pack]], tuple[bytes, str | None]]

    @property
    def size(self) -> int:
        """Bytes of objects that go into new packs."""
        return sum(member.size for pack in self.packs for member in pack)

    @property
    def borrowed(self) -> list[Descriptor]:
        """The blobs of the base that stay."""
        return [*self.known, *(blob for pack in self.kept for blob in pack.blobs)]

    def manifest(self, config: Descriptor, packs: Sequence[PackLayers]) -> bytes:
        """The manifest, once the new packs are made. ``UnsupportedError`` where it is too large."""
        meta = self.meta
        return write_manifest(
            Manifest(
                meta.metadata_hash,
                meta.timestamp,
                config,
                tuple(tree.descriptor for tree in self.trees),
                (*self.kept, *packs),
                meta.parent_commit,
                ancestors=self.lineage.ancestors,
                whole=self.lineage.whole,
            )
        )

    def check(self) -> None:
        """``UnsupportedError`` where an object or the manifest is too large for readers, as far as that is known before
        packs are made."""
        if (size := max((member.size for pack in self.packs for member in pack), default=0)) > OBJECT_MAX:
            raise UnsupportedError(
                f"the commit has a file of {size} bytes; {OBJECT_MAX} is the most that can be sent",
                hint="divide the file, or keep it in this store only",
            )
        index, pack = Descriptor(INDEX_MEDIA_TYPE, _SOME_DIGEST, 1), Descriptor(PACK_MEDIA_TYPE, _SOME_DIGEST, 1)
        self.manifest(Descriptor(CONFIG_MEDIA_TYPE, _SOME_DIGEST, 1), [PackLayers(index, pack)] * len(self.packs))

    def brings_nothing_to(self, manifest: Manifest) -> bool:
        """Whether ``manifest``, which is the base's, is of this very commit, pushed by somebody whose metadata differ
        in time or origin."""
        if manifest.commit != self.meta.metadata_hash or self.packs or not is_told(manifest, self.lineage):
            return False
        return [tree.descriptor for tree in self.trees] == list(manifest.trees)


def is_told(manifest: Manifest, lineage: Recorded) -> bool:
    """Whether the manifest tells of all those ancestors."""
    return set(lineage.ancestors) <= set(manifest.ancestors)


def plan_push(
    meta: CommitMeta,
    lineage: Recorded,
    trees: Sequence[Upload],
    objects: Mapping[bytes, int],
    repeated: Mapping[bytes, int],
    base: Base | None,
) -> Plan:
    """The push of a commit with these tree layers and objects (digest -> size in bytes, in tree order), that builds
    on ``base``. ``repeated``: how many lines of its dump name each object that more than one does."""
    kept, members = plan_reuse(base.packs if base is not None else (), objects)

    def catalog(new: Sequence[Pack]) -> tuple[bytes, str | None]:
        return catalog_of([*kept, *new], objects, repeated), None

    known = known_trees(trees, base.manifest if base is not None else None)
    stay = tuple(pack.layers for pack in kept)
    return Plan(meta, lineage, tuple(trees), known, stay, tuple(plan_packs(members)), catalog)


def known_trees(trees: Iterable[Upload], base: Manifest | None) -> tuple[Descriptor, ...]:
    """Those of the tree layers that the manifest has too."""
    ours = {tree.descriptor for tree in trees}
    return tuple(tree for tree in base.trees if tree in ours) if base is not None else ()


def plan_reuse(base: Sequence[Pack], objects: Mapping[bytes, int]) -> tuple[tuple[Pack, ...], list[Member]]:
    """(the packs of ``base`` that stay as they are, the ``objects`` that need new ones, in their order)."""
    kept, left = _keep(base, objects)
    small = [pack for pack in kept if pack.index.archive_size < LARGE_OBJECT]
    if len(small) > SMALL_PACKS_MAX:
        kept, _ = _keep([pack for pack in kept if pack not in small], objects)
    if len(kept) < len(base):  # each object counts for a pack that is really kept
        kept, left = _keep(kept, objects)
    members = [Member(digest, size) for digest, size in objects.items() if digest in left]
    return tuple(kept), members


def _keep(packs: Sequence[Pack], objects: Mapping[bytes, int]) -> tuple[list[Pack], Set[bytes]]:
    """The packs worth keeping, and the objects that are in none of them. Each object counts for its first pack."""
    if not packs:
        return [], objects.keys()
    left = set(objects)
    kept = []
    for pack in packs:
        live = [
            member for member in pack.index.members if member.digest in left and objects[member.digest] == member.size
        ]
        if 2 * sum(map(archived_size, live)) >= pack.index.archive_size:
            kept.append(pack)
            left.difference_update(member.digest for member in live)
    return kept, left
