"""TOML: what is read without the standard reader is read as that reads it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum import toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PIECES = [
    *("[", "]", "[[", "]]", " = ", "=", " ", ".", "#", "\n", "\n\n", "\r\n", "\t", '"', '""', '"""', "'", "\\", "\0"),
    *("a", "b", "key", "a-b", "_", "é", "٣", "\x7f", "\u2028", '"text"', '"\\n"', '"a" = 1', "[a]", "[b]", "[a.b]"),
    *("0", "1", "007", "+1", "1_000", "12345678901234567890", "1.5", "true", "false", "True", "inf", "1979-05-27"),
    *("a = 1", "b = true", 'key = "x"', "a = [1]", "a = {b = 1}", "# note"),
]

VALUES = st.one_of(st.booleans(), st.integers(0, 1 << 62), st.text(st.characters(exclude_categories=["Cs"])))
TABLES = st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=4)


def by_the_standard_reader(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_read_as_the_standard_reader_does(text: str) -> None:
    expected = by_the_standard_reader(text)
    if expected is None:
        with pytest.raises(ValueError):
            toml.loads(text)
    else:
        assert repr(toml.loads(text)) == repr(expected)  # 1 and true are equal, and nan is not


@given(st.dictionaries(st.text(min_size=1, max_size=3), TABLES, max_size=3))
def test_what_is_written_is_read_again(tables: dict[str, Any]) -> None:
    assert repr(toml.loads(toml.dumps(tables))) == repr(tables)


def test_the_files_of_a_store_are_read_without_the_standard_reader() -> None:
    text = 'format = 1\n\n[worktree]\nname = "dev"\nhead = ""\nempty = false\n\n[origin]\nkind = "import"\n'
    program = f"import sys; from stratum import toml; print(toml.loads({text!r}), 'tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "{'format': 1, 'worktree': {'name': 'dev', 'head': '', 'empty': False}, 'origin': {'kind': 'import'}} False"
    )
