"""Having a container's programs bring their files in order for a commit: commands in it, before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from stratum.api.inuse import InUse
from stratum.api.workplace import Workplace
from stratum.errors import StratumError, UsageError
from stratum.frozen import frozen

if TYPE_CHECKING:
    from stratum.store.holders import Lease


@frozen
class Quiesce:
    """What runs in the container that has a worktree, before and after a commit; None: what its volume says.
    ``none`` has neither run."""

    before: str | None = None
    after: str | None = None
    none: bool = False


def quiesced(
    place: Workplace, ref: str, user: InUse | None, lease: Lease | None, wanted: Quiesce
) -> AbstractContextManager[None]:
    """Run the commands around the block, in the container that has the worktree ``ref``.

    Those of the volume are run where the container is that of its lease. Where the second fails that is told.

    Raises ``UsageError`` where commands are asked for and no container has it, and as ``podman.commands.around``,
    saying that nothing was committed.
    """
    container = user.container if user is not None else None
    if container is None and (wanted.before is not None or wanted.after is not None):
        raise UsageError(
            f"no container writes to {ref}, so there is none to run a command in",
            hint="commit it without --quiesce and --unquiesce",
        )
    before, after = wanted.before, wanted.after
    if lease is not None and container == lease.holder.id:
        before = lease.promise.pre_commit if before is None else before
        after = lease.promise.post_commit if after is None else after
    if container is None or wanted.none or (before is None and after is None):
        return nullcontext()
    return _around(container, place, before, after)


@contextmanager
def _around(container: str, place: Workplace, before: str | None, after: str | None) -> Iterator[None]:
    from stratum.podman.commands import around

    with ExitStack() as running:
        try:
            running.enter_context(around(container, place.config.environment, before, after, place.tell))
        except StratumError as exc:
            raise type(exc)(
                f"nothing was committed: {exc.message}", hint="mend that, or commit without it: --no-quiesce"
            ) from None
        yield
