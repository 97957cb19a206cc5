"""How long an answer may take, and when a busy server is asked again."""

from __future__ import annotations

import pytest
import requests

from stratum.oci.deadline import Account, Pace
from stratum.oci.transport import is_busy, pause, retry_after


def test_what_is_enough_begins_a_new_stretch() -> None:
    pace = Pace(100, 10, Account(1000, 10))
    before = pace.left
    pace.count(999)
    assert pace.left <= before  # not enough yet
    pace.count(1)
    assert pace.left > 99.9
    assert pace.total == 1000
    assert not pace.over


def test_nothing_in_time_is_too_slow() -> None:
    pace = Pace(0, 10, Account(1000, 10))
    assert pace.over
    assert "0 bytes in 0 s" in str(pace)


def test_many_answers_that_are_only_just_in_time_are_too_slow() -> None:
    account = Account(1800, 4096)
    answers = 0
    while not (pace := Pace(180, 4096, account)).over:
        pace.count(10)
        account.wait(179)
        answers += 1
    assert answers == 11
    assert "110 bytes of all answers in 1969 s of waiting" in str(pace)


def test_many_answers_and_large_ones_may_take_their_time() -> None:
    account = Account(1800, 4096)
    for _ in range(10_000):
        Pace(180, 4096, account).count(500)
        account.wait(8)
        Pace(180, 4096, account).count(64 << 20)
        account.wait((64 << 20) / 5000)
    assert account.left > 1800


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", 0.0), ("7", 7.0), ("99999", 30.0), ("999999999", 1.5), ("-1", 1.5), ("soon", 1.5), ("", 1.5), ("²", 1.5)],
)
def test_how_long_a_server_is_left_alone(value: str, expected: float) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = value
    assert retry_after(response, 1.5) == expected


def test_pauses_grow_and_end() -> None:
    pauses = [pause(attempt) for attempt in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 20.0


@pytest.mark.parametrize("status", [200, 206, 400, 401, 404, 416, 429, 500, 501, 502, 503, 504])
def test_who_is_busy(status: int) -> None:
    response = requests.Response()
    response.status_code = status
    assert is_busy(response) == (status in {429, 500, 502, 503, 504})
