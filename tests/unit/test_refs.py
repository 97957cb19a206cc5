from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.refs import (
    Ref,
    check_name,
    is_hash,
    is_hash_prefix,
    is_name,
    parse_lasting,
    parse_new_tag,
    parse_ref,
    parse_tag,
    split_ref_path,
)

HASH = "0123456789abcdef" * 4
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True).filter(is_name)


@pytest.mark.parametrize(
    "name", ["a", "0", "A.b_c-d", "x" * 128, "a..b", "lock", "a.lockx", HASH[:63], HASH[:63] + "g", HASH.upper()]
)
def test_good_names(name: str) -> None:
    assert check_name(name) == name
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "_a", "a/b", "/a", "a\0", "a b", "a\n", "é", "a:b", "a+b", "x" * 129, "a.lock", HASH],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)
    assert not is_name(name)


def test_a_bad_name_is_shown_without_control_characters_and_cut() -> None:
    with pytest.raises(UsageError) as caught:
        check_name("\x1b[31m" + "x" * 10_000)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@given(st.text())
def test_is_name_agrees_with_check_name(text: str) -> None:
    try:
        check_name(text)
    except UsageError:
        assert not is_name(text)
    else:
        assert is_name(text)
        assert text not in (".", "..")
        assert "/" not in text
        assert "\0" not in text


@given(NAMES, NAMES)
def test_refs_round_trip(name: str, second: str) -> None:
    refs = Ref(name), Ref(name, tag=second), Ref(name, worktree=second)
    past = (
        Ref(name, when="yesterday 14:05"),
        Ref(name, tag=second, back=3),
        Ref(name, worktree=second, when="2h", back=1),
    )
    for ref in (*refs, *past, Ref(name, change=1), Ref(name, worktree=second, change=10**15 - 1)):
        assert parse_ref(str(ref)) == ref
        assert split_ref_path(f"{ref}:/a:/b") == (str(ref), "/a:/b")
        assert split_ref_path(str(ref)) == (str(ref), None)
    assert Ref(name).bare
    assert not Ref(name, tag=second).bare
    assert not Ref(name, worktree=second).bare
    assert not Ref(name, change=1).bare


@given(st.text())
def test_any_text_is_a_ref_or_a_usage_error(text: str) -> None:
    try:
        ref = parse_ref(text)
    except UsageError:
        return
    assert str(ref) == text or ref.past
    assert parse_ref(str(ref)) == ref


@given(st.text("ab:/.@{}~^+ 1"))
def test_a_path_in_a_ref_is_what_follows_it(text: str) -> None:
    ref, path = split_ref_path(text)
    assert (ref if path is None else f"{ref}:{path}") in (text, f"{text}/")
    assert path is None or ref


def test_hashes() -> None:
    assert parse_ref(HASH) == Ref(HASH)
    assert parse_ref(f"app:{HASH}") == Ref("app", tag=HASH)
    assert is_hash(HASH)
    assert not is_hash(HASH[:-1])
    assert not is_hash(HASH.upper())
    assert is_hash_prefix(HASH[:7])
    assert not is_hash_prefix(HASH[:6])
    assert not is_hash_prefix("1234567g")


