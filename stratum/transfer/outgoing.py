"""A commit of the store that is to be pushed: what of it is asked for, read when it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.descriptor import Descriptor, describe
from stratum.oci.remote import Upload
from stratum.store.ancestry import Ancestry
from stratum.store.catalogchange import write_change
from stratum.store.subtree import Differing
from stratum.transfer.artifact import TREE_MEDIA_TYPE, Manifest, Pack
from stratum.transfer.changes import change_on
from stratum.transfer.packcatalogs import new_packs, packs_in
from stratum.transfer.packs import plan_packs
from stratum.transfer.planning import Base, Plan, known_trees, plan_push
from stratum.tree.contents import counted_objects
from stratum.tree.escape import unescape
from stratum.tree.zstdframe import compress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stratum.store import Store
    from stratum.store.trees import Layer
    from stratum.transfer.bases import Found

_COMPRESSORS = 2


class Outgoing:
    """The commit. ``NotFoundError`` where there is none, ``DamagedError`` where anything of it is damaged."""

    def __init__(self, store: Store, commit: str) -> None:
        self._store, self.commit = store, commit
        self.meta = store.commits.meta(commit)
        self.lineage = Ancestry(store).to_send(commit)

    @cached_property
    def _objects(self) -> tuple[dict[bytes, int], dict[bytes, int]]:
        return counted_objects(self._store.commits.dump(self.commit))

    @cached_property
    def trees(self) -> list[Upload]:
        """The tree layers. They are those of the commit only if ``verify`` finds nothing."""
        with ThreadPoolExecutor(_COMPRESSORS) as pool:  # while they compress, the next one is cut
            return list(pool.map(self._upload, self._store.trees.layers(self.commit)))

    def _upload(self, layer: Layer) -> Upload:
        trees, frame = self._store.trees, layer.frame
        if frame is None:
            blob = compress(layer.piece)
            return Upload.of_bytes(describe(TREE_MEDIA_TYPE, blob), blob)
        digest = frame.sha256

        def read(start: int) -> Iterator[bytes]:
            data = trees.frame_file(digest)
            if sha256(data).digest() != digest:
                raise DamagedError(f"frame {digest.hex()} does not match its name", hint="run 'stratum fsck'")
            yield data[start:]

        return Upload(Descriptor(TREE_MEDIA_TYPE, f"sha256:{digest.hex()}", trees.frame_file_size(digest)), read)

    def verify(self) -> None:
        """Compare the dump with the commit's name; ``DamagedError`` where it is another."""
        if "_objects" not in self.__dict__:  # else it was when it was read for them
            self._store.commits.verify(self.commit)

    def plan_on(self, base: Base | None) -> Plan:
        """The plan to push it by that builds on ``base``."""
        return plan_push(self.meta, self.lineage, self.trees, *self._objects, base)

    def small_plan(self, base: Found | None) -> Plan | None:
        """The same plan on what is in the repository, made of what differs from that commit; None where that cannot be
        told, or is not little (``changes``)."""
        if base is None:
            return None
        manifest, of = base
        with suppress(NotFoundError, DamagedError):
            catalog = self._store.sources.catalog(of)
            catalog.check()
            lines = changed_lines(self._store, manifest.commit, self.commit)
            change = change_on(catalog, manifest.packs, *lines)
            if change is None:
                return None

            def changed(packs: Sequence[Pack]) -> tuple[bytes, str | None]:
                left = {member.digest: member.size for member in change.new}
                listed = list(new_packs(packs, left))
                return write_change(change.catalog, change.counts, listed, change.uses), of

            trees = tuple(self.trees)
            known, packs = known_trees(trees, manifest), tuple(plan_packs(change.new))
            return Plan(self.meta, self.lineage, trees, known, manifest.packs, packs, changed)
        return None

    def listing(self, manifest: Manifest, digest: str) -> list[Pack] | None:
        """The packs of a manifest with this digest, where a commit was pulled or pushed by it."""
        with suppress(NotFoundError, DamagedError):
            return packs_in(self._store.sources.catalog(digest), manifest.packs)
        return None


def changed_lines(store: Store, old: str, new: str) -> tuple[list[bytes], list[bytes]]:
    """The lines that only the dump of the one or of the other commit has, in its order. ``NotFoundError``,
    ``DamagedError``."""
    gone, came = Differing(store.trees).between(old, new)
    return [*gone], sorted(came, key=_place)


def _place(line: bytes) -> list[bytes]:
    """What the lines of a dump are sorted by."""
    path = line.partition(b" ")[0]
    return [unescape(name) for name in path.split(b"/")] if path != b"/" else []
