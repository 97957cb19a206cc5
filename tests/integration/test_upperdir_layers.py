"""Layers applied to trees are what overlayfs shows for the same directories, without any store or image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.mount.build import attach, closing, unmount
from stratum.sys.mountapi import FilesystemContext
from stratum.tree.dump import write_dump
from stratum.tree.merge import apply_layer, make_layer
from stratum.tree.model import Directory
from stratum.tree.patch import layer_from_patch_tree
from tests.integration.overlay_ops import KINDS, Operations, lines, make_source, walk_view
from tests.support.effort import examples

pytestmark = pytest.mark.root

BASE_ONLY = {"set_xattr"}
"""Among others it sets user.overlay.*, which a patch tree may use for its markers."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("layers"), nested=False)


@contextmanager
def plain_overlay(place: Path, lower: list[Path], upper: Path) -> Iterator[Path]:
    """An overlay of plain directories, uppermost lower layer first, in which everything is copied up whole."""
    view, work = place / "view", place / "work"
    for path in (view, work, upper):
        path.mkdir(parents=True, exist_ok=True)
    with FilesystemContext("overlay") as context:
        for layer in lower:
            context.set_string("lowerdir+", str(layer))
        context.set_string("upperdir", str(upper))
        context.set_string("workdir", str(work))
        for option in ("metacopy", "redirect_dir", "index"):
            context.set_string(option, "off")
        context.create()
        with closing(context.mount()) as mount:
            attach(mount, view)
    try:
        yield view
    finally:
        unmount(view)


NUMBERS = st.integers(0, 60)
# No tree has sockets, so a patch cannot tell that one took the place of something.
WITHOUT = {*BASE_ONLY, "bind_socket"}
STEPS = st.lists(st.tuples(st.sampled_from(sorted({*KINDS} - WITHOUT)), NUMBERS, NUMBERS, NUMBERS), max_size=15)


@settings(max_examples=examples(60))
@given(stack=st.lists(STEPS, min_size=1, max_size=3))
def test_layers_of_an_overlay(source: Path, stack: list[list[tuple[str, int, int, int]]]) -> None:
    place = source.parent / "overlay"
    layers = [source]
    tree = walk_view(source)
    try:
        for number, steps in enumerate(stack):
            upper = place / f"upper-{number}"
            with plain_overlay(place / f"mount-{number}", layers, upper) as view:
                os.chmod(view, 0o755)
                os.utime(view, ns=(number, number))
                operations = Operations(view)
                for step in steps:
                    operations.run(step)
                truth = walk_view(view)
            merged = apply_layer(tree, layer_from_patch_tree(walk_view(upper)))
            assert lines(merged) == lines(truth)
            assert write_dump(apply_layer(tree, make_layer(tree, merged))) == write_dump(merged)
            layers.insert(0, upper)
            tree = merged
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_patch_tree_applied_twice_is_applied_once(source: Path) -> None:
    tree = walk_view(source)
    patch = Directory(*tree.metadata(), children={b".wh.d": tree.children[b"none"], b"e": tree.children[b"d"]})
    once = apply_layer(tree, layer_from_patch_tree(patch))
    assert apply_layer(once, layer_from_patch_tree(patch)) is once
