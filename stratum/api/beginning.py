"""What a worktree begins as that a container's volume names and the store does not have yet."""

from __future__ import annotations

from stratum.frozen import frozen
from stratum.refs import Ref
from stratum.tree.rootchange import AS_IT_IS, RootChange


@frozen
class Beginning:
    """``base`` is the ref of the commit that it is based on; ``empty`` that it is based on nothing, and the stratum is
    made with it. With neither, only ``main`` is made, from ``latest``. ``root`` changes its root directory."""

    base: Ref | None = None
    empty: bool = False
    root: RootChange = AS_IT_IS
