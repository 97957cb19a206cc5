"""A tree that is edited is what a directory is after the same was done to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import StratumError
from stratum.tree.edit import Attributes, New, TreeEdit
from stratum.tree.model import Directory, File, Inode, Symlink, walk
from tests.support.effort import examples

PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
DEEDS = st.lists(st.tuples(st.sampled_from(["write", "link", "mkdir", "remove"]), PATHS), max_size=12)


def content(new: New, time: int) -> File:
    return File(new.mode, new.uid, new.gid, time, new.xattrs, size=len(new.content), content=new.content or None)


def shown(root: Inode) -> dict[str, object]:
    """Path -> what is there."""
    assert isinstance(root, Directory)
    found: dict[str, object] = {}
    for path, inode in walk(root):
        if isinstance(inode, Symlink):
            found[path.decode()] = inode.target.decode()
        else:
            found[path.decode()] = inode.content if isinstance(inode, File) else None
    return found


def on_disk(top: str) -> dict[str, object]:
    found: dict[str, object] = {"/": None}
    for path in Path(top).rglob("*"):
        name = f"/{path.relative_to(top)}"
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def do(top: str, deed: str, path: str, number: int) -> bool:
    """Do it to a directory; whether it could be done."""
    place = f"{top}/{path}"
    above = Path(place).parent
    if deed != "remove":
        parts = [Path(top, *path.split("/")[:count]) for count in range(1, path.count("/") + 1)]
        if any(part.is_symlink() or (part.exists() and not part.is_dir()) for part in parts):
            return False
    is_directory = os.path.isdir(place) and not os.path.islink(place)
    if deed in ("write", "link"):
        if is_directory:
            return False
        above.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            os.unlink(place)
        if deed == "write":
            Path(place).write_bytes(b"%d" % number)
        else:
            os.symlink(f"to-{number}", place)
        return True
    if deed == "mkdir":
        if os.path.lexists(place) and not is_directory:
            return False
        os.makedirs(place, exist_ok=True)
        return True
    if any(Path(top, *path.split("/")[:count]).is_symlink() for count in range(1, path.count("/") + 1)):
        return False
    if not os.path.lexists(place):
        return False
    shutil.rmtree(place) if is_directory else os.unlink(place)
    return True


def apply(edit: TreeEdit, deed: str, path: str, number: int) -> bool:
    where, nothing = b"/" + path.encode(), Attributes()
    try:
        if deed == "write":
            edit.put(where, b"%d" % number, nothing)
        elif deed == "link":
            edit.link(where, b"to-%d" % number, nothing)
        elif deed == "mkdir":
            edit.make_directory(where, nothing)
        else:
            edit.remove(where)
    except StratumError:
        return False
    return True


@settings(max_examples=examples(60))
@given(DEEDS, DEEDS)
def test_it_is_what_a_directory_would_be(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as top:
        edit = TreeEdit()
        for number, (deed, path) in enumerate(first):
            assert apply(edit, deed, path, number) == do(top, deed, path, number), (deed, path)
        base = edit.finish(1, content)
        assert shown(base) == on_disk(top)
        before = shown(base)
        again = TreeEdit(base)
        for number, (deed, path) in enumerate(second, 100):
            assert apply(again, deed, path, number) == do(top, deed, path, number), (deed, path)
        made = again.finish(2, content)
        assert shown(made) == on_disk(top)
        assert shown(base) == before, "a tree that another one begins with stays as it is"
        if not second:
            assert made.children == base.children
