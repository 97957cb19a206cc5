"""The canonical dump: every tree comes back from it, and nothing but a canonical dump is read."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError, UnsupportedError
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.escape import escape, escape_optional, escape_xattr, unescape
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Whiteout, Xattrs, walk
from tests.support.effort import examples
from tests.support.mutations import mutate
from tests.support.trees import TreeBuilder, trees

ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"
DIGEST = b"ab" * 32
OBJECT = b"ab/" + b"ab" * 31


def directory(**children: Inode) -> Directory:
    return Directory(0o40755, 0, 0, 0, children={name.encode(): inode for name, inode in children.items()})


def shape(root: Directory) -> list[tuple[object, ...]]:
    """Everything about a tree, with hard links as the number of the entry that they share an inode with."""
    first: dict[int, int] = {}
    return [
        (path, type(inode), inode.metadata(), inode.content_key(), first.setdefault(id(inode), number))
        for number, (path, inode) in enumerate(walk(root))
    ]


@given(trees)
@settings(max_examples=examples(150))
def test_trees_come_back_from_their_dump(root: Directory) -> None:
    dump = write_dump(root)
    again = read_dump(dump)
    assert shape(again) == shape(root)
    assert write_dump(again) == dump


@pytest.mark.parametrize("seed", range(10))
def test_large_trees_come_back_from_their_dump(seed: int) -> None:
    root = TreeBuilder(seed).tree(1500)
    dump = write_dump(root)
    assert shape(read_dump(dump)) == shape(root)


def test_equal_trees_have_equal_dumps_in_whatever_order_they_were_made() -> None:
    root = TreeBuilder(3).tree(500)
    other = Directory(*root.metadata(), children=dict(reversed(root.children.items())))
    assert write_dump(other) == write_dump(root)


def test_lines_of_every_kind() -> None:
    linked = File(0o100600, 1, 2, 3_000_000_004, ((b"user.a b", b"=\0"),), size=2, content=b"-\\")
    root = directory(
        a=linked,
        b=directory(z=linked),
        c=File(0o100644, 0, 0, -1, size=65, digest=bytes.fromhex(DIGEST.decode())),
        d=Symlink(0o120777, 0, 0, 0, target=b"-"),
        e=Special(0o20644, 0, 0, 0, rdev=0x103),
        f=Special(0o10644, 0, 0, 0),
        g=File(0o100644, 0, 0, 0, size=1, content=b"-"),
        h=File(0o100644, 0, 0, 0),
    )
    assert write_dump(root).splitlines() == [
        b"/ 0 40755 3 0 0 0 0.0 - - -",
        b"/a 2 100600 2 1 2 0 3.4 - -\\\\ - user.a\\x20b=\\x3d\\x00",
        b"/b 0 40755 2 0 0 0 0.0 - - -",
        b"/b/z 2 @100600 2 1 2 0 3.4 /a -\\\\ - user.a\\x20b=\\x3d\\x00",
        b"/c 65 100644 1 0 0 0 -1.999999999 " + OBJECT + b" - " + DIGEST,
        b"/d 1 120777 1 0 0 0 0.0 \\x2d - -",
        b"/e 0 20644 1 0 0 259 0.0 - - -",
        b"/f 0 10644 1 0 0 0 0.0 - - -",
        b"/g 1 100644 1 0 0 0 0.0 - \\x2d -",
        b"/h 0 100644 1 0 0 0 0.0 - - -",
    ]


def test_depth_is_not_limited_by_the_interpreters_stack() -> None:
    root = inner = directory()
    for _ in range(2048):
        child = directory()
        inner.children[b"d"] = child
        inner = child
    dump = write_dump(root)
    assert write_dump(read_dump(dump)) == dump
    inner.children[b"d"] = directory()
    with pytest.raises(UnsupportedError, match=r"/d/d.* has a path of 4098 bytes; 4096 is the limit"):
        write_dump(root)


@pytest.mark.parametrize("name", [b"n" * 200, b"\x01" * 200])
@pytest.mark.parametrize("kind", [directory(), File(0o100644, 0, 0, 1, size=100, digest=bytes(32))])
def test_the_longest_path_is_counted_without_escapes(name: bytes, kind: Inode) -> None:
    root = inner = directory()
    for _ in range(15):
        inner.children[b"\x01" * 255] = directory()
        inner = inner.children[b"\x01" * 255]
    rest = 4096 - 15 * 256 - 1 - 1 - len(name)
    inner.children[b"m" * rest] = Directory(0o40755, 0, 0, 0, children={name: kind})
    dump = write_dump(root)
    assert max(len(line.split(b" ")[0]) for line in dump.splitlines()) > 3 * 4096
    assert write_dump(read_dump(dump)) == dump
    with pytest.raises(DamagedError, match="has a path of 4097 bytes; 4096 is the limit"):
        read_dump(dump.replace(b"m" * rest, b"m" * (rest + 1)))
    inner.children = {b"m" * (rest + 1): Directory(0o40755, 0, 0, 0, children={name: kind})}
    with pytest.raises(UnsupportedError, match="has a path of 4097 bytes; 4096 is the limit"):
        write_dump(root)


@given(st.binary(max_size=60))
def test_escapes_come_back(value: bytes) -> None:
    for text in (escape(value), escape_xattr(value)):
        assert unescape(text) == value
        assert all(0x21 <= byte <= 0x7E for byte in text)
    assert b"=" not in escape_xattr(value)
    assert escape_optional(value) != b"-"


@pytest.mark.parametrize("text", [b"\\", b"a\\", b"\\x", b"\\x1", b"\\xg1", b"\\q", b"\\X41", b"\\\xff"])
def test_malformed_escapes_are_refused(text: bytes) -> None:
    with pytest.raises(DamagedError, match="malformed escape"):
        unescape(text)


FILE = b"/a 65 100644 1 0 0 0 0.0 " + OBJECT + b" - " + DIGEST + b"\n"


@pytest.mark.parametrize(
    ("dump", "says"),
    [
        (b"", "line 1 .* empty"),
        (b"\n", "line 1"),
        (ROOT[:-1], "line 1"),
        (ROOT + b"\n", "line 2 .* canonical"),
        (ROOT + ROOT, "line 2"),
        (b"/ 0 100644 1 0 0 0 0.0 - - -\n", "line 1 .* root directory"),
        (b"/ 0 @40755 2 0 0 0 0.0 - - -\n", "line 1 .* root directory"),
        (b"/ 4096 40755 2 0 0 0 0.0 - - -\n", "line 1"),
        (b"/ 0 40755 3 0 0 0 0.0 - - -\n", "link count"),
        (FILE, "line 1 .* root directory"),
        (ROOT + FILE.replace(b"/a ", b"/b ") + FILE, "line 3 .* out of order"),
        (ROOT + FILE + FILE, "line 3 .* there twice"),
        (ROOT + b"/" + FILE, "line 2 .* no parent"),
        (ROOT + FILE.replace(b"/a ", b"/a/ "), "line 2"),
        (ROOT + FILE.replace(b"/a ", b"a "), "line 2"),
        (ROOT + FILE.replace(b"/a ", b"/x/a "), "line 2 .* no parent"),
        (ROOT + FILE + FILE.replace(b"/a ", b"/a/b "), "line 3 .* no parent"),
        (ROOT + FILE.replace(b"/a ", b"/. "), "line 2 .* not a valid"),
        (ROOT + FILE.replace(b"/a ", b"/.. "), "line 2 .* not a valid"),
        (ROOT + FILE.replace(b"/a ", b"/a\\x00 "), "line 2 .* not a valid"),
        (ROOT + FILE.replace(b"/a ", b"/a\\x2fb "), "line 2"),
        (ROOT + FILE.replace(b"/a ", b"/\\x61 "), "line 2 .* escape"),
        (ROOT + FILE.replace(b"/a ", b"/\\xFF "), "line 2 .* escape"),
        (ROOT + FILE.replace(b"/a ", b"/" + b"n" * 256 + b" "), "line 2 .* 256 bytes"),
        (ROOT + FILE.replace(b"65", b"065"), "line 2"),
        (ROOT + FILE.replace(b"65", b"64"), "line 2 .* content"),
        (ROOT + FILE.replace(b"65", b"9007199254740993"), "line 2 .* limit"),
        (ROOT + FILE.replace(b"100644", b"644"), "line 2"),
        (ROOT + FILE.replace(b"100644", b"170644"), "line 2"),
        (ROOT + FILE.replace(b"100644", b"90644"), "line 2"),
        (ROOT + FILE.replace(b"100644", b"300644"), "line 2"),
        (ROOT + FILE.replace(b" 1 0 0 0 ", b" 0 0 0 0 "), "line 2"),
        (ROOT + FILE.replace(b" 1 0 0 0 ", b" 2 0 0 0 "), "all names"),
        (ROOT + FILE.replace(b" 1 0 0 0 ", b" 1 4294967296 0 0 "), "line 2 .* 32 bits"),
        (ROOT + FILE.replace(b" 1 0 0 0 ", b" 1 0 4294967296 0 "), "line 2 .* 32 bits"),
        (ROOT + FILE.replace(b" 1 0 0 0 ", b" 1 0 0 1 "), "line 2 .* no device"),
        (ROOT + FILE.replace(b"0.0", b"0.1000000000"), "line 2"),
        (ROOT + FILE.replace(b"0.0", b"-0.0"), "line 2"),
        (ROOT + FILE.replace(b"0.0", b"9223372036854775808.0"), "line 2 .* 64 bits"),
        (ROOT + FILE.replace(DIGEST, DIGEST.upper()), "line 2"),
        (ROOT + FILE.replace(OBJECT, b"cd" + OBJECT[2:]), "line 2 .* object"),
        (ROOT + FILE.replace(OBJECT, b"../etc/shadow"), "line 2 .* object"),
        (ROOT + FILE.replace(OBJECT, b"-"), "line 2 .* object"),
        (ROOT + b"/a 65 100644 1 0 0 0 0.0 - " + b"c" * 65 + b" -\n", "line 2 .* object"),
        (ROOT + b"/a 65 100644 1 0 0 0 0.0 zz/" + b"zz" * 31 + b" - " + b"zz" * 32 + b"\n", "line 2 .* digest"),
        (ROOT + b"/a 1 100644 1 0 0 0 0.0 - xy -\n", "line 2 .* content"),
        (ROOT + b"/a 1 100644 1 0 0 0 0.0 - - -\n", "line 2 .* content"),
        (ROOT + b"/a 0 100644 1 0 0 0 0.0 - - " + DIGEST + b"\n", "line 2 .* content"),
        (ROOT + b"/a 1 120777 1 0 0 0 0.0 - - -\n", "line 2 .* target"),
        (ROOT + b"/a 2 120777 1 0 0 0 0.0 x - -\n", "line 2 .* another size"),
        (ROOT + b"/a 3 120777 1 0 0 0 0.0 a\\x00b - -\n", "line 2 .* target"),
        (ROOT + b"/a 4096 120777 1 0 0 0 0.0 " + b"x" * 4096 + b" - -\n", "line 2 .* target"),
        (ROOT + b"/a 1 10644 1 0 0 0 0.0 - - -\n", "line 2"),
        (ROOT + b"/a 0 10644 1 0 0 7 0.0 - - -\n", "line 2 .* no device"),
        (ROOT + b"/a 0 20644 1 0 0 4294967296 0.0 - - -\n", "line 2 .* 32 bits"),
        (ROOT + FILE[:-1] + b" user.a\n", "line 2 .* '='"),
        (ROOT + FILE[:-1] + b" user.a=b=c\n", "line 2 .* escape"),
        (ROOT + FILE[:-1] + b"  user.a=b\n", "line 2"),
        (ROOT + FILE[:-1] + b" user.a=b \n", "line 2"),
        (ROOT + FILE[:-1] + b" user.b=1 user.a=1\n", "line 2 .* out of order"),
        (ROOT + FILE[:-1] + b" user.a=1 user.a=1\n", "line 2 .* twice"),
        (ROOT + FILE[:-1] + b" =1\n", "line 2 .* valid name"),
        (ROOT + FILE[:-1] + b" user.a\\x00=1\n", "line 2 .* valid name"),
        (ROOT + FILE[:-1] + b" " + b"n" * 256 + b"=1\n", "line 2 .* valid name"),
        (ROOT + FILE[:-1] + b" user.a=" + b"v" * 32743 + b"\n", "line 2 .* limit"),
        (ROOT + FILE[:-1] + b" user.a=" + b"\\x00" * 16400 + b"\n", "line 2 .* 65535"),
        (ROOT + b"/a 65 @100644 2 0 0 0 0.0 /b - " + DIGEST + b"\n", "line 2 .* hard link to nothing"),
        (ROOT + FILE + FILE.replace(b"/a ", b"/b ").replace(b"100644", b"@100644").replace(OBJECT, b"/a"), "line 3"),
        (
            b"/ 0 40755 2 0 0 0 0.0 - - - trusted.overlay.whiteouts=x user.a=1\n/w 0 20644 1 0 0 0 0.0 - - -\n",
            "whiteouts that cannot be stored",
        ),
    ],
)  # fmt: skip
def test_other_dumps_are_refused_with_the_line(dump: bytes, says: str) -> None:
    with pytest.raises(DamagedError, match=says):
        read_dump(dump)


def test_hard_links_must_agree_with_their_inode_and_be_complete() -> None:
    first = FILE.replace(b" 1 0 0", b" 2 0 0")
    second = first.replace(b"/a ", b"/b ").replace(b"100644", b"@100644").replace(OBJECT, b"/a")
    assert len(read_dump(ROOT + first + second).children) == 2
    for wrong in (
        second.replace(b"@100644", b"@100600"),
        second.replace(b" 2 0 0", b" 3 0 0"),
        second[:-1] + b" a=b\n",
    ):
        with pytest.raises(DamagedError, match=r"line 3 .* differs"):
            read_dump(ROOT + first + wrong)
    with pytest.raises(DamagedError, match="all names"):
        read_dump(ROOT + first)
    third = second.replace(b"/b ", b"/c ")
    with pytest.raises(DamagedError, match="all names"):
        read_dump(ROOT + first + second + third)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_read_is_canonical(seed: int) -> None:
    rng = random.Random(seed)
    dump = write_dump(TreeBuilder(seed).tree(8))
    for _ in range(10):
        changed = mutate(dump, rng)
        try:
            root = read_dump(changed)
        except DamagedError:
            continue
        assert write_dump(root) == changed


def outcome(dump: bytes) -> object:
    """What reading a dump gives: the tree, or the error."""
    try:
        return shape(read_dump(dump))
    except DamagedError as exc:
        return exc.message


@pytest.mark.parametrize("seed", range(20))
def test_plain_files_are_read_as_all_lines_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    files: dict[str, Inode] = {
        name: File(
            0o100000 + rng.randrange(0o10000),
            number,
            9,
            rng.randrange(10**19),
            size=65 + number,
            digest=rng.randbytes(32),
        )
        for number, name in enumerate(("a", "b.c", "..d", "e\\", "f g", "n" * 255))
    }
    whole = write_dump(directory(**files, z=directory(**files), zz=files["a"]))
    changed = [mutate(whole, rng) for _ in range(100)]
    for _ in range(400):
        place, length = rng.randrange(len(whole)), rng.choice((0, 1, 1, 2))
        changed.append(
            whole[:place] + bytes(rng.choices(b"019af-./@\\ \n~", k=rng.choice((0, 1, 2)))) + whole[place + length :]
        )
    lines = whole.splitlines(keepends=True)
    changed += [b"".join(rng.sample(lines, len(lines) - 1)) for _ in range(20)]
    changed += [b"".join([*lines[:at], lines[at - 1], *lines[at:]]) for at in range(1, len(lines))]
    found = [outcome(dump) for dump in (whole, *changed)]
    assert isinstance(found[0], list)
    monkeypatch.setattr("stratum.tree.dump.PLAIN_FILE", re.compile(rb"(?!)"))
    assert [outcome(dump) for dump in (whole, *changed)] == found


@pytest.mark.parametrize(
    ("inode", "says"),
    [
        (File(0o100644, 0, 0, 0, size=65), "/x .* digest"),
        (File(0o100644, 0, 0, 0, size=3, content=b"ab"), "/x .* content"),
        (File(0o100644, 0, 0, 0, size=3, digest=bytes(32)), "/x .* content"),
        (File(0o100644, 0, 0, 0, size=(1 << 53) + 1, digest=bytes(32)), "/x .* limit"),
        (File(0o40644, 0, 0, 0), "/x .* type"),
        (Symlink(0o120777, 0, 0, 0, target=b""), "/x .* symbolic link"),
        (Symlink(0o120777, 0, 0, 0, target=b"a" * 4096), "/x .* symbolic link"),
        (Special(0o10644, 0, 0, 0, rdev=1), "/x .* device"),
        (Special(0o20644, 0, 0, 0, rdev=1 << 32), "/x .* device"),
        (Whiteout(), "/x "),
        (Directory(0o40755, -1, 0, 0), "/x .* ID"),
        (Directory(0o40755, 0, 1 << 32, 0), "/x .* ID"),
        (Directory(0o40755, 0, 0, (1 << 63) * 1_000_000_000), "/x .* time"),
        (Directory(0o40755, 0, 0, 0, ((b"", b""),)), "/x .* attribute"),
        (Directory(0o40755, 0, 0, 0, ((b"user.b", b""), (b"user.a", b""))), "/x .* order"),
        (Directory(0o40755, 0, 0, 0, ((b"user.a", b"v" * 40000),)), "/x .* limit"),
        (Directory(0o40755, 0, 0, 0, ((b"user.a", b"\0" * 20000),)), "/x .* as text"),
    ],
)
def test_trees_that_no_commit_can_hold_are_refused_with_the_path(inode: Inode, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        write_dump(directory(x=inode))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256])
def test_names_that_no_commit_can_hold_are_refused(name: bytes) -> None:
    with pytest.raises(UnsupportedError, match="name"):
        write_dump(Directory(0o40755, 0, 0, 0, children={name: directory()}))


def test_the_largest_attributes_are_stored() -> None:
    xattrs: Xattrs = ((b"user.a", b"v" * (32767 - 12 - 7 - 6)),)
    root = Directory(0o40755, 0, 0, 0, xattrs)
    assert read_dump(write_dump(root)).xattrs == xattrs
