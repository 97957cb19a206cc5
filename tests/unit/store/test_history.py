"""Any sequence of changes of tags and worktrees, against a model; the reflog tells all of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stratum.errors import ConflictError, ExistsError, NotFoundError
from stratum.frozen import replace
from stratum.store import Store
from tests.support.effort import examples
from tests.support.stores import check, commit, leftovers

COMMITS = 4
names = st.sampled_from(["app", "other"])
short = st.sampled_from(["a", "b", "main"])
numbers = st.integers(0, COMMITS - 1)


class Changes(RuleBasedStateMachine):
    """``tags`` and ``worktrees`` are what the store should have: (stratum, name) -> commit, (base, commit)."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="stratum-test-"))
        self.store = Store.create(self.place / "store")
        self.commits = [commit(self.store, {b"%d" % number: b""}) for number in range(COMMITS)]
        self.tags: dict[tuple[str, str], str] = {}
        self.worktrees: dict[tuple[str, str], tuple[str, str]] = {}
        self.strata: set[str] = set()

    def teardown(self) -> None:
        check(self.store)
        shutil.rmtree(self.place)

    @rule(name=names, tag=short, number=numbers, force=st.booleans())
    def set_tag(self, name: str, tag: str, number: int, force: bool) -> None:
        wanted, old = self.commits[number], self.tags.get((name, tag))
        if old in (None, wanted) or force:
            self.store.tags.set(name, tag, wanted, force=force)
            self.tags[name, tag] = wanted
            self.strata.add(name)
        else:
            with pytest.raises(ExistsError):
                self.store.tags.set(name, tag, wanted)

    @rule(name=names, tag=short, number=numbers, expected=st.none() | numbers)
    def swap_tag(self, name: str, tag: str, number: int, expected: int | None) -> None:
        wanted, old = self.commits[number], self.tags.get((name, tag))
        before = None if expected is None else self.commits[expected]
        if old in (before, wanted):
            self.store.tags.set(name, tag, wanted, expected=before)
            self.tags[name, tag] = wanted
            self.strata.add(name)
        else:
            with pytest.raises(ConflictError):
                self.store.tags.set(name, tag, wanted, expected=before)

    @rule(name=names, tag=short)
    def remove_tag(self, name: str, tag: str) -> None:
        if (name, tag) in self.tags:
            assert self.store.tags.remove(name, tag) == self.tags.pop((name, tag))
        else:
            with pytest.raises(NotFoundError):
                self.store.tags.remove(name, tag)

    @rule(name=names, worktree=short, number=numbers)
    def create_worktree(self, name: str, worktree: str, number: int) -> None:
        base = self.commits[number]
        if (name, worktree) in self.worktrees:
            with pytest.raises(ExistsError):
                self.store.worktrees.create(name, worktree, base)
            return
        self.store.worktrees.create(name, worktree, base)
        self.worktrees[name, worktree] = (base, base)
        self.strata.add(name)

    @rule(name=names, worktree=short, number=numbers, renew=st.booleans())
    def move_worktree(self, name: str, worktree: str, number: int, renew: bool) -> None:
        if (name, worktree) not in self.worktrees:
            return
        base, head = self.worktrees[name, worktree][0], self.commits[number]
        if renew:
            base = head
            with self.store.begin() as tx:
                tree = self.store.worktrees.get(name, worktree)
                self.store.worktrees.renew(tx, replace(tree, base_commit=base, head=head))
        else:
            self.store.worktrees.set_head(name, worktree, head)
        self.worktrees[name, worktree] = (base, head)

    @rule(name=names, worktree=short)
    def remove_worktree(self, name: str, worktree: str) -> None:
        if self.worktrees.pop((name, worktree), None):
            self.store.worktrees.remove(name, worktree)
        else:
            with pytest.raises(NotFoundError):
                self.store.worktrees.remove(name, worktree)

    @rule(name=names)
    def remove_stratum(self, name: str) -> None:
        if name not in self.strata:
            with pytest.raises(NotFoundError):
                self.store.remove(name)
            return
        self.store.remove(name)
        self.strata.remove(name)
        self.tags = {key: value for key, value in self.tags.items() if key[0] != name}
        self.worktrees = {key: value for key, value in self.worktrees.items() if key[0] != name}

    @invariant()
    def the_store_is_as_modelled(self) -> None:
        store = Store.open(self.store.root)
        assert store.names() == sorted(self.strata)
        tags = {(name, tag): to for name in store.names() for tag, to in store.tags.list(name).items()}
        assert tags == self.tags
        worktrees = {
            (w.name, w.worktree): (w.base_commit, w.commit) for n in store.names() for w in store.worktrees.list(n)
        }
        assert worktrees == self.worktrees
        assert not leftovers(store)

    @invariant()
    def the_reflog_leads_to_the_present(self) -> None:
        for name in self.strata:
            state: dict[tuple[str, str], str] = {}
            for entry in self.store.reflog.read(name):
                assert state.get((entry.kind, entry.which)) == entry.old
                state.pop((entry.kind, entry.which), None)
                if entry.new is not None:
                    state[entry.kind, entry.which] = entry.new
            tags = {("tag", tag): to for (stratum, tag), to in self.tags.items() if stratum == name}
            heads = {("worktree", w): head for (stratum, w), (_, head) in self.worktrees.items() if stratum == name}
            assert state == tags | heads


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=examples(15), stateful_step_count=25)
