"""Patchsets: an ordered list of patches merged onto a base into one commit.

::

    [patchset]
    base = "myapp:stable"                  # optional; without it the first patch is the ground
    patches = ["myapp:loader", "myapp:mod-a", "a1b2c3d4e5f6..."]

Patches are commits: their trees are laid over one another as overlayfs would stack them, later ones over earlier ones,
with ``.wh.`` files, kernel whiteouts and opaque markers taken as deletions. A patch that was made on top of another
commit is a full tree and brings all of it. The merge happens in memory, so nothing but the result reaches the store,
and the same inputs give the same commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stratum import toml
from stratum.errors import UsageError, os_error_text
from stratum.refs import Ref, parse_ref

if TYPE_CHECKING:
    pass

_MAX_FILE = 4 << 20
_KEYS = {"base", "patches"}


@dataclass(frozen=True, slots=True)
class Patchset:
    """A parsed patchset file: refs as they stand there, in order."""

    base: Ref | None
    patches: tuple[Ref, ...]


def parse_patchset(text: str, source: str) -> Patchset:
    """Parse a patchset file's text; ``UsageError`` names ``source`` and what is wrong. Unknown keys are wrong."""
    try:
        document = toml.loads(text)
    except ValueError as exc:
        raise UsageError(f"{source} is not valid TOML: {exc}") from None
    table = document.pop("patchset", None)
    if document:
        raise UsageError(
            f"{source}: unknown key {next(iter(document))!r}", hint="all keys belong into the table [patchset]"
        )
    if not isinstance(table, dict):
        raise UsageError(f"{source} has no table [patchset]")
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{source}: unknown key {key!r} in [patchset]", hint="known keys: base, patches")
    patches = table.get("patches")
    if not isinstance(patches, list) or not patches:
        raise UsageError(f"{source}: 'patches' must be a list of at least one ref")
    base = table.get("base")
    return Patchset(
        base=None if base is None else _ref(base, source),
        patches=tuple(_ref(patch, source) for patch in patches),
    )


def _ref(value: Any, source: str) -> Ref:
    if not isinstance(value, str):
        raise UsageError(f"{source}: a ref must be a string, not {value!r}")
    try:
        return parse_ref(value)
    except UsageError as exc:
        raise UsageError(f"{source}: {exc.message}", hint=exc.hint) from None


def read_patchset(path: str) -> Patchset:
    """Read and parse the patchset file at ``path``."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_FILE + 1)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a patchset file: it is not UTF-8 text") from None
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {os_error_text(exc)}") from None
    if len(text) > _MAX_FILE:
        raise UsageError(f"{path} is not a patchset file: it is larger than {_MAX_FILE >> 20} MiB")
    return parse_patchset(text, path)
