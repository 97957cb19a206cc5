"""Why the commit after a container's end failed, for as long as the machine runs.

A lease says so too, but a lease is in the store: on a full disk it cannot be written, and while somebody else has the
worktree's lock it must not be. So each failure is noted in the runtime directory, one file a worktree::

    <runtime directory>/failed/<hash of the store and the worktree>    the reason, one line of UTF-8

What cannot be noted there either is told by the exit status and the log alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from stratum.api.session import Session
from stratum.errors import StratumError
from stratum.store.holders import ERROR_MAX
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import read_regular


def note_failure(session: Session, name: str, worktree: str, reason: str) -> None:
    """Note why the worktree was not committed."""
    path = _path(session, name, worktree)
    with contextlib.suppress(OSError, StratumError):
        session.state.make_runtime_dir()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, reason.encode("utf-8", "backslashreplace"), 0o600, durable=False)


def failure_of(session: Session, name: str, worktree: str) -> str | None:
    """What was noted of the worktree, or None."""
    try:
        data = read_regular(_path(session, name, worktree), ERROR_MAX * 8, follow=False)[1]
    except OSError:
        return None
    return data.decode("utf-8", "replace")


def forget_failure(session: Session, name: str, worktree: str) -> None:
    """The worktree is committed, or gone."""
    with contextlib.suppress(OSError):
        _path(session, name, worktree).unlink()


def _path(session: Session, name: str, worktree: str) -> Path:
    from stratum.hashes import sha256
    from stratum.mount.state import store_key

    key = f"{store_key(session.store.root)} {name}+{worktree}"
    return session.config.runtime_dir / "failed" / sha256(key.encode()).hexdigest()[:32]
