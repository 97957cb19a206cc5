"""``make install`` and ``make uninstall``: what is put where, upgrades, interruptions, what a removal leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.capabilities import CHECKOUT
from tools.install import installing
from tools.install.installing import Target, install, uninstall
from tools.install.places import PROGRAM_IN_UNITS, Places
from tools.install.tree import Builder, merge, version_of
from tools.setup.pip import SetupError
from tools.share import COMPLETION, kept

SHARE = {
    "man/man1/stratum.1": b"page",
    COMPLETION["zsh"]: b"#compdef stratum",
    "stratum/systemd/stratum-x.service": b"ExecStart=/opt/stratum/bin/stratum x\n",
    "stratum/systemd-user/stratum-x.service": b"ExecStart=/opt/stratum/bin/stratum y\n",
    "stratum/examples/quadlet/a.container": b"[Container]",
}
UNIT = "usr/local/lib/systemd/system/stratum-x.service"
USER_UNIT = "usr/local/lib/systemd/user/stratum-x.service"
FILES = {
    "usr/local/bin/stratum",
    "usr/sbin/mount.stratum",
    "usr/local/share/man/man1/stratum.1",
    "usr/local/share/zsh/site-functions/_stratum",
    "usr/local/share/doc/stratum-oci/examples/quadlet/a.container",
    UNIT,
    USER_UNIT,
}
"""What is outside of the tree that ``program`` makes."""


def program(version: str, share: dict[str, bytes] = SHARE) -> installing.Make:
    """What makes a program of one file."""

    def make(tree: Path, place: str) -> tuple[list[str], Path]:
        (tree / "version").write_text(f"{version} for {place}")
        for name, content in share.items():
            path = tree / "share" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return ["stratum", "mount.stratum"], tree / "share"

    return make


def outside(root: Path) -> set[str]:
    """Files and links below ``root`` that are not in the tree."""
    found = (path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    return {name for path in found if not (name := str(path.relative_to(root))).startswith("usr/local/lib/stratum/")}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(Places("/usr/local"), str(tmp_path / "root"))


@pytest.fixture
def root(target: Target) -> Path:
    return Path(target.destdir)


def test_what_is_put_where(target: Target, root: Path, said: list[str]) -> None:
    install(target, program("1"), said.append)
    assert outside(root) == FILES
    assert (root / "usr/local/lib/stratum/version").read_text() == "1 for /usr/local/lib/stratum"
    assert (root / UNIT).read_text() == "ExecStart=/usr/local/bin/stratum x\n"
    assert (root / USER_UNIT).read_text() == "ExecStart=/usr/local/bin/stratum y\n"
    assert os.readlink(root / "usr/local/bin/stratum") == "../lib/stratum/bin/stratum"
    assert os.readlink(root / "usr/sbin/mount.stratum") == "/usr/local/lib/stratum/bin/mount.stratum"
    assert {path.name for path in (root / "usr/local/lib").iterdir()} == {"stratum", "systemd"}
    uninstall(target, said.append)
    assert said == []
    assert not root.exists()


def test_every_unit_starts_what_is_installed() -> None:
    for prefix in ("/usr", "/usr/local", "/srv/it"):
        places = Places(prefix)
        for name, path in kept().items():
            content = places.placed(name, path.read_bytes()).decode()
            assert PROGRAM_IN_UNITS not in content
            if name.endswith(".service"):
                assert f"={prefix}/bin/stratum " in content


def test_places_that_the_system_looks_into() -> None:
    name = "stratum/systemd/a.service"
    assert list(Places("/usr").files([name])) == ["/usr/lib/systemd/system/a.service"]
    assert list(Places("/srv/it").files([name])) == ["/etc/systemd/system/a.service"]
    assert list(Places("/usr").files([COMPLETION["zsh"]])) == ["/usr/share/zsh/vendor-completions/_stratum"]
    assert list(Places("/usr").files([COMPLETION["fish"]])) == ["/usr/share/fish/vendor_completions.d/stratum.fish"]
    assert list(Places("/usr/local").files([COMPLETION["fish"]])) == ["/etc/fish/completions/stratum.fish"]
    home = Places("/home/u/.local", system=False)
    assert home.files([name]) == {}
    of_users = "stratum/systemd-user/a.service"
    assert list(home.files([of_users])) == ["/home/u/.local/share/systemd/user/a.service"]
    assert list(Places("/usr").files([of_users])) == ["/usr/lib/systemd/user/a.service"]
    assert list(Places("/srv/it").files([of_users])) == ["/etc/systemd/user/a.service"]
    assert list(home.links(["stratum", "mount.stratum"])) == ["/home/u/.local/bin/stratum"]


def test_what_others_have_there_stays(target: Target, root: Path, said: list[str]) -> None:
    other = root / "usr/local/share/man/man1/other.1"
    other.parent.mkdir(parents=True)
    other.write_text("other")
    install(target, program("1"), said.append)
    uninstall(target, said.append)
    assert {path for path in root.rglob("*") if not path.is_dir()} == {other}
    taken = root / "usr/local/bin/stratum"
    taken.parent.mkdir()
    taken.write_text("of pip")
    with pytest.raises(SetupError, match=f"{taken} is there, and was not installed by") as caught:
        install(target, program("1"), said.append)
    assert "pip" in caught.value.hint
    assert {path for path in root.rglob("*") if not path.is_dir()} == {other, taken}


def test_a_tree_of_a_package_stays(target: Target, root: Path, said: list[str]) -> None:
    (root / "usr/local/lib/stratum").mkdir(parents=True)
    with pytest.raises(SetupError, match="was not installed by"):
        install(target, program("1"), said.append)
    with pytest.raises(SetupError, match="nothing was installed in /usr/local"):
        uninstall(target, said.append)
    assert list((root / "usr/local/lib/stratum").iterdir()) == []


def test_an_upgrade_replaces_and_removes(target: Target, root: Path, said: list[str]) -> None:
    install(target, program("1", {**SHARE, "man/man1/stratum-old.1": b"old"}), said.append)
    assert "usr/local/share/man/man1/stratum-old.1" in outside(root)
    install(target, program("2", {**SHARE, "man/man1/stratum.1": b"new"}), said.append)
    assert outside(root) == FILES
    assert (root / "usr/local/share/man/man1/stratum.1").read_bytes() == b"new"
    assert (root / "usr/local/lib/stratum/version").read_text().startswith("2")
    uninstall(target, said.append)
    assert said == []
    assert not root.exists()


def test_what_somebody_changed_is_not_lost(target: Target, root: Path, said: list[str]) -> None:
    install(target, program("1"), said.append)
    (root / UNIT).write_text("mine")
    install(target, program("2"), said.append)
    assert (root / f"{UNIT}.saved").read_text() == "mine"
    assert (root / UNIT).read_text().startswith("ExecStart")
    (root / UNIT).write_text("mine again")
    uninstall(target, said.append)
    assert outside(root) == {UNIT, f"{UNIT}.saved"}
    assert [line.partition(" ")[0] for line in said] == [str(root / UNIT)] * 2


class InterruptedInstallError(Exception):
    """As a signal would be."""


@pytest.mark.parametrize("after", range(1, 9))
def test_an_install_that_is_interrupted_anywhere_can_be_done_again(
    target: Target, root: Path, said: list[str], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step that changes anything outside of the new tree fails in turn, with nothing done after it."""
    install(target, program("1", {**SHARE, "man/man1/stratum-old.1": b"old"}), said.append)
    steps = 0

    def counted(step: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: object) -> None:
            nonlocal steps
            steps += 1
            if steps == after:
                raise InterruptedInstallError
            step(*arguments)

        return run

    changed = {**SHARE, "man/man1/stratum.1": b"new", "man/man1/stratum-other.1": b"other"}
    with monkeypatch.context() as patch:
        for name in ("_exchange", "_put", "_take_away"):
            patch.setattr(installing, name, counted(getattr(installing, name)))
        with pytest.raises(InterruptedInstallError):
            install(target, program("2", changed), said.append)
    version = (root / "usr/local/lib/stratum/version").read_text()
    assert version[0] == ("1" if after == 1 else "2")
    assert os.readlink(root / "usr/local/bin/stratum") == "../lib/stratum/bin/stratum"
    if after % 2:
        install(target, program("2", changed), said.append)
        assert outside(root) == FILES | {"usr/local/share/man/man1/stratum-other.1"}
    uninstall(target, said.append)
    assert said == []
    assert not root.exists()


