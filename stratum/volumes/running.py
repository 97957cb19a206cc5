"""``run`` and ``ps``: containers on strata."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import StratumError, UnsupportedError
from stratum.store.holders import Container

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.podman.commandline import Line
    from stratum.volumes.grant import Released


@dataclass(frozen=True, slots=True)
class Ran:
    """A container's ID, its exit code (None where it goes on) and what became of its worktrees. ``left`` is whether its
    terminal was left with the detach keys."""

    container: str
    exit_code: int | None = None
    released: tuple[Released, ...] = ()
    left: bool = False


def read_line(session: Session, words: Sequence[str]) -> Line:
    """Read what could follow ``podman run``, as the Podman that is here reads it. Raises ``UsageError``."""
    from stratum.podman.containers import Containers

    return Containers(session.config.environment).read_line(words)


def run(session: Session, line: Line, command: Sequence[str], strata: Sequence[str]) -> Ran:
    """Run the container of a command line with its strata; its end commits them, unless it is left in the background.

    ``command`` is the image with its command, ``strata`` are volumes beyond those in the line's options.

    What they ask for lazily and is not here is pulled first, with this session's settings and credentials.

    It has this process's standard output and error, its input where the request asks for one, and the signals that
    this process gets meanwhile. Raises ``UnsupportedError`` where no hook mounts the volumes: nothing has run then.
    A container that could not be started is removed.
    """
    from stratum.podman.containers import Containers
    from stratum.volumes.fetching import ensure_fetched
    from stratum.volumes.request import parse_volumes
    from stratum.volumes.runline import wanted_of

    podman = Containers(session.config.environment)
    wanted = wanted_of(session, podman, line, command, strata)
    request, detach, remove = wanted.request, wanted.detach, wanted.remove
    for volume in parse_volumes(request.annotations):
        ensure_fetched(session, volume)
    container = podman.create(request, remove=detach and remove)
    try:
        podman.init(container)
        _check_volumes(session, container, len(request.annotations))
        if detach:
            podman.start(container)
            return Ran(container)
        code = podman.run_attached(container, request)
    except BaseException:
        # The first error is the one to tell.
        with contextlib.suppress(StratumError):
            podman.remove(container)
            _released(session, container)
        raise
    if code is None:
        return Ran(container, left=True)
    if remove:
        podman.remove(container)
    return Ran(container, code, _released(session, container))


def _check_volumes(session: Session, container: str, wanted: int) -> None:
    mounted = len(session.state.of_holder(Container(container)))
    if mounted < wanted:
        raise UnsupportedError(
            "Podman does not call Stratum's hook for this store, so the volumes are not mounted",
            hint="run 'stratum hook install', and 'stratum hook doctor' to see what is missing",
        )


def _released(session: Session, container: str) -> tuple[Released, ...]:
    """Commit what the container left, in case that its stop was not reported yet; then there is nothing to do."""
    from stratum.volumes.grant import reconcile

    return tuple(done for done in reconcile(session, ended=Container(container)) if done.holder == Container(container))


@dataclass(frozen=True, slots=True)
class Held:
    """A mount in a container; ``changes`` counts the paths that are not committed, None for a tag or commit, and where
    the store has lost the last commit."""

    record: Record
    changes: int | None


def ps(session: Session) -> list[Held]:
    """The strata of this store that containers hold, oldest mount first."""
    from stratum.api.status import status

    held = []
    for record in session.state.of_store(session.store.root):
        if not record.in_container:
            continue
        changes = None
        if record.is_worktree:
            tree = status(session, record.ref)[0].worktrees[0]
            uncommitted = tree.changes.uncommitted
            changes = uncommitted.total if uncommitted is not None else None
        held.append(Held(record, changes))
    return held
