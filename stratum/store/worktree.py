"""A worktree as its meta.toml describes it: see ``store.worktrees``, whose layout that is part of."""

from __future__ import annotations

from pathlib import Path

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.refs import Ref
from stratum.store.tables import Tables, write_tables
from stratum.tree.overlay import Dialect


@frozen
class Worktree:
    """A worktree as its meta.toml describes it; times are RFC 3339, commits whole hashes."""

    name: str
    worktree: str
    base_commit: str
    head: str | None
    created: str
    last_modified: str
    description: str
    directory: Path
    forked_from: str
    """Where the worktree's own line of work began, which a rebase does not go behind: unlike the base it stays where
    it is when commits, also ones that others made on top, move the base forward."""
    dialect: Dialect = Dialect.TRUSTED
    """That of the mounts that its upperdir is written by."""
    limit: int | None = None
    """Bytes that it may take beyond its base, 0 for any number that is kept count of; None where nobody does."""

    @property
    def upperdir(self) -> Path:
        return self.directory / "upperdir"

    @property
    def workdir(self) -> Path:
        return self.directory / "workdir"

    @property
    def commit(self) -> str:
        """The commit that ``NAME+WORKTREE`` means: the last one made from it, else its base."""
        return self.head or self.base_commit

    @property
    def ref(self) -> Ref:
        """``NAME+WORKTREE``."""
        return Ref(self.name, worktree=self.worktree)

    def __str__(self) -> str:
        return str(self.ref)


@frozen
class InterruptedSwitch:
    """A switch of a mounted worktree that did not come to its end.

    ``old`` is the worktree as it was, with its retired directory, that base and no head (None where it is gone
    already); ``mount_id`` the mount that showed it.
    """

    old: Worktree | None
    mount_id: int | None


def worktree_from(fields: Tables, name: str, worktree: str, directory: Path) -> Worktree:
    """The worktree in ``directory`` that a meta.toml has these fields of. ``DamagedError``."""
    return Worktree(
        name=name,
        worktree=worktree,
        base_commit=fields.hash("worktree", "base_commit"),
        head=fields.hash("worktree", "head") if fields.has("worktree", "head") else None,
        created=fields.text("worktree", "created"),
        last_modified=fields.text("worktree", "last_modified"),
        description=fields.text("worktree", "description"),
        directory=directory,
        forked_from=fields.hash("worktree", "forked_from" if fields.has("worktree", "forked_from") else "base_commit"),
        dialect=_noted_dialect(fields),
        limit=fields.count("worktree", "limit") if fields.has("worktree", "limit") else None,
    )


def _noted_dialect(fields: Tables) -> Dialect:
    noted = fields.maybe_text("worktree", "dialect")
    try:
        return Dialect.TRUSTED if noted is None else Dialect[noted.upper()]
    except KeyError:
        raise DamagedError(
            f"{fields.where}: [worktree] dialect is {noted!r}, not 'user' or 'trusted'", hint="run 'stratum fsck'"
        ) from None


def meta_of(worktree: Worktree) -> bytes:
    """Its meta.toml."""
    table: dict[str, str | int] = {"name": worktree.worktree, "base_commit": worktree.base_commit}
    if worktree.head is not None:
        table["head"] = worktree.head
    table["forked_from"] = worktree.forked_from
    table["created"] = worktree.created
    table["last_modified"] = worktree.last_modified
    table["description"] = worktree.description
    if worktree.dialect is not Dialect.TRUSTED:
        table["dialect"] = worktree.dialect.name.lower()
    if worktree.limit is not None:
        table["limit"] = worktree.limit
    return write_tables({"worktree": table}, f"the description of {worktree}")
