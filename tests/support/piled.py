"""Commits of small trees that are stored as those of large ones are: piled on one another, and in frames."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stratum.store import Store, commits, treewriter
from stratum.tree import cutting
from stratum.tree.contents import objects_of
from stratum.tree.model import Inode
from tests.support.stores import directory, file


@contextmanager
def small_piles(
    whole: int = 300, small: int = 380, cap: int = 2400, below: int = 3, piece: int = 400, mask: int = 1
) -> Iterator[None]:
    """In the block trees of a few lines are stored in frames, and on one another in all levels: ``whole`` to ``below``
    are what ``store.treewriter`` has as limits, and pieces of dumps have ``piece`` bytes at least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treewriter, "WHOLE_SMALL", whole)
        patch.setattr(treewriter, "SMALL_MIN", small)
        patch.setattr(treewriter, "CAP_MIN", cap)
        patch.setattr(treewriter, "CAP_BELOW", below)
        patch.setattr(commits, "BLOCK", 0)
        patch.setattr(cutting, "PIECE_MIN", piece)
        patch.setattr(cutting, "CUT_MASK", mask)
        yield


def piled(store: Store, seed: int, count: int) -> dict[str, frozenset[bytes]]:
    """Commits, each made on another one by a few changes or many; commit -> the objects of its tree."""
    rng, made = random.Random(seed), dict[str, frozenset[bytes]]()
    for _ in range(count):
        known = store.commits.open_tree(rng.choice(list(made))) if made and rng.random() < 0.9 else None
        with store.begin("a test") as tx:
            children: dict[bytes, Inode] = dict(known.children) if known is not None else {}
            changes = rng.choice((1, 1, 2, 9)) if known is not None else 30
            for _ in range(changes):
                name = b"file-%02d" % rng.randrange(50)
                if rng.random() < 0.2 and name in children:
                    del children[name]
                else:
                    children[name] = file(tx, rng.randbytes(rng.choice((20, 100, 100))))
            root = known.with_children(children) if known is not None else directory(children)
            commit = store.commits.write(tx, root, known=known).metadata_hash
        made[commit] = frozenset(objects_of(store.commits.dump(commit)))
    return made
