"""Names in C4M: their escapes, and the natural order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.c4.names import in_order, natural_key, read_name, safe_name, written_name, written_target
from tests.support.effort import examples

SAFE = {
    b"hello world": "hello world",
    "日本語.txt".encode(): "日本語.txt",
    b"a\tb": r"a\tb",
    b"a\nb\rc\0": r"a\nb\rc\0",
    b"a\\b": r"a\\b",
    b"test\\": r"test\\",
    b"a\x01\x02\x03b": "a¤\u2801\u2802\u2803¤b",
    b"a\x01\nb": "a¤\u2801¤\\nb",
    "price¤tag".encode(): "price¤\u28c2\u28a4¤tag",
    "a\u200bb".encode(): "a¤\u28e2\u2880\u288b¤b",
    b"a\xff\xfeb": "a¤\u28ff\u28fe¤b",
    b"\xe2\x80": "¤\u28e2\u2880¤",
}


@pytest.mark.parametrize("raw", SAFE)
def test_the_first_layer(raw: bytes) -> None:
    assert safe_name(raw) == SAFE[raw]
    assert read_name(SAFE[raw]) == raw


def test_the_second_layer() -> None:
    assert written_name(b'a "b" [1].exr') == r"a\ \"b\"\ \[1\].exr"
    assert written_target(b'../a "b" [1]') == r"../a\ \"b\"\ [1]"
    assert written_name(b"a\\ b") == r"a\\\ b"


@settings(max_examples=examples(300))
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_every_name_is_read_as_it_was(raw: bytes) -> None:
    for written in (written_name(raw), written_target(raw)):
        assert written.isprintable()
        assert read_name(written) == raw


@pytest.mark.parametrize("written", ["test\\", r"a\x", r"\-"])
def test_a_backslash_that_begins_nothing(written: str) -> None:
    with pytest.raises(ValueError, match="backslash"):
        read_name(written)
    assert read_name(written, strict=False) == written.encode()


@pytest.mark.parametrize("written", ["a¤", "a¤¤b", "a¤abc¤"])
def test_a_currency_sign_that_begins_nothing(written: str) -> None:
    assert read_name(written) == written.encode()


ORDERS = [
    ["file1.txt", "file2.txt", "file10.txt"],
    ["render.1.exr", "render.01.exr", "render.2.exr", "render.10.exr"],
    ["a2b3", "a2b20", "a10b3", "a10b20"],
    ["v1.2.1", "v1.2.10", "v1.10.2", "v1.10.10"],
    ["FILE1.txt", "File10.txt", "file2.txt"],
    ["temp0", "temp1", "temp-1", "temp-2", "temp-10"],
    [".file1", ".file2", ".file10", "file1"],
    ["文件1", "文件2", "文件10"],
    ["a", "a1", "a1b", "a01"],
    ["n" + "9" * 30, "n1" + "0" * 30],
    ["x", "x\u0661"],
    ["", "a", "1"],
    ["a1/", "a-b/", "a.b/", "a/"],
]


@pytest.mark.parametrize("names", ORDERS, ids=lambda names: names[1])
def test_the_natural_order(names: list[str]) -> None:
    expected = [name.encode() for name in names]
    shuffled = list(expected)
    random.Random(len(names)).shuffle(shuffled)
    assert in_order(shuffled) == expected


def test_a_number_of_many_digits_takes_no_time() -> None:
    assert natural_key(b"9" * 1_000_000) < natural_key(b"1" + b"0" * 1_000_000)


@given(st.lists(st.binary(max_size=6) | st.text("a01.-/", max_size=6).map(str.encode), max_size=8))
def test_the_order_is_one(names: list[bytes]) -> None:
    assert in_order(names[::-1]) == in_order(names)
