"""What a new worktree begins with: changes of its root, and owners of an image in the IDs of a user namespace."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.mount.container import parse_id_map, parse_id_ranges
from stratum.tree.model import Directory, File, Symlink
from stratum.tree.owners import NOBODY, translate_owners, translation
from stratum.tree.rootchange import AS_IT_IS, RootChange, parse_id, parse_mode

ROOT = Directory(stat.S_IFDIR | 0o755, 1, 2, 99, ((b"user.a", b"b"),), children={b"f": File(0o100644, 0, 0, 0)})
UIDS = translation([(0, 300000, 65536)])
GIDS = translation([(0, 400000, 10), (10, 500000, 10)])


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_root_is_changed_in_what_is_said_only() -> None:
    assert AS_IT_IS.applied(ROOT).metadata() == ROOT.metadata()
    changed = RootChange(uid=0, mode=0o2770).applied(ROOT)
    assert changed.metadata() == (stat.S_IFDIR | 0o2770, 0, 2, 99, ROOT.xattrs)
    assert changed.children == ROOT.children
    assert not AS_IT_IS
    assert RootChange(uid=0)
    assert RootChange(mode=0)


def test_ids_and_modes() -> None:
    assert [parse_id(text, "uid") for text in ("0", "007", "4294967294")] == [0, 7, 4294967294]
    assert [parse_mode(text) for text in ("0", "700", "0700", "02770", "7777")] == [0, 0o700, 0o700, 0o2770, 0o7777]


@given(st.text(max_size=12))
def test_any_text_is_an_id_or_one_error(text: str) -> None:
    digits = text.isascii() and text.isdecimal()
    if digits and int(text) < (1 << 32) - 1 and len(text) <= 10:
        assert parse_id(text, "uid") == int(text)
    else:
        with pytest.raises(UsageError, match=r"\Auid=[ -~]* is not an ID\Z"):
            parse_id(text, "uid")
    if digits and not set(text) & set("89") and len(text) <= 5 and int(text, 8) <= 0o7777:
        assert parse_mode(text) == int(text, 8)
    else:
        with pytest.raises(UsageError, match=r"\Amode=[ -~]* is not a mode\Z"):
            parse_mode(text)


def test_id_maps() -> None:
    text = "         0     300000      65536\n     65536          7          1\n"
    assert parse_id_ranges(text) == [(0, 300000, 65536), (65536, 7, 1)]
    assert parse_id_map(text) == 300000
    assert parse_id_map("1 5 5\n") is None


@pytest.mark.parametrize(
    ("outside", "inside"), [(400000, 0), (400009, 9), (400010, NOBODY), (500000, 10), (0, NOBODY), (399999, NOBODY)]
)
def test_ids_outside_and_inside(outside: int, inside: int) -> None:
    assert GIDS(outside) == inside


def test_owners_are_said_as_the_container_sees_them() -> None:
    capability = struct.pack("<5II", 0x03000001, 1, 0, 0, 0, 300000)
    shared = File(
        0o100755,
        301000,
        400005,
        0,
        (
            (b"security.capability", capability),
            (b"system.posix_acl_access", acl((1, 6, 0xFFFFFFFF), (2, 6, 300033), (8, 4, 500001), (2, 4, 0))),
            (b"user.kept", b"as it is"),
        ),
    )
    tree = Directory(
        0o40755,
        300000,
        400000,
        0,
        children={
            b"one": shared,
            b"sub": Directory(0o40755, 0, 0, 0, children={b"two": shared}),
            b"link": Symlink(0o120777, 300007, 400007, 0, target=b"/x"),
        },
    )
    translate_owners(tree, UIDS, GIDS)
    assert (tree.uid, tree.gid) == (0, 0)
    assert (shared.uid, shared.gid) == (1000, 5)  # once, although it has two names
    assert tree.children[b"link"].uid == 7
    sub = tree.children[b"sub"]
    assert (sub.uid, sub.gid) == (NOBODY, NOBODY)
    found = dict(shared.xattrs)
    assert found[b"user.kept"] == b"as it is"
    assert found[b"security.capability"] == struct.pack("<5I", 0x02000001, 1, 0, 0, 0)
    assert found[b"system.posix_acl_access"] == acl((1, 6, 0xFFFFFFFF), (2, 6, 33), (8, 4, 11), (2, 4, NOBODY))


@given(st.binary(max_size=40))
def test_attributes_that_are_none_are_left_out(value: bytes) -> None:
    names = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
    file = File(0o100644, 300000, 400000, 0, tuple((name, value) for name in names))
    translate_owners(Directory(0o40755, 300000, 400000, 0, children={b"f": file}), UIDS, GIDS)
    for name, left in file.xattrs:
        assert name in names
        assert len(left) in (20, len(value))
