"""The history that a volume asks for: its worktree has one from then on, also when who asked is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.refs import DEFAULT_WORKTREE

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.refs import Ref


def ensure_history(session: Session, ref: Ref) -> None:
    """Have each change of the worktree ``ref`` kept, where it is not yet; the settings of a history that is on stay.

    Where nobody watches it at this moment the session tells why: that is a gap, and no reason to have no volume. Raises
    ``StratumError`` where the history cannot be begun, and what ``Session.hold`` raises.
    """
    if session.store.histories.settings(ref.name, ref.worktree or DEFAULT_WORKTREE) is not None:
        return
    from stratum.api.watching import history_on

    note = history_on(session, str(ref)).note
    if note is not None:
        session.tell(note)
