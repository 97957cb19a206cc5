"""A session: what a verb works in, and how it takes a worktree in the hand."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from stratum.api.workplace import Workplace

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.api.held import Held
    from stratum.config import Config
    from stratum.oci.access import Access
    from stratum.peers.link import Link
    from stratum.refs import Ref


class Session(Workplace):
    """What a verb works in. Threads may share one."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._in_hand: dict[tuple[int, str, str], Held] = {}

    def access(
        self, *, plain_http: bool = False, ca_file: str | None = None, unsafe_concurrent: bool = False
    ) -> Access:
        """How places are reached by the settings, the environment they came with, and a verb's options."""
        from dataclasses import replace

        from stratum.oci.access import access_of

        peer = partial(_peer, self.config.store)
        access = access_of(self.config, plain_http=plain_http, ca_file=ca_file, peer=peer)
        return replace(access, unsafe_concurrent=True) if unsafe_concurrent else access

    @contextmanager
    def hold(self, target: str | Ref, *, create: bool = False, timeout: float | None = None) -> Iterator[Held]:
        """Take a worktree in the hand for the block: found, locked, with nothing half done.

        ``target`` is a ref (NAME alone is ``main``) or, as text, also a path at or below a mount of the worktree.
        ``create`` makes a missing ``main`` from ``latest``. What a killed live switch left is finished first. Within a
        block, the same thread gets the same ``Held`` again.

        Raises ``NotFoundError`` where there is no such worktree, ``UsageError`` for what is none, ``BusyError`` where
        its lock is not to be had in ``timeout`` seconds, and what finishing a switch raises.
        """
        from stratum.api.held import taken
        from stratum.api.naming import ref_or_mountpoint

        ref = ref_or_mountpoint(self, target) if isinstance(target, str) else target
        worktree = self.store.resolve_worktree(ref, create=create)
        key = get_ident(), *worktree
        if key in self._in_hand:
            yield self._in_hand[key]
            return
        with taken(self, *worktree, timeout=timeout) as held:
            self._in_hand[key] = held
            try:
                yield held
            finally:
                del self._in_hand[key]


def _peer(store: Path, name: str) -> Link:
    from stratum.store.peerbook import finder  # which loads what only peers need

    return finder(store)(name)
