"""fsspec's own tests: all of them with a layer to write to, and those that read with a commit alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec.tests.abstract as abstract
import pytest

from stratum.api.importing import import_directory
from stratum.api.session import Session
from stratum.config import load_config
from stratum.fs import StratumFileSystem

ROOT = "work"


def empty_store(directory: Path) -> Path:
    """A store with an empty commit, ``data:v1``."""
    (directory / "empty").mkdir()
    import_directory(Session(load_config(store=str(directory / "store"))), str(directory / "empty"), "data:v1")
    return directory / "store"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for all tests: what they write is in layers."""
    return empty_store(tmp_path_factory.mktemp("fsspec"))


class OverLayer(abstract.AbstractFixtures):
    """A commit with a layer."""

    layer = "memory"

    @pytest.fixture
    def fs(self, empty: Path, tmp_path: Path) -> StratumFileSystem:
        layer = "memory" if self.layer == "memory" else str(tmp_path / self.layer)
        fs = StratumFileSystem("data:v1", store=str(empty), layer=layer, skip_instance_cache=True)
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


class TestGetFromCommit(abstract.AbstractFixtures, abstract.AbstractGetTests):
    """What they read is made with a layer, and then read from the commit of that."""

    @pytest.fixture
    def writer(self, tmp_path: Path) -> StratumFileSystem:
        return StratumFileSystem("data:v1", store=str(empty_store(tmp_path)), layer="memory", skip_instance_cache=True)

    @pytest.fixture
    def fs(self, writer: StratumFileSystem, tmp_path: Path) -> StratumFileSystem:
        return StratumFileSystem(store=str(tmp_path / "store"), skip_instance_cache=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "data:v1"

    def _made(self, writer: StratumFileSystem, make: Callable[..., str], fs_join: Callable[..., str]) -> str:
        source = make(writer, fs_join, "")
        writer.flatten()
        return fs_join("data:v1", source.strip("/"))

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, writer: StratumFileSystem, fs_join: Callable[..., str]) -> str:
        return self._made(writer, self._bulk_operations_scenario_0, fs_join)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, writer: StratumFileSystem, fs_join: Callable[..., str]) -> str:
        return self._made(writer, self._glob_edge_cases_files, fs_join)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, writer: StratumFileSystem, fs_join: Callable[..., str]) -> str:
        return self._made(writer, self._dir_and_file_with_same_name_prefix, fs_join)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, writer: StratumFileSystem, fs_join: Callable[..., str]) -> str:
        return self._made(writer, self._10_files_with_hashed_names, fs_join)

    def test_get_directory_recursive(self, writer: StratumFileSystem, fs: StratumFileSystem, tmp_path: Path) -> None:
        """That of the suite writes to what it reads."""
        writer.pipe("src/file", b"")
        writer.flatten()
        target = tmp_path / "target"
        for source, below in (("data:v1/src", "src"), ("data:v1/src/", "")):
            shutil.rmtree(target, ignore_errors=True)
            fs.get(source, str(target), recursive=True)
            assert [path.name for path in target.iterdir()] == ["file"]
            fs.get(source, str(target), recursive=True)
            assert (target / below / "file").is_file()
