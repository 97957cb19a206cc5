"""The store's locks, and the one order in which they are taken.

::

    1. store      lock                              shared: adds or moves something    exclusive: gc, removing a stratum
    2. worktree   refs/<name>/worktrees/<wt>.lock   exclusive; held while a commit, mount, reset or rebase works on it;
                                                    several are taken in the order of their paths
    3. moves      refs/<name>/moves.lock            exclusive; held while moves are noted, added and carried out, never
                                                    while a peer is waited for
    4. ref        refs/<name>.lock                  exclusive and short: a stratum's tags, heads and reflog
    5. state      the mount state's own lock        owned by ``mount.state``, taken last
    6. sources    sources/lock                      owned by ``store.sources``, for a moment in which nothing is taken
    6. peers      peers/lock                        owned by ``store.peerbook``, likewise

A lock further down is never held while one further up is taken for the first time; the code below refuses it, so that
no two processes can wait for each other. The worktree lock comes before the ref lock because it is the long one: two
containers that stop at the same time commit their worktrees of one stratum side by side and meet only to move a tag.
Taking any lock takes the store's shared lock first, so that gc and removal, which hold it exclusively, meet nobody.
Pushes and pulls do not hold it while they wait for a registry; ``store.transaction`` says how what they need stays.

All are flock(2) locks: they go away with the process, also after kill -9. Their files stay for as long as what they
lock; who holds the lock of a worktree that is gone removes the file, and whoever waits for it then finds that it is not
the lock any more (``sys.locks``). Every wait is bounded and its failure names the holder. In one thread a lock is
reentrant; threads and processes exclude one another.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import frozen
from stratum.store.layout import Layout, storage_error
from stratum.sys.locks import locked

STORE_WAIT = 60.0
"""Seconds to wait for the store lock: a gc or a long import may hold it."""
WORKTREE_WAIT = 30.0
REF_WAIT = 30.0
MOVES_WAIT = 120.0
"""Trees may be merged meanwhile."""


_STORE, _WORKTREE, _MOVES, _REF = 1, 2, 3, 4
"""Ranks, in their order."""


@frozen
class _Held:
    rank: int
    path: Path
    exclusive: bool


def _may_follow(wanted: _Held, held: _Held) -> bool:
    """Whether a lock is taken while another is held."""
    return held.rank < wanted.rank or (held.rank == wanted.rank == _WORKTREE and held.path < wanted.path)


class StoreLocks:
    """The locks of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._thread = threading.local()

    @contextmanager
    def patient(self, seconds: float) -> Iterator[None]:
        """Let every wait for a lock in the block, in this thread, last up to ``seconds`` where that is longer."""
        before = self._thread.__dict__.get("patience", 0.0)
        self._thread.patience = seconds
        try:
            yield
        finally:
            self._thread.patience = before

    @contextmanager
    def store(self, *, exclusive: bool = False, timeout: float = STORE_WAIT) -> Iterator[None]:
        """Hold the store lock; ``BusyError`` after ``timeout`` seconds."""
        with self._take(_Held(_STORE, self._layout.lock, exclusive), f"the store {self._layout.root}", timeout):
            yield

    @contextmanager
    def worktree(self, name: str, worktree: str, *, timeout: float = WORKTREE_WAIT) -> Iterator[None]:
        """Hold a worktree's lock (and the store's, shared); the stratum must exist."""
        path = self._layout.worktree_lock(name, worktree)
        lock = self._take(
            _Held(_WORKTREE, path, True),
            f"worktree {name}+{worktree}",
            timeout,
            of=self._layout.worktree(name, worktree),
        )
        with self.store(), lock:
            yield

    @contextmanager
    def moves(self, name: str, *, timeout: float = MOVES_WAIT) -> Iterator[None]:
        """Hold the lock of a stratum's moves (and the store's, shared); the stratum must exist."""
        lock = self._take(_Held(_MOVES, self._layout.moves_lock(name), True), f"the moves of {name}", timeout)
        with self.store(), lock:
            yield

    @contextmanager
    def ref(self, name: str, *, timeout: float = REF_WAIT) -> Iterator[None]:
        """Hold a stratum's lock (and the store's, shared); the stratum need not exist yet."""
        with self.store(), self._take(_Held(_REF, self._layout.ref_lock(name), True), f"stratum {name}", timeout):
            yield

    @contextmanager
    def _take(self, wanted: _Held, what: str, timeout: float, of: Path | None = None) -> Iterator[None]:
        """Take a lock. Its file goes with the lock where ``of``, which it locks, is not there (any more)."""
        held: list[_Held] = self._thread.__dict__.setdefault("held", [])
        timeout = max(timeout, self._thread.__dict__.get("patience", 0.0))
        same = next((lock for lock in held if lock.path == wanted.path), None)
        if same is not None:
            if wanted.exclusive and not same.exclusive:
                raise RuntimeError(f"{wanted.path} is held shared; it cannot be upgraded")
            yield
            return
        if any(not _may_follow(wanted, lock) for lock in held):
            raise RuntimeError(f"{wanted.path} must be locked before {held[-1].path}")
        with ExitStack() as stack:
            try:
                os.close(self._layout.open_beneath(wanted.path.parent, os.O_PATH | os.O_DIRECTORY))
                try:
                    stack.enter_context(locked(wanted.path, exclusive=wanted.exclusive, timeout=timeout, what=what))
                except OSError as exc:
                    # A worktree that was never locked, where no lock file can be made: nobody changes it there.
                    if exc.errno != errno.EROFS or wanted.rank is not _WORKTREE:
                        raise
            except FileNotFoundError:
                raise NotFoundError(f"{what} does not exist") from None
            except OSError as exc:
                if exc.errno == errno.ELOOP:
                    raise DamagedError(
                        f"{wanted.path} is a symbolic link; a store has none there",
                        hint="somebody changed the store by hand; remove the link",
                    ) from None
                raise storage_error(exc, f"lock {wanted.path}") from None
            held.append(wanted)
            try:
                yield
            finally:
                held.remove(wanted)
                if of is not None and not os.path.lexists(of):
                    with suppress(OSError):
                        os.unlink(wanted.path)
