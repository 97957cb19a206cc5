from __future__ import annotations

from pathlib import Path

import pytest

from stratum.errors import ConflictError, NotFoundError, StratumError, UsageError
from stratum.refs import parse_ref
from stratum.store import Store
from stratum.store.resolve import Resolved, ResolvedCommit, ResolvedTag, ResolvedWorktree, tag_elsewhere
from tests.support.stores import commit


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture
def first(store: Store) -> str:
    made = commit(store, {b"a": b"1"})
    store.tags.set("app", "latest", made)
    store.tags.set("app", "v1", made)
    return made


@pytest.fixture
def second(store: Store, first: str) -> str:
    made = commit(store, {b"a": b"2"})
    store.worktrees.create("app", "dev", first)
    store.worktrees.set_head("app", "dev", made)
    return made


def hint_of(call: object, *args: object) -> str:
    assert callable(call)
    with pytest.raises(StratumError) as caught:
        call(*args)
    return caught.value.hint


def test_what_refs_mean_as_commits(store: Store, first: str, second: str) -> None:
    expected: dict[str, Resolved] = {
        "app": ResolvedTag(first, "app", "latest"),
        "app:v1": ResolvedTag(first, "app", "v1"),
        f"app:{second}": ResolvedCommit(second, "app"),
        f"app:{second[:7]}": ResolvedCommit(second, "app"),
        "app+dev": ResolvedWorktree(second, "app", "dev"),
        first: ResolvedCommit(first),
        first[:10]: ResolvedCommit(first),
    }
    for text, resolved in expected.items():
        assert store.resolve(parse_ref(text)) == resolved
        assert store.resolve_commit(parse_ref(text)) == resolved.commit
    assert str(expected["app"]) == "app:latest"
    assert str(expected["app+dev"]) == "app+dev"
    assert str(expected[first]) == first


def test_a_name_alone_is_its_main_and_without_one_its_latest(store: Store, first: str, second: str) -> None:
    ref = parse_ref("app")
    assert store.resolve(ref) == ResolvedTag(first, "app", "latest")
    store.worktrees.create("app", "main", first)
    store.worktrees.set_head("app", "main", second)
    main = ResolvedWorktree(second, "app", "main")
    for resolve in (store.resolve, store.resolve_mountable):
        assert resolve(ref) == main
    assert store.resolve_worktree(ref) == ("app", "main")
    store.tags.remove("app", "latest")
    assert store.resolve(ref) == main


def test_the_tag_that_a_ref_gets_elsewhere(store: Store, first: str, second: str) -> None:
    for text, tag in {
        "app": "latest",
        "app:v1": "v1",
        "app+dev": "dev",
        f"app:{second}": second[:12],
        first: first[:12],
        first[:8]: first[:12],
    }.items():
        ref = parse_ref(text)
        assert tag_elsewhere(store.resolve(ref), ref) == tag


def test_a_worktree_without_commits_of_its_own_is_its_base(store: Store, first: str) -> None:
    store.worktrees.create("app", "new", first)
    assert store.resolve_commit(parse_ref("app+new")) == first


def test_a_tag_comes_before_a_commit_and_a_stratum_before_both(store: Store, first: str, second: str) -> None:
    store.tags.set("app", first[:8], second)
    assert store.resolve_commit(parse_ref(f"app:{first[:8]}")) == second
    store.tags.set(first[:8], "latest", second)
    assert store.resolve_commit(parse_ref(first[:8])) == second
    assert store.resolve_commit(parse_ref(first[:9])) == first


def test_an_ambiguous_prefix_lists_the_candidates(store: Store, first: str) -> None:
    twin = first[:9] + ("0" if first[9] != "0" else "1") * 55
    (store.root / "commits" / twin).touch()
    for text in (first[:7], f"app:{first[:9]}"):
        with pytest.raises(ConflictError, match="ambiguous") as caught:
            store.resolve(parse_ref(text))
        assert first[:12] in caught.value.message
        assert twin[:12] in caught.value.message
    assert store.resolve_commit(parse_ref(first[:10])) == first


