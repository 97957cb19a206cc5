"""``mount``, ``unmount``, ``commit`` and ``status``: worktrees in use. What they do is in ``cli.everyday``."""

from __future__ import annotations

from typing import Any

import click

from stratum.cli import everyday
from stratum.cli.app import message_option, verb
from stratum.cli.context import App
from stratum.cli.reftype import PATH, REF, REF_OR_PATH, WORKTREE_OR_PATH


@verb("mount", short_help="Mount a worktree, tag or commit.")
@click.argument("ref", metavar="REF", type=REF)
@click.argument("mountpoint", required=False, type=PATH)
@click.option("--read-only", is_flag=True, help="Mount a worktree without letting anyone write to it.")
def mount(app: App, **parameters: Any) -> None:
    """Mount a worktree (writable) or a tag or commit (read-only) and print where.

    NAME alone is its worktree 'main'. Without a MOUNTPOINT one is made in the runtime directory.
    """
    everyday.mount(app, **parameters)


@verb("unmount", short_help="Unmount a stratum.")
@click.argument("target", metavar="MOUNTPOINT|REF", type=REF_OR_PATH)
def unmount(app: App, **parameters: Any) -> None:
    """Unmount what Stratum mounted at MOUNTPOINT, or wherever REF is mounted."""
    everyday.unmount(app, **parameters)


@verb("commit", short_help="Commit what a worktree shows now.")
@click.argument("target", metavar="REF|PATH", type=WORKTREE_OR_PATH)
@click.argument("tag", required=False)
@click.option("-f", "--force", is_flag=True, help="Move TAG if it exists.")
@click.option("--no-pause", is_flag=True, help="Do not pause the container that has the worktree meanwhile.")
@message_option
def commit(app: App, **parameters: Any) -> None:
    """Make a commit of what a worktree shows now, and point TAG at it.

    The worktree is given as NAME+WORKTREE (NAME alone: 'main') or as a path at or below where it is mounted. A mounted
    worktree stays mounted and is not disturbed, but a container that has it is paused while it is read. A TAG that
    exists is an error unless --force moves it.
    """
    everyday.commit(app, **parameters)


@verb("status", short_help="Show mounts, holders, commits and changes.")
@click.argument("target", metavar="[REF|MOUNTPOINT]", required=False, type=REF_OR_PATH)
def status(app: App, **parameters: Any) -> None:
    """Show mounts, holders, commits and changes of a worktree, a stratum, or everything."""
    everyday.status(app, **parameters)