def test_a_tree_that_cannot_be_made_leaves_the_old_one(target: Target, root: Path, said: list[str]) -> None:
    def broken(tree: Path, place: str) -> tuple[list[str], Path]:
        (tree / "half").touch()
        raise SetupError("no network", "")

    install(target, program("1"), said.append)
    with pytest.raises(SetupError, match="no network"):
        install(target, broken, said.append)
    assert (root / "usr/local/lib/stratum/version").read_text().startswith("1")
    assert outside(root) == FILES


def test_two_at_a_time(target: Target, said: list[str]) -> None:
    def meanwhile(tree: Path, place: str) -> tuple[list[str], Path]:
        with pytest.raises(SetupError, match="somebody else installs"):
            install(target, program("2"), said.append)
        return program("1")(tree, place)

    install(target, meanwhile, said.append)


def test_a_removal_is_refused_while_the_hook_runs_it(target: Target, root: Path, said: list[str]) -> None:
    install(target, program("1"), said.append)
    hooks = root / "etc/containers/oci/hooks.d"
    hooks.mkdir(parents=True)
    (hooks / "other.json").write_text('{"hook": {"path": "/usr/local/lib/stratum-other/hook"}}')
    hook = hooks / "stratum-poststop.json"
    hook.write_text('{"hook": {"path": "/usr/local/lib/stratum/bin/python3"}}')
    with pytest.raises(SetupError, match="start on empty directories") as caught:
        uninstall(target, said.append)
    assert "stratum hook uninstall" in caught.value.hint
    assert outside(root) > FILES
    uninstall(target, said.append, force=True)
    assert outside(root) == {"etc/containers/oci/hooks.d/other.json"}
    assert str(hook) in said[0]


