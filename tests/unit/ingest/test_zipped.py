"""Zip and 7z archives: what is in them becomes a tree, and nothing of a hostile one is taken."""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import py7zr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, StratumError, UnsupportedError, UsageError
from stratum.ingest import compression, treebuilder, zipped
from stratum.ingest.sevenzip import read_sevenzip_file
from stratum.ingest.zipped import read_zip_file
from stratum.store import Store
from stratum.store.transaction import Transaction
from stratum.tree.model import Directory, File, Special, Symlink, lookup, walk
from tests.support.effort import examples

BIG = bytes(range(256)) * 40


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Transaction]:
    with Store.create(tmp_path / "store").begin("a test") as transaction:
        yield transaction


Member = tuple[Any, bytes]


def info(name: str, **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.create_system = 3
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def unix(mode: int) -> int:
    return mode << 16


def zipped_bytes(*members: Member) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, data in members:
            archive.writestr(member, data)
    return out.getvalue()


def read(tx: Transaction, data: bytes, **options: Any) -> Directory:
    path = tx.directory / "test.zip"
    path.write_bytes(data)
    tree, warnings = read_zip_file(tx, str(path), "test.zip", **options)
    assert not warnings
    return tree


def named(tx: Transaction, name: bytes, **fields: Any) -> bytes:
    """What becomes of the raw ``name`` in an archive whose headers say ``fields``."""
    stand_in = "n" * len(name)
    data = zipped_bytes((info(stand_in, **fields), b"x")).replace(stand_in.encode(), name)
    (found,) = read(tx, data).children
    return found


def test_all_that_a_zip_has(tx: Transaction) -> None:
    tree = read(
        tx,
        zipped_bytes(
            (info("d/", external_attr=unix(stat.S_IFDIR | 0o700)), b""),
            (info("d/big", external_attr=unix(stat.S_IFREG | 0o4755), compress_type=zipfile.ZIP_DEFLATED), BIG),
            (info("d/bzip2", compress_type=zipfile.ZIP_BZIP2), BIG),
            (info("lzma", compress_type=zipfile.ZIP_LZMA), BIG),
            (info("link", external_attr=unix(stat.S_IFLNK | 0o777)), b"d/big"),
            (info("pipe", external_attr=unix(stat.S_IFIFO | 0o600)), b""),
            (info("small"), b"abc"),
            (info("dos/", create_system=0, external_attr=0x10), b""),
            (info("readonly", create_system=0, external_attr=1), b""),
        ),
    )
    assert {path: oct(inode.mode) for path, inode in walk(tree)} == {
        b"/": "0o40755",
        b"/d": "0o40700",
        b"/d/big": "0o104755",
        b"/d/bzip2": "0o100600",
        b"/dos": "0o40755",
        b"/link": "0o120777",
        b"/lzma": "0o100600",
        b"/pipe": "0o10600",
        b"/readonly": "0o100444",
        b"/small": "0o100600",
    }
    big, link, small = lookup(tree, b"d/big"), lookup(tree, b"link"), lookup(tree, b"small")
    assert isinstance(big, File)
    assert isinstance(link, Symlink)
    assert isinstance(small, File)
    assert isinstance(lookup(tree, b"pipe"), Special)
    assert (link.target, small.content, big.size) == (b"d/big", b"abc", len(BIG))
    for path in (b"d/bzip2", b"lzma"):
        same = lookup(tree, path)
        assert isinstance(same, File)
        assert same.digest == big.digest
    assert {(inode.uid, inode.gid) for _, inode in walk(tree)} == {(0, 0)}


def test_names(tx: Transaction) -> None:
    assert named(tx, "ä".encode(), flag_bits=0x800) == "ä".encode()
    assert named(tx, "ä".encode()) == "ä".encode()
    assert named(tx, b"\x84", create_system=0) == "ä".encode()  # code page 437
    assert named(tx, b"\xe4", create_system=3) == b"\xe4"  # bytes, as Unix has them
    field = b"\1" + struct.pack("<I", zlib.crc32(b"_")) + "ж".encode()
    assert named(tx, b"_", extra=struct.pack("<HH", 0x7075, len(field)) + field) == "ж".encode()
    other = b"\1" + struct.pack("<I", 7) + "ж".encode()
    assert named(tx, b"_", extra=struct.pack("<HH", 0x7075, len(other)) + other) == b"_"
    tree = read(tx, zipped_bytes((info("Data\\a.esp", create_system=0), b"1"), (info("a\\b"), b"2")))
    assert {path for path, _ in walk(tree)} == {b"/", b"/Data", b"/Data/a.esp", b"/a\\b"}


def test_times(tx: Transaction) -> None:
    extended = struct.pack("<HHBi", 0x5455, 5, 1, -5)
    ntfs = struct.pack("<HHIHHQQQ", 0x000A, 32, 0, 1, 24, 116444736000000000 + 15, 0, 0)
    tree = read(
        tx,
        zipped_bytes(
            (info("dos", date_time=(2001, 2, 3, 4, 5, 6)), b""),
            (info("never", date_time=(1980, 0, 0, 0, 0, 0)), b""),
            (info("extended", extra=extended), b""),
            (info("ntfs", extra=ntfs), b""),
            (info("both", extra=ntfs + extended), b""),
            (info("cut", extra=ntfs[:-1] + b"\0"), b""),
        ),
    )
    assert {name: inode.mtime for name, inode in tree.children.items()} == {
        b"dos": 981_173_106 * 10**9,
        b"never": 0,
        b"extended": -5 * 10**9,
        b"ntfs": 1500,
        b"both": -5 * 10**9,
        b"cut": 1500,
    }


def wrong_size(data: bytes) -> bytes:
    """Tells of one byte less in each member than there is."""
    at = data.index(b"PK\1\2")
    size = struct.unpack_from("<I", data, at + 24)[0]
    return data[: at + 24] + struct.pack("<I", size - 1) + data[at + 28 :]


def encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\1\2")
    return data[:6] + b"\1" + data[7 : at + 8] + b"\1" + data[at + 9 :]


HOSTILE: dict[str, tuple[bytes, type[StratumError], str]] = {
    "out": (zipped_bytes((info("../x"), b"")), UsageError, "leads out of the archive"),
    "out inside": (zipped_bytes((info("a/../../x"), b"")), UsageError, "leads out of the archive"),
    "out with DOS": (zipped_bytes((info("..\\x", create_system=0), b"")), UsageError, "leads out of the archive"),
    "below a link": (
        zipped_bytes((info("a", external_attr=unix(stat.S_IFLNK | 0o777)), b"/etc"), (info("a/passwd"), b"")),
        UsageError,
        "which is no directory",
    ),
    "a link to nothing": (
        zipped_bytes((info("a", external_attr=unix(stat.S_IFLNK | 0o777)), b"")),
        DamagedError,
        "symbolic link to 0 bytes",
    ),
    "a long link": (
        zipped_bytes((info("a", external_attr=unix(stat.S_IFLNK | 0o777)), b"x" * 5000)),
        DamagedError,
        "symbolic link to 5000 bytes",
    ),
    "a device": (zipped_bytes((info("a", external_attr=unix(stat.S_IFBLK | 0o600)), b"")), UsageError, "a device"),
    "encrypted": (encrypted(zipped_bytes((info("a"), b"x" * 20))), StratumError, "is encrypted"),
    "a checksum": (zipped_bytes((info("a"), BIG)).replace(BIG, BIG[::-1], 1), DamagedError, "CRC"),
    "a size": (wrong_size(zipped_bytes((info("a"), BIG))), DamagedError, ""),
    "cut": (zipped_bytes((info("a"), BIG))[:-30], DamagedError, "cannot be read as a zip archive"),
    "NUL": (zipped_bytes((info("nnn"), b"")).replace(b"nnn", b"n\0n"), DamagedError, "NUL"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(tx: Transaction, case: str) -> None:
    data, kind, text = HOSTILE[case]
    with pytest.raises(kind) as caught:
        read(tx, data)
    assert text in str(caught.value)


def test_what_comes_twice_replaces(tx: Transaction) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped_bytes((info("a"), b"1"), (info("/a"), b"2"), (info("b"), b"3"), (info("b"), b"4"))
    tree = read(tx, data)
    assert {name: getattr(inode, "content", None) for name, inode in tree.children.items()} == {b"a": b"2", b"b": b"4"}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs(tx: Transaction, monkeypatch: pytest.MonkeyPatch, method: int) -> None:
    monkeypatch.setattr(compression, "EXPANSION_FREE", 1 << 20)
    monkeypatch.setattr(compression, "EXPANSION_MAX", 100)
    data = zipped_bytes(*((info(f"f{number}", compress_type=method), bytes(1 << 20)) for number in range(4)))
    with pytest.raises(StratumError, match="decompression bomb"):
        read(tx, data)


def test_memory_is_bounded(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "MEMORY_MAX", 32 << 20)
    monkeypatch.setattr(zipped, "_PIECE", 1 << 40)
    with pytest.raises(StratumError, match="bytes of memory to unpack"):
        read(tx, zipped_bytes((info("a", compress_type=zipfile.ZIP_DEFLATED), bytes(80 << 20))))


def test_many_names(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treebuilder, "METADATA_MAX", 1000)
    with pytest.raises(StratumError, match="more names and attributes"):
        read(tx, zipped_bytes(*((info(f"f{number}"), b"") for number in range(20))))


WHOLE = zipped_bytes(
    (info("d/a", compress_type=zipfile.ZIP_DEFLATED, extra=struct.pack("<HHBi", 0x5455, 5, 1, 9)), BIG),
    (info("d/b", compress_type=zipfile.ZIP_LZMA), BIG),
    (info("l", external_attr=unix(stat.S_IFLNK | 0o777)), b"d/a"),
)


def seven(fill: Callable[[py7zr.SevenZipFile], None]) -> bytes:
    out = io.BytesIO()
    with py7zr.SevenZipFile(out, "w") as archive:
        fill(archive)
    return out.getvalue()


def two_files(archive: py7zr.SevenZipFile) -> None:
    archive.writestr(BIG, "d/a")
    archive.writestr(b"small", "b")


SEVEN = seven(two_files)
READERS = {"zip": (WHOLE, read_zip_file), "7z": (SEVEN, read_sevenzip_file)}


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=examples(60))
@given(data=st.data())
def test_any_bytes_are_a_tree_or_an_error(tmp_path_factory: pytest.TempPathFactory, kind: str, data: Any) -> None:
    whole, reader = READERS[kind]
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    place = tmp_path_factory.mktemp("archive")
    (place / "x").write_bytes(bytes(changed[: data.draw(st.integers(len(changed) - 20, len(changed)))]))
    with Store.create(place / "store").begin("a test") as tx:
        try:
            tree, _ = reader(tx, str(place / "x"), "x")
        except StratumError:
            return
        for path, inode in walk(tree):
            assert b".." not in path.split(b"/")
            if isinstance(inode, File) and inode.size == len(BIG):
                assert inode.digest == tx.add_bytes(BIG)


def test_all_that_a_7z_has(tx: Transaction, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d").chmod(0o700)
    (source / "d/big").write_bytes(BIG * 500)  # more than is kept in memory
    (source / "d/big").chmod(0o4750)
    (source / "empty").write_bytes(b"")
    (source / "link").symlink_to("d/big")
    path = tmp_path / "x.7z"
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.writeall(source, "top")
    tree, warnings = read_sevenzip_file(tx, str(path), "x.7z")
    assert not warnings
    assert {path: oct(inode.mode) for path, inode in walk(tree)} == {
        b"/": "0o40755",
        b"/top": "0o40755",
        b"/top/d": "0o40700",
        b"/top/d/big": "0o104750",
        b"/top/empty": "0o100644",
        b"/top/link": "0o120777",
    }
    big, link = lookup(tree, b"top/d/big"), lookup(tree, b"top/link")
    assert isinstance(big, File)
    assert isinstance(link, Symlink)
    assert (big.size, big.digest) == (len(BIG) * 500, tx.add_bytes(BIG * 500))
    assert abs(big.mtime - (source / "d/big").stat().st_mtime_ns) < 10**6
    assert link.target == b"d/big"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/.."])
def test_a_7z_leads_nowhere(tx: Transaction, tmp_path: Path, name: str) -> None:
    stand_in = "n" * len(name)
    data = seven(lambda archive: archive.writestr(b"x", stand_in))
    whole = io.BytesIO()
    with py7zr.SevenZipFile(whole, "w") as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"x", stand_in)
    data = bytearray(whole.getvalue().replace(stand_in.encode("utf-16le"), name.encode("utf-16le")))
    offset, size = struct.unpack_from("<QQ", data, 12)
    struct.pack_into("<I", data, 28, zlib.crc32(data[32 + offset : 32 + offset + size]))
    struct.pack_into("<I", data, 8, zlib.crc32(data[12:32]))
    (tmp_path / "x.7z").write_bytes(data)
    with pytest.raises(UsageError, match="leads out of the archive"):
        read_sevenzip_file(tx, str(tmp_path / "x.7z"), "x.7z")


def test_without_the_package(tx: Transaction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.7z").write_bytes(SEVEN)
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(UnsupportedError, match="py7zr is not here") as caught:
        read_sevenzip_file(tx, str(tmp_path / "x.7z"), "x.7z")
    assert "-m pip install py7zr" in caught.value.hint


def test_a_7z_that_is_encrypted_or_a_bomb(tx: Transaction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.7z"
    with py7zr.SevenZipFile(path, "w", password="secret") as archive:
        archive.writestr(BIG, "a")
    with pytest.raises(StratumError, match="is encrypted"):
        read_sevenzip_file(tx, str(path), "x.7z")
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.writestr(bytes(4 << 20), "a")
    monkeypatch.setattr(compression, "EXPANSION_FREE", 1 << 20)
    with pytest.raises(StratumError, match="decompression bomb"):
        read_sevenzip_file(tx, str(path), "x.7z")


FEW_BYTES = """
import sys
from pathlib import Path
from stratum.errors import StratumError
from stratum.ingest import sevenzip
from stratum.store import Store

sevenzip.MEMORY_MAX = 1 << 20
with Store.create(Path(sys.argv[2])).begin("a test") as tx:
    try:
        sevenzip.read_sevenzip_file(tx, sys.argv[1], "x.7z")
    except StratumError as exc:
        print(exc.message)
"""


def test_a_7z_that_takes_much_memory(tmp_path: Path) -> None:
    """In a process of its own, which has no memory to spare from before."""
    path = tmp_path / "x.7z"
    with py7zr.SevenZipFile(
        path, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 0, "dict_size": 40 << 20}]
    ) as archive:
        archive.writestr(bytes(4 << 20), "a")
    said = subprocess.check_output([sys.executable, "-c", FEW_BYTES, path, tmp_path / "store"], text=True)
    assert said == f"x.7z needs more than {1 << 20} bytes of memory to unpack\n"
