"""What ``scratch`` volumes of a container write: upperdirs in its bundle, which the engine removes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from stratum.errors import StratumError, os_error_text

SCRATCH = "stratum-scratch"
"""The directory in the bundle."""


def remove_scratch(bundle: Path) -> None:
    """Remove what ``scratch`` volumes of the container of ``bundle`` wrote. Raises ``StratumError``."""
    if not os.path.lexists(bundle / SCRATCH):
        return
    from stratum.store.trash import remove_tree

    try:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(bundle / SCRATCH)
    except OSError as exc:
        raise StratumError(f"cannot remove {bundle / SCRATCH}: {os_error_text(exc)}") from None
