"""A tree as files without content: what a user's overlay reads in the place of an image."""

from __future__ import annotations

import pytest

from stratum.composefs.outline import outline
from stratum.errors import UnsupportedError
from stratum.tree.model import Directory, File, Inode, Special, Symlink

DIGEST = bytes(range(32))
PLAIN = (0o100644, 1, 2, 5)
WHITEOUT = Special(0o20644, 0, 0, 7)


def tree(**children: Inode) -> Directory:
    return Directory(0o40755, 0, 0, 3, children={name.encode(): child for name, child in children.items()})


def everybody(_user: int, _group: int) -> bool:
    return True


def test_what_has_a_digest_says_where_its_content_is_and_all_else_is_itself() -> None:
    long = (b"user.overlay." + b"x" * 242, b"")  # with the name that it has below an overlay no file can have it
    xattrs = ((b"user.overlay.a", b"1"), (b"user.b", b"2"), (b"trusted.c", b"3"), long)
    big = File(*PLAIN, xattrs, size=900, digest=DIGEST)
    small = File(*PLAIN, size=2, content=b"hi")
    link = Symlink(0o120777, 0, 0, 1, target=b"big")
    found = outline(tree(big=big, hard=big, sub=tree(small=small), link=link), everybody)
    made = found.children[b"big"]
    assert isinstance(made, File)
    assert (made.size, made.digest, found.children[b"hard"]) == (900, DIGEST, made)
    assert dict(made.xattrs) == {
        b"user.overlay.metacopy": b"\0\x24\0\1" + DIGEST,
        b"user.overlay.redirect": b"/00/" + DIGEST.hex()[2:].encode(),
        b"user.overlay.overlay.a": b"1",
        b"user.b": b"2",
    }
    inner = found.children[b"sub"]
    assert isinstance(inner, Directory)
    assert inner.children[b"small"].content_key() == small.content_key()
    assert found.children[b"link"].content_key() == b"big"
    assert found.xattrs == ()


def test_a_whiteout_of_the_trees_own_is_a_file_with_marks_and_so_is_its_directory_marked() -> None:
    found = outline(tree(gone=WHITEOUT), everybody)
    gone = found.children[b"gone"]
    assert isinstance(gone, File)
    assert (gone.mode, gone.size, gone.mtime) == (0o100644, 0, 7)
    assert dict(gone.xattrs) == {b"user.overlay.overlay.whiteout": b"stratum"}
    assert dict(found.xattrs) == {b"user.overlay.overlay.whiteouts": b"stratum", b"user.overlay.overlay.opaque": b"x"}


@pytest.mark.parametrize(
    ("inode", "words"),
    [
        (Special(0o20600, 0, 0, 0, rdev=0x103), "/dev/it of the commit: it is a device"),
        (File(*PLAIN), "/dev/it of the commit: it belongs to user 1 and group 2"),
    ],
)
def test_what_no_user_can_make_is_refused_by_its_name(inode: Inode, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        outline(tree(dev=tree(it=inode)), lambda user, group: user == group == 0)
