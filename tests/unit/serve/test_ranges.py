"""Ranges and chunks as clients send them."""

from __future__ import annotations

import pytest

from stratum.serve.ranges import UnsatisfiableError, parse_chunk, parse_count, parse_range


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=3-", (3, 10)),
        ("bytes=3-999", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-999", (0, 10)),
        ("bytes= 2 - 4", (2, 5)),
        *((text, None) for text in ("bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "", "bytes=+1-2")),
        ("bytes=" + "9" * 19 + "-", None),
    ],
)
def test_ranges_of_ten_bytes(text: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(text, 10) == part


@pytest.mark.parametrize(
    ("text", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=4-2", 10), ("bytes=0-", 0)]
)
def test_ranges_of_which_nothing_is_there(text: str, size: int) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range(text, size)


def test_chunks_and_counts() -> None:
    assert (parse_chunk("0-9"), parse_chunk("7-7")) == ((0, 10), (7, 8))
    assert {parse_chunk(text) for text in ("", "9-0", "bytes 0-9/10", "0-", "-9", "0-9 ", "٣-٤")} == {None}
    assert (parse_count(None, 7), parse_count("0", 7), parse_count("3", 7), parse_count("99", 7)) == (7, 0, 3, 7)
    assert {parse_count(text, 7) for text in ("", "-1", "x", "1e3", "9" * 10)} == {None}
