"""A push of a change: what is made of what differs is what is made of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import event, given
from hypothesis import strategies as st

from stratum.oci.descriptor import Descriptor
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.store.catalog import Catalog
from stratum.store.catalogchange import ChangedCatalog, is_change, write_change
from stratum.transfer.artifact import PACK_MEDIA_TYPE, Pack, PackLayers
from stratum.transfer.changes import change_on
from stratum.transfer.packcatalogs import catalog_of, new_packs, packs_in
from stratum.transfer.packs import FRAME_SIZE, Member, PackIndex
from stratum.transfer.planning import plan_reuse

_SIZES = (1, 5000, 600_000, 2 * FRAME_SIZE)

Tree = Mapping[int, int]
"""Number of a file -> that of its object."""


def pack_of(number: int, members: Sequence[Member]) -> Pack:
    archive, frames = PackIndex((), tuple(members)).archive_size, list[tuple[int, int]]()
    while archive:
        frames.append((100 + len(frames), min(archive, FRAME_SIZE)))
        archive -= frames[-1][1]
    index = PackIndex(tuple(frames), tuple(members))
    blobs = (
        Descriptor(INDEX_MEDIA_TYPE, f"sha256:{number:064x}", 10),
        Descriptor(PACK_MEDIA_TYPE, f"sha256:{number + 1000:064x}", index.blob_size),
    )
    return Pack(PackLayers(*blobs), index)


def member(number: int) -> Member:
    return Member(number.to_bytes(32, "big"), _SIZES[number % len(_SIZES)])


def line(file: int, number: int) -> bytes:
    digest, size = member(number)
    name = digest.hex()
    return b"/%03d %d 100644 1 0 0 0 0.0 %b/%b - %b\n" % (
        file,
        size,
        name[:2].encode(),
        name[2:].encode(),
        name.encode(),
    )


def objects(tree: Tree) -> dict[bytes, int]:
    return dict(member(tree[file]) for file in sorted(tree))


def uses(tree: Tree) -> dict[bytes, int]:
    counts = Counter(member(number).digest for number in tree.values())
    return {digest: count for digest, count in counts.items() if count > 1}


def listed(catalog: Catalog) -> dict[bytes, tuple[int, int, int, str]]:
    """All that it tells of its objects, as ``find`` finds them."""
    found = {}
    for digest, size in catalog.digests():
        number = catalog.find(digest)
        assert number is not None
        one = catalog.member(number)
        assert (one.digest, one.size, one.number) == (digest, size, number)
        frames = [catalog.frame(n) for n in range(*catalog.frames_of(one))]
        assert frames[0].archive_start <= one.offset
        assert one.offset + size <= frames[-1].archive_start + frames[-1].archive_size
        low, high = catalog.members_within(frames[0].number, frames[-1].number + 1)
        assert low <= number < high
        found[digest] = (size, one.offset, catalog.uses(number), catalog.packs[one.pack].pack.sha256.hex())
    assert found.keys() == {one.digest for one in catalog.members()}
    assert sorted(found) == list(catalog.beginning_with(b""))
    return found


_TREES = st.dictionaries(st.integers(0, 30), st.integers(0, 12), min_size=1, max_size=24)


@given(
    _TREES, st.lists(_TREES, max_size=2), st.lists(st.dictionaries(st.integers(0, 30), st.integers(0, 20))), st.data()
)
def test_what_differs_is_enough(first: Tree, more: list[Tree], edits: list[Tree], data: st.DataObject) -> None:
    """Also of changes of changes; and where it is not enough, that is told."""
    packs = [pack_of(0, [Member(*item) for item in objects(first).items()])]
    for number, other in enumerate(more):  # objects that are not needed, or that another pack has as well
        packs.append(pack_of(1 + number, [Member(*item) for item in objects(other).items()]))
    packs = [pack for pack in packs if set(pack.index.members) & set(objects(first).items())]
    catalog: Catalog = Catalog(catalog_of(packs, objects(first), uses(first)))
    tree = dict(first)
    for number, edit in enumerate(edits):
        gone = data.draw(st.sets(st.sampled_from(sorted(tree)), max_size=2)) if len(tree) > 2 else set[int]()
        new = {file: one for file, one in {**tree, **edit}.items() if file not in gone}
        if len({digest for digest, _ in map(member, new.values())}) != len(set(map(member, new.values()))):
            continue
        removed = [line(file, tree[file]) for file in sorted(tree) if new.get(file) != tree[file]]
        added = [line(file, new[file]) for file in sorted(new) if tree.get(file) != new[file]]
        catalog.check()
        assert packs_in(catalog, [pack.layers for pack in packs]) in (packs, None)
        change = change_on(catalog, [pack.layers for pack in packs], removed, added)
        kept, members = plan_reuse(packs, objects(new))
        event(
            f"{'all' if change is None else 'what differs'} of {'a change' if is_change(catalog.data) else 'a whole'}"
        )
        fresh = [pack_of(100 + number, members)] if members else []
        if change is None:
            packs = [*kept, *fresh]
            catalog = Catalog(catalog_of(packs, objects(new), uses(new)))
            packs = [pack for pack in packs if pack.layers.pack.hex in {one.pack.sha256.hex() for one in catalog.packs}]
        else:
            assert (list(kept), members) == (packs, list(change.new))
            packs = [*packs, *fresh]
            text = write_change(catalog, change.counts, new_packs(fresh, objects(new)), change.uses)
            catalog = ChangedCatalog(catalog.parts[0], text)
            assert listed(catalog) == listed(Catalog(catalog_of(packs, objects(new), uses(new))))
        tree = new
