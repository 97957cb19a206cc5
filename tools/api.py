"""The page of the Python API, docs/reference/python.md: every public name with its signature and what it does.

Signatures are those of the source, so the page is the same with every Python.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import stratum
from stratum.errors import StratumError

HEAD = """# The Python API

Every name of `stratum.__all__`, as [python.md](../python.md) promises it. A change here is a change of the API:
it needs an entry in [CHANGELOG.md](../../CHANGELOG.md).

`PathLike` is `str`, `bytes`, or an `os.PathLike` of either; `Progress` is a function that is called with the bytes that
are done, and of how many or None. The `kind` of an entry is `file`, `directory`, `symlink`, `fifo`, `socket`,
`character device` or `block device`. A `Store` is a context manager.
"""
_Defined = ast.ClassDef | ast.FunctionDef


def page() -> str:
    """The whole page."""
    names = [name for name in stratum.__all__ if name != "__version__"]
    errors = [name for name in names if name.endswith("Error")]
    others = [name for name in names if name not in errors]
    order = sorted(others, key=lambda name: (name[0].isupper(), name))
    parts = [HEAD, *map(_section, order), _errors(errors)]
    return "\n".join(parts)


def _section(name: str) -> str:
    found = getattr(stratum, name)
    node = _source_of(found)
    lines = [*_signatures(node)]
    body = "\n".join(lines)
    return f"## {name}\n\n```text\n{body}\n```\n"


def _errors(names: list[str]) -> str:
    rows = []
    for name in names:
        kind = getattr(stratum, name)
        above = kind.__mro__[1].__name__ if kind is not StratumError else "Exception"
        rows.append(f"{name}({above})\n    {_first(kind.__doc__)}")
    body = "\n\n".join(rows)
    about = "Each has `message` and `hint`, both `str` of one line; `hint` may be empty."
    return f"## Errors\n\n{about}\n\n```text\n{body}\n```\n"


def _source_of(found: object) -> _Defined:
    tree = ast.parse(Path(inspect.getsourcefile(found) or "").read_text("utf-8"))  # type: ignore[arg-type]
    name = found.__name__  # type: ignore[attr-defined]
    return next(node for node in tree.body if isinstance(node, _Defined) and node.name == name)


def _signatures(node: _Defined) -> Iterator[str]:
    """The lines that say how a class or function is used."""
    if isinstance(node, ast.FunctionDef):
        yield _function(node)
        yield _told(node, "    ")
        return
    frozen = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    made_here = node.name == "Tree"
    init = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    if frozen:
        fields = [ast.unparse(each) for each in node.body if isinstance(each, ast.AnnAssign)]
        yield f"class {node.name}  # immutable"
        yield _told(node, "    ")
        yield "\n" + "\n".join(f"    {field}" for field in map(_field, fields))
    else:
        yield f"class {node.name}{_arguments(init) if init is not None and made_here else ''}"
        yield _told(node, "    ")
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield "\n" + textwrap.indent(_function(each), "    ")
            yield _told(each, "        ")


def _field(text: str) -> str:
    return text.partition(" = field(")[0]


def _function(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    if any(ast.unparse(each) == "property" for each in node.decorator_list):
        return f"{node.name}{returns.replace(' ->', ':')}"
    line = f"{node.name}{_arguments(node)}{returns}"
    if len(line) <= 110:
        return line
    return f"{node.name}(\n" + textwrap.indent(",\n".join(_split(node)), "    ") + f",\n){returns}"


def _arguments(node: ast.FunctionDef) -> str:
    return f"({', '.join(_split(node))})"


def _split(node: ast.FunctionDef) -> list[str]:
    """The arguments, but for ``self``."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    found = [_argument(each, default) for each, default in zip(positional, defaults, strict=True) if each.arg != "self"]
    if given.kwonlyargs:
        found.append("*")
        found += [_argument(each, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return found


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation is not None else argument.arg
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _told(node: _Defined, indent: str) -> str:
    text = ast.get_docstring(node) or ""
    return textwrap.indent(text.replace("``", ""), indent)


def _first(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split()).replace("``", "")
