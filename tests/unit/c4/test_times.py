"""Times in C4M."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.c4.times import FIRST, LAST, pretty_time, read_time, written_time

MOMENT = 1735754400
"""2025-01-01T18:00:00Z."""


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-01T18:00:00Z",
        "2025-01-01T10:00:00-08:00",
        "2025-01-01T23:30:00+05:30",
        "2025-01-01T18:00:00.999Z",
        "Jan 1 10:00:00 2025 PST",
        "Jan 1 18:00:00 2025 UTC",
        "Jan 1 13:00:00 2025 -0500",
        "Wed Jan 1 18:00:00 UTC 2025",
    ],
)
def test_every_form(text: str) -> None:
    assert read_time(text) == MOMENT


@pytest.mark.parametrize("text", ["-", "0", "1970-01-01T00:00:00Z"])
def test_null(text: str) -> None:
    assert read_time(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "1", "2025-13-01T00:00:00Z", "2025-02-30T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01T00:00:00", "now",
     "2025-01-01T00:00:00+25:00", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "Jan 1 10:00:00 2025 XYZ",
     "٢٠٢٥-01-01T00:00:00Z"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_time(text)


@given(st.integers(FIRST, LAST))
def test_every_second(seconds: int) -> None:
    assert len(written_time(seconds)) == 20
    assert read_time(written_time(seconds)) == (seconds or None)
    assert read_time(" ".join(pretty_time(seconds).split())) == (seconds or None)


def test_the_ends() -> None:
    assert [written_time(second) for second in (FIRST, -1, 0, LAST)] == [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ]
