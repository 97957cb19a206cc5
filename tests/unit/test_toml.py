"""TOML: what is read fast is read as the standard library reads it, and what is not TOML is refused all the same."""

from __future__ import annotations

import sys
from typing import Any

import tomli_w
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratum import toml
from stratum.store.tables import read_tables, write_tables
from tests.support.effort import examples

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LINES = st.sampled_from(
    [
        "",
        "[a]",
        "[b]",
        "[ c ]",
        "[[d]]",
        "[a.b]",
        'x = "text"',
        'x = "an \\u00e9scape"',
        'y = "é \t"',
        "y = 'it'",
        "a = 1",
        "b.c = 1",
        "z = 0",
        "z = -1",
        "u = 01",
        "u = 1_000",
        "v = true",
        "w = falsey",
        "# a comment",
        "x = [1, 2]",
        'q = """',
        'x="close"',
        "x = ",
        "\r",
    ]
)


def _said(loads: Any, text: str) -> object:
    try:
        return loads(text)
    except ValueError:
        return ValueError


@settings(max_examples=examples(400))
@example(["[a]", "x = 1", "[a]"], "\n")
@example(["a = 1", "[a]"], "\n")
@example(["x = 1", "x = 1"], "")
@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "", "\r\n"]))
def test_any_document_says_what_the_standard_library_finds_in_it(lines: list[str], end: str) -> None:
    text = "\n".join(lines) + end
    assert _said(toml.loads, text) == _said(tomllib.loads, text)


TEXT = st.text(st.characters(codec="utf-8"), max_size=10)


@settings(max_examples=examples(200))
@given(st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans())))
def test_tables_come_back_as_they_were_written(tables: dict[str, dict[str, Any]]) -> None:
    tables.pop("check", None)
    assert read_tables(write_tables(tables, "it"), "it") == tables


KEYS = st.sampled_from(["a", "b-", "_", "1", "a.b", "", "é"])
VALUES = st.sampled_from(["", "é", "\t", "\x7f", '"', "\\", "a\nb", 0, -1, 2**70, True, False, 1.5, [1]])


@settings(max_examples=examples(200))
@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=4))
def test_any_document_is_written_as_tomli_w_writes_it(document: dict[str, Any]) -> None:
    assert toml.dumps(document) == tomli_w.dumps(document)
