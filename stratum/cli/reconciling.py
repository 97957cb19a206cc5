"""``reconcile``: making up for container stops that nobody reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratum.cli.app import App, verb
from stratum.errors import DamagedError, StratumError
from stratum.store.holders import Container, written

if TYPE_CHECKING:
    from stratum.volumes.grant import Released


@verb("reconcile", short_help="Commit what stopped containers left.")
def reconcile(app: App) -> None:
    """Commit the worktrees of containers that ended without the hook being told: a reboot, a killed monitor.

    Worktrees that a running container has mounted are left alone. At boot a systemd unit runs this; the start or stop
    of the next container does it too.
    """
    from stratum.volumes.grant import reconcile as run

    done = run(app.session)
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
    if not done:
        app.out.note("there was nothing to do")


def _json(released: Released) -> dict[str, Any]:
    return {
        "worktree": f"{released.name}+{released.worktree}",
        "holder": None if released.holder is None else written(released.holder),
        "container": released.holder.id if isinstance(released.holder, Container) else "",
        "commit": released.commit,
        "tag": released.tag,
        "error": None if released.error is None else released.error.message,
    }
