"""The hook's JSON files: what is in them, and whose files are left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stratum
from stratum.config import Config, load_config
from stratum.errors import ConflictError, NotFoundError, StratumError, UnsupportedError
from stratum.frozen import replace
from stratum.podman.install import HOOK_PATH, install, uninstall

CONFIG = load_config({})


def put(directory: Path, config: Config = CONFIG) -> list[Path]:
    """Install the hook, wherever the tests themselves are installed."""
    return install(directory, config, force=True)


def test_what_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "hooks.d"
    paths = put(directory)
    assert [path.name for path in paths] == ["stratum-createruntime.json", "stratum-poststop.json"]
    assert sorted(directory.iterdir()) == paths
    for path, stage in zip(paths, ("createRuntime", "poststop"), strict=True):
        hook = json.loads(path.read_text())
        assert hook["version"] == "1.0.0"
        assert hook["stages"] == [stage]
        assert hook["hook"]["path"] == hook["hook"]["args"][0] == sys.executable
        *isolated, _, given = hook["hook"]["args"][1:]
        assert (isolated, given) == (["-I", "-S", "-c"], stage)
        done = subprocess.run(hook["hook"]["args"], input=b"", capture_output=True, env={}, cwd="/", check=False)
        assert b"state JSON is empty" in done.stderr
        assert hook["hook"]["env"] == [f"PATH={HOOK_PATH}"]
        assert hook["hook"]["timeout"] > 0
        (pattern,) = hook["when"]["annotations"]
        assert re.search(pattern, "stratum.dev/volume.x")
        assert re.search(pattern, "stratum.dev/volumes.x")
        assert re.search(hook["when"]["annotations"][pattern], "") is not None
        assert not re.search(pattern, "stratumXdev/volume.x")
        assert path.stat().st_mode & 0o777 == 0o644


def test_settings_that_are_not_the_defaults_are_in_the_environment(tmp_path: Path) -> None:
    config = replace(CONFIG, store=Path("/srv/store"), runtime_dir=Path("/run/other"))
    for path in put(tmp_path, config):
        environment = json.loads(path.read_text())["hook"]["env"]
        assert environment[1:] == ["STRATUM_STORE=/srv/store", "STRATUM_RUNTIME_DIR=/run/other"]


def test_again_and_away(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    first = put(tmp_path)
    assert put(tmp_path) == first
    assert uninstall(tmp_path, CONFIG) == first
    assert uninstall(tmp_path, CONFIG) == []
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"hook": {"args": ["/usr/bin/other"]}}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    taken = tmp_path / "stratum-poststop.json"
    taken.write_text(text)
    with pytest.raises(ConflictError, match="was not written by") as refused:
        put(tmp_path)
    assert f"mv {taken} {taken}.old" in (refused.value.hint or "")
    with pytest.raises(ConflictError, match="was not written by"):
        uninstall(tmp_path, CONFIG)
    assert taken.read_text() == text
    assert list(tmp_path.iterdir()) == [taken]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StratumError, match="cannot install the hook"):
        put(tmp_path / "file")
    with pytest.raises(NotFoundError, match="there is no directory"):
        uninstall(tmp_path / "nothing", CONFIG)


def test_an_interpreter_that_cannot_run_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UnsupportedError, match="cannot load stratum"):
        put(tmp_path / "hooks")
    assert not (tmp_path / "hooks").exists()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an installation of its own, whose interpreter this seems to be."""
    place = tmp_path / "installation"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    packages = next((place / "lib").glob("python*/site-packages"))
    shutil.copytree(Path(stratum.__file__).parent, packages / "stratum", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (packages / "stratum").rglob("*"):
        path.chmod(path.stat().st_mode & ~0o022)
    monkeypatch.setattr(sys, "executable", str(place / "bin" / "python"))
    return place


@pytest.mark.parametrize("what", [".", "bin", "lib", "bin/../..", "pyvenv.cfg"])
def test_an_installation_that_others_can_write_to_is_refused(elsewhere: Path, tmp_path: Path, what: str) -> None:
    for path in install(tmp_path / "hooks", CONFIG):
        path.unlink()
    place = (elsewhere / what).resolve()
    place.chmod(place.stat().st_mode | 0o020)
    with pytest.raises(UnsupportedError, match="can be written by others") as caught:
        install(tmp_path / "hooks", CONFIG)
    assert str(place) in caught.value.message
    assert "only root can write" in caught.value.hint
    assert not list((tmp_path / "hooks").iterdir())
    warnings: list[str] = []
    install(tmp_path / "hooks", CONFIG, force=True, warn=warnings.append)
    assert "can be written by others" in warnings[0]


@pytest.mark.root
@pytest.mark.parametrize("what", [".", "bin", "bin/python", "pyvenv.cfg"])
def test_an_installation_of_somebody_else_is_refused(elsewhere: Path, tmp_path: Path, what: str) -> None:
    os.chown(elsewhere / what, 1000, 1000, follow_symlinks=False)
    with pytest.raises(UnsupportedError, match="belongs to user 1000"):
        install(tmp_path / "hooks", CONFIG)


def test_hooks_where_others_can_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir(mode=0o755)
    (tmp_path / "hooks").chmod(0o777)
    with pytest.raises(UnsupportedError, match="hooks can be written by others"):
        install(tmp_path / "hooks", CONFIG)


def test_a_checkout_is_told_of(elsewhere: Path, tmp_path: Path) -> None:
    (elsewhere / ".git").mkdir()
    warnings: list[str] = []
    install(tmp_path / "hooks", CONFIG, warn=warnings.append)
    (warning,) = warnings
    assert f"from the checkout {elsewhere}" in warning


def test_a_directory_by_a_symlink_or_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    written = put(Path("link"))
    assert all(path.is_absolute() for path in written)
    assert {path.name for path in (tmp_path / "real").iterdir()} == {path.name for path in written}
    assert (tmp_path / "link").is_symlink()
    uninstall(Path("link"), CONFIG)
    assert not list((tmp_path / "real").iterdir())


def test_a_half_installed_hook_is_completed_and_removed(tmp_path: Path) -> None:
    first, second = put(tmp_path / "hooks")
    first.unlink()
    assert put(tmp_path / "hooks") == [first, second]
    second.unlink()
    assert uninstall(tmp_path / "hooks", CONFIG) == [first]
    assert uninstall(tmp_path / "hooks", CONFIG) == []
