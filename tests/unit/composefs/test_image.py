"""Parts of the EROFS writer, and whole images by digests that mkcomposefs gave for the same dumps."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stratum.composefs.erofs import writer
from stratum.composefs.erofs.directory import entries_size, split_names
from stratum.composefs.erofs.layout import chunks_of
from stratum.composefs.erofs.writer import image_pieces
from stratum.composefs.erofs.xattrs import entry, split_name
from stratum.composefs.erofs.xxhash import xxh32
from stratum.composefs.verity import verity_digest
from stratum.errors import UnsupportedError
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.limits import with_marks
from stratum.tree.model import Directory, File, Symlink, Whiteout
from tests.support.trees import TreeBuilder

DUMP = b"""\
/ 0 40755 3 0 0 0 1700000000.5 - - -
/d 0 40750 2 1000 1000 0 1700000000.5 - - - user.shared=1
/d/big 99999 100644 2 70000 0 0 -7.1 ab/%b - ab%b user.shared=1
/d/link 6 120777 1 0 0 0 1700000000.5 target - -
/d/zero 0 20000 1 0 0 0 1700000001.0 - - -
/fifo 0 10644 1 0 0 0 1700000000.5 - - - trusted.overlay.opaque=y
/same 99999 @100644 2 70000 0 0 -7.1 /d/big - ab%b user.shared=1
/text 5 100644 1 0 0 0 1700000000.5 - hello -
""" % (b"cd" * 31, b"cd" * 31, b"cd" * 31)


def test_images_of_known_digest() -> None:
    image = b"".join(image_pieces(read_dump(DUMP)))
    assert verity_digest(image).hex() == "e45c5124ddd694478d829c4fed05ad449bea9fa3583b2c1cf3ad4d48c1a13b64"


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [
        (b"", 0, 0x02CC5D05),
        (b"", 0x9E3779B1, 0x36B78AE7),
        (b"a", 0, 0x550D7456),
        (b"Nobody inspects the spammish repetition", 0, 0xE2293B2F),
    ],
)
def test_xxh32(data: bytes, seed: int, value: int) -> None:
    assert xxh32(data, seed) == value


@pytest.mark.parametrize(
    ("size", "bits", "chunks"),
    [
        (1, 12, 1),
        (4096, 12, 1),
        (4097, 13, 1),
        (1 << 43, 43, 1),
        ((1 << 43) + 1, 43, 2),
        (1 << 53, 43, 1024),
        ((1 << 64) - 1, 43, 0),
    ],
)
def test_files_have_as_few_chunks_as_possible(size: int, bits: int, chunks: int) -> None:
    assert chunks_of(size) == (bits, chunks)


def test_directory_blocks_are_filled_as_far_as_names_go() -> None:
    names = [b"%03d" % number + b"n" * 100 for number in range(100)]
    bounds = split_names(names)
    assert bounds[0] == 0
    assert bounds[-1] == 100
    for start, stop in pairwise(bounds):
        assert entries_size(names[start:stop]) <= 4096
    for start, stop in pairwise(bounds[:-1]):
        assert entries_size(names[start : stop + 1]) > 4096
    assert split_names(names[:10]) == [0, 10]


def test_names_of_attributes_are_split_at_the_longest_known_prefix() -> None:
    assert split_name(b"user.a") == (1, b"a")
    assert split_name(b"system.posix_acl_access") == (2, b"")
    assert split_name(b"lustre.a") == (0, b"lustre.a")
    assert entry(b"user.ab", b"xyz") == b"\x02\x01\x03\x00abxyz\0\0\0"


def test_what_no_image_can_hold_is_refused_before_anything_is_written() -> None:
    root = Directory(0o40755, 0, 0, 0)
    root.children[b"huge"] = File(0o100644, 0, 0, 0, size=(1 << 53) + 1, digest=bytes(32))
    with pytest.raises(UnsupportedError, match="9007199254740993 bytes"):
        next(image_pieces(root))


@pytest.mark.parametrize("seed", range(8))
def test_plain_files_are_written_as_all_others(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BATCH", 7)
    root = TreeBuilder(seed).tree(800)
    linked = File(0o100644, 7, 8, 9, size=100, digest=bytes([seed]) * 32)
    for number in range(100):  # of every size, in a row
        root.children[b"p%d" % number] = File(
            0o100600, number, 1, 10**9 * number + 5, size=65 << number % 31, digest=b"%32d" % number
        )
    root.children |= {b"p5a": linked, b"p5b": linked, b"p6a": File(0o100644, 7, 8, 9, size=100, digest=b"%32d" % 9)}
    image = b"".join(image_pieces(root))
    monkeypatch.setattr(writer._Inodes, "_plain_files", lambda self, first: 0)
    assert b"".join(image_pieces(root)) == image


def test_a_layer_is_no_tree() -> None:
    with pytest.raises(TypeError, match="Whiteout"):
        list(image_pieces(Directory(0o40755, 0, 0, 0, children={b"gone": Whiteout()})))


def test_marks_replace_shorter_values_only() -> None:
    mark = ((b"user.m", b"x"),)
    assert with_marks(((b"user.a", b""), (b"user.m", b"y")), mark) == ((b"user.a", b""), (b"user.m", b"x"))
    with pytest.raises(UnsupportedError, match=r"user\.m"):
        with_marks(((b"user.a", b""), (b"user.m", b"yy")), mark)


def test_directories_that_appear_twice_are_two_directories() -> None:
    shared = Directory(0o40755, 0, 0, 0, children={b"s": Symlink(0o120777, 0, 0, 0, target=b"t")})
    root = Directory(0o40755, 0, 0, 0, children={b"a": shared, b"b": shared})
    assert b"".join(image_pieces(root)) == b"".join(image_pieces(read_dump(write_dump(root))))
