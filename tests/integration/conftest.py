"""A store with one commit, and a mounted worktree of it whose upperdir can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stratum.tree.model import Directory
from tests.integration.overlay_ops import Lab, Worktree, make_source


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def base(lab: Lab) -> Directory:
    return lab.commit_directory(make_source(lab.place))


@pytest.fixture
def tree(lab: Lab, base: Directory) -> Iterator[Worktree]:
    with lab.worktree(base) as worktree:
        yield worktree
