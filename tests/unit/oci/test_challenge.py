"""Reading WWW-Authenticate headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.oci.challenge import HEADER_MAX, HEADERS_MAX, Challenge, read_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        (
            'bearer realm="https://h/t",service="s",scope="repository:a/b:pull"',
            [("bearer", {"scope": "repository:a/b:pull"})],
        ),
        ('Bearer realm = "x" , service = s', [("bearer", {"realm": "x", "service": "s"})]),
        (r'Bearer realm="a\"b\\c"', [("bearer", {"realm": 'a"b\\c'})]),
        ('Basic realm="a", Bearer realm="b",service="c"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ('Basic, Bearer realm="b"', [("basic", {}), ("bearer", {"realm": "b"})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('Bearer realm="never ends', [("bearer", {})]),
        ('="x"', []),
        ("\x00", []),
    ],
)
def test_headers(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    found = read_challenges([header])
    assert [challenge.scheme for challenge in found] == [scheme for scheme, _ in expected]
    for challenge, (_, parameters) in zip(found, expected, strict=True):
        assert parameters.items() <= challenge.parameters.items()


def test_several_headers_count_in_their_order() -> None:
    assert read_challenges(["Basic", "Bearer realm=x"]) == [Challenge("basic", {}), Challenge("bearer", {"realm": "x"})]


def test_long_and_many_headers_are_not_looked_at() -> None:
    assert read_challenges(["Basic realm=" + "a" * HEADER_MAX, "Bearer"]) == [Challenge("bearer", {})]
    assert len(read_challenges(["Basic"] * 100)) == HEADERS_MAX


@given(st.text(alphabet='aB=", \t\\,;%\x00é', max_size=60))
def test_anything_can_be_read(header: str) -> None:
    for challenge in read_challenges([header]):
        assert challenge.scheme == challenge.scheme.lower() != ""
