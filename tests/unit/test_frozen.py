"""Records: what a data class would do, without ``dataclasses``."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from stratum.frozen import as_dict, field, frozen, replace


@frozen
class Point:
    """A record with every kind of default."""

    x: int
    y: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def sum(self) -> int:
        return self.x + self.y


@frozen
class Even:
    """A record of one field that is checked."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("odd")

    def __str__(self) -> str:
        return f"even {self.number}"


@frozen
class Key:
    """A record that may be a key."""

    kind: str
    path: tuple[str, ...] = ()


def test_fields_by_position_by_name_and_by_default() -> None:
    assert as_dict(Point(1, 2, ["a"])) == {"x": 1, "y": 2, "names": ["a"]}
    assert as_dict(Point(y=2, x=1)) == {"x": 1, "y": 2, "names": []}
    assert Point(1).sum == 1
    assert Point(1).names is not Point(1).names


def test_records_are_compared_by_their_fields() -> None:
    assert Point(1, 2) == Point(x=1, y=2)
    assert Point(1, 2) != Point(2, 1)
    assert Even(2) == Even(2)
    assert Key("a") not in (Point(1), ("a", ()), None)
    assert {Key("a"): 1, Key("a", ("b",)): 2}[Key("a", ("b",))] == 2
    assert len({Key("a"), Key("a"), Even(2), Even(2)}) == 2


def test_a_replaced_record_is_another() -> None:
    point = Point(1, 2, ["a"])
    moved = replace(point, x=5)
    assert (moved, point) == (Point(5, 2, ["a"]), Point(1, 2, ["a"]))
    with pytest.raises(ValueError, match="odd"):
        replace(Even(2), number=3)


def test_records_are_shown_matched_and_pickled() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0, names=[])"
    assert str(Even(2)) == "even 2"
    match Key("a", ("b",)):
        case Key(kind, (first,)):
            assert (kind, first) == ("a", "b")
        case _:
            pytest.fail("the pattern does not match")
    assert pickle.loads(pickle.dumps(Key("a", ("b",)))) == Key("a", ("b",))
    assert not hasattr(Key("a"), "__dict__")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda point: point(), "needs x"),
        (lambda point: point(1, x=2), "twice"),
        (lambda point: point(1, z=2), "no field z"),
        (lambda point: point(1, 2, [], 4), "3 fields"),
        (lambda point: replace(point(1), z=1), "no field z"),
    ],
)
def test_wrong_fields_are_refused(act: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        act(Point)


@pytest.mark.parametrize("name", ["x", "sum", "new"])
def test_nothing_can_be_set(name: str) -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="cannot be changed"):
        setattr(point, name, 3)
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(point, name)
    assert point == Point(1)
