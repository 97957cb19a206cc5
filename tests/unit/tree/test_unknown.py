from __future__ import annotations

from stratum.tree.model import Directory, File, Inode, lookup
from stratum.tree.unknown import similar_name, similar_path, unknown_files, without


def directory(**children: Inode) -> Directory:
    return Directory(0o40755, 0, 0, 7, children={name.encode(): inode for name, inode in children.items()})


def known(data: bytes = b"x") -> File:
    return File(0o100644, 0, 0, 0, size=len(data), content=data or None)


def unknown() -> File:
    return File(0o100644, 0, 0, 0, size=1000)


def test_only_what_is_not_of_the_ground_is_looked_into() -> None:
    same = directory(y=known())
    ground = directory(a=known(), same=same)
    found = directory(a=unknown(), empty=known(b""), same=same, d=directory(deep=directory(z=unknown(), k=known())))
    assert unknown_files(found, ground) == [b"/a", b"/d/deep/z"]
    assert unknown_files(ground, ground) == []


def test_what_is_taken_out_leaves_all_else_and_the_times() -> None:
    root = directory(a=unknown(), b=known(), d=directory(deep=directory(z=unknown(), k=known()), other=directory()))
    whole = without(root, [b"/a", b"/d/deep/z"])
    assert unknown_files(whole, directory()) == []
    assert sorted(whole.children) == [b"b", b"d"]
    deep = lookup(whole, b"/d/deep")
    assert isinstance(deep, Directory)
    assert (list(deep.children), deep.mtime) == ([b"k"], 7)
    assert lookup(whole, b"/d/other") is lookup(root, b"/d/other")
    assert sorted(root.children) == [b"a", b"b", b"d"]


def test_what_may_have_been_meant() -> None:
    root = directory(etc=directory(passwd=known(), group=known()), file=known())
    assert similar_path(root, b"/etc/paswd") == b"/etc/passwd"
    assert similar_path(root, b"/ect/passwd") == b"/etc"
    assert similar_path(root, b"/file/below") == b"/file"
    assert similar_path(root, b"/etc/qqqqq") is None
    assert similar_name({b"\xffone", b"zz"}, b"\xffon") == b"\xffone"
    assert similar_name({b"%d" % number for number in range(6000)}, b"1") is None
