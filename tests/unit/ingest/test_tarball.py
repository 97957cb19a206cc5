"""Tar archives: what we write others read, what they write we read, and nothing of a hostile one is taken."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import gzip
import io
import lzma
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum import zstd
from stratum.errors import DamagedError, StratumError, UnsupportedError
from stratum.ingest import compression, treebuilder
from stratum.ingest.tarball import read_tar
from stratum.store import Store
from stratum.store.transaction import Transaction
from stratum.transfer.imagelayer import layer_archive
from stratum.tree.dump import write_dump
from stratum.tree.merge import apply_layer, make_layer
from stratum.tree.model import Directory, File, Inode, Special, Symlink, lookup
from stratum.tree.patch import layer_from_patch_tree
from stratum.tree.tarheader import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    END,
    FIFO,
    HARD_LINK,
    SYMLINK,
    TarHeader,
    write_header,
)
from stratum.tree.tarstream import TarReader
from tests.support.archives import file, gnu_tar, image_trees, materialize, reader, tar
from tests.support.effort import examples
from tests.support.trees import mtimes, names, xattrs

BIG = bytes(range(256)) * 40


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Transaction]:
    with Store.create(tmp_path / "store").begin("a test") as transaction:
        yield transaction


def read(tx: Transaction, data: bytes, **options: object) -> Directory:
    tree, warnings = read_tar(tx, reader(data), "test.tar", **options)
    assert not warnings
    return tree


def at(tree: Directory, path: bytes) -> Inode:
    inode = lookup(tree, path)
    assert inode is not None, path
    return inode


# Headers

headers = st.builds(
    TarHeader,
    name=names | st.lists(names, min_size=2, max_size=4).map(b"/".join),
    kind=st.just(b"0"),
    mode=st.integers(0, 0o7777),
    uid=st.sampled_from([0, 0o7777777, 0o10000000, (1 << 32) - 1]),
    gid=st.integers(0, (1 << 32) - 1),
    mtime=mtimes,
    xattrs=xattrs,
)


@given(headers)
def test_a_header_is_read_as_it_was_written(header: TarHeader) -> None:
    (member,) = TarReader(reader(write_header(header) + END), "t")
    assert dataclasses.replace(member.header, records={}) == header


@given(headers)
@settings(max_examples=examples(30))
def test_python_reads_our_headers(header: TarHeader) -> None:
    with tarfile.open(fileobj=io.BytesIO(write_header(header) + END), errors="surrogateescape") as archive:
        (member,) = archive
    assert member.name.encode("utf-8", "surrogateescape") == header.name.rstrip(b"/")
    assert (member.mode, member.uid, member.gid) == (header.mode, header.uid, header.gid)


def test_sizes_over_8_gib_and_long_link_targets_have_records() -> None:
    size = TarReader(reader(write_header(TarHeader(b"big", size=1 << 40))), "t")
    assert next(iter(size)).size == 1 << 40
    link = TarHeader(b"l", SYMLINK, linkname=b"t" * 4000)
    (member,) = TarReader(reader(write_header(link) + END), "t")
    assert member.header.linkname == link.linkname


@given(st.binary(max_size=2000) | st.binary(min_size=512, max_size=512).map(lambda block: block * 3))
def test_noise_is_refused_in_words(data: bytes) -> None:
    archive = TarReader(reader(data), "t")
    if data.startswith(bytes(512)):
        return
    with pytest.raises(StratumError):
        list(archive)


# Trees


@given(image_trees)
@settings(max_examples=examples(60))
def test_a_tree_goes_into_an_archive_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, generated: Directory
) -> None:
    store = Store.create(tmp_path_factory.mktemp("s") / "store")
    with store.begin("a test") as tx:
        tree = materialize(generated, tx)
        tx.publish_objects()
        data = b"".join(layer_archive(tree, lambda digest: store.objects.path(digest).open("rb")))
        back = apply_layer(Directory(0o40755, 0, 0, 0), layer_from_patch_tree(read(tx, data, devices=True)))
        assert write_dump(back) == write_dump(tree)


@given(image_trees, image_trees)
@settings(max_examples=examples(60))
def test_the_layer_between_two_trees_leads_from_one_to_the_other(
    tmp_path_factory: pytest.TempPathFactory, first: Directory, second: Directory
) -> None:
    store = Store.create(tmp_path_factory.mktemp("s") / "store")
    with store.begin("a test") as tx:
        base, tree = materialize(first, tx), materialize(second, tx)
        tx.publish_objects()
        data = b"".join(layer_archive(make_layer(base, tree), lambda digest: store.objects.path(digest).open("rb")))
        layer = layer_from_patch_tree(read(tx, data, base=base, devices=True))
        assert write_dump(apply_layer(base, layer)) == write_dump(tree)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"]])
def test_archives_of_the_tar_program(tx: Transaction, tmp_path: Path, options: list[str]) -> None:
    files = {"a/b/small": b"small", "a/big": BIG, "empty": b"", "a/" + "n" * (90 if "v7" in options[0] else 95): b"n"}
    tree = read(tx, gnu_tar(files, *options, "--owner=7", "--group=8", directory=tmp_path / "src"))
    for name, data in files.items():
        inode = at(tree, name.encode())
        assert isinstance(inode, File)
        assert (inode.uid, inode.gid, inode.size) == (7, 8, len(data))
    big = at(tree, b"a/big")
    assert isinstance(big, File)
    assert big.digest == tx.add_bytes(BIG)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.1"]])
def test_sparse_files_have_their_holes(tx: Transaction, tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "src/sparse"
    path.parent.mkdir()
    with path.open("wb") as sparse:
        for number in range(50):
            sparse.seek(number << 17)
            sparse.write(b"%d" % number)
        sparse.truncate(50 << 17)
    done = subprocess.run(["tar", "-cS", *options, "-C", path.parent, "sparse"], capture_output=True, check=True)
    assert len(done.stdout) < 1 << 20
    inode = at(read(tx, done.stdout), b"sparse")
    assert isinstance(inode, File)
    assert inode.size == 50 << 17
    assert inode.digest == tx.add_bytes(path.read_bytes())


def test_every_type_of_member(tx: Transaction) -> None:
    members = tar(
        TarHeader(b"./", DIRECTORY, 0o1777, uid=3, mtime=-1),
        TarHeader(b"d/", DIRECTORY, 0o700),
        file(b"d/setuid", BIG, mode=0o4755),
        TarHeader(b"hard", HARD_LINK, linkname=b"./d/setuid"),
        TarHeader(b"link", SYMLINK, linkname=b"../../etc/passwd"),
        TarHeader(b"fifo", FIFO),
        TarHeader(b"c", CHARACTER_DEVICE, devmajor=5, devminor=300),
        TarHeader(b"b", BLOCK_DEVICE, devmajor=8, devminor=1),
    )
    tree = read(tx, members, devices=True)
    assert (tree.mode, tree.uid, tree.mtime) == (0o41777, 3, -1)
    assert at(tree, b"hard") is at(tree, b"d/setuid")
    assert at(tree, b"d/setuid").mode == 0o104755
    link, device = at(tree, b"link"), at(tree, b"c")
    assert isinstance(link, Symlink)
    assert link.target == b"../../etc/passwd"
    assert isinstance(device, Special)
    assert device.rdev == (5 << 8 | 300 & 0xFF | (300 & ~0xFF) << 12)
    assert stat.S_ISBLK(at(tree, b"b").mode)
    with pytest.raises(StratumError, match=r"test\.tar: c is a device node"):
        read(tx, members)


def test_directories_without_a_member_have_fixed_metadata_or_those_of_the_base(tx: Transaction) -> None:
    members = tar(file(b"a/b/c"))
    assert at(read(tx, members), b"a/b").metadata() == (0o40755, 0, 0, 0, ())
    base = Directory(0o40700, 1, 1, 1, children={b"a": Directory(0o40711, 2, 2, 2)})
    tree = read(tx, members, base=base)
    assert tree.metadata() == base.metadata()
    assert at(tree, b"a").metadata() == (0o40711, 2, 2, 2, ())
    assert at(tree, b"a/b").metadata() == (0o40755, 0, 0, 0, ())


def test_a_name_that_comes_again_replaces_what_it_was(tx: Transaction) -> None:
    members = tar(
        file(b"a", b"1"),
        TarHeader(b"hard", HARD_LINK, linkname=b"a"),
        file(b"a", b"2"),
        file(b"d/x"),
        file(b"d", b"3"),
        TarHeader(b"e/", DIRECTORY),
        file(b"e/x"),
        TarHeader(b"e/", DIRECTORY, 0o700),
    )
    tree = read(tx, members)
    assert [inode.content for inode in map(tree.children.get, (b"a", b"hard", b"d")) if isinstance(inode, File)] == [
        b"2",
        b"1",
        b"3",
    ]
    assert at(tree, b"e").mode == 0o40700
    assert at(tree, b"e/x")


def test_a_hard_link_may_lead_into_the_base(tx: Transaction) -> None:
    shared = File(0o100644, 0, 0, 0)
    base = Directory(0o40755, 0, 0, 0, children={b"old": shared})
    assert at(read(tx, tar(TarHeader(b"new", HARD_LINK, linkname=b"old")), base=base), b"new") is shared


# What is refused

HOSTILE = {
    "traversal": (tar(file(b"../x")), "leads out"),
    "traversal inside": (tar(file(b"a/../../x")), "leads out"),
    "link traversal": (tar(file(b"a"), TarHeader(b"b", HARD_LINK, linkname=b"../a")), "leads out"),
    "below a symbolic link": (tar(TarHeader(b"a", SYMLINK, linkname=b"/etc"), file(b"a/passwd")), "no directory"),
    "below a file": (tar(file(b"a"), file(b"a/b")), "no directory"),
    "hard link to nothing": (tar(TarHeader(b"a", HARD_LINK, linkname=b"/etc/shadow")), "not in the archive"),
    "hard link to a later member": (tar(TarHeader(b"a", HARD_LINK, linkname=b"b"), file(b"b")), "not in the archive"),
    "hard link to a directory": (
        tar(TarHeader(b"d/", DIRECTORY), TarHeader(b"a", HARD_LINK, linkname=b"d")),
        "is a directory",
    ),
    "hard link through a symbolic link": (
        tar(TarHeader(b"s", SYMLINK, linkname=b"/etc"), TarHeader(b"a", HARD_LINK, linkname=b"s/passwd")),
        "not in the archive",
    ),
    "the top as a file": (tar(file(b"./")), None),
    "the top as a link": (tar(TarHeader(b".", SYMLINK, linkname=b"/")), "top of the tree"),
    "a device": (tar(TarHeader(b"c", CHARACTER_DEVICE, devmajor=1, devminor=3)), "device node"),
    "an unknown type": (tar(TarHeader(b"c", b"M")), "type that is not known"),
    "an absurd path": (tar(file(b"a/" * 40000 + b"b")), "has a path of"),
    "an absurd header": (write_header(TarHeader(b"x", b"x", size=1 << 30)) + END, "has a header of"),
    "a size beyond the data": (write_header(TarHeader(b"x", size=1 << 50)) + b"x", "cut short"),
    "no end": (write_header(TarHeader(b"x")), "cut short"),
    "half a header": (write_header(TarHeader(b"x"))[:300], "cut short"),
    "something after the end": (tar(file(b"a")) + tar(file(b"b")), "goes on after its end"),
    "a broken checksum": (tar(file(b"a")).replace(b"0000644", b"0004755", 1), "is not a tar header"),
    "too many attributes": (
        tar(TarHeader(b"a", xattrs=tuple((b"user.%04d" % n, b"v" * 40) for n in range(900)))),
        "extended attributes",
    ),
    "a name with a NUL": (tar(TarHeader(b"a\0" + b"b" * 200)), "NUL"),
    "text": (b"just some text, and no archive at all" * 40, "is not a tar header"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_in_words(tx: Transaction, case: str) -> None:
    data, message = HOSTILE[case]
    if message is None:
        assert not read(tx, data).children
        return
    with pytest.raises(StratumError, match=message):
        read(tx, data)


def test_an_empty_file_is_no_archive(tx: Transaction) -> None:
    with pytest.raises(DamagedError, match="cut short"):
        read(tx, b"")


def test_absolute_names_begin_at_the_top_of_the_tree(tx: Transaction) -> None:
    assert at(read(tx, tar(file(b"/etc/passwd"))), b"etc/passwd")


def test_acls_as_text_are_left_out_with_a_warning(tx: Transaction) -> None:
    record = b"38 SCHILY.acl.access=user::rw-,other:\n"
    assert len(record) == 38
    pax = write_header(TarHeader(b"p", b"x", size=len(record))) + record.ljust(512, b"\0")
    tree, warnings = read_tar(tx, reader(pax + tar(file(b"a"))), "t")
    assert list(tree.children) == [b"a"]
    assert warnings == ["t: the ACLs of 1 members are left out: they are written as text (tar --acls)"]


def test_metadata_are_bounded(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treebuilder, "METADATA_MAX", 10_000)
    with pytest.raises(StratumError, match="more names and attributes"):
        read(tx, tar(*(file(b"%d" % number) for number in range(100))))
    with pytest.raises(StratumError, match="more names and attributes"):
        read(tx, tar(file(b"d/" * 500 + b"x")))


@given(st.data())
@settings(max_examples=examples(300))
def test_mutated_archives_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = tar(
        TarHeader(b"./", DIRECTORY, 0o755),
        file(b"small", b"content"),
        TarHeader(b"l" * 120, SYMLINK, linkname=b"t" * 120, xattrs=((b"user.a", b"b"),)),
        TarHeader(b"hard", HARD_LINK, linkname=b"small"),
        file(b"d/x", b"y" * 50, mtime=-1234567890123),
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with Store.create(tmp_path_factory.mktemp("s") / "store").begin("a test") as tx:
        for block in range(0, len(damaged) - 512, 512):  # checksums that are right again reach further
            header = damaged[block : block + 512]
            if header[257:262] == b"ustar":
                total = sum(header[:148]) + sum(header[156:]) + 8 * 32
                damaged[block + 148 : block + 156] = b"%06o\0 " % total
        with contextlib.suppress(StratumError):
            write_dump(read(tx, bytes(damaged), devices=True))


# Compression

PLAIN = tar(file(b"a", BIG), file(b"b", b"x" * 100_000))
CHECKED: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESSED = {
    "gzip": gzip.compress(PLAIN),
    "two gzip members": gzip.compress(PLAIN[:3000]) + gzip.compress(PLAIN[3000:]) + bytes(100),
    "xz": lzma.compress(PLAIN),
    "two xz streams": lzma.compress(PLAIN[:5000]) + bytes(4) + lzma.compress(PLAIN[5000:]),
    "zstd": zstd.compress(PLAIN, options=CHECKED),
    "zstd with a skippable frame": b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    + zstd.compress(PLAIN[:9000], options=CHECKED)
    + zstd.compress(PLAIN[9000:], options=CHECKED),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_archives_are_told_by_their_content(tx: Transaction, kind: str) -> None:
    assert write_dump(read(tx, COMPRESSED[kind])) == write_dump(read(tx, PLAIN))


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_archive_that_is_cut_or_changed_is_refused(tx: Transaction, kind: str) -> None:
    data = COMPRESSED[kind].rstrip(b"\0")
    with pytest.raises(DamagedError, match=r"cut short|cannot be decompressed"):
        read(tx, data[:-6])
    middle = len(data) // 2
    with pytest.raises(StratumError):
        read(tx, data[:middle] + bytes((data[middle] ^ 0xFF,)) + data[middle + 1 :])


def test_other_compressions_are_no_archives(tx: Transaction) -> None:
    with pytest.raises(StratumError, match="is not a tar header"):
        read(tx, bz2.compress(PLAIN))


def test_a_zstd_window_of_gigabytes_is_refused(tx: Transaction) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(DamagedError, match="cannot be decompressed"):
        read(tx, data)


def test_bombs_are_refused(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "EXPANSION_FREE", 1 << 20)
    zeros = write_header(TarHeader(b"zeros", size=64 << 20)) + bytes(64 << 20) + END
    with pytest.raises(StratumError, match="decompression bomb"):
        read(tx, zstd.compress(zeros))
    sparse = (
        TarHeader(b"x", size=512, records={}),
        b"0\n".ljust(512, b"\0"),
    )
    records = b"".join(
        b"%d GNU.sparse.%b\n" % (len(text) + 15, text) for text in (b"major=1", b"minor=0", b"realsize=99999999999999")
    )
    pax = write_header(TarHeader(b"p", b"x", size=len(records))) + records.ljust(512, b"\0")
    with pytest.raises(StratumError, match="decompression bomb"):
        read(tx, pax + tar(sparse))


# Layers


def test_what_no_image_layer_can_hold_is_refused() -> None:
    for name, inode in (
        (b".wh.x", File(0o100644, 0, 0, 0)),
        (b"socket", Special(stat.S_IFSOCK, 0, 0, 0)),
        (b"whiteout", Special(stat.S_IFCHR, 0, 0, 0)),
    ):
        tree = Directory(0o40755, 0, 0, 0, children={name: inode})
        with pytest.raises(UnsupportedError, match="an image layer cannot hold"):
            list(layer_archive(tree, lambda _: io.BytesIO()))


def test_an_object_that_is_not_what_its_name_says_is_damage() -> None:
    tree = Directory(0o40755, 0, 0, 0, children={b"f": File(0o100644, 0, 0, 0, size=100, digest=bytes(32))})
    for content in (b"x" * 100, b"x" * 99, b"x" * 101):
        with pytest.raises(DamagedError, match="does not match its digest"):
            list(layer_archive(tree, lambda _, content=content: io.BytesIO(content)))
