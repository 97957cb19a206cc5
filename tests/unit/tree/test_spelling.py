"""Names that differ in case only: a layer over a tree as a file system has it that ignores case."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.tree.merge import apply_layer
from stratum.tree.model import Directory, File, Inode, Whiteout, walk
from stratum.tree.spelling import differing, folded, respelled, twins
from tests.support.effort import examples


def file(text: bytes) -> File:
    return File(stat.S_IFREG | 0o644, 0, 0, 0, size=len(text), content=text)


def directory(children: dict[bytes, Inode], *, opaque: bool = False) -> Directory:
    return Directory(stat.S_IFDIR | 0o755, 0, 0, 0, children=children, opaque=opaque)


def shown(tree: Directory) -> dict[bytes, bytes | None]:
    return {path: inode.content if isinstance(inode, File) else None for path, inode in walk(tree)}


NAMES = st.sampled_from([b"a", b"A", b"data", b"Data", b"DATA", "straße".encode(), b"STRASSE", b"\xff", b"x"])
FILES = st.sampled_from([b"1", b"2", b"3"]).map(file)


def trees(leaves: st.SearchStrategy[Inode], *, layer: bool) -> st.SearchStrategy[Directory]:
    opaque = st.booleans() if layer else st.just(False)
    inner: st.SearchStrategy[Inode] = st.recursive(
        leaves,
        lambda below: st.builds(
            lambda children, hides: directory(children, opaque=hides), st.dictionaries(NAMES, below, max_size=3), opaque
        ),
        max_leaves=8,
    )
    return st.dictionaries(NAMES, inner, max_size=4).map(directory)


BASES = trees(FILES, layer=False)
LAYERS = trees(FILES | st.builds(Whiteout), layer=True)


def without_twins(tree: Directory) -> Directory:
    """The tree with only the first of names that are one."""
    children: dict[bytes, Inode] = {}
    for name in sorted(tree.children):
        if folded(name) not in map(folded, children):
            child = tree.children[name]
            children[name] = without_twins(child) if isinstance(child, Directory) else child
    return directory(children, opaque=tree.opaque)


def all_folded(tree: Directory) -> Directory:
    """The tree as a file system has it that keeps no case at all."""
    return directory(
        {
            folded(name): all_folded(child) if isinstance(child, Directory) else child
            for name, child in tree.children.items()
        },
        opaque=tree.opaque,
    )


def names_in(tree: Directory, path: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(folded path, path) of every entry."""
    for name, child in tree.children.items():
        yield folded(path + b"/" + name), path + b"/" + name
        if isinstance(child, Directory):
            yield from names_in(child, path + b"/" + name)


@settings(max_examples=examples(150))
@given(BASES.map(without_twins), LAYERS.map(without_twins))
def test_a_respelled_layer_does_what_it_does_where_case_is_ignored(base: Directory, layer: Directory) -> None:
    changed, pairs = respelled(base, layer)
    result = apply_layer(base, changed)
    assert shown(all_folded(result)) == shown(apply_layer(all_folded(base), all_folded(layer)))
    assert not twins(result)
    assert not differing(base, changed)
    assert (changed is layer) == (not pairs)
    hidden = any(isinstance(inode, (Whiteout, File)) or inode.opaque for _, inode in walk(layer))
    spelled = dict(names_in(base))
    assert hidden or all(spelled.get(key, path) == path for key, path in names_in(result))


@settings(max_examples=examples(100))
@given(BASES, LAYERS)
def test_whatever_the_names_are(base: Directory, layer: Directory) -> None:
    changed, _ = respelled(base, layer)
    assert not twins(respelled(None, layer)[0])
    result = apply_layer(base, changed)
    assert len(twins(result)) <= len(twins(base))
    assert respelled(base, changed)[0] is changed


def test_examples() -> None:
    base = directory({b"Data": directory({b"Intro.MP4": file(b"1")}), b"game.exe": file(b"2")})
    layer = directory({b"data": directory({b"intro.mp4": file(b"3"), b"new": file(b"4")}), b"GAME.EXE": Whiteout()})
    changed, pairs = respelled(base, layer)
    assert shown(apply_layer(base, changed)) == {
        b"/": None,
        b"/Data": None,
        b"/Data/Intro.MP4": b"3",
        b"/Data/new": b"4",
    }
    assert pairs == [
        (b"/Data/intro.mp4", b"/Data/Intro.MP4"),
        (b"/GAME.EXE", b"/game.exe"),
        (b"/data", b"/Data"),
    ]
    assert differing(base, layer) == [(b"/data", b"/Data")]
    renamed = directory({b"Data": Whiteout(), b"data": directory({})})
    assert not differing(base, renamed)
    assert shown(apply_layer(base, respelled(base, renamed)[0])) == {b"/": None, b"/Data": None, b"/game.exe": b"2"}


def test_several_spellings_in_one_layer() -> None:
    layer = directory({b"A": directory({b"x": file(b"1")}), b"a": directory({b"X": file(b"2"), b"y": file(b"3")})})
    assert twins(layer) == [(b"/a", b"/A")]
    assert shown(respelled(None, layer)[0]) == {b"/": None, b"/A": None, b"/A/X": b"1", b"/A/y": b"3"}
    base = directory({b"b": file(b"0")})
    both = directory({b"B": file(b"1"), b"b": file(b"2")})
    assert shown(apply_layer(base, respelled(base, both)[0])) == {b"/": None, b"/b": b"2"}
