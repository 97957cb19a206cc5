"""``diff``: what changed between two commits, or in a worktree."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe
from stratum.cli.reading import inode_json
from stratum.cli.reftype import IN_REF, REF_OR_PATH
from stratum.errors import one_line

if TYPE_CHECKING:
    from stratum.api.patches import Patch
    from stratum.tree.diff import Change
    from stratum.tree.model import Inode

_LETTERS = {"added": "A", "deleted": "D", "modified": "M", "type": "T", "metadata": "m"}
_WHY = {"binary": "binary", "large": "too large to compare lines", "unknown": "nobody knows the content"}


@verb(
    "diff",
    examples=[
        ("What of the worktree that is mounted here is not committed", "stratum diff"),
        ("Between two commits, with sizes", "stratum diff -l db:v1 db:v2"),
        ("What the last commit changed", "stratum diff db~1 db"),
        ("The lines of one file that differ", "stratum diff -p db@{yesterday} db /etc/db.conf"),
    ],
)
@click.argument("first", metavar="[A]", required=False, type=REF_OR_PATH)
@click.argument("second", metavar="[B]", required=False, type=REF_OR_PATH)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=IN_REF)
@click.option("--stat", "as_stat", is_flag=True, help="Only the number of changes of each kind and the bytes.")
@click.option("--name-only", is_flag=True, help="Only the paths.")
@click.option("-l", "--long", is_flag=True, help="Also sizes, and modes and owners that changed.")
@click.option("-p", "--patch", "--text", is_flag=True, help="Also the lines that differ, of files that are text.")
def diff(
    app: App,
    first: str | None,
    second: str | None,
    paths: tuple[str, ...],
    as_stat: bool,
    name_only: bool,
    long: bool,
    patch: bool,
) -> None:
    """Show what changed from A to B, in all or in PATHs and what is below them.

    NAME+WORKTREE, or a path where it is mounted, is what the worktree shows now. With A alone: what of a worktree is
    not committed yet (it is compared with its last commit), and of a commit what it changed in its parent. Without A it
    is the worktree that is mounted at the current directory. For all that a worktree has changed in its base: 'stratum
    diff BASE NAME+WORKTREE', with the base that 'stratum status' shows. REF:/PATH and MOUNTPOINT/PATH, for A or B, are
    a PATH as well.

    NAME+WORKTREE@CHANGE is what the worktree showed after that operation of its history; alone, what that one changed.

    A is added, D deleted, M modified, T another type, m only metadata. With --patch, lines are as patch(1) takes them,
    but for what a terminal must not see, which is escaped.
    """
    from stratum.api.history import diff as run
    from stratum.api.naming import here

    first = first if first is not None else here(app.session)
    note_uncommitted(app, *(ref for ref in (first, second) if ref is not None and "@" not in ref))
    if patch and not as_stat:
        _print_patches(app, first, second, paths)
        return
    changes = run(app.session, first, second, paths, digests=app.out.json and not as_stat)
    if as_stat:
        _print_stat(app, list(changes))
    elif app.out.json:
        app.out.object([_change_json(change) for change in changes])
    else:
        for change in list(changes):
            app.out.line(safe(change.path) if name_only else _change_line(change, long=long))


def _change_line(change: Change, *, long: bool = False) -> str:
    detail = ", ".join(_became(change) if long else change.fields if change.kind == "metadata" else ())
    return f"{_LETTERS[change.kind]} {safe(change.path)}" + (f"  ({detail})" if detail else "")


def _became(change: Change) -> list[str]:
    """What the inode was and is: sizes of files, and of what changed in the metadata that which can be said."""
    told = [text] if change.kind != "metadata" and (text := _between(_size(change.old), _size(change.new))) else []
    if change.old is None or change.new is None:
        return told
    for field in change.fields:
        if field == "mode":
            told.append(f"mode {stat.S_IMODE(change.old.mode):04o} -> {stat.S_IMODE(change.new.mode):04o}")
        elif field in ("uid", "gid"):
            told.append(f"{field} {getattr(change.old, field)} -> {getattr(change.new, field)}")
        elif field != "content":
            told.append(field)
    return told


def _size(inode: Inode | None) -> str | None:
    from stratum.tree.model import File, Symlink

    if isinstance(inode, Symlink):
        return f"link to {safe(inode.target)}"
    return human_size(inode.size) if isinstance(inode, File) else None


def _between(old: str | None, new: str | None) -> str:
    return f"{old} -> {new}" if old is not None and new is not None else old or new or ""


def _print_patches(app: App, first: str, second: str | None, paths: tuple[str, ...]) -> None:
    from stratum.api.patches import patches
    from stratum.cli.progress import progress_bar

    with progress_bar(app, "fetching", late=True) as advance:
        found = patches(app.session, first, second, paths, progress=advance)
        head = next(found, None)
    if app.out.json:
        every = [head, *found] if head is not None else []
        app.out.object([{**_change_json(patch.change), "patch": patch.text} for patch in every])
        return
    if head is not None:
        _print_patch(app, head)
    for patch in found:
        _print_patch(app, patch)


def _print_patch(app: App, patch: Patch) -> None:
    change = patch.change
    app.out.line(_change_line(change))
    if change.old is not None and change.new is not None and "mode" in change.fields:
        app.out.line(f"old mode {change.old.mode:o}")
        app.out.line(f"new mode {change.new.mode:o}")
    if patch.why is not None:
        app.out.line(f"{_WHY[patch.why]}, {_between(_size(change.old), _size(change.new))}")
    elif patch.text is None and change.kind == "modified":
        app.out.line(_between(_size(change.old), _size(change.new)))
    for line in patch.text.removesuffix("\n").split("\n") if patch.text else ():
        app.out.line("\t".join(map(one_line, line.split("\t"))))


def _print_stat(app: App, changes: list[Change]) -> None:
    counts = dict.fromkeys(_LETTERS, 0)
    for change in changes:
        counts[change.kind] += 1
    total = sum(change.size_change for change in changes)
    if app.out.json:
        app.out.object({**counts, "bytes": total})
        return
    names = {"type": "changed type", "metadata": "metadata only"}
    app.out.line(", ".join(f"{count} {names.get(kind, kind)}" for kind, count in counts.items()))
    app.out.line(f"{'+' if total >= 0 else '-'}{human_size(abs(total))}")


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "path": safe(change.path),
        "kind": change.kind,
        "fields": list(change.fields),
        "old": None if change.old is None else inode_json(change.old),
        "new": None if change.new is None else inode_json(change.new),
    }
