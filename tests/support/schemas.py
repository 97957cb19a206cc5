"""The schemas in docs/schemas, and whether what a verb printed is as they say."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

DIRECTORY = Path(__file__).parents[2] / "docs/schemas"


@functools.cache
def schemas() -> dict[str, dict[str, Any]]:
    """Name of a file, without its ending -> the schema in it."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(DIRECTORY.glob("*.json"))}


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """What checks documents by the schema of that name."""
    found = schemas()
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in found.values()
    )
    return Draft202012Validator(found[name], registry=registry)


def of_command(words: Sequence[str]) -> str:
    """The schema of a command line: 'worktree-list' for ``worktree list app``."""
    words = [word for word in words if not word.startswith("-") and word not in ("json", "text")]
    for name in ("-".join(words[:2]), words[0], f"{words[0]}-status"):  # 'cache' alone is 'cache status'
        if name in schemas():
            return name
    raise KeyError(f"no schema for {words}")


def problems(name: str, document: object) -> list[str]:
    """What is not as the schema says, with where it is."""
    return [
        f"{error.json_path}: {error.message}"
        for top in validator(name).iter_errors(document)
        for error in (top.context or [top])
    ]