@pytest.mark.parametrize("text", ["a:b+c", "a+b:c", "a:", ":a", "a+", "+a", "a:b:c", "a+b+c", f"{HASH}:a", f"a+{HASH}"])
def test_malformed_refs(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


def test_changes() -> None:
    assert parse_ref("app@4711") == Ref("app", change=4711)
    assert parse_ref("app+dev@1") == Ref("app", worktree="dev", change=1)
    assert parse_ref("app+dev").live
    assert not parse_ref("app+dev@1").live
    assert not parse_ref("app").live


@pytest.mark.parametrize(
    "text",
    [
        *(
            "@",
            "@1",
            "app@",
            "app@0",
            "app@01",
            "app@-1",
            "app@+1",
            "app@1x",
            "app@1@2",
            "app@1+dev",
            "app@1\n",
            "app+@1",
        ),
        *("app@\u0661", "app@" + "9" * 16, "app:v1@3", f"{HASH}@3", f"app:{HASH}@3", "a:b+c@1"),
    ],
)
def test_malformed_changes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


def test_a_tag_has_no_change() -> None:
    with pytest.raises(UsageError, match="do not change") as caught:
        parse_ref("app:v1@3")
    assert "@3" in caught.value.hint
    with pytest.raises(UsageError, match="state of a worktree"):
        parse_tag("app@3")
    with pytest.raises(UsageError, match="worktree's history") as caught:
        parse_lasting("app+dev@3")
    assert "stratum tag app+dev@3 TAG" in caught.value.hint
    assert parse_lasting("app+dev") == Ref("app", worktree="dev")


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("app~", Ref("app", back=1)),
        ("app^", Ref("app", back=1)),
        ("app:v1~2", Ref("app", tag="v1", back=2)),
        ("app+dev^^~3~", Ref("app", worktree="dev", back=6)),
        (f"{HASH}~1", Ref(HASH, back=1)),
        (f"app:{HASH}^", Ref("app", tag=HASH, back=1)),
        ("app@{ 2h }", Ref("app", when="2h")),
        ("app:v1@{2026-11-20 14:00}", Ref("app", tag="v1", when="2026-11-20 14:00")),
        ("app+dev@{yesterday}~1", Ref("app", worktree="dev", when="yesterday", back=1)),
    ],
)
def test_what_was_before(text: str, ref: Ref) -> None:
    assert parse_ref(text) == ref
    assert ref.past
    assert not ref.live
    assert not ref.bare
    for refuse in (parse_lasting, parse_tag, parse_new_tag):
        with pytest.raises(UsageError) as caught:
            refuse(text)
        assert caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        *("~", "^1", "app~0", "app~01", "app~-1", "app~x", "app^2", "app~1:v1", "app~99999999", "~1app", "app~1+dev"),
        *("app@{}", "app@{ }", "app@{2h", "app@{2h}}", "app@{a}@{b}", "app~1@{2h}", "app@{" + "x" * 101 + "}"),
        *("app@1~1", "app@1@{2h}", f"{HASH}@{{2h}}", f"app:{HASH}@{{2h}}", "app@{2h}\n", "a:b+c~1", "app@{2h}1"),
    ],
)
def test_malformed_past(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("app:/etc/passwd", ("app", "/etc/passwd")),
        ("app:v1:/etc", ("app:v1", "/etc")),
        ("app:v1:etc/a:b", ("app:v1", "etc/a:b")),
        ("app:v1:", ("app:v1", "/")),
        ("app+dev:/x", ("app+dev", "/x")),
        ("app+dev@12:/x", ("app+dev@12", "/x")),
        ("app@{2026-11-20 14:00}~1:/x", ("app@{2026-11-20 14:00}~1", "/x")),
        ("app:v1@{14:00}:x", ("app:v1@{14:00}", "x")),
        (f"{HASH}:/x", (HASH, "/x")),
        ("app:v1", ("app:v1", None)),
        ("app@{14:00}", ("app@{14:00}", None)),
        ("./app:/x", ("./app:/x", None)),
        ("..:/x", ("..:/x", None)),
        ("/srv/app:/x", ("/srv/app:/x", None)),
        ("app/a:v1:/x", ("app/a:v1:/x", None)),
        ("app:v1/x:y", ("app:v1/x:y", None)),
        (":/x", (":/x", None)),
    ],
)
def test_paths_in_refs(text: str, split: tuple[str, str | None]) -> None:
    assert split_ref_path(text) == split


def test_tag_and_worktree_together_are_named_as_the_problem() -> None:
    with pytest.raises(UsageError, match="both a tag"):
        parse_ref("app:tag+worktree")


def test_tags_that_a_verb_sets() -> None:
    assert parse_tag("app") == ("app", "latest")
    assert parse_tag("app", "v2") == ("app", "v2")
    assert parse_tag("app:v1", "v2") == ("app", "v1")
    assert parse_new_tag("v1") == (None, "v1")
    assert parse_new_tag("app:v1") == ("app", "v1")


@pytest.mark.parametrize("text", ["app+dev", "f" * 64, "app:" + "f" * 64, "app:", ":v1", "a:b:c", ""])
def test_what_no_verb_can_set(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tag(text)
    with pytest.raises(UsageError):
        parse_new_tag(text)
