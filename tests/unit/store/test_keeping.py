"""Rules of residence: which one a path has, and how they are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stratum.api.maintenance import fsck, fsck_repair
from stratum.api.session import Session
from stratum.config import load_config
from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.store import Store, keeping
from stratum.store.keeping import RESIDENCE, ROOT, Rule, Rules, check_path, format_rules, parse_rules
from stratum.tree.escape import escape
from tests.support.stores import commit

names = st.sampled_from([b"a", b"b", b"a b", b"\\", b"\xff", b"=", b"-", b"a/b"])
paths = st.lists(names, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
rules_of = st.dictionaries(paths, st.sampled_from(Rule), max_size=6).map(Rules)


@pytest.fixture
def store(store_dir: Path) -> Store:
    store = Store.create(store_dir)
    store.tags.set("app", "latest", commit(store, {b"a": b"1"}))
    return store


def slow(rules: Rules, path: bytes) -> Rule:
    """The rule of a path, by looking at all of them."""
    at_or_above = [other for other in rules.rules if other in (ROOT, path) or path.startswith(other + b"/")]
    return rules.rules[max(at_or_above, key=len)] if at_or_above else Rule.AUTO


@given(rules_of, paths)
@example(Rules({b"/a": Rule.REAL}), b"/ab")
def test_the_deepest_rule_wins(rules: Rules, path: bytes) -> None:
    assert rules.of(path) is slow(rules, path)


@given(rules_of, st.lists(paths, max_size=8))
def test_lines_of_a_dump_have_the_rules_of_their_paths(rules: Rules, looked_at: list[bytes]) -> None:
    of = rules.of_lines()
    assert [of(escape(path)) for path in looked_at] == [rules.of(path) for path in looked_at]


@given(rules_of, paths, st.sampled_from(Rule), paths)
def test_a_new_rule_is_for_its_path_and_what_has_none_below(
    rules: Rules, path: bytes, rule: Rule, other: bytes
) -> None:
    new = rules.changed(path, rule)
    assert new.of(path) is rule
    assert new.below(path) == rules.below(path)
    inside = other == path or other.startswith(path.rstrip(b"/") + b"/")
    ruled = any(deeper == other or other.startswith(deeper + b"/") for deeper in rules.below(path))
    assert new.of(other) is (rule if inside and not ruled else rules.of(other))


@given(rules_of)
def test_rules_are_read_as_they_were_written(rules: Rules) -> None:
    assert parse_rules(format_rules(rules, "app"), "a file") == rules


@pytest.mark.parametrize(
    "text",
    [
        "",
        "residence = 1\n",
        '[residence]\n"/a" = "never"\n',
        '[residence]\n"/a" = 1\n',
        '[residence]\n"a" = "real"\n',
        '[residence]\n"/a/" = "real"\n',
        '[residence]\n"/a/../b" = "real"\n',
        '[residence]\n"/a b" = "real"\n',
        '[residence]\n"/\\\\x61" = "real"\n',
        '[residence]\n"/\\\\q" = "real"\n',
        '[residence]\n"/é" = "real"\n',
        '[residence]\n"//" = "real"\n',
        '[residence]\n"/%s" = "real"\n' % ("a" * 256),
    ],
)
def test_what_is_no_rule_is_damage(text: str) -> None:
    with pytest.raises(DamagedError, match="a file"):
        parse_rules(text.encode(), "a file")


@pytest.mark.parametrize("path", [b"", b"a", b"/a//b", b"/.", b"/a/..", b"/a\0", b"/" + b"a" * 256, b"/a" * 2049])
def test_what_is_no_path_gets_no_rule(path: bytes) -> None:
    with pytest.raises(UsageError):
        check_path(path)


def test_a_slash_at_the_end_of_a_path_means_nothing() -> None:
    assert [check_path(path) for path in (b"/", b"//", b"/a/")] == [b"/", b"/", b"/a"]


def test_there_is_a_limit_to_the_rules_of_a_stratum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "RULES_MAX", 2)
    rules = Rules({b"/a": Rule.REAL, b"/b": Rule.REAL})
    assert rules.changed(b"/b", Rule.UNREAL).of(b"/b") is Rule.UNREAL
    with pytest.raises(UsageError, match="2 rules"):
        rules.changed(b"/c", Rule.REAL)
    many = b'[residence]\n"/a" = "real"\n"/b" = "real"\n"/c" = "real"\n'
    with pytest.raises(DamagedError, match="too many"):
        parse_rules(many, "a file")


def test_rules_are_kept_with_the_stratum(store: Store) -> None:
    file = store.layout.ref("app") / RESIDENCE
    assert not store.keeping.of("app")
    assert store.keeping.set("app", b"/", Rule.REAL)
    assert store.keeping.set("app", b"/tmp/", Rule.UNREAL)
    assert not store.keeping.set("app", b"/tmp", Rule.UNREAL)
    assert Store.open(store.root).keeping.of("app") == Rules({b"/": Rule.REAL, b"/tmp": Rule.UNREAL})
    assert store.keeping.with_rules(["app", "other"]) == {"app": store.keeping.of("app")}
    assert store.keeping.set("app", b"/tmp", Rule.AUTO)
    assert store.keeping.of("app").of(b"/tmp/x") is Rule.AUTO
    store.keeping.set("app", b"/", Rule.AUTO)
    store.keeping.set("app", b"/tmp", Rule.AUTO)
    assert not file.exists()
    store.keeping.set("app", b"/", Rule.REAL)
    store.remove("app")
    assert not file.exists()
    with pytest.raises(NotFoundError):
        store.keeping.of("app")
    with pytest.raises(NotFoundError):
        store.keeping.set("app", b"/", Rule.REAL)
    assert not store.layout.ref("app").exists()


def test_a_check_of_the_store_reads_the_rules(store: Store, tmp_path: Path) -> None:
    session = Session(load_config({}, store=str(store.root), runtime_dir=str(tmp_path / "run")))
    store.keeping.set("app", b"/", Rule.REAL)
    assert fsck(session).damage == []
    file = store.layout.ref("app") / RESIDENCE
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"real", b"auto"))
    assert [(found.kind, found.hurts) for found in fsck(session).damage] == [("rules", ["app"])]
    file.write_bytes(whole.partition(b"\n[check]")[0])
    assert [found.kind for found in fsck(session).damage] == ["rules"]
    assert fsck_repair(session).damage == []
    assert file.read_bytes() == whole
    file.write_bytes(b"nonsense")
    assert "stratum realize" in fsck_repair(session).damage[0].problem
    assert fsck(session).damage == []
    assert not store.keeping.of("app")
