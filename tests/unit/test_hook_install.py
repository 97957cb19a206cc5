"""The hook's JSON files: what is in them, and whose files are left alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from stratum.config import load_config
from stratum.errors import ConflictError, NotFoundError, StratumError, UnsupportedError
from stratum.frozen import replace
from stratum.hook.install import HOOK_PATH, install, uninstall

CONFIG = load_config({})


def test_what_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "hooks.d"
    paths = install(directory, CONFIG)
    assert [path.name for path in paths] == ["stratum-createruntime.json", "stratum-poststop.json"]
    assert sorted(directory.iterdir()) == paths
    for path, stage in zip(paths, ("createRuntime", "poststop"), strict=True):
        hook = json.loads(path.read_text())
        assert hook["version"] == "1.0.0"
        assert hook["stages"] == [stage]
        assert hook["hook"]["path"] == hook["hook"]["args"][0] == sys.executable
        assert hook["hook"]["args"][1:] == ["-I", "-m", "stratum.hook", stage]
        assert hook["hook"]["env"] == [f"PATH={HOOK_PATH}"]
        assert hook["hook"]["timeout"] > 0
        (pattern,) = hook["when"]["annotations"]
        assert re.search(pattern, "stratum.dev/volume.x")
        assert not re.search(pattern, "stratumXdev/volume.x")
        assert path.stat().st_mode & 0o777 == 0o644


def test_settings_that_are_not_the_defaults_are_in_the_environment(tmp_path: Path) -> None:
    config = replace(CONFIG, store=Path("/srv/store"), runtime_dir=Path("/run/other"))
    for path in install(tmp_path, config):
        environment = json.loads(path.read_text())["hook"]["env"]
        assert environment[1:] == ["STRATUM_STORE=/srv/store", "STRATUM_RUNTIME_DIR=/run/other"]


def test_again_and_away(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    first = install(tmp_path, CONFIG)
    assert install(tmp_path, CONFIG) == first
    assert uninstall(tmp_path) == first
    assert uninstall(tmp_path) == []
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"hook": {"args": ["/usr/bin/other"]}}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    taken = tmp_path / "stratum-poststop.json"
    taken.write_text(text)
    with pytest.raises(ConflictError, match="was not written by"):
        install(tmp_path, CONFIG)
    with pytest.raises(ConflictError, match="was not written by"):
        uninstall(tmp_path)
    assert taken.read_text() == text
    assert list(tmp_path.iterdir()) == [taken]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StratumError, match="cannot install the hook"):
        install(tmp_path / "file", CONFIG)
    with pytest.raises(NotFoundError, match="there is no directory"):
        uninstall(tmp_path / "nothing")


def test_an_interpreter_that_cannot_run_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UnsupportedError, match="cannot load stratum"):
        install(tmp_path / "hooks", CONFIG)
    assert not (tmp_path / "hooks").exists()


def test_a_directory_by_a_symlink_or_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    written = install(Path("link"), CONFIG)
    assert all(path.is_absolute() for path in written)
    assert {path.name for path in (tmp_path / "real").iterdir()} == {path.name for path in written}
    assert (tmp_path / "link").is_symlink()
    uninstall(Path("link"))
    assert not list((tmp_path / "real").iterdir())


def test_a_half_installed_hook_is_completed_and_removed(tmp_path: Path) -> None:
    first, second = install(tmp_path / "hooks", CONFIG)
    first.unlink()
    assert install(tmp_path / "hooks", CONFIG) == [first, second]
    second.unlink()
    assert uninstall(tmp_path / "hooks") == [first]
    assert uninstall(tmp_path / "hooks") == []
