"""Which dialect of overlayfs the mounts of a store speak: that of who owns it."""

from __future__ import annotations

import os
from pathlib import Path

from stratum.sys.userns import in_initial_namespace
from stratum.tree.overlay import Dialect

_KERNELS = "/proc/sys/kernel"
"""What belongs to the root of the machine in every namespace."""


def dialect_of(root: Path) -> Dialect:
    """The dialect of the upperdirs and mounts of the store at ``root``, by its owner. Raises ``OSError``."""
    owner = os.stat(root, follow_symlinks=False).st_uid
    if in_initial_namespace():
        return Dialect.TRUSTED if owner == 0 else Dialect.USER
    return Dialect.TRUSTED if owner == 0 == os.stat(_KERNELS).st_uid else Dialect.USER
