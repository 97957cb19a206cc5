"""What a check of a store finds: one value for each thing that is damaged, missing or out of place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stratum.errors import NotFoundError, StratumError, os_error_text
from stratum.sys.copymark import HINT

Kind = Literal[
    "object",
    "image",
    "dump",
    "ground",
    "frame",
    "metadata",
    "ancestors",
    "sources",
    "catalog",
    "commit",
    "tag",
    "worktree",
    "lease",
    "reflog",
    "history",
    "mount",
    "record",
    "pins",
    "rules",
    "moves",
    "directory",
    "symlink",
    "permissions",
    "stray",
    "moving",
    "blob",
    "repository",
    "offer",
    "state",
]
"""``commit`` is one that a ref names and the store does not have; ``dump`` how the tree of one is stored, ``ground``
the same of what others are stored on, ``frame`` a piece of some trees (``store.trees``); ``sources`` is about where a
commit can be fetched from, ``catalog`` about what a place has; ``directory`` a missing one; ``symlink`` one that
somebody planted; ``stray`` a file that no store has; ``moving`` a directory that a killed command was moving into the
store; ``rules`` those of residence (``store.keeping``, ``store.budget``); ``mount`` the record of one that outlives a
reboot; ``history`` what was done in a worktree (``store.histories``); ``moves`` those of tags that are synced
(``store.moves``); ``record`` one of a service (``store.records``); ``blob`` what others pushed (``store.blobs``),
``repository`` what of it is where (``store.repositories``), ``offer`` what is kept of a computed artifact
(``store.offers``); ``state`` the record of mounts."""

PATHS_SHOWN = 5
UNCHECKED = "its check is gone"
"""The problem of a file (``store.tables``) that can be read all the same."""
LOST_ATTRIBUTES = f"it was copied without its extended attributes and cannot be used; {HINT}"
"""The problem of a worktree that another copy of the store has whole."""


@dataclass(slots=True)
class Finding:
    """One finding. ``path`` is relative to the store, as the file system has it.

    ``hurts`` are the refs (or commits without one) that suffer; ``files`` some of the paths in them. ``harmless``
    findings are no damage. ``commit`` and ``digest`` say which one it is about; ``size`` is that of the object as it
    should be, ``needed_by`` the commits that need it. ``repair`` says what a repair did about it.
    """

    kind: Kind
    path: str
    problem: str
    hurts: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    commit: str | None = None
    digest: bytes | None = None
    size: int | None = None
    harmless: bool = False
    repair: str | None = None
    needed_by: list[str] = field(default_factory=list)


class Telling:
    """A block whose errors become findings; what is gone by now is none."""

    def __init__(self, findings: list[Finding], kind: Kind, path: str, *hurts: str, commit: str | None = None) -> None:
        self._findings = findings
        self._finding = Finding(kind, path, "", list(hurts), commit=commit)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or isinstance(error, NotFoundError):
            return error is not None
        if isinstance(error, StratumError):
            self._finding.problem = error.message
        elif isinstance(error, OSError):
            self._finding.problem = os_error_text(error)
        else:
            return False
        self._findings.append(self._finding)
        return True
