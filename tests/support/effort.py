"""How much a run tries: ``STRATUM_TEST_EXAMPLES`` multiplies the number of generated examples (default 1)."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("STRATUM_TEST_EXAMPLES", "1"))


def examples(count: int) -> int:
    """How many examples this run generates where a plain run generates ``count``; one at least."""
    return max(1, round(count * FACTOR))
