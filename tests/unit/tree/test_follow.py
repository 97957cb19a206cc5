"""Where paths lead in a tree: where the kernel says that they lead, in a directory that is its own root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.sys.syscalls import open_in_root
from stratum.tree.follow import follow
from stratum.tree.model import Directory, File, Inode, Symlink
from tests.support.effort import examples

NAMES = ["a", "b", "c"]
STEPS = st.lists(st.sampled_from([*NAMES, ".", ".."]), min_size=1, max_size=4)
TARGETS = st.builds(lambda steps, absolute: "/" * absolute + "/".join(steps), STEPS, st.booleans())
TREES = st.recursive(
    st.none() | TARGETS, lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


def build(tree: object, number: Iterator[int]) -> Inode:
    """The inode of what hypothesis made; its time is its number."""
    if isinstance(tree, dict):
        time = next(number)
        return Directory(0o40755, 0, 0, time, children={k.encode(): build(v, number) for k, v in tree.items()})
    if tree is None:
        return File(0o100644, 0, 0, next(number))
    return Symlink(0o120777, 0, 0, next(number), target=str(tree).encode())


def write(inode: Inode, path: str) -> None:
    if isinstance(inode, Directory):
        if not os.path.isdir(path):
            os.mkdir(path)
        for name, child in inode.children.items():
            write(child, f"{path}/{name.decode()}")
    elif isinstance(inode, Symlink):
        os.symlink(inode.target, path.encode())
    else:
        open(path, "x").close()
    os.utime(path, ns=(0, inode.mtime), follow_symlinks=False)


@contextmanager
def written(root: Directory) -> Iterator[int]:
    """A directory with the tree in it, open."""
    with tempfile.TemporaryDirectory() as path:
        write(root, path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)


@settings(max_examples=examples(60))
@example({"a": "a", "b": "c", "c": {}}, [(["a", "."], False), (["b", "."], False), (["b", "."], True)])
@given(TREES, st.lists(st.tuples(STEPS, st.booleans()), min_size=5, max_size=20))
def test_it_is_what_the_kernel_says(tree: object, paths: list[tuple[list[str], bool]]) -> None:
    root = build(tree, iter(range(1, 1000)))
    assert isinstance(root, Directory)
    with written(root) as directory:
        for steps, last in paths:
            path = "/".join(steps)
            try:
                fd = open_in_root(directory, path, os.O_PATH | (0 if last else os.O_NOFOLLOW))
            except FileNotFoundError:
                expected: int | str = "missing"
            except NotADirectoryError:
                expected = "missing"
            except OSError:
                expected = "loop"
            else:
                expected = os.fstat(fd).st_mtime_ns
                os.close(fd)
            try:
                found = follow(root, path.encode(), last=last)
            except UsageError:
                assert expected == "loop", path
                continue
            if found is None:
                assert expected == "missing", path
            elif expected == "missing":
                assert steps[-1] in (".", ".."), "only a file with a dot behind it is found here and not by the kernel"
            else:
                assert found.mtime == expected, path


def test_a_chain_of_links_has_an_end() -> None:
    links: dict[bytes, Inode] = {
        b"l%d" % number: Symlink(0o120777, 0, 0, 0, target=b"l%d" % (number + 1)) for number in range(60)
    }
    links[b"l60"] = File(0o100644, 0, 0, 7)
    root = Directory(0o40755, 0, 0, 0, children=links)
    assert follow(root, b"l20") is links[b"l60"]
    assert follow(root, b"l0", last=False) is links[b"l0"]
    with pytest.raises(UsageError, match="more than 40"):
        follow(root, b"l19")


def test_links_that_multiply_do_not_take_long() -> None:
    """Each leads many times through the next; the kernel stops after 40, and so does this."""
    targets = {number: b"/".join([b"l%d/.." % (number + 1)] * 500) for number in range(39)}
    links: dict[bytes, Inode] = {
        b"l%d" % number: Symlink(0o120777, 0, 0, 0, target=target[:4095]) for number, target in targets.items()
    }
    links[b"l39"] = Directory(0o40755, 0, 0, 0)
    root = Directory(0o40755, 0, 0, 0, children=links)
    with pytest.raises(UsageError, match="more than 40"):
        follow(root, b"l0")
