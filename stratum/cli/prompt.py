"""``status --short``: one line for the prompt of a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.cli.output import safe

if TYPE_CHECKING:
    from stratum.api.prompt import Prompt
    from stratum.api.session import Session
    from stratum.cli.output import Output

_SHOWN = 7
"""Digits of a commit that no tag names: as many as a ref needs."""


def print_prompt(session: Session, out: Output, path: str) -> None:
    """Say what is mounted at ``path``, or nothing."""
    from stratum.api.prompt import prompt

    found = prompt(session, path)
    if out.json:
        from stratum.frozen import as_dict

        out.object({**as_dict(found), "ref": safe(found.ref)} if found is not None else None)
    elif found is not None:
        out.line(_line(found))


def _line(found: Prompt) -> str:
    is_worktree = "+" in found.ref
    mark = "*" if found.dirty else "?" if is_worktree and found.commit is not None and found.dirty is None else ""
    words = [safe(found.ref) + mark]
    if is_worktree and found.commit is not None:
        words.append(found.tag or found.commit[:_SHOWN])
    words += {"on": ["rec"], "gap": ["gap"], None: []}[found.history]
    words += ["lazy"] if found.partial else []
    words += ["ro"] if is_worktree and found.read_only else []
    return " ".join(words)
