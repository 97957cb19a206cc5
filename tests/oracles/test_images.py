"""Our images against mkcomposefs 1.0.8's: byte for byte, for every tree and every dump that we take.

``STRATUM_TEST_EXAMPLES`` multiplies the number of generated examples, and adds a large real tree.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings

from stratum.composefs.erofs.writer import image_pieces
from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.model import Directory, File, Inode, Special, Symlink
from tests.oracles import mkcomposefs
from tests.support.effort import FACTOR, examples
from tests.support.mutations import mutate
from tests.support.trees import TreeBuilder, trees

pytestmark = pytest.mark.oracle

ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"


def check_tree(root: Directory) -> None:
    dump = write_dump(root)
    image = b"".join(image_pieces(root))
    assert image == mkcomposefs.image_of_dump(dump)
    assert image_of(dump) == image


def image_of(dump: bytes) -> bytes:
    return b"".join(image_pieces(read_dump(dump)))


@given(trees)
@settings(max_examples=examples(60))
def test_small_trees(root: Directory) -> None:
    check_tree(root)


@pytest.mark.parametrize("seed", range(examples(40)))
def test_trees_of_every_size(seed: int) -> None:
    builder = TreeBuilder(seed)
    check_tree(builder.tree(builder.random.choice((0, 1, 5, 30, 200, 1500, 4000))))


@pytest.mark.parametrize("seed", range(examples(20)))
def test_changed_dumps_make_the_same_image_unless_we_refuse_them(seed: int) -> None:
    """What is canonical is a dump to both; much else is one to mkcomposefs alone."""
    rng = random.Random(seed)
    dump = write_dump(TreeBuilder(seed).tree(rng.choice((1, 4, 12))))
    for _ in range(400):  # of which a dozen or two stay canonical
        changed = mutate(dump, rng)
        if is_canonical(changed):
            assert image_of(changed) == mkcomposefs.image_of_dump(changed), changed


def is_canonical(dump: bytes) -> bool:
    try:
        read_dump(dump)
    except DamagedError:
        return False
    return True


def directory(children: dict[bytes, Inode]) -> Directory:
    return Directory(0o40755, 0, 0, 0, children=children)


@pytest.mark.parametrize("size", [1, 64, 65, 4096, (1 << 32) - 1, 1 << 32, 1 << 43, (1 << 43) + 1, 1 << 53])
@pytest.mark.parametrize("attribute", [0, 3700, 3800, 3900])
def test_maps_and_contents_around_the_end_of_a_block(size: int, attribute: int) -> None:
    children: dict[bytes, Inode] = {}
    for number in range(40):
        mtime = number % 2
        xattrs = ((b"user.a", b"v" * (attribute + number * 4)),)
        if size <= 64:
            children[b"f%d" % number] = File(0o100644, 0, 0, mtime, xattrs, size=size, content=b"c" * size)
        else:
            children[b"f%d" % number] = File(0o100644, 0, 0, mtime, xattrs, size=size, digest=bytes((number,)) * 32)
    check_tree(directory(children))


@pytest.mark.parametrize("length", [1, 3900, 3968, 4000, 4031, 4032, 4033, 4063, 4064, 4065, 4095])
@pytest.mark.parametrize("attribute", [None, 0, 4, 60, 4000])
def test_symlinks_around_the_end_of_a_block(length: int, attribute: int | None) -> None:
    xattrs = () if attribute is None else ((b"trusted.a", b"v" * attribute),)
    children: dict[bytes, Inode] = {
        b"s%d" % number: Symlink(0o120777, 0, 0, number % 3, xattrs, target=b"t" * length) for number in range(6)
    }
    check_tree(directory(children))


@pytest.mark.parametrize("count", [1, 80, 150, 250, 251, 252, 500, 3000])
@pytest.mark.parametrize("length", [4, 12, 255])
def test_directories_of_any_number_of_names(count: int, length: int) -> None:
    inner = directory({b"%04d" % number + b"n" * (length - 4): File(0o100644, 0, 0, 0) for number in range(count)})
    check_tree(directory({b"inner": inner, b"-": inner, b"zz": File(0o100600, 0, 0, 5)}))


def test_more_shared_attributes_than_an_inode_can_refer_to() -> None:
    xattrs = tuple((b"user.%03d" % number, b"") for number in range(200))
    check_tree(directory({name: File(0o100644, 0, 0, 0, xattrs) for name in (b"a", b"b")}))


def test_link_counts_and_owners_around_16_bits() -> None:
    linked = File(0o100644, 65535, 65536, 0)
    children: dict[bytes, Inode] = {b"l%05d" % number: linked for number in range(65537)}
    children.update({b"d%05d" % number: Directory(0o40755, 65536, 65535, 0) for number in range(300)})
    check_tree(directory(children))


def test_whiteouts_in_the_root_and_below_named_like_object_directories() -> None:
    whiteout = Special(0o20644, 0, 0, 0)
    label = ((b"security.selinux", b"label"), (b"trusted.overlay.opaque", b"y"))
    root = Directory(0o40755, 1, 2, -3, label)
    root.children.update({b"00": whiteout, b"0a": whiteout, b"ff": directory({b"w": whiteout}), b"0A": directory({})})
    check_tree(root)


def test_deep_nesting() -> None:
    root = inner = directory({})
    for _ in range(1500):
        child = directory({})
        inner.children[b"d"] = child
        inner = child
    inner.children[b"end"] = Symlink(0o120777, 0, 0, 0, target=b"..")
    check_tree(root)


@pytest.mark.parametrize("extra", [b"", b"x"])
def test_the_limit_of_attributes(extra: bytes) -> None:
    dump = ROOT + b"/a 0 100644 1 0 0 0 0.0 - - - user.a=" + b"v" * (32767 - 12 - 7 - 6) + extra + b"\n"
    assert mkcomposefs.image_of_dump(dump) == (None if extra else image_of(dump))
    assert is_canonical(dump) == (not extra)


def test_the_largest_file() -> None:
    line = b"/a %d 100644 1 0 0 0 0.0 ab/" + b"ab" * 31 + b" - " + b"ab" * 32 + b"\n"
    assert mkcomposefs.image_of_dump(ROOT + line % (1 << 53)) == image_of(ROOT + line % (1 << 53))
    assert "too large" in mkcomposefs.refusal_of_dump(ROOT + line % ((1 << 53) + 1))
    assert not is_canonical(ROOT + line % ((1 << 53) + 1))


@pytest.mark.parametrize("tree", ["/usr/share", "/usr/bin", "/etc", "/dev", *(["/usr/lib"] if FACTOR > 1 else [])])
def test_real_trees(tree: str, tmp_path: Path) -> None:
    """Their own image, its dump, that dump made canonical, and our image of it."""
    image = mkcomposefs.image_of_directory(Path(tree))
    path = tmp_path / "image"
    path.write_bytes(image)
    dump = mkcomposefs.dump_of_image(path)
    canonical = b"".join(map(as_canonical, dump.splitlines(keepends=True)))
    root = read_dump(canonical)
    assert write_dump(root) == canonical
    assert b"".join(image_pieces(root)) == image


def as_canonical(line: bytes) -> bytes:
    """A line of composefs-info with size 0 for a directory and its attributes, which are in image order, sorted."""
    fields = line[:-1].split(b" ")
    if fields[2].startswith(b"4"):
        fields[1] = b"0"
    return b" ".join(fields[:11] + sorted(fields[11:])) + b"\n"


def test_file_digests(tmp_path: Path) -> None:
    rng = random.Random(1)
    sizes = (1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 128 * 128 * 4096 + 1)
    paths = []
    for size in sizes:
        paths.append(tmp_path / str(size))
        paths[-1].write_bytes(rng.randbytes(size))
    assert [verity_digest(path.read_bytes()).hex() for path in paths] == mkcomposefs.verity_digests(paths)
