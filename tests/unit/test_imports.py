"""The rules of the code base that a machine can check: which way imports go, how big modules and functions get, and
how little the hook loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stratum

PACKAGE = Path(stratum.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60

LEVELS = (
    {"cli", "hook", "csi", "plugin"},
    {"volumes"},
    {"api", "podman"},
    {"transfer"},
    {"mount", "ingest"},
    {"store"},
    {"oci"},
    {"composefs"},
    {"tree"},
    {"config", "refs"},
    {"sys", "toml"},
    {"errors", "frozen", "progress"},
)
"""Imports go down this list only; parts on one level do not import one another."""

EXCEPTIONS = {
    ("api", "podman"),
    ("cli", "plugin"),  # `stratum volume-plugin` starts the server
}

GENERATED = ("_pb2.py", "_pb2_grpc.py")
HOOK_NEVER_LOADS = {"click", "oras", "grpc", "rich", "requests", "podman", "yaml", "jsonschema"}
START_NEVER_LOADS = {
    "dataclasses",
    "inspect",
    "subprocess",
    "tomli_w",
    "blake3",
    "pyzstd",
}
"""What takes longer to load than a container's start has time for, besides."""


def part_of(path: Path) -> str:
    """The part of the package that a module belongs to: its folder or, at the top, its name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import of the package's own modules in ``path``, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from stratum import toml` imports a module, `from stratum.refs import Ref` a name in one.
            names = (
                [f"stratum.{alias.name}" for alias in node.names] if node.module == "stratum" else [str(node.module)]
            )
        for name in names:
            package, *rest = name.split(".")
            if package == "stratum" and rest and is_part(rest[0]):
                yield node.lineno, rest[0]


def is_part(name: str) -> bool:
    """Whether ``name`` is a module or folder of the package and not a value such as ``__version__``."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def level_of(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


def may_import(importer: str, imported: str) -> bool:
    return importer == imported or (importer, imported) in EXCEPTIONS or level_of(importer) < level_of(imported)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    if part in {"__init__", "__main__"}:
        return
    wrong = [
        f"{path}:{line}: {part} imports {other}" for line, other in imported_parts(path) if not may_import(part, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_level() -> None:
    parts = {part_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert parts <= set().union(*LEVELS)


def test_the_rule_is_the_designs() -> None:
    assert may_import("cli", "api")
    assert may_import("mount", "store")
    assert not may_import("store", "mount")
    assert not may_import("mount", "ingest")
    assert not may_import("oci", "store")
    assert not may_import("tree", "composefs")
    assert not may_import("hook", "cli")
    assert not may_import("csi", "hook")
    assert not may_import("errors", "config")


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if not path.name.endswith(GENERATED)],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.count("\n")
    assert lines <= MAX_MODULE_LINES, f"{path} has {lines} lines"
    long = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                long.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_the_hook_loads_little() -> None:
    """A container's start waits for the hook: nothing of the command line, the registry client or gRPC is loaded."""
    program = "import sys; import stratum.hook.main; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "stratum" in loaded
    assert not loaded & HOOK_NEVER_LOADS
    assert not {
        name
        for name in done.stdout.split()
        if name.startswith(("stratum.cli", "stratum.oci", "stratum.transfer", "stratum.csi"))
    }


def test_the_start_of_a_container_loads_little() -> None:
    """All that the hook imports at createRuntime, at its top or later."""
    main = ast.parse((PACKAGE / "hook/main.py").read_text("utf-8"))
    start = next(node for node in main.body if isinstance(node, ast.FunctionDef) and node.name == "create_runtime")
    imports = [ast.unparse(node) for node in ast.walk(start) if isinstance(node, ast.ImportFrom)]
    assert "from stratum.hook.volumes import ContainerVolumes" in imports
    program = "; ".join(["import sys", *imports, "print('\\n'.join(sys.modules))"])
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert "stratum.mount.container" in done.stdout.split()
    assert not {name.split(".")[0] for name in done.stdout.split()} & (HOOK_NEVER_LOADS | START_NEVER_LOADS)


def test_a_worktree_is_taken_in_the_hand_in_one_place() -> None:
    """Elsewhere than in ``Session.hold`` a caller could forget to finish what a killed switch left."""
    found = {
        (str(path.relative_to(PACKAGE)), ast.unparse(node.func))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("worktrees.lock", "settle"))
    }
    assert found == {("api/held.py", "place.store.worktrees.lock"), ("api/held.py", "held._settle")}
