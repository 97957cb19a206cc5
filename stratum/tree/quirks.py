"""What a dump that somebody else wrote can say and a tree cannot."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Quirks:
    """Side notes to a tree read from a foreign dump; inodes and directories are given by ``id``.

    ``link_names`` are the (directory, name) pairs that the dump calls hard links, wherever they stand; ``times`` the
    modification times (s, ns) with a second or more of nanoseconds; ``sizes`` the sizes given to devices, fifos
    and sockets.
    """

    link_names: set[tuple[int, bytes]] = field(default_factory=set)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