@pytest.mark.parametrize(
    "text", ["nope", "nope:v1", "nope+dev", "app:v2", "app+nope", "app:0000000", "0" * 64, "0" * 7]
)
def test_unknown_refs_are_not_found(store: Store, second: str, text: str) -> None:
    for resolve in (store.resolve, store.resolve_worktree, store.resolve_mountable):
        with pytest.raises(NotFoundError) as caught:
            resolve(parse_ref(text))
        assert caught.value.message
    assert store.names() == ["app"]


def test_hints(store: Store, second: str) -> None:
    assert hint_of(store.resolve, parse_ref("ap")) == "did you mean app?"
    assert hint_of(store.resolve, parse_ref("app:dev")) == "dev is a worktree: write app+dev"
    assert hint_of(store.resolve, parse_ref("app+dve")) == "did you mean dev?"
    store.tags.remove("app", "latest")
    assert "app:v1" in hint_of(store.resolve, parse_ref("app"))
    store.tags.remove("app", "v1")
    assert "app+WORKTREE" in hint_of(store.resolve, parse_ref("app"))
    assert "worktree add" in hint_of(store.resolve_worktree, parse_ref("app"))


def test_main_is_made_from_latest_on_first_need(store: Store, first: str) -> None:
    with pytest.raises(NotFoundError, match=r"app\+main"):
        store.resolve_worktree(parse_ref("app"), create=False)
    assert store.worktrees.names("app") == []
    assert store.resolve_worktree(parse_ref("app")) == ("app", "main")
    assert store.resolve_mountable(parse_ref("app")) == ResolvedWorktree(first, "app", "main")
    assert store.worktrees.get("app", "main").base_commit == first
    assert store.worktrees.names("app") == ["main"]


@pytest.mark.parametrize("text", ["app+main", "app:main"])
def test_only_main_is_made_where_it_is_named(store: Store, first: str, text: str) -> None:
    with pytest.raises(NotFoundError):
        store.resolve_worktree(parse_ref("app+other"))
    assert store.resolve_worktree(parse_ref(text)) == ("app", "main")


def test_where_a_worktree_is_meant(store: Store, first: str, second: str) -> None:
    assert store.resolve_worktree(parse_ref("app+dev")) == ("app", "dev")
    assert store.resolve_worktree(parse_ref("app:dev")) == ("app", "dev")
    store.tags.set("app", "dev", first)
    for text in ("app:dev", "app:v1", f"app:{first}", first, first[:7], "app+dev@1", "app@1"):
        with pytest.raises(UsageError, match="a worktree is needed"):
            store.resolve_worktree(parse_ref(text))


@pytest.mark.parametrize("text", ["app@1", "app+dev@1"])
def test_a_worktree_without_history_has_no_changes(store: Store, second: str, text: str) -> None:
    store.resolve_worktree(parse_ref("app"))
    whose = "app+dev" if "dev" in text else "app+main"
    with pytest.raises(NotFoundError, match="has no history") as caught:
        store.resolve_mountable(parse_ref(text))
    assert whose in caught.value.message
    assert f"history on {whose}" in caught.value.hint
    with pytest.raises(NotFoundError, match="no worktree app\\+other"):
        store.resolve(parse_ref("app+other@1"))


def test_what_is_mounted(store: Store, first: str, second: str) -> None:
    assert store.resolve_mountable(parse_ref("app:v1")) == ResolvedTag(first, "app", "v1")
    assert store.resolve_mountable(parse_ref(first)) == ResolvedCommit(first)
    assert store.resolve_mountable(parse_ref("app+dev")) == ResolvedWorktree(second, "app", "dev")
    assert store.resolve_mountable(parse_ref("app")) == ResolvedWorktree(first, "app", "main")
