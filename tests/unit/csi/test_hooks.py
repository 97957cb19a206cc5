"""Commands of a pod's annotations."""

from __future__ import annotations

import pytest

from stratum.csi.errors import CallError, Code
from stratum.csi.hooks import DEFAULT_CONTAINER, PREFIX, Hooks, parse_hooks

SHELL = ("/bin/sh", "-c")


def annotations(**values: str) -> dict[str, str]:
    return {f"{PREFIX}{key.replace('_', '-')}": value for key, value in values.items()} | {"other/key": "x"}


def test_commands() -> None:
    assert parse_hooks(annotations()) is None
    assert parse_hooks(annotations(container="app", timeout="1m")) is None
    assert parse_hooks(annotations(pre_commit="a | b")) == Hooks((*SHELL, "a | b"), None, None, 30)
    given = annotations(pre_commit=' ["a", "b c"]', post_commit="d", container="app", timeout="5m")
    assert parse_hooks(given) == Hooks(("a", "b c"), (*SHELL, "d"), "app", 300)
    default = annotations(post_commit="d") | {DEFAULT_CONTAINER: "main"}
    assert parse_hooks(default) == Hooks(None, (*SHELL, "d"), "main", 30)


def test_the_container() -> None:
    alone = Hooks(SHELL, None, None, 30)
    assert alone.choose(["a"]) == "a"
    assert alone.choose([]) is None
    with pytest.raises(CallError, match="containers a, b"):
        alone.choose(["b", "a"])
    named = Hooks(SHELL, None, "b", 30)
    assert (named.choose(["a", "b"]), named.choose(["a"])) == ("b", None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precommit": "a"}, "unknown annotation 'csi.stratum.dev/precommit'"),
        ({"pre_commit": " "}, "pre-commit is empty"),
        ({"pre_commit": "a\0"}, "zero byte"),
        ({"post_commit": "[ -e /a ]"}, "post-commit begins with '\\[' and is no JSON"),
        ({"post_commit": "[" * 9999}, "no JSON"),
        ({"post_commit": '[""]'}, "no array of strings"),
        ({"post_commit": '["a", 1]'}, "no array of strings"),
        ({"post_commit": '["\\ud800"]'}, "half a character"),
        ({"pre_commit": "a", "timeout": "10"}, "timeout '10' is not a duration"),
        ({"pre_commit": "a", "timeout": "6m"}, "timeout is not between 0 and 300s"),
    ],
)
def test_what_is_malformed_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(CallError, match=words) as caught:
        parse_hooks(annotations(**values))
    assert caught.value.code == Code.FAILED_PRECONDITION
