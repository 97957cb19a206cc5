"""``reconcile``: making up for container stops that nobody reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, verb
from stratum.cli.output import safe
from stratum.errors import DamagedError, StratumError
from stratum.store.holders import Container, written

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.volumes.grant import Released


@verb(
    "reconcile",
    examples=[
        ("After a crash of the machine", "stratum reconcile"),
    ],
)
@click.option("--mounts", is_flag=True, help="Only mend mounts.")
def reconcile(app: App, mounts: bool) -> None:
    """Commit the worktrees of containers that ended without the hook being told: a reboot, a killed monitor.

    Worktrees that a running container has mounted are left alone. At boot a systemd unit runs this; the start or stop
    of the next container does it too.

    Mounts of commits that are not here whole are mended where what fetched for them was killed: what is read there
    comes again, and whoever uses them goes on. So are mounts of an ordinary user whose server was killed.
    """
    from stratum.volumes.grant import reconcile as run

    mended, failed_mounts = _mend(app)
    done = [] if mounts else run(app.session)
    if app.out.json:
        app.out.object([_json(released) for released in done])
    for released in done:
        if released.note is not None:
            app.out.note(released.note)
        if released.error is None and not app.out.json:
            app.out.line(f"{released.name}+{released.worktree}\t{released.commit or '-'}\t{released.tag or '-'}")
    failed = [released for released in done if released.error is not None]
    for released in failed:
        holder = f" of {released.holder.words()}" if released.holder is not None else ""
        app.out.warn(f"{released.name}+{released.worktree}{holder}: {released.error}")
    if failed:
        damaged = any(isinstance(released.error, DamagedError) for released in failed)
        raise (DamagedError if damaged else StratumError)(
            f"{len(failed)} of {len(done)} worktrees could not be committed",
            hint="their changes are kept where they are; "
            + ("'stratum fsck --repair' mends damage; then" if damaged else "mend the cause and")
            + " run 'stratum reconcile' again",
        )
    if failed_mounts:
        raise StratumError(
            f"{failed_mounts} mounts could not be mended: what is not here of them cannot be read there",
            hint="'stratum realize' fetches what they show; a new mount reads it too",
        )
    if not done and not mended:
        app.out.note("there was nothing to do")


def _mend(app: App) -> tuple[int, int]:
    """Mend mounts; how many there were, and how many could not be mended."""
    from stratum.api.healing import heal
    from stratum.sys.userns import owns_system

    cleared: list[Record] = []
    if not owns_system():  # before the session namespace is entered
        from stratum.api.visible import clear_away_dead

        cleared = clear_away_dead(app.session_outside)
        for record in cleared:
            app.out.note(f"{record.ref} could not be read any more at {safe(record.mountpoint)}, and was unmounted")
    failed, found = 0, heal(app.session)
    for healed in found:
        place = f"{healed.record.ref} at {safe(healed.record.mountpoint)}"
        for problem in [*healed.problems, *([healed.error.told] if healed.error else [])]:
            app.out.warn(f"{place}: {safe(problem)}")
        failed += healed.error is not None or bool(healed.problems)
        if healed.error is None:
            app.out.note(f"{place} {healed.now}")
    return len(cleared) + len(found), failed


def _json(released: Released) -> dict[str, Any]:
    return {
        "worktree": f"{released.name}+{released.worktree}",
        "holder": None if released.holder is None else written(released.holder),
        "container": released.holder.id if isinstance(released.holder, Container) else "",
        "commit": released.commit,
        "tag": released.tag,
        "error": None if released.error is None else released.error.message,
    }
