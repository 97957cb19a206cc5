"""Small directories for the command-line tests."""

from __future__ import annotations

import os
from pathlib import Path


def make_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Make ``root`` with these files; a name that ends in '/' is an empty directory."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def shown(root: Path) -> dict[str, str | None]:
    """Every path below ``root`` with its content (None for a directory, ``-> target`` for a symlink)."""
    found: dict[str, str | None] = {}
    for directory, subdirectories, files in os.walk(root):
        for name in [*subdirectories, *files]:
            path = Path(directory) / name
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = f"-> {os.readlink(path)}"
            else:
                found[key] = None if path.is_dir() else path.read_text(errors="surrogateescape")
    return found


BIG = "b" * 200
"""Content that is an object of its own and not inline."""
