"""Which entries of the imported tree the container reads, changes, deletes, renames and adds, chosen from the tree."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tools.demo.stage import DemoError

PLAIN = re.compile(r"[A-Za-z0-9._+-]+")
NEW_DIRECTORY = "added-by-the-container"
NEW_FILE = f"{NEW_DIRECTORY}/note.txt"


@dataclass(frozen=True, slots=True)
class Plan:
    """Paths relative to the tree's root, none inside another. ``expected`` is what a diff must then show."""

    read: list[str]
    append: str
    chmod: str
    delete: str
    rename: str
    expected: dict[str, str]

    @property
    def script(self) -> str:
        """The shell script for the container, which sees the tree at the working directory."""
        return "\n".join(
            (
                "set -e",
                f"echo 'a line from the container' >> {shlex.quote(self.append)}",
                f"chmod 0600 {shlex.quote(self.chmod)}",
                f"rm -r {shlex.quote(self.delete)}",
                f"mv {shlex.quote(self.rename)} {shlex.quote(self.rename)}.renamed",
                f"mkdir {NEW_DIRECTORY}",
                f"date > {NEW_FILE}",
            )
        )


def choose(tree: Path) -> Plan:
    """Pick from ``tree``: directories with a handful of entries, and small files elsewhere."""
    directories: list[str] = []
    files: list[str] = []
    for name in sorted(os.listdir(tree)):
        child = tree / name
        if not PLAIN.fullmatch(name) or child.is_symlink() or not child.is_dir():
            continue
        inside = list(_below(tree, name))
        plain = [path for path in inside if _small_file(tree / path)]
        if 2 <= len(inside) <= 50 and plain and len(directories) < 2:
            directories.append(name)
        elif plain and len(files) < 5:
            files.append(plain[0])
    if len(directories) < 2 or len(files) < 5:
        raise DemoError(f"{tree} has too few small directories and files for this demo")
    delete, rename = directories
    *read, append, chmod = files
    expected = {f"/{path}": "deleted" for top in (delete, rename) for path in [top, *_below(tree, top)]}
    expected |= {f"/{rename}.renamed{path.removeprefix(rename)}": "added" for path in [rename, *_below(tree, rename)]}
    expected |= {f"/{NEW_DIRECTORY}": "added", f"/{NEW_FILE}": "added"}
    expected |= {f"/{append}": "modified", f"/{chmod}": "metadata"}
    return Plan(read, append, chmod, delete, rename, expected)


def _below(tree: Path, top: str) -> list[str]:
    """Every path below ``top``, relative to ``tree``."""
    found = []
    for directory, directories, files in os.walk(tree / top):
        base = os.path.relpath(directory, tree)
        found += [f"{base}/{name}" for name in sorted(directories + files)]
    return found


def _small_file(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or not PLAIN.fullmatch(path.name):
        return False
    status = path.stat()
    return status.st_nlink == 1 and 0 < status.st_size < 1 << 20 and status.st_mode & 0o777 != 0o600
