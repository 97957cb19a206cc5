"""``hook install|uninstall``: Podman's OCI hook."""

from __future__ import annotations

from pathlib import Path

import click

from stratum.cli.app import App, verb


@click.group("hook")
def hook() -> None:
    """Install or remove the OCI hook that mounts worktrees into containers."""


@verb("install")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def install(app: App, directory: Path | None) -> None:
    """Write the hook's two JSON files to DIR (default: where the container engines of this machine look)."""
    from stratum.hook.install import install as run

    _report(app, "installed", run(directory, app.session.config))


@verb("uninstall")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def uninstall(app: App, directory: Path | None) -> None:
    """Remove the files that 'hook install' wrote to DIR."""
    from stratum.hook.install import uninstall as run

    _report(app, "removed", run(directory))


def _report(app: App, done: str, paths: list[Path]) -> None:
    if app.out.json:
        app.out.object({done: [str(path) for path in paths]})
        return
    for path in paths:
        app.out.line(str(path))
    if not paths:
        app.out.note("there was nothing to do")


for _command in (install, uninstall):
    hook.add_command(_command)
