"""``run`` and ``ps``: containers on strata."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import StratumError, UnsupportedError
from stratum.store.holders import Container

if TYPE_CHECKING:
    from stratum.api.leases import Released
    from stratum.mount.state import Record
    from stratum.podman.running import PodmanContainer, Request

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class Ran:
    """A container's ID, its exit code (None where it goes on in the background) and what became of its worktrees."""

    container: str
    exit_code: int | None = None
    released: tuple[Released, ...] = ()


def run(
    session: Session,
    request: Request,
    *,
    detach: bool = False,
    remove: bool = False,
    write: Callable[[int, bytes], None],
    stdin: int | None = None,
) -> Ran:
    """Run a container with the volumes in ``request.annotations``; its end commits them, unless ``detach``.

    Its output goes to ``write(stream, data)`` (1 stdout, 2 stderr), ``stdin`` (an fd) to its input, and the signals
    that this process gets meanwhile to its first process. Raises ``UnsupportedError`` where no hook mounts the
    volumes: nothing has run then. A container that could not be started is removed.
    """
    from stratum.podman.running import PodmanContainer

    config = session.config
    with PodmanContainer(request, config.runtime_dir, config.environment) as container:
        try:
            container.init()
            _check_volumes(session, container, len(request.annotations))
            if detach:
                container.start()
                return Ran(container.id)
            code = _run_attached(container, write, stdin)
        except BaseException:
            # The first error is the one to tell.
            with contextlib.suppress(StratumError):
                container.remove()
                _released(session, container.id)
            raise
        if remove:
            container.remove()
        return Ran(container.id, code, _released(session, container.id))


def _check_volumes(session: Session, container: PodmanContainer, wanted: int) -> None:
    mounted = sum(record.holder == Container(container.id) for record in session.state.records())
    if mounted < wanted:
        raise UnsupportedError(
            "Podman does not call Stratum's hook for this store, so the volumes are not mounted",
            hint="run 'stratum hook install', and 'stratum hook doctor' to see what is missing",
        )


def _run_attached(container: PodmanContainer, write: Callable[[int, bytes], None], stdin: int | None) -> int:
    with container.attach() as stream, _signals_to(container):
        container.start()
        if stdin is not None:
            stream.copy_input(stdin)
        stream.copy_output(write)
        return container.wait()


@contextlib.contextmanager
def _signals_to(container: PodmanContainer) -> Iterator[None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        container.signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _released(session: Session, container: str) -> tuple[Released, ...]:
    """Commit what the container left, in case that its stop was not reported yet; then there is nothing to do."""
    from stratum.api.leases import reconcile

    return tuple(
        done for done in reconcile(session, stopped=Container(container)) if done.holder == Container(container)
    )


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