@pytest.mark.parametrize(
    ("prefix", "error"),
    [
        ("here", "error: PREFIX=here is no absolute path"),
        (
            "/srv/my programs",
            "error: PREFIX=/srv/my programs has what the first line of a program or a unit cannot name",
        ),
        ("/srv/%h", "error: PREFIX=/srv/%h has what the first line of a program or a unit cannot name"),
    ],
)
def test_the_makefile_asks_for_a_prefix_that_can_be_named(prefix: str, error: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "uninstall", f"PREFIX={prefix}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == error


def test_what_another_python_wants_besides_is_found(tmp_path: Path) -> None:
    for name, wants in (("a", "b; python_version < '3.13'"), ("c", "d; extra == 'x'"), ("e_f", "A>=1")):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\nRequires-Dist: {wants}\n"
        (tmp_path / f"{name}-1.dist-info/METADATA").write_text(metadata)
    builder = Builder(Path(sys.executable))
    assert builder.missing(tmp_path, ("3.13",)) == []
    assert builder.missing(tmp_path, ("3.11", "3.13")) == ["b"]


def test_packages_of_two_pythons_are_put_together(tmp_path: Path) -> None:
    for version in ("311", "313"):
        (tmp_path / version / "a-1.dist-info").mkdir(parents=True)
        (tmp_path / version / f"a.cpython-{version}.so").write_text(version)
        (tmp_path / version / "a.py").write_text("same")
        (tmp_path / version / "a-1.dist-info/WHEEL").write_text(version)
        merge(tmp_path / version, tmp_path / "both")
    found = {str(path.relative_to(tmp_path / "both")) for path in (tmp_path / "both").rglob("*") if path.is_file()}
    assert found == {"a.py", "a.cpython-311.so", "a.cpython-313.so", "a-1.dist-info/WHEEL"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.py").write_text("another")
    with pytest.raises(SetupError, match="is not the same for all Pythons"):
        merge(tmp_path / "other", tmp_path / "both")


@pytest.mark.parametrize("python", ["/nonexistent/python3", "/bin/false"])
def test_an_interpreter_that_does_not_run(python: str) -> None:
    with pytest.raises(SetupError, match=f"{python} does not run"):
        version_of(Path(python))
