"""``hook install|uninstall|doctor``: Podman's OCI hook."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from stratum.cli.app import App, VerbsBelow, verb
from stratum.errors import UnsupportedError, one_line


@click.group("hook", cls=VerbsBelow)
def hook() -> None:
    """Install, remove or examine the OCI hook that mounts worktrees into containers."""


@verb(
    "install",
    short_help="Write the hook's two JSON files.",
    examples=[
        ("Where the container engines look", "stratum hook install"),
    ],
)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Install it although others could change what is run then.")
def install(app: App, directory: Path | None, force: bool) -> None:
    """Write the hook's two JSON files to DIR (default: where the container engines of this machine look).

    The engines run this installation of Stratum as root then, for every container with an annotation of ours, so it is
    refused where others than root can write to it. One in a checkout is told of: it should stay where it is.

    By an ordinary user it is installed for that user's Podman and store, below ~/.config/containers, and runs as that
    user; it may be where only root and that user can write.
    """
    from stratum.podman.install import install as run

    _report(app, "installed", run(directory, app.session.config, force=force, warn=app.out.warn))


@verb(
    "uninstall",
    short_help="Remove what 'hook install' wrote.",
    examples=[
        ("From where it was installed", "stratum hook uninstall"),
    ],
)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def uninstall(app: App, directory: Path | None) -> None:
    """Remove the files that 'hook install' wrote to DIR."""
    from stratum.podman.install import uninstall as run

    _report(app, "removed", run(directory, app.session.config))


@verb(
    "doctor",
    short_help="Check everything that volumes in containers need.",
    examples=[
        ("Is everything there?", "stratum hook doctor"),
    ],
)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def doctor(app: App, directory: Path | None) -> None:
    """Check everything that volumes in containers need, and say how to mend what is missing.

    DIR is where the hook was installed. Exit code 6 where something is missing.
    """
    from stratum.volumes.doctor import examine

    findings = []
    for finding in examine(app.session, directory):
        findings.append(finding)
        if not app.out.json:
            app.out.line(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<12} {one_line(finding.detail)}")
            if finding.mend:
                app.out.line(f"      {'':<12} {one_line(finding.mend)}")
    if app.out.json:
        app.out.object([asdict(finding) for finding in findings])
    failed = [finding.check for finding in findings if not finding.ok]
    if failed:
        raise UnsupportedError(f"volumes in containers will not work: {', '.join(failed)}")


def _report(app: App, done: str, paths: list[Path]) -> None:
    if app.out.json:
        app.out.object({done: [str(path) for path in paths]})
        return
    for path in paths:
        app.out.line(str(path))
    if not paths:
        app.out.note("there was nothing to do")


for _command in (install, uninstall, doctor):
    hook.add_command(_command)
