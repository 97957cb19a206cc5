"""What is promised of the Python API: its names, what loading it costs, its types. Signatures are held by
docs/reference/python.md (``tests/unit/test_reference.py``)."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import stratum
from stratum import errors
from tests.unit.test_imports import loaded_by

CHECKOUT = Path(__file__).parents[3]
PUBLIC = {
    "Access": ["ca_file", "plain_http", "unsafe_concurrent"],
    "BusyError": [],
    "Change": ["fields", "kind", "new", "old", "path"],
    "Commit": [
        "exists",
        "file_count",
        "id",
        "listdir",
        "message",
        "open",
        "origin",
        "parents",
        "read_bytes",
        "read_text",
        "stat",
        "store",
        "time",
        "total_size",
        "walk",
    ],
    "ConflictError": [],
    "DamagedError": [],
    "DeniedError": [],
    "Entry": ["digest", "gid", "kind", "mode", "mtime_ns", "name", "path", "rdev", "size", "target", "uid", "xattrs"],
    "ExistsError": [],
    "NotFoundError": [],
    "Pushed": ["bytes_sent", "manifest", "place"],
    "Store": [
        "close",
        "commit",
        "commit_worktree",
        "diff",
        "path",
        "pull",
        "push",
        "resolve",
        "strata",
        "tag",
        "tags",
        "untag",
        "worktrees",
    ],
    "StratumError": [],
    "Tree": ["mkdir", "remove", "symlink", "write"],
    "UnreachableError": [],
    "UnsupportedError": [],
    "UntrustedError": [],
    "UsageError": [],
    "Worktree": ["base", "head", "ref"],
    "__version__": [],
    "open_store": [],
}
"""Public name -> its public members, but for those that every error has. Who adds one adds it here, and to
CHANGELOG.md; who takes one away keeps the promise of docs/python.md."""

BESIDES = {
    "stratum.content": [
        "CachedStore",
        "ContentSource",
        "ContentStore",
        "KeptStore",
        "LocalStore",
        "MemoryStore",
        "ObjectStore",
        "TreeStore",
        "open_content_store",
    ],
    "stratum.fs": ["StratumFileSystem"],
}
"""The other public modules, and their names."""

PROGRAM = """
from collections.abc import Iterator
from pathlib import Path

import stratum
from stratum import Commit, NotFoundError, Tree


def told(done: int, total: int | None) -> None:
    assert total is None or done <= total


def newest(store: stratum.Store, names: list[str]) -> Iterator[tuple[str, Commit]]:
    for name in names:
        try:
            yield name, store.resolve(name)
        except NotFoundError as error:
            raise SystemExit(error.message + error.hint) from error


with stratum.open_store(Path("store"), create=True) as store:
    tree = Tree()
    tree.write("a", b"b", xattrs={"user.a": b"1"})
    commit = store.commit(tree, "app", message="first", progress=told)
    for _, each in newest(store, store.strata()):
        with each.open("a") as file:
            size: int = file.seek(0, 2)
        sizes: dict[str, int] = {entry.path: entry.size for entry in each.walk() if entry.kind == "file"}
        assert sizes == {"/a": size}
    changed: list[str] = [change.path for change in store.diff(commit, "app")]
"""


def test_the_public_names_are_these() -> None:
    assert sorted(stratum.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(stratum))
    for name, members in PUBLIC.items():
        found = getattr(stratum, name)
        if isinstance(found, type) and not issubclass(found, Exception):
            assert sorted(member for member in dir(found) if member[0] != "_") == members, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stratum.nothing  # noqa: B018  (asking is what fails)


@pytest.mark.parametrize("module", BESIDES)
def test_the_other_public_modules(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == BESIDES[module]
    assert all(hasattr(found, name) for name in BESIDES[module])


def test_errors_are_kinds_of_one() -> None:
    public = {name for name in PUBLIC if name.endswith("Error")}
    assert all(issubclass(getattr(stratum, name), stratum.StratumError) for name in public)
    ours = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, Exception)]
    bases = {base.__name__ for found in ours for base in found.__mro__ if base is not found}
    assert bases - public == {"Exception", "BaseException", "object"}, "an error that others are kinds of is public"


def test_loading_it_loads_nothing() -> None:
    assert {name for name in loaded_by("import stratum") if name.startswith("stratum.")} == set()
    errors_only = loaded_by("import stratum", "stratum.NotFoundError")
    assert {name for name in errors_only if name.startswith("stratum.")} == {"stratum.errors"}
    used = loaded_by("import stratum", "stratum.open_store")
    assert not {"click", "rich", "requests", "oras", "stratum.cli"} & used


def test_a_program_is_typed(tmp_path: Path) -> None:
    assert (Path(stratum.__file__).parent / "py.typed").exists()
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}/cache"]
    environment = {"PATH": "/usr/bin:/bin", "MYPYPATH": str(CHECKOUT), "HOME": str(tmp_path)}
    checked = subprocess.run(
        [*command, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "wrong.py").write_text(PROGRAM.replace("store.resolve(name)", "store.resolve(1)"))
    checked = subprocess.run(
        [*command, "wrong.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert 'Argument 1 to "resolve"' in checked.stdout


def test_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)}
    environment |= {"STRATUM_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
