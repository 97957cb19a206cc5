"""The rules of the code base that a machine can check: which way imports go, how big modules and functions get, and
how little a container's start loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import stratum
from tests.support.cold import COLD, COLD_FOR_HOOKS

PACKAGE = Path(stratum.__file__).parent
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60

FLOORS = (
    {"cli", "fs"},
    {"public"},
    {"hook", "csi", "plugin", "serve"},
    {"volumes"},
    {"api"},
    {"history"},
    {"hydrate"},
    {"content", "ingest", "mount", "transfer"},
    {"store", "oci", "metafs"},
    {"rootless"},
    {"podman"},
    {"c4", "composefs", "config", "peers", "serving", "sync"},
    {"sys", "tree", "refs"},
    {"errors", "frozen", "hashes", "progress", "toml", "zstd"},
)
"""Rooms, from the top. A room imports from floors below its own only: neither from above nor from beside it."""

DOORS = {"cli", "hook", "csi", "plugin"}
PURE = {"tree", "sync", "c4", "composefs", "refs", "errors", "frozen", "hashes", "progress", "toml", "zstd"}
TOUCHING = {"ctypes", "shutil", "socket", "subprocess", "tempfile", "threading", "time", "requests"}
"""What gives a module something to touch besides its arguments; so does the built-in ``open``."""

GENERATED = ("_pb2.py", "_pb2_grpc.py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The room of a module: its folder or, at the top, its own name."""
    return module.split(".")[1]


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the package's own modules, also inside functions and for types only."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            # `from stratum import toml` imports a module, `from stratum.refs import Ref` a name in one.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        for name in names:
            if name in MODULES and name != "stratum":
                yield node.lineno, name


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{MODULES[module]}:{line}: {room_of(module)} imports {room_of(other)}"
        for module in MODULES
        if module not in {"stratum", "stratum.__main__"}
        for line, other in imported(parsed(module))
        if room_of(other) != room_of(module) and floor_of(room_of(other)) <= floor_of(room_of(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Neither directly nor by way of others, also within a room: each module can be read after those it needs."""
    needs = {module: {other for _, other in imported(parsed(module))} for module in MODULES}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as exc:
        pytest.fail(" imported by ".join(exc.args[1]), pytrace=False)


def test_every_room_has_one_floor() -> None:
    rooms = sorted({room_of(module) for module in MODULES if module != "stratum"} - {"__main__"})
    assert rooms == sorted(room for floor in FLOORS for room in floor)


def test_no_import_is_overlooked() -> None:
    text = """
import stratum.refs
from stratum import toml
from stratum.errors import StratumError
if TYPE_CHECKING:
    from stratum.store.commits import Commits
def later():
    from stratum.sys import proc
"""
    assert [name for _, name in imported(ast.parse(text))] == [
        "stratum.refs",
        "stratum.toml",
        "stratum.errors",
        "stratum.store.commits",
        "stratum.sys.proc",
    ]


def places_of(module: str, *expressions: str) -> list[str]:
    """Where ``module`` uses one of the names or attributes."""
    nodes = (node for node in ast.walk(parsed(module)) if isinstance(node, (ast.Name, ast.Attribute)))
    return [
        f"{MODULES[module]}:{node.lineno}: {ast.unparse(node)}" for node in nodes if ast.unparse(node) in expressions
    ]


def is_pure(module: str) -> bool:
    """Whether it is in a pure room, or says of itself that it is pure."""
    text = ast.get_docstring(parsed(module)) or ""
    return module != "stratum" and (room_of(module) in PURE or "Pure" in text)


def test_what_is_pure_touches_nothing() -> None:
    wrong = []
    for module in filter(is_pure, MODULES):
        wrong += places_of(module, "open")
        for node in ast.walk(parsed(module)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{MODULES[module]}: {name}" for name in names if str(name).split(".")[0] in TOUCHING]
    assert not wrong


def test_settings_alone_read_the_environment() -> None:
    assert not [
        place
        for module in MODULES
        if module != "stratum.config"
        for place in places_of(module, "os.environ", "os.getenv", "os.environb")
    ]


def test_only_doors_print_or_exit() -> None:
    """But for what doors end with, and servers of filesystems, which end the processes that they have forked for
    themselves."""
    rooms = [module for module in MODULES if module != "stratum" and room_of(module) not in DOORS]
    others = {"stratum.sys.ending", "stratum.metafs.serving", "stratum.mount.attendant"}
    rooms = [module for module in rooms if module not in others]
    assert not [place for module in rooms for place in places_of(module, "print", "sys.exit", "os._exit", "exit")]


def test_modules_and_functions_stay_small() -> None:
    big = []
    for module, path in MODULES.items():
        if path.name.endswith(GENERATED):
            continue
        if (lines := path.read_text("utf-8").count("\n")) > MAX_MODULE_LINES:
            big.append(f"{path} has {lines} lines")
        for node in ast.walk(parsed(module)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    big.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    assert not big, "\n".join(big)


def loaded_by(*statements: str) -> set[str]:
    """The modules that a Python has after these statements."""
    program = "; ".join(["import sys", *statements, "print('\\n'.join(sys.modules))"])
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_hook_loads_little() -> None:
    """A container's start waits for the hook: it looks at what it was called for before it loads more."""
    assert {name for name in loaded_by("import stratum.hook.main") if name.startswith("stratum.")} == {
        "stratum.errors",
        "stratum.hook",
        "stratum.hook.main",
        "stratum.podman",  # the names of the stages
        "stratum.sys",
        "stratum.sys.loading",
    }


def test_the_start_of_a_container_loads_little() -> None:
    """All that the hook imports at createRuntime, at its top or later."""
    main = parsed("stratum.hook.main")
    start = next(node for node in main.body if isinstance(node, ast.FunctionDef) and node.name == "create_runtime")
    imports = [ast.unparse(node) for node in ast.walk(start) if isinstance(node, ast.ImportFrom)]
    assert "from stratum.hook.volumes import ContainerVolumes" in imports
    loaded = loaded_by("import stratum.hook.main", *imports)
    assert "stratum.mount.container" in loaded
    assert not loaded & COLD_FOR_HOOKS


def test_what_is_cold_is_there() -> None:
    """A name that is misspelt here would forbid nothing."""
    missing = [name for name in COLD | COLD_FOR_HOOKS if name.startswith("stratum.") and name not in MODULES]
    assert not missing


def test_a_worktree_is_taken_in_the_hand_in_one_place() -> None:
    """Elsewhere than in ``Session.hold`` a caller could forget to finish what a killed switch left."""
    found = {
        (module, ast.unparse(node.func))
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("worktrees.lock", "settle"))
    }
    assert found == {("stratum.api.held", "place.store.worktrees.lock"), ("stratum.api.held", "held._settle")}
