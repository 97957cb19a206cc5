"""How much a run tries: ``STRATUM_TEST_EXAMPLES`` multiplies the number of generated examples that stands in the tests.
A plain run takes half of them."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("STRATUM_TEST_EXAMPLES", "0.5"))


def examples(count: int) -> int:
    """How many examples this run generates of ``count`` that stand in a test; one at least."""
    return max(1, round(count * FACTOR))
