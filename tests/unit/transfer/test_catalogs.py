"""The catalog that is kept of an artifact: what of which pack it lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.mediatypes import INDEX_MEDIA_TYPE
from stratum.oci.target import parse_target
from stratum.store.catalog import Catalog
from stratum.store.sources import read_sources, write_sources
from stratum.transfer.artifact import PACK_MEDIA_TYPE, Pack, PackLayers
from stratum.transfer.catalogs import access_to, source_of, target_of
from stratum.transfer.packcatalogs import catalog_of
from stratum.transfer.packs import FRAME_SIZE, Member, PackIndex

_MEMBERS = st.builds(
    Member, st.integers(0, 40).map(lambda number: number.to_bytes(32, "big")), st.integers(1, 3 * FRAME_SIZE)
)


def pack_of(number: int, members: list[Member]) -> Pack:
    archive, frames = PackIndex((), tuple(members)).archive_size, []
    while archive:
        frames.append((100 + len(frames), min(archive, FRAME_SIZE)))
        archive -= frames[-1][1]
    index = PackIndex(tuple(frames), tuple(members))
    layers = PackLayers(
        Descriptor(INDEX_MEDIA_TYPE, f"sha256:{number:064x}", 10),
        Descriptor(PACK_MEDIA_TYPE, f"sha256:{number + 1000:064x}", index.blob_size),
    )
    return Pack(layers, index)


_PACKS = st.lists(st.lists(_MEMBERS, min_size=1, max_size=8, unique_by=lambda member: member.digest), max_size=5)


@given(_PACKS, st.sets(st.integers(0, 44)))
def test_it_lists_what_is_needed_where_the_first_pack_has_it(contents: list[list[Member]], numbers: set[int]) -> None:
    packs = [pack_of(number, members) for number, members in enumerate(contents)]
    sizes = {member.digest: member.size for members in reversed(contents) for member in members}
    needed = {digest: size for digest, size in sizes.items() if int.from_bytes(digest, "big") in numbers}
    catalog = Catalog(catalog_of(packs, needed))
    catalog.check()
    assert dict(catalog.digests()) == needed
    assert len(catalog) == len(needed), "each once"
    for member in catalog.members():
        pack = catalog.packs[member.pack]
        whole = next(pack for pack in packs if (member.digest, member.size) in pack.index.members)
        position = whole.index.members.index(Member(member.digest, member.size))
        assert pack.pack.sha256.hex() == whole.layers.pack.hex
        assert pack.pack.size == whole.layers.pack.size
        assert member.offset == whole.index.offsets[position]
        first, last = catalog.frames_of(member)
        starts = whole.index.frame_starts[1]
        base = pack.frames[0]
        assert starts[first - base] <= member.offset
        assert member.offset + member.size <= starts[last - base]


@given(_MEMBERS)
def test_an_object_of_another_size_is_another(member: Member) -> None:
    catalog = Catalog(catalog_of([pack_of(0, [member])], {member.digest: member.size + 1}))
    assert len(catalog) == 0
    assert catalog.packs == ()


@pytest.mark.parametrize(
    ("text", "far"),
    [
        ("registry.example.com/app:v1", True),
        ("s3://data/app:v1", True),
        ("s3://data/app:v1?endpoint=http://minio.example.com:9000&region=eu-1", True),
        ("az://data:v1", True),
        ("file:///srv/strata/app:v1", False),
        ("oci:/srv/layout:v1", False),
    ],
)
def test_a_source_says_how_its_place_is_reached(text: str, far: bool) -> None:
    """To a later process too, which has the file and none of the options."""
    manifest = "sha256:" + "ab" * 32
    access = Access(plain_http=True, ca_file=Path("/ca.pem"))
    noted = source_of(parse_target(text), manifest, "pull", access)
    (source,) = read_sources(write_sources([noted]), "a test")
    assert source == noted
    target = target_of(source)
    assert (target.place, target.digest, source.tag) == (parse_target(text).place, manifest, "v1")
    later = access_to(Access(), source)
    assert (later.plain_http, later.ca_file) == ((True, Path("/ca.pem")) if far else (False, None))
