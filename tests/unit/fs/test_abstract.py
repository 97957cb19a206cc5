"""fsspec's own tests: all of them with a layer to write to, in memory and in a directory, and those that read without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec.tests.abstract as abstract
import pytest
from fsspec.implementations.local import LocalFileSystem

from stratum.api.importing import import_directory
from stratum.api.session import Session
from stratum.config import load_config
from stratum.fs import StratumFileSystem

ROOT = "work"


def empty_store(tmp_path: Path) -> Session:
    """A store with an empty commit, ``data:v1``."""
    session = Session(load_config(store=str(tmp_path / "store")))
    (tmp_path / "empty").mkdir()
    import_directory(session, str(tmp_path / "empty"), "data:v1")
    return session


class OverLayer(abstract.AbstractFixtures):
    """A commit with a layer."""

    layer = "memory"

    @pytest.fixture
    def fs(self, tmp_path: Path) -> StratumFileSystem:
        store = empty_store(tmp_path).config.store
        layer = "memory" if self.layer == "memory" else str(tmp_path / self.layer)
        fs = StratumFileSystem("data:v1", store=str(store), layer=layer, skip_instance_cache=True)
        fs.mkdir(ROOT)
        return fs

    @pytest.fixture
    def fs_path(self) -> str:
        return ROOT


class TestCopyInMemory(OverLayer, abstract.AbstractCopyTests):
    pass


class TestGetFromMemory(OverLayer, abstract.AbstractGetTests):
    pass


class TestOpenInMemory(OverLayer, abstract.AbstractOpenTests):
    pass


class TestPipeToMemory(OverLayer, abstract.AbstractPipeTests):
    pass


class TestPutToMemory(OverLayer, abstract.AbstractPutTests):
    pass


class TestOpenInDirectory(OverLayer, abstract.AbstractOpenTests):
    layer = "layer"


class TestPipeToDirectory(OverLayer, abstract.AbstractPipeTests):
    layer = "layer"


class TestCopyInDirectory(OverLayer, abstract.AbstractCopyTests):
    layer = "layer"


class TestGetFromDirectory(OverLayer, abstract.AbstractGetTests):
    layer = "layer"


class TestPutToDirectory(OverLayer, abstract.AbstractPutTests):
    layer = "layer"
