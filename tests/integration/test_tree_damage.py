"""Whatever becomes of a file that trees are stored in: no commit is read as another tree, nothing is collected that is
needed, ``fsck`` names the file and whom it hurts, and ``fsck --repair`` mends it from what is left or a place."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from stratum.errors import DamagedError, StratumError
from stratum.store import Store
from stratum.store import fsck as checking
from stratum.store.layout import ANCESTORS
from stratum.store.treerecord import encode, join_file, split_file
from stratum.tree.blocks import Span
from tests.support.grounds import Stack, collect
from tests.support.inprocess import stratum

EVERY = os.environ.get("STRATUM_TEST_DAMAGE") == "all"
SAMPLE = 5
VERBS = (
    ("log", "stack:third", "d03"),
    ("gc", "-n"),
    ("diff", "--stat", "stack:orphan", "stack:third"),
)


class Scene:
    """A stack; ``files`` are those that its trees are stored in."""

    def __init__(self, directory: Path) -> None:
        stack = Stack(Store.create(directory / "store"))
        self.store, self.commits = stack.store, stack.commits
        self.root = self.store.root
        self.users = {commit: f"stack:{tag}" for tag, commit in self.commits.items()}
        self.files = [
            path
            for top in ("commits", "grounds", "frames")
            for path in sorted((self.root / top).rglob("*"))
            if path.is_file() and path.suffix != f".{ANCESTORS}"  # which tell of history, and are no part of trees
        ]

    def unreadable(self) -> dict[str, str]:
        """The refs that cannot be read: ref -> the error. What can be read has the right hash (``Commits.dump``)."""
        return {ref: error for commit, ref in self.users.items() if (error := self.error(commit)) is not None}

    def said(self) -> list[tuple[int, str, str]]:
        """What verbs say that read lines of trees, and not whole ones."""
        options = ["--store", str(self.root), "--runtime-dir", str(self.root.parent / "run")]
        return [tuple(stratum(*options, *verb)) for verb in VERBS]

    def error(self, commit: str) -> str | None:
        try:
            self.store.commits.dump(commit)
        except StratumError as exc:
            return exc.message
        return None


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("damage"))


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """``path`` with other content for the block; without it where that is None."""
    before = path.read_bytes()
    after = change(before)
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(place: int, bit: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]

    return flip


def changes(scene: Scene, path: Path) -> Iterator[Callable[[bytes], bytes | None]]:
    """Flipped bits, cuts, additions, and what another file of the kind has."""
    size = path.stat().st_size
    # The metadata of a ground are those of a commit that is no more: nobody reads them.
    first = path.read_bytes().index(0) if path.parent == scene.root / "grounds" else 0
    places = range(first, size) if EVERY else random.sample(range(first, size), min(SAMPLE, size - first))
    for place in places:
        yield flipped(place, random.randrange(8))
    yield lambda data: data[: random.randrange(len(data))]
    yield lambda data: data + data[-40:]
    yield lambda data: None
    top = len(scene.root.parts)
    others = [other for other in scene.files if other != path and other.parts[top] == path.parts[top]]
    for other in random.sample(others, min(2, len(others))):
        yield partial(lambda content, data: content, other.read_bytes())


def test_no_damage_shows_another_tree_and_fsck_names_the_file_and_whom_it_hurts(scene: Scene) -> None:
    assert len(scene.files) >= 9
    assert not scene.unreadable()
    assert not checking.check(scene.store).findings
    said = scene.said()
    assert [code for code, _, _ in said] == [0] * len(said)
    for path in scene.files:
        relative = str(path.relative_to(scene.root))
        for number, change in enumerate(changes(scene, path)):
            with changed(path, change):
                hurt = scene.unreadable()
                name = relative.replace("/", "").removeprefix("frames") if "frames" in relative else path.name
                for message in hurt.values():
                    assert name in message.replace("/", ""), (relative, message)
                for verb, (code, out, err), (_, before, _) in zip(VERBS, scene.said(), said, strict=True):
                    assert (code in (3, 5) and err.count("error: ") == 1) or (code, out) == (0, before), (
                        relative,
                        verb,
                        out,
                    )
                if number % 8 and not EVERY:
                    continue
                found = checking.check(scene.store).damage
                kinds = ("dump", "ground", "frame", "commit")
                told = {ref for finding in found if finding.kind in kinds for ref in finding.hurts}
                assert told == set(hurt), (relative, number)
                assert len({finding.path for finding in found}) <= 1 + len(hurt), found
                assert any(relative == finding.path for finding in found), (relative, found)


def kept(root: Path) -> set[tuple[str, int]]:
    """The files of a store that commits are made of."""
    paths = [path for top in ("objects", "commits", "grounds", "frames") for path in (root / top).rglob("*")]
    return {(str(path.relative_to(root)), path.stat().st_ino) for path in paths if path.is_file()}


def test_what_cannot_be_read_is_not_collected_nor_is_what_it_needs(scene: Scene, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    for path in scene.files:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(scene.root, copy, symlinks=True)
        store, damaged = Store.open(copy), copy / path.relative_to(scene.root)
        data, before = damaged.read_bytes(), kept(copy)
        damaged.write_bytes(flipped(random.randrange(len(data)), random.randrange(8))(data))
        with suppress(StratumError):
            collect(store)
        damaged.write_bytes(data)
        assert before <= kept(copy), path
        assert not checking.check(store).damage


def test_a_tree_that_is_right_and_cut_within_a_line_is_told_and_believed_by_nobody(scene: Scene) -> None:
    store, commit = scene.store, scene.commits["first"]
    path, (record, whole) = store.layout.commit(commit), (record for _, record in store.trees.chain(commit))
    first = record.steps[0]
    assert isinstance(first, Span)
    text = b"".join(store.trees.pieces(scene.commits["whole"]))
    end = text.index(b"\n", first.start) + 1
    steps = (Span(first.start, end - 5), 5, Span(end, first.end), *record.steps[1:])
    spoilt = record._replace(steps=steps, lines=text[end - 5 : end] + record.lines)
    assert whole.level == 0
    with changed(path, lambda data: join_file(split_file(data, "it")[0], encode(spoilt, commit))):
        assert store.commits.dump(commit).size == record.size
        told = [finding for finding in checking.check(store).damage if finding.kind == "dump"]
        assert {ref for finding in told for ref in finding.hurts} == {"stack:first", "stack:second", "stack:third"}
        assert all("is not cut where its lines end" in finding.problem for finding in told)
        with pytest.raises(DamagedError, match="not cut where its lines end"):
            collect(store)
